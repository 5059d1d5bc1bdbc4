"""What an environment is: agents with arms, a clock in steps, samples in return for decisions.

```
loop   due() -> the agents that decide now        arms(agent) when stale(agent)
       act(agent, decision)
       step()                                     the clock moves, what was sent is paid for
       samples(agent) -> what the agent saw since its last decision
```
An *agent* is one destination of one node.  The experiments and the Gymnasium adapter drive the
same object by these calls, and policies see nothing else of it.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
from attrs import define, field, frozen

from veilnet.paths import Arm, ArmId, Decision, Sample
from veilnet.sim.traces import Flags, Floats
from veilnet.units import PeerId

if TYPE_CHECKING:
    from collections.abc import Sequence

DEAD_MS: Final = 2_000.0
"""Equivalent cost of a path that delivers nothing; no cost is higher."""
LOSS_MS: Final = 2_000.0
"""Equivalent cost of losing everything."""
DEMAND_BPS: Final = 5e6
"""What one agent sends."""


class Environment(Protocol):
    """Agents that send, and what happens to it."""

    tally: Tally

    @property
    def step_s(self) -> float:
        """How long a step is."""

    @property
    def agents(self) -> int:
        """How many there are."""

    @property
    def nodes(self) -> Sequence[int]:
        """The node that each agent belongs to; agents of one node share a policy."""

    @property
    def ids(self) -> Sequence[Sequence[ArmId]]:
        """Per agent the arms in the order of the columns of every array here."""

    @property
    def now_s(self) -> float:
        """The clock."""

    @property
    def done(self) -> bool:
        """Whether the last step was taken."""

    def due(self) -> Sequence[int]:
        """Return the agents that decide before the next step."""

    def stale(self, agent: int) -> bool:
        """Say whether `arms` has news since it was last asked."""

    def arms(self, agent: int) -> tuple[Arm, ...]:
        """Return the arms of *agent* with what is known of their legs now."""

    def act(self, agent: int, decision: Decision) -> None:
        """Take *decision* as what *agent* does from now on; unknown arms are ignored."""

    def step(self) -> None:
        """Move the clock by one step."""

    def samples(self, agent: int) -> list[Sample]:
        """Return what *agent* saw since it was last asked."""

    def costs_ms(self) -> Floats:
        """Return what each arm will cost in the coming step, as only an oracle knows.

        Shape: (agents, arms), infinite where there is no such arm.
        """


@define
class Tally:
    """What a run cost so far; every sum counts agents x steps."""

    cost_ms: float = 0.0
    best_ms: float = 0.0
    """Of the oracle over the same steps (`nan` where it is computed for the whole run)."""
    latency_ms: float = 0.0
    lost: float = 0.0
    sent: float = 0.0
    moved: float = 0.0
    """Share that changed its path, summed over decisions."""
    attacked: float = 0.0
    """Share that went over attackers."""
    probes: int = 0
    refused: int = 0
    """Probes beyond the budget that the environment did not carry out."""
    elapsed_s: float = 0.0
    series_ms: list[float] = field(factory=list)
    """Mean latency of each step."""

    def excess(self) -> float:
        """Return how far the cost lies over the oracle's, as a ratio."""
        return self.cost_ms / self.best_ms - 1.0


@frozen
class Allowance:
    """How many probes an agent may send: a bucket of *burst*, filled at *rate_per_s*."""

    rate_per_s: float
    burst: float = 1.0


def peer_id(kind: str, number: int) -> PeerId:
    """Return the peer id of a simulated node."""
    return PeerId(hashlib.sha256(f"veilnet/sim/{kind}/{number}".encode()).digest())


def split(decision: Decision, columns: dict[ArmId, int], width: int) -> tuple[Floats, int, int]:
    """Return *decision* as shares by column, the probed column and the standby's (-1: none)."""
    shares = np.zeros(width)
    for arm, share in decision.shares:
        column = columns.get(arm, -1)
        if column >= 0:
            shares[column] += share
    total = float(shares.sum())
    if total > 0:
        shares /= total
    probe = -1 if decision.probe is None else columns.get(decision.probe, -1)
    standby = -1 if decision.standby is None else columns.get(decision.standby, -1)
    return shares, probe, standby


def equivalent_ms(rtt_ms: Floats, loss: Floats) -> Floats:
    """Return the cost of round trips and losses in equivalent milliseconds."""
    return np.minimum(rtt_ms + LOSS_MS * loss, DEAD_MS)


def absent_as_infinite(costs: Floats, present: Flags) -> Floats:
    """Return *costs* with infinity where there is no arm."""
    return np.where(present, costs, np.inf)
