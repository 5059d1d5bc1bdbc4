"""What the shipped policy knows of one destination: a table, one column per arm.

```
row  LEVEL     L, ms: what the arm costs
     SWING     F, ms: how far the last two samples were from that, what they agree on
     SEEN      when that was, seconds since `born_s`
     COUNT     n: how often and how lately it was measured, at most 40
     SPREAD    R, ms^2: variance around L
     BIAS      b, ms: what it is charged for being better to probes than to data
     SHARE     x: its part of the traffic
     SUSPECT   S: evidence, not enough yet, that a bias is due
     OWN FAR   ms: the two legs now            OWN_THEN FAR_THEN   ... when L was learned
```
float32: 48 bytes an arm, 1,008 for a direct path and 20 relays.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, isfinite
from typing import Final

import numpy as np
from numpy.typing import NDArray

from veilnet.paths.policy import MAX_ARMS, Arm, ArmId

LEVEL, SWING, SEEN, COUNT, SPREAD, BIAS, SHARE, SUSPECT, OWN, FAR, OWN_THEN, FAR_THEN = range(12)
ROWS: Final = 12
KEPT: Final = (LEVEL, COUNT, SPREAD, BIAS, SUSPECT, OWN_THEN, FAR_THEN)
"""What of an arm outlives its absence."""
NEVER_S: Final = -1e6
MAX_GRUDGE: Final = 1_024.0
MAX_GONE: Final = 32
"""Arms that are not offered now, of which a destination keeps the memory."""
_UNKNOWN_LEG_MS: Final = 100.0

Table = NDArray[np.float32]
Kept = tuple[float, ...]


class Ledger:
    """One destination."""

    __slots__ = (
        "active", "arms", "asked", "born_s", "burnt", "clock_s", "credit", "decided_s", "direct",
        "direct_is_new", "direct_was_judged", "gone", "grudges", "moved", "opinion", "priced",
        "standby", "suspicion", "swings", "table", "unsettled",
    )  # fmt: skip

    def __init__(self, now_s: float) -> None:
        self.arms: tuple[Arm, ...] = ()
        self.table: Table = np.zeros((ROWS, 0), np.float32)
        self.born_s = now_s
        self.clock_s = now_s
        """When confidence and bias last faded."""
        self.decided_s: float | None = None
        self.direct = -1
        """Column of the direct arm."""
        self.active: list[int] = []
        """Columns with a share."""
        self.moved = 0.0
        """How much of the traffic went from relay to relay lately; 1 is all of it, once."""
        self.credit = 0.0
        """Probes that are due."""
        self.standby = -1
        self.direct_is_new = False
        """Whether a direct path was found while others carry, and nobody has judged it yet."""
        self.direct_was_judged = False
        self.suspicion: tuple[int, float] | None = None
        """Column and cost of a data sample so bad that a probe has to stand beside it."""
        self.asked = 0
        """How often that probe was asked for."""
        self.grudges: dict[ArmId, float] = {}
        """Times its first half-life is how slowly an arm's bias fades; below 1: as 1."""
        self.swings: dict[int, float] = {}
        """By column, how far the last sample was from the level; SWING is what two agree on."""
        self.priced: set[int] = set()
        """Columns whose last sample paid for its queueing."""
        self.burnt: dict[int, float] = {}
        """By column, when data last found it very bad."""
        self.unsettled: list[tuple[int, float, float, bool]] = []
        """Columns, costs and times of the samples since the last decision, and which are probes."""
        self.gone: dict[ArmId, Kept] = {}
        self.opinion = ""
        """Why the last decision was what it was."""

    def column(self, arm: ArmId) -> int:
        """Return where *arm* stands, -1 if it does not."""
        for index, known in enumerate(self.arms):
            if known.id == arm:
                return index
        return -1

    def set_arms(self, arms: Sequence[Arm]) -> None:
        """Take *arms* as those that there are; columns of those that stay are kept."""
        arms = tuple(arms[:MAX_ARMS])
        if len(arms) != len(self.arms) or any(
            new.id != old.id for new, old in zip(arms, self.arms, strict=True)
        ):
            arms = self._regroup(arms)
        self.arms = arms
        own = np.array([arm.own_leg_s for arm in arms]) * 1e3
        far = np.array([arm.far_leg_s for arm in arms]) * 1e3
        table = self.table
        table[OWN] = _filled(own)
        table[FAR] = _filled(far)
        unmeasured = table[COUNT] == 0
        table[OWN_THEN, unmeasured] = table[OWN, unmeasured]
        table[FAR_THEN, unmeasured] = table[FAR, unmeasured]

    def _regroup(self, arms: tuple[Arm, ...]) -> tuple[Arm, ...]:
        arms = tuple({arm.id: arm for arm in arms}.values())
        old = {arm.id: index for index, arm in enumerate(self.arms)}
        table = np.zeros((ROWS, len(arms)), np.float32)
        table[SEEN] = NEVER_S
        for index, arm in enumerate(arms):
            before = old.pop(arm.id, -1)
            if before >= 0:
                table[:, index] = self.table[:, before]
            elif (kept := self.gone.pop(arm.id, None)) is not None:
                table[KEPT, index] = kept
        for arm_id, index in old.items():
            if self.table[COUNT, index] >= 1 or self.table[BIAS, index] > 0:
                self.remember(arm_id, tuple(self.table[KEPT, index].tolist()))
        moved = {before.id: index for index, before in enumerate(arms)}

        def place(index: int) -> int:
            return moved.get(self.arms[index].id, -1) if index >= 0 else -1

        self.standby = place(self.standby)
        self.active = [new for index in self.active if (new := place(index)) >= 0]
        self.priced = {new for index in self.priced if (new := place(index)) >= 0}
        self.swings = {
            new: swing for index, swing in self.swings.items() if (new := place(index)) >= 0
        }
        if self.suspicion is not None:
            at = place(self.suspicion[0])
            self.suspicion = (at, self.suspicion[1]) if at >= 0 else None
        self.burnt = {new: at_s for index, at_s in self.burnt.items() if (new := place(index)) >= 0}
        self.unsettled = [
            (new, cost, at_s, probe)
            for index, cost, at_s, probe in self.unsettled
            if (new := place(index)) >= 0
        ]
        had_direct = self.direct >= 0
        self.direct = next((i for i, arm in enumerate(arms) if arm.is_direct), -1)
        if not had_direct or self.direct < 0:
            # One that was known before is judged by that.
            self.direct_is_new = (
                self.direct >= 0
                and table[COUNT, self.direct] == 0
                and bool(self.active)
                and not self.direct_was_judged
            )
        self.table = table
        total = float(table[SHARE].sum())
        if total > 0:
            table[SHARE] /= total
        else:
            self.active = []
        return arms

    def bear_grudge(self, arm: ArmId, *, least: float = 0.0) -> None:
        """Let what *arm* is charged fade half as fast as the last time.

        *least*: where that is not known.
        """
        before = self.grudges.pop(arm, None)
        grudge = least if before is None else 2.0 * before
        grudge = min(max(grudge, 1.0), MAX_GRUDGE)
        while len(self.grudges) >= MAX_GONE + MAX_ARMS:
            del self.grudges[next(iter(self.grudges))]
        self.grudges[arm] = grudge

    def is_over(self, index: int, since_s: float) -> bool:
        """Say whether data found no arm at *index* very bad after *since_s*; forget it if so."""
        if self.burnt.get(index, -inf) > since_s:
            return False
        self.burnt.pop(index, None)
        return True

    def remember(self, arm: ArmId, kept: Kept) -> None:
        """Keep what is known of an arm that is not offered now."""
        if not all(isfinite(value) for value in kept):
            return
        self.gone.pop(arm, None)
        while len(self.gone) >= MAX_GONE:
            del self.gone[next(iter(self.gone))]
        self.gone[arm] = kept

    def memory(self) -> dict[ArmId, Kept]:
        """Return what deserves to outlive a restart: of every arm that was ever measured."""
        known = dict(self.gone)
        for index, arm in enumerate(self.arms):
            if self.table[COUNT, index] > 0 or self.table[BIAS, index] > 0:
                known[arm.id] = tuple(self.table[KEPT, index].tolist())
        return known


def _filled(legs_ms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return *legs_ms* with the mean of the known ones where a leg is not known."""
    known = np.isfinite(legs_ms)
    if known.all():
        return legs_ms
    return np.where(known, legs_ms, legs_ms[known].mean() if known.any() else _UNKNOWN_LEG_MS)
