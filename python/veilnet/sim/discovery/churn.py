"""How long nodes stay and stay away.

Sessions are Weibull with shape 0.61 and scale 3.66 h, as those of IPFS are: half of all leave
within two hours, four fifths within eight.  Absences have the same shape, and a scale that keeps
38 % of all listed peers away at any time.  A fleet starts in the stationary state: who is met at
a random moment is more likely met in a long session.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from attrs import frozen

if TYPE_CHECKING:
    import random

HOUR_S: Final = 3_600.0
SHAPE: Final = 0.61
SCALE_S: Final = 3.66 * HOUR_S
AWAY: Final = 0.38


@frozen
class Churn:
    """The law of comings and goings.   Units: seconds."""

    shape: float = SHAPE
    scale_s: float = SCALE_S
    away: float = AWAY

    def mean_s(self) -> float:
        """Return the mean session."""
        return self.scale_s * math.gamma(1 + 1 / self.shape)

    def session_s(self, rng: random.Random) -> float:
        """Draw a session from its beginning."""
        return rng.weibullvariate(self.scale_s, self.shape)

    def absence_s(self, rng: random.Random) -> float:
        """Draw an absence from its beginning."""
        return rng.weibullvariate(self.scale_s * self.away / (1 - self.away), self.shape)

    def met(self, rng: random.Random) -> tuple[float, float]:
        """Draw age and remaining time of the session of a node that is met at a random moment.

        Source: renewal theory; the session is length-biased, the moment uniform in it.
        """
        whole = self.scale_s * rng.gammavariate(1 + 1 / self.shape, 1.0) ** (1 / self.shape)
        age = rng.random() * whole
        return age, whole - age

    def missed(self, rng: random.Random) -> float:
        """Draw the remaining absence of a node that is missed at a random moment."""
        return self.met(rng)[1] * self.away / (1 - self.away)
