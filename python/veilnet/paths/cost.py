"""What a sample cost, in equivalent milliseconds: the one currency of every policy.

```
c = rtt + 2000 loss + 2 jitter + 100 max(0, demand/goodput - 1) + kappa (rtt - rtt_min)
```
clipped just below 2000, which is what an arm costs that brought nothing back: a full queue is not
a dead relay, and whoever leaves it all at once takes it along to the next.  kappa prices the
queueing that we cause to others.  It is charged only by the gate: a relay that says "busy" can
repel, nothing it says can attract.
"""

from __future__ import annotations

from enum import Enum
from math import isfinite
from typing import Final

from veilnet.paths.policy import Sample

DEAD_MS: Final = 2_000.0
WORST_MS: Final = 1_990.0
"""No arm that carries anything costs more."""
LOSS_MS: Final = 2_000.0
JITTER: Final = 2.0
SHORTFALL_MS: Final = 100.0


class KappaGate(Enum):
    """When queueing is charged for."""

    OFF = "off"
    BUSY = "busy"
    ALWAYS = "always"


def cost_ms(sample: Sample, *, kappa: float = 0.0) -> float:
    """Return what *sample* cost; `DEAD_MS` where nothing came back or a figure is no number."""
    rtt_s = sample.rtt_s
    silent = sample.demand_bps >= 1.0 > sample.goodput_bps
    if rtt_s is None or sample.loss >= 1.0 or silent:
        return DEAD_MS
    cost = 1_000.0 * (rtt_s + JITTER * sample.jitter_s) + LOSS_MS * sample.loss
    if sample.demand_bps > sample.goodput_bps:
        cost += SHORTFALL_MS * (sample.demand_bps / max(sample.goodput_bps, 1.0) - 1.0)
    if kappa:
        cost += kappa * 1_000.0 * max(0.0, rtt_s - sample.rtt_min_s)
    return min(max(cost, 0.0), WORST_MS) if isfinite(cost) else DEAD_MS


def is_priced(sample: Sample, gate: KappaGate) -> bool:
    """Whether *gate* charges for the queueing that *sample* saw."""
    return gate is KappaGate.ALWAYS or (gate is KappaGate.BUSY and sample.busy)
