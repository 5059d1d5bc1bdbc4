"""What the policies that the shipped one is measured against have in common.

Each keeps a few numbers per arm, puts all traffic on one arm and may ask for one probe; each is
given the same samples, the same costs and the same chance to probe as the shipped policy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import inf, isfinite
from typing import ClassVar, Final

import numpy as np
import structlog
from numpy.typing import NDArray

from veilnet.paths.cost import DEAD_MS, cost_ms
from veilnet.paths.policy import (
    MAX_ARMS,
    MAX_DESTINATIONS,
    MAX_SAMPLES,
    Arm,
    ArmView,
    Decision,
    Destination,
    Sample,
)

_log = structlog.get_logger("veilnet.paths")

Floats = NDArray[np.float64]

PROBE_RATE: Final = 0.25
PROBE_RATE_QUIET: Final = 0.1
_UNKNOWN_LEG_MS: Final = 100.0


class Track:
    """One destination: columns of numbers, one per arm."""

    def __init__(self, now_s: float) -> None:
        self.arms: tuple[Arm, ...] = ()
        self.prior: Floats = np.zeros(0)
        """own + far, ms."""
        self.cost: Floats = np.zeros(0)
        """Whatever average of the costs the policy keeps; the prior until there is one."""
        self.weight: Floats = np.zeros(0)
        """How much evidence that stands on; 0: none."""
        self.square: Floats = np.zeros(0)
        """A policy's third number."""
        self.seen_s: Floats = np.zeros(0)
        self.dead: NDArray[np.bool_] = np.zeros(0, np.bool_)
        """The last sample brought nothing back."""
        self.current = -1
        self.turn = 0
        self.decided_s = now_s
        self.reason = ""

    def set_arms(self, arms: Sequence[Arm]) -> None:
        """Take *arms* as those that there are, keeping the numbers of those that stay."""
        unique = tuple({arm.id: arm for arm in arms[:MAX_ARMS]}.values())
        old = {arm.id: i for i, arm in enumerate(self.arms)}
        at = np.array([old.get(arm.id, -1) for arm in unique], dtype=np.intp)
        stays = at >= 0
        current = self.arms[self.current].id if self.current >= 0 else None

        def regroup(column: Floats, fresh: Floats) -> Floats:
            return np.where(stays, column[at], fresh) if len(column) else fresh

        count = len(unique)
        legs = np.array([[arm.own_leg_s, arm.far_leg_s] for arm in unique]).reshape(count, 2) * 1e3
        self.prior = np.where(np.isfinite(legs), legs, _UNKNOWN_LEG_MS).sum(axis=1)
        self.cost = regroup(self.cost, self.prior)
        self.weight = regroup(self.weight, np.zeros(count))
        self.square = regroup(self.square, np.zeros(count))
        self.seen_s = regroup(self.seen_s, np.full(count, -inf))
        self.dead = np.where(stays, self.dead[at], False) if len(self.dead) else stays & False
        self.cost = np.where(self.weight > 0, self.cost, self.prior)
        self.arms = unique
        self.current = next((i for i, arm in enumerate(unique) if arm.id == current), -1)

    def column(self, arm: object) -> int:
        """Return where *arm* stands, -1 if it does not."""
        return next((i for i, known in enumerate(self.arms) if known.id == arm), -1)


class Baseline(ABC):
    """A policy that puts all traffic on one arm."""

    name: ClassVar[str]
    keep_per_s: ClassVar[float] = 1.0
    """What is left of a second-old evidence."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._tracks: dict[Destination, Track] = {}

    @abstractmethod
    def learn(self, track: Track, index: int, cost: float) -> None:
        """Take in one sample of the arm in column *index*."""

    @abstractmethod
    def choose(self, track: Track) -> int:
        """Return the column that is to carry the traffic."""

    @abstractmethod
    def explore(self, track: Track) -> int:
        """Return the column that is to be probed, -1 for none."""

    def set_arms(self, destination: Destination, arms: Sequence[Arm], now_s: float) -> None:
        """Say which arms there are now; what is known of those that stay is kept."""
        track = self._tracks.pop(destination, None)
        if track is None:
            track = Track(now_s)
            while len(self._tracks) >= MAX_DESTINATIONS:
                del self._tracks[next(iter(self._tracks))]
        self._tracks[destination] = track
        track.set_arms(arms)

    def update(self, destination: Destination, samples: Sequence[Sample], now_s: float) -> None:
        """Learn from *samples*; those of arms that are not there are ignored."""
        track = self._tracks.get(destination)
        if track is None:
            return
        for sample in samples[:MAX_SAMPLES]:
            index = track.column(sample.arm)
            if index < 0:
                continue
            cost = cost_ms(sample)
            self.learn(track, index, cost)
            track.dead[index] = cost >= DEAD_MS
            track.seen_s[index] = now_s

    def decide(self, destination: Destination, now_s: float, *, quiet: bool = False) -> Decision:
        """Return what to do next; called about once a second for each active destination."""
        track = self._tracks.get(destination)
        if track is None or not track.arms:
            return Decision((), reason="there is no arm")
        passed_s = max(0.0, now_s - track.decided_s) or 1.0
        track.decided_s = now_s
        track.weight *= self.keep_per_s**passed_s
        track.current = self.choose(track)
        rate = PROBE_RATE_QUIET if quiet else PROBE_RATE
        probe = -1
        if len(track.arms) > 1 and float(self._rng.random()) < rate * passed_s:
            probe = self.explore(track)
        standby = self._standby(track)
        return Decision(
            shares=((track.arms[track.current].id, 1.0),),
            probe=track.arms[probe].id if probe >= 0 else None,
            standby=track.arms[standby].id if standby >= 0 else None,
            reason=f"{self.name} chose it",
        )

    @staticmethod
    def _standby(track: Track) -> int:
        carrying = track.arms[track.current]
        apart = [
            i
            for i, arm in enumerate(track.arms)
            if not track.dead[i] and not arm.overlaps(carrying)
        ]
        return min(apart, key=lambda i: float(track.cost[i]), default=-1)

    def explain(self, destination: Destination, now_s: float) -> tuple[ArmView, ...]:
        """Return every arm as the policy sees it, cheapest first; changes nothing."""
        track = self._tracks.get(destination)
        if track is None:
            return ()
        views = [
            ArmView(
                id=arm.id,
                forecast_ms=float(min(track.cost[i], DEAD_MS)),
                confidence=float(track.weight[i] / (track.weight[i] + 1.0)),
                share=float(i == track.current),
                bias_ms=0.0,
                age_s=now_s - seen_s if isfinite(seen_s := float(track.seen_s[i])) else inf,
                reason="carries everything" if i == track.current else "idle",
            )
            for i, arm in enumerate(track.arms)
        ]
        return tuple(sorted(views, key=lambda view: view.forecast_ms))

    def forget(self, destination: Destination) -> None:
        """Drop all that is known of *destination*."""
        self._tracks.pop(destination, None)

    def state(self) -> bytes:
        """Return nothing: a baseline starts afresh."""
        return b""

    def load_state(self, data: bytes) -> None:
        """Take nothing back: a baseline starts afresh."""
        if data:
            _log.warning("learned paths are forgotten", reason=f"{self.name} keeps none")

    def by_lot(self, costs: Floats) -> int:
        """Return the column of the least of *costs*, ties broken by lot."""
        least = np.flatnonzero(costs == costs.min())
        return int(least[0]) if len(least) == 1 else int(self._rng.choice(least))
