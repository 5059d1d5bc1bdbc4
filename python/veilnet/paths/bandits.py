"""Bandits of the literature: LinUCB, discounted Thompson sampling, Exp3 and one like VIA.

Unlike the shipped policy they explore with the traffic itself, as published; those that can use
a second opinion also get the probe, on the arm that they would try next.
"""

from __future__ import annotations

from math import exp, log
from typing import ClassVar, Final

import numpy as np

from veilnet.paths.baseline import Baseline, Floats, Track
from veilnet.paths.cost import DEAD_MS

_FIRST_SIGMA_MS: Final = 30.0


class _Discounted(Baseline):
    """A mean and a variance per arm in which a sample counts the less the older it is."""

    def learn(self, track: Track, index: int, cost: float) -> None:
        """Fold *cost* in; `square` is the discounted variance."""
        weight = track.weight[index]
        off = cost - track.cost[index]
        if weight > 0:
            part = 1.0 / (weight + 1.0)
            track.cost[index] += part * off
            track.square[index] += part * ((1.0 - part) * off * off - track.square[index])
        else:
            track.cost[index] = cost
            track.square[index] = _FIRST_SIGMA_MS**2
        track.weight[index] = weight + 1.0

    def spread(self, track: Track) -> Floats:
        """Return the standard error of each mean, ms."""
        variance = np.where(track.weight > 0, track.square, (0.3 * track.prior) ** 2)
        floor = (0.02 * track.prior + 1.0) ** 2
        return np.asarray(np.sqrt(np.maximum(variance, floor) / np.maximum(track.weight, 0.05)))

    def means(self, track: Track) -> Floats:
        """Return each mean, drawn to the prior as evidence fades."""
        w = track.weight / (track.weight + 0.2)
        return np.asarray(np.where(track.dead, track.cost, w * track.cost + (1 - w) * track.prior))


class DiscountedThompson(_Discounted):
    """Draws every mean from its posterior and takes the least.

    Source: Raj and Kalyani, Taming Non-stationary Bandits, 2017 (for Gaussian costs here).
    """

    name: ClassVar[str] = "dts"
    keep_per_s: ClassVar[float] = 0.98

    def choose(self, track: Track) -> int:
        """Return the least draw."""
        return self._draw(track)

    def explore(self, track: Track) -> int:
        """Return the least draw among those that carry nothing."""
        return self._draw(track, but=track.current)

    def _draw(self, track: Track, but: int = -1) -> int:
        noise = self._rng.standard_normal(len(track.arms))
        drawn = self.means(track) + noise * self.spread(track)
        if but >= 0:
            drawn[but] = np.inf
        return int(drawn.argmin())


class Via(_Discounted):
    """Prunes to the arms that may be the best, then UCB1 among them.

    Source: Jiang et al., VIA: Improving Internet Telephony Call Quality Using Predictive Relay
    Selection, SIGCOMM 2016: algorithms 2 and 3; the legs stand for its tomography.
    """

    name: ClassVar[str] = "via"
    keep_per_s: ClassVar[float] = 0.99

    def choose(self, track: Track) -> int:
        """Return the best of the pruned arms by UCB1 on costs relative to their upper bound."""
        means, spread = self.means(track), self.spread(track)
        upper, lower = means + 1.96 * spread, means - 1.96 * spread
        few = np.flatnonzero(lower <= upper.min())
        scale = float(upper[few].mean())
        total = max(float(track.weight.sum()), 2.0)
        bonus = np.sqrt(0.1 * log(total) / np.maximum(track.weight[few], 0.1))
        return int(few[int((means[few] / scale - bonus).argmin())])

    def explore(self, track: Track) -> int:
        """Return any other arm: the share of exploration that keeps the pruning honest."""
        return (track.current + 1 + int(self._rng.integers(len(track.arms) - 1))) % len(track.arms)


