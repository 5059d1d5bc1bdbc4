"""The system optimum of a crowd: the split that costs all sources together the least.

Frank-Wolfe on the convex program

    minimise  sum_ir d_i x_ir base_ir  +  sum_r load_r q(load_r / capacity_r)
    subject to  sum_r x_ir = 1,  x >= 0,  load_r = sum_i d_i x_ir < capacity_r

Each iteration yields a certificate: the objective less the Frank-Wolfe gap lies below the optimum.
Reported is that bound, so that no excess is ever made smaller by an optimum not quite reached.

Source: Frank and Wolfe 1956; Jaggi 2013 (the gap).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from attrs import field, frozen

from veilnet.errors import LocalProtocolError
from veilnet.sim.traces import Floats

FULLEST: Final = 0.999
"""No optimum fills a relay beyond this: the queue has a pole at 1."""


@frozen(eq=False)
class Optimum:
    """A split, what it costs, and what no split can cost less than.

    Units: mean milliseconds per unit of demand.   Shape: *shares* (sources, relays).
    """

    mean_ms: float
    bound_ms: float
    shares: Floats = field(repr=False)


def queue_ms(load: Floats, capacity: Floats, service_ms: float, buffer_ms: float) -> Floats:
    """Return the wait at each relay: that of an M/M/1 queue up to what the buffer holds."""
    spare = np.maximum(capacity - load, 1e-12)
    return np.asarray(np.minimum(service_ms * load / spare, buffer_ms))


def system_optimum(
    base_ms: Floats,
    demand: Floats,
    capacity: Floats,
    *,
    service_ms: float,
    tolerance: float = 1e-3,
    iterations: int = 4_000,
) -> Optimum:
    """Return the split that costs the least over all sources, within *tolerance*.

    Shape: *base_ms* (sources, relays), *demand* (sources,), *capacity* (relays,).
    Raises: LocalProtocolError: there is less capacity than demand.
    """
    total = float(demand.sum())
    if total >= FULLEST * float(capacity.sum()):
        raise LocalProtocolError(f"a demand of {total:g} is beyond what the relays can carry")
    sources = np.arange(len(demand))
    shares = np.tile(capacity / capacity.sum(), (len(demand), 1))
    bound = -np.inf
    objective = np.inf
    for _ in range(iterations):
        load = demand @ shares
        spare = capacity - load
        objective = float((demand[:, None] * shares * base_ms).sum())
        objective += float((service_ms * load**2 / spare).sum())
        # d/dload of load q(load): what one more unit costs everybody.
        price = base_ms + service_ms * load * (2 * capacity - load) / spare**2
        best = price.argmin(axis=1)
        towards = -shares
        towards[sources, best] += 1.0
        gap = -float((demand[:, None] * price * towards).sum())
        bound = max(bound, objective - gap)
        if objective - bound <= tolerance * objective:
            break
        length = _length(
            base_ms, demand, capacity, service_ms=service_ms, load=load, towards=towards
        )
        shares = shares + length * towards
    return Optimum(objective / total, bound / total, shares)


def _length(
    base_ms: Floats,
    demand: Floats,
    capacity: Floats,
    *,
    service_ms: float,
    load: Floats,
    towards: Floats,
) -> float:
    """Return the step with the least cost along *towards*, by bisection of the derivative."""
    slope = float((demand[:, None] * towards * base_ms).sum())
    change = demand @ towards
    growing = change > 0
    room = (FULLEST * capacity[growing] - load[growing]) / change[growing]
    low, high = 0.0, float(np.clip(room.min(initial=1.0), 0.0, 1.0))
    for _ in range(30):
        middle = (low + high) / 2
        there = load + middle * change
        steep = service_ms * there * (2 * capacity - there) / (capacity - there) ** 2
        if slope + float((change * steep).sum()) > 0:
            high = middle
        else:
            low = middle
    return (low + high) / 2
