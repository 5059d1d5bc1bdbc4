"""Who is how far from whom: every node sits at one host of a trace of round trips."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

import numpy as np

from veilnet.errors import ConfigError

if TYPE_CHECKING:
    from veilnet.sim.traces import Floats, Trace

SAME_HOST_MS: Final = 10.0
"""Between two nodes at one host: they are two in one city, not two processes."""


class Internet:
    """Round trips between nodes, loss of datagrams, and the random numbers of both.

    Units: seconds.
    """

    def __init__(self, trace: Trace, *, seed: int, nodes: int, loss: float = 0.0) -> None:
        rtt_ms = _whole(trace)
        self.rng = random.Random(f"internet {seed}")  # noqa: S311 - a simulation
        self.loss = loss
        self._rtt_s: list[list[float]] = (rtt_ms / 1_000.0).tolist()
        places = range(len(rtt_ms))
        self._place = [self.rng.choice(places) for _ in range(nodes)]

    @property
    def nodes(self) -> int:
        """How many nodes have a place."""
        return len(self._place)

    def rtt_s(self, one: int, other: int) -> float:
        """Return the round trip that *one* measures to *other*."""
        return self._rtt_s[self._place[one]][self._place[other]]

    def arrives(self, datagrams: int = 1) -> bool:
        """Draw whether *datagrams* sent at once all arrive."""
        return self.loss <= 0.0 or self.rng.random() >= 1.0 - (1.0 - self.loss) ** datagrams


def _whole(trace: Trace) -> Floats:
    """Return the mean round trip of each pair; what was never measured takes its mirror's.

    Hosts of which half is missing are left out, gaps that are left take the median of the row.
    """
    with np.errstate(all="ignore"):
        found = np.isfinite(trace.rtt_ms)
        counts = found.sum(axis=0)
        mean = np.where(found, trace.rtt_ms, 0.0).sum(axis=0) / np.maximum(counts, 1)
    mean = np.where(counts > 0, mean, np.nan)
    mean = np.where(np.isfinite(mean), mean, mean.T)
    known = np.isfinite(mean).mean(axis=1) > 0.5
    mean = mean[np.ix_(known, known)]
    if len(mean) < 3:
        raise ConfigError(f"{trace.name} has too few measured pairs to place nodes in it")
    middle = np.nanmedian(mean, axis=1)
    mean = np.where(np.isfinite(mean), mean, middle[:, None])
    np.fill_diagonal(mean, SAME_HOST_MS)
    return np.asarray(mean)
