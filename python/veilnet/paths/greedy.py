"""Greedy: the arm whose smoothed cost is least; the others are probed in turn."""

from __future__ import annotations

from typing import ClassVar, Final

from veilnet.paths.baseline import Baseline, Track

KEEP: Final = 0.8


class Greedy(Baseline):
    """Exponentially weighted averages, each new sample a fifth.

    An arm that was never seen stands at what its legs say.
    """

    name: ClassVar[str] = "greedy"

    def learn(self, track: Track, index: int, cost: float) -> None:
        """Fold *cost* into the average."""
        keep = KEEP if track.weight[index] > 0 else 0.0
        track.cost[index] = keep * track.cost[index] + (1.0 - keep) * cost
        track.weight[index] += 1.0

    def choose(self, track: Track) -> int:
        """Return the least average."""
        return self.by_lot(track.cost)

    def explore(self, track: Track) -> int:
        """Return the next in turn that does not carry traffic anyway."""
        for _ in track.arms:
            track.turn = (track.turn + 1) % len(track.arms)
            if track.turn != track.current:
                break
        return track.turn
