"""The node's one linear model of what an arm will cost: theta in R^8, learned as data comes.

```
z = [ 1-w   is_direct   (1-w) own   (1-w) far   w L   w F phi   w (own - own')   w (far - far') ]
theta at first
      0     0           1           1           1     .7        .5               .5
```
w = n/(n+1) is how far the arm itself is known, L its level, F its last deviation, phi how fresh
that is, own and far the two legs, own' and far' what they were when L was learned.  An arm that
nobody used yet starts at own + far, one that is known at L + .7 F.

"One" is 100 ms, so that every theta is of one size.  Recursive least squares with forgetting, in
units of what is left unexplained: the ridge of 4 then says that a theta is off by half or so,
whether the node's paths take 5 ms or 500.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

FEATURES: Final = 8
ONE_MS: Final = 100.0
PRIOR: Final = (0.0, 0.0, 1.0, 1.0, 1.0, 0.7, 0.5, 0.5)
RIDGE: Final = 4.0
FORGETTING: Final = 0.998
CLIP_SIGMAS: Final = 4.0
_LOW: Final = np.array([-1.0, -1.0, 0.2, 0.2, 0.5, 0.0, 0.0, 0.0])
_HIGH: Final = np.array([1.0, 1.0, 1.5, 1.5, 1.2, 1.1, 1.2, 1.2])
_FIRST_SIGMA_MS: Final = 30.0
_MIN_SIGMA_MS: Final = 1.0
_MAX_TRACE: Final = FEATURES / RIDGE
"""Forgetting may take back what was learned, never make the prior weaker than it was."""

Vector = NDArray[np.float64]


class Regression:
    """theta, its covariance (for unit noise) and the variance of what it leaves unexplained."""

    __slots__ = ("covariance", "sigma2", "theta")

    def __init__(self) -> None:
        self.theta: Vector = np.array(PRIOR)
        self.covariance: Vector = np.eye(FEATURES) / RIDGE
        self.sigma2 = _FIRST_SIGMA_MS**2

    def learn(self, z_ms: Vector, residual_ms: float) -> None:
        """Take in one sample: its features and what was observed minus what was forecast.

        Shape: *z_ms* (8,), with `ONE_MS` where the feature is "one".
        """
        bound = CLIP_SIGMAS * max(self.sigma2**0.5, _MIN_SIGMA_MS)
        clipped = min(max(residual_ms, -bound), bound)
        self.sigma2 += 0.02 * (clipped * clipped - self.sigma2)
        pz = self.covariance @ z_ms
        gain = pz / (FORGETTING * max(self.sigma2, _MIN_SIGMA_MS**2) + float(z_ms @ pz))
        self.theta += gain * clipped
        self.theta = np.minimum(np.maximum(self.theta, _LOW), _HIGH)
        covariance = self.covariance - np.outer(gain, pz)
        if float(covariance.trace()) < FORGETTING * _MAX_TRACE:
            covariance /= FORGETTING
        self.covariance = covariance

    def is_sane(self) -> bool:
        """Whether every number is one."""
        return bool(
            np.isfinite(self.theta).all()
            and np.isfinite(self.covariance).all()
            and np.isfinite(self.sigma2)
        )
