"""The two that learn nothing: anywhere, and straight ahead."""

from __future__ import annotations

from typing import ClassVar

from veilnet.paths.baseline import Baseline, Track


class _Averaging(Baseline):
    """Keeps an average for `explain` and for the standby; the choice does not heed it."""

    def learn(self, track: Track, index: int, cost: float) -> None:
        """Fold *cost* into the average."""
        track.cost[index] += (cost - track.cost[index]) * (0.2 if track.weight[index] > 0 else 1.0)
        track.weight[index] += 1.0

    def explore(self, track: Track) -> int:  # noqa: ARG002 - it has no use for a probe
        """Return none."""
        return -1


class Anywhere(_Averaging):
    """Draws an arm every second, all alike."""

    name: ClassVar[str] = "random"

    def choose(self, track: Track) -> int:
        """Return any column."""
        return int(self._rng.integers(len(track.arms)))


class Direct(_Averaging):
    """Stays on the direct arm; where there is none, on the shortest by its legs."""

    name: ClassVar[str] = "direct"

    def choose(self, track: Track) -> int:
        """Return the direct arm."""
        for index, arm in enumerate(track.arms):
            if arm.is_direct:
                return index
        if track.current >= 0 and not track.dead[track.current]:
            return track.current
        return int((track.prior + 1e9 * track.dead).argmin())