class LinUcb(_Discounted):
    """One linear model over what is known of an arm, and optimism where little is known.

    Source: Li et al., A Contextual-Bandit Approach, WWW 2010 (algorithm 2, the term of an arm's
    own model reduced to its count); forgetting as in Russac et al., 2019.
    """

    name: ClassVar[str] = "linucb"
    keep_per_s: ClassVar[float] = 0.99
    width: ClassVar[float] = 1.0
    forgetting: ClassVar[float] = 0.998
    features: ClassVar[int] = 5

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__(rng)
        self._theta: Floats = np.array([0.0, 0.0, 1.0, 1.0, 1.0])
        self._inverse: Floats = np.eye(self.features)
        self._sigma2 = _FIRST_SIGMA_MS**2

    def contexts(self, track: Track) -> Floats:
        """Return what is known of each arm, in units of 100 ms.  Shape: (arms, features)."""
        known = track.weight / (track.weight + 1.0)
        direct = np.array([float(arm.is_direct) for arm in track.arms])
        own = np.array([arm.own_leg_s for arm in track.arms]) * 10.0
        own = np.where(np.isfinite(own), own, track.prior / 200.0)
        rest = track.prior / 100.0 - own
        unknown = 1.0 - known
        measured = known * track.cost / 100.0
        return np.stack([unknown, direct, unknown * own, unknown * rest, measured], axis=1)

    def learn(self, track: Track, index: int, cost: float) -> None:
        """Update the model by this arm's context, then the arm's own average."""
        z = self.contexts(track)[index]
        off = min(max(cost / 100.0 - float(self._theta @ z), -4.0), 4.0)
        pz = self._inverse @ z
        gain = pz / (self.forgetting + float(z @ pz))
        self._theta += gain * off
        inverse = self._inverse - np.outer(gain, pz)
        if float(inverse.trace()) < self.forgetting * self.features:
            inverse /= self.forgetting
        self._inverse = inverse
        self._sigma2 += 0.02 * (1e4 * off * off - self._sigma2)
        super().learn(track, index, cost)

    def choose(self, track: Track) -> int:
        """Return the arm that may be the cheapest."""
        return self.by_lot(self._bounds(track))

    def explore(self, track: Track) -> int:
        """Return the most promising arm that carries nothing."""
        bounds = self._bounds(track)
        bounds[track.current] = np.inf
        return self.by_lot(bounds)

    def _bounds(self, track: Track) -> Floats:
        z = self.contexts(track)
        variance = np.einsum("ij,jk,ik->i", z, self._inverse, z) + 1.0 / (1.0 + track.weight)
        optimism = self.width * self._sigma2**0.5 * np.sqrt(np.maximum(variance, 0.0))
        forecast = np.where(track.dead, track.cost, 100.0 * (z @ self._theta))
        return np.asarray(forecast - optimism)


class Exp3(Baseline):
    """Exponential weights against an adversary, with a floor under every arm's probability.

    The reward of an arm is the least average cost over what it just cost, so that it is of one
    scale everywhere.  `square` holds the logarithms of the weights, `weight` counts.
    Source: Auer et al., The Nonstochastic Multiarmed Bandit Problem, 2002 (Exp3.S).
    """

    name: ClassVar[str] = "exp3"
    exploration: ClassVar[float] = 0.1
    """The cap: this part of the choices is uniform."""
    sharing: ClassVar[float] = 0.001
    """What every arm gets of all weight each round, so that a change is noticed."""

    def probabilities(self, track: Track) -> Floats:
        """Return the chance of each arm."""
        weights = np.exp(track.square - track.square.max())
        mixed = (1.0 - self.exploration) * weights / weights.sum()
        return np.asarray(mixed + self.exploration / len(weights))

    def learn(self, track: Track, index: int, cost: float) -> None:
        """Credit the arm by its reward over its chance."""
        keep = 0.8 if track.weight[index] > 0 else 0.0
        track.cost[index] = keep * track.cost[index] + (1.0 - keep) * cost
        track.weight[index] += 1.0
        reward = min(1.0, float(track.cost.min()) / max(cost, 1.0)) if cost < DEAD_MS else 0.0
        count = len(track.arms)
        chance = float(self.probabilities(track)[index])
        logs = track.square
        logs[index] += self.exploration * reward / (chance * count)
        weights = np.exp(logs - logs.max())
        weights += self.sharing * exp(1.0) / count * weights.sum()
        track.square = np.log(weights)

    def choose(self, track: Track) -> int:
        """Draw an arm."""
        chances = self.probabilities(track)
        return int(np.searchsorted(np.cumsum(chances)[:-1], float(self._rng.random())))

    def explore(self, track: Track) -> int:  # noqa: ARG002 - it has no use for a probe
        """Return none."""
        return -1
