"""Experiments C and D: many sources, few relays, and what one does slows the others down.

```
source i --own leg--> relay r [queue, capacity] --far leg--> destination i      20 % faster and
                                                                                slower clocks
```
There is no direct path: who is here needs a relay.  A relay under load ``rho`` makes what it
carries wait as an M/M/1 queue does, up to its buffer; beyond its capacity it drops the rest and
says "busy" for a second.  Every source is a node of its own and decides every 0.8 to 1.2 s, at its
own time; the world moves in ticks of 0.2 s.  When a relay dies, what its sources had there goes to
their standby 0.6 s later, as the engine does, and stays there until they decide.

The design gives no town.  The square was chosen, after towns on real bases with several distances,
loads and buffers had been run, because greedy and exp3 land in it where the design had them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from attrs import field, frozen

from veilnet.paths import Arm, ArmId, Decision, Sample
from veilnet.sim.environment import DEAD_MS, DEMAND_BPS, LOSS_MS, Tally, peer_id, split
from veilnet.sim.optimum import Optimum, queue_ms, system_optimum
from veilnet.sim.traces import Floats, Trace

if TYPE_CHECKING:
    from collections.abc import Sequence

TICK_S: Final = 0.2
_PRECISION: Final = 0.01


@frozen
class Death:
    """The relay that dies: the *rank*-th largest (0: the largest), at *at_s*."""

    at_s: float
    rank: int = 1


@frozen(eq=False)
class Town:
    """Who is there and how much room there is.

    Shape: legs (sources, relays); *demand* (sources,), *capacity* (relays,), in units of a mean
    source's demand.
    """

    own_ms: Floats = field(repr=False)
    far_ms: Floats = field(repr=False)
    demand: Floats = field(repr=False)
    capacity: Floats = field(repr=False)
    service_ms: float
    buffer_ms: float

    @property
    def base_ms(self) -> Floats:
        """Round trips over empty relays."""
        return self.own_ms + self.far_ms

    def optimum(self) -> Optimum:
        """Return the split that costs all the least."""
        return system_optimum(self.base_ms, self.demand, self.capacity, service_ms=self.service_ms)


@frozen
class Conditions:
    """What a town is like."""

    load: float = 0.8
    """Demand over capacity, all in all, whatever the size: who grows brings room with him."""
    side_ms: float = 60.0
    """Round trip along the side of the square that all live in; 0: they live among the hosts of
    the trace, and no law of geometry holds."""
    line_ms: tuple[float, float] = (1.0, 5.0)
    """Round trip of everybody's access line in the square."""
    distance: float = 0.3
    """Factor on the trace's round trips: 0.3 makes a region of a world."""
    service_ms: float = 4.0
    buffer_ms: float = 500.0


def town(
    bases: Trace,
    *,
    seed: int,
    sources: int = 200,
    relays: int = 20,
    conditions: Conditions | None = None,
) -> Town:
    """Return a town drawn by *seed*: demands within a factor 3, capacities log-normal (0.6)."""
    conditions = conditions or Conditions()
    rng = np.random.default_rng([seed, 0x4354])
    if conditions.side_ms > 0:
        own, far = _square(rng, conditions, sources, relays)
    else:
        own, far = _hosts(rng, bases, conditions.distance, sources, relays)
    demand = rng.uniform(0.5, 1.5, sources)
    capacity = np.exp(rng.normal(0, 0.6, relays))
    capacity *= demand.sum() / conditions.load / capacity.sum()
    return Town(
        own_ms=own,
        far_ms=far,
        demand=demand,
        capacity=capacity,
        service_ms=conditions.service_ms,
        buffer_ms=conditions.buffer_ms,
    )


def _square(
    rng: np.random.Generator, conditions: Conditions, sources: int, relays: int
) -> tuple[Floats, Floats]:
    """Return the legs of everybody in a square."""
    via, near, far = (
        rng.uniform(0, conditions.side_ms, (n, 2)) for n in (relays, sources, sources)
    )
    line = rng.uniform(*conditions.line_ms, relays)
    legs = []
    for ends in (near, far):
        apart = ends[:, None] - via[None]
        theirs = rng.uniform(*conditions.line_ms, (sources, 1))
        legs.append(np.hypot(apart[..., 0], apart[..., 1]) + line + theirs)
    return legs[0], legs[1]


def _hosts(
    rng: np.random.Generator, bases: Trace, distance: float, sources: int, relays: int
) -> tuple[Floats, Floats]:
    """Return legs between hosts of a trace, a source and a destination drawn for each agent."""
    base = bases.held()[int(rng.integers(bases.slots))]
    base = distance * np.where(np.isfinite(base), base, np.nanmedian(base))
    nodes = rng.permutation(bases.nodes)
    via, others = nodes[:relays], nodes[relays:]
    near, far = others[rng.integers(0, len(others), (2, sources))]
    return base[np.ix_(near, via)], base[np.ix_(via, far)].T


class Crowd:
    """A town that lives; see `veilnet.sim.environment` for the calls."""

    step_s = TICK_S

    def __init__(
        self,
        place: Town,
        *,
        seed: int,
        seconds: float = 180.0,
        warm_up_s: float = 60.0,
        death: Death | None = None,
        failover_s: float = 0.6,
        liars: frozenset[int] = frozenset(),
    ) -> None:
        self.town, self.death, self.failover_s = place, death, failover_s
        self.agents, self.width = place.own_ms.shape
        self.nodes = tuple(range(self.agents))
        self.liars = liars
        """Relays that never say "busy"."""
        relays = [(peer_id("relay", r),) for r in range(self.width)]
        self.ids: list[list[ArmId]] = [list(relays)] * self.agents
        self._columns: dict[ArmId, int] = {arm: r for r, arm in enumerate(relays)}
        self.tally = Tally(best_ms=float("nan"))
        self.weights = place.demand / place.demand.sum()
        self.shares = np.zeros((self.agents, self.width))
        self._rng = np.random.default_rng([seed, 0x4357])
        self._ticks = round(seconds / TICK_S)
        self._warm = round(warm_up_s / TICK_S)
        self._tick = 0
        self._next = self._rng.integers(0, 5, self.agents).astype(np.float64)
        self._due: list[int] = []
        self._stale = np.ones(self.agents, bool)
        self._standby = np.full(self.agents, -1)
        self._probes = np.full(self.agents, -1)
        self._probed: dict[int, tuple[int, float, float]] = {}
        self._alive = np.ones(self.width, bool)
        self._dropped = np.full(self.width, -np.inf)
        # Sums over ticks: what an agent saw is the difference of two moments, as shares stand
        # still in between.
        self._sums = np.zeros((3, self.width))
        self._since = np.zeros((self.agents, 3, self.width))
        self._begun = np.zeros(self.agents)
        self._least = np.full((self.agents, self.width), np.inf)
        self._called = -1

    @property
    def now_s(self) -> float:
        """The clock."""
        return self._tick * TICK_S

    @property
    def done(self) -> bool:
        """Whether the last tick was taken."""
        return self._tick >= self._ticks

    def due(self) -> Sequence[int]:
        """Return the agents whose second is over."""
        if self._called != self._tick:
            self._called = self._tick
            late = np.flatnonzero(self._next <= self._tick)
            self._next[late] += self._rng.uniform(0.8, 1.2, len(late)) / TICK_S
            self._due = late.tolist()
        return self._due

    def stale(self, agent: int) -> bool:
        """Say whether `arms` was never asked: legs stand still here."""
        return bool(self._stale[agent])

    def arms(self, agent: int) -> tuple[Arm, ...]:
        """Return the relays with the legs of *agent* over empty links."""
        self._stale[agent] = False
        own, far = self.town.own_ms[agent].tolist(), self.town.far_ms[agent].tolist()
        return tuple(Arm(arm, own[r] / 1e3, far[r] / 1e3) for r, arm in enumerate(self.ids[agent]))

    def act(self, agent: int, decision: Decision) -> None:
        """Take *decision* as what *agent* does from now on."""
        shares, probe, standby = split(decision, self._columns, self.width)
        before = self.shares[agent]
        if before.any() and self._tick >= self._warm:
            moved = float(np.abs(shares - before).sum()) / 2
            self.tally.moved += moved * float(self.weights[agent])
        self.shares[agent] = shares
        self._standby[agent] = standby
        self._probes[agent] = probe
        if probe >= 0:
            self.tally.probes += 1
        self._since[agent] = self._sums
        self._begun[agent] = self._tick

    def costs_ms(self) -> Floats:
        """Return what each relay would cost as it is loaded now."""
        wait, loss = self._wait()
        return np.minimum(self.town.base_ms + wait + LOSS_MS * loss, DEAD_MS)

    def _wait(self) -> tuple[Floats, Floats]:
        place = self.town
        load = place.demand @ self.shares
        wait = queue_ms(load, place.capacity, place.service_ms, place.buffer_ms)
        loss = np.maximum(0.0, 1.0 - place.capacity / np.maximum(load, 1e-12))
        return np.where(self._alive, wait, 0.0), np.where(self._alive, loss, 1.0)

    def step(self) -> None:
        """Move the clock by one tick."""
        self._die()
        wait, loss = self._wait()
        self._dropped[(loss > 0) & self._alive] = self._tick
        delivered = self.shares * (1.0 - loss)
        base = self.town.base_ms
        late = float(self.weights @ (delivered * (base + wait)).sum(axis=1))
        arrived = float(self.weights @ delivered.sum(axis=1))
        tally = self.tally
        latency = late / arrived if arrived > 0 else DEAD_MS
        if self._tick >= self._warm:
            tally.latency_ms += latency
            tally.lost += 1.0 - arrived
            tally.cost_ms += latency + LOSS_MS * (1.0 - arrived)
            tally.sent += 1.0
            tally.elapsed_s += TICK_S
        tally.series_ms.append(latency)
        self._sums += (np.where(self._alive, wait, 0.0), loss, self._alive)
        for agent in np.flatnonzero(self._probes >= 0).tolist():
            r = int(self._probes[agent])
            lost = float(self._rng.random() < loss[r])
            self._probed[agent] = (r, float(base[agent, r] + wait[r]), lost)
        self._probes[:] = -1
        self._tick += 1

    def _die(self) -> None:
        if self.death is None:
            return
        over_s = self.now_s - self.death.at_s
        if over_s < -1e-9:
            return
        dying = int(np.argsort(-self.town.capacity)[min(self.death.rank, self.width - 1)])
        self._alive[dying] = False
        if over_s < self.failover_s - 1e-9:
            return
        hit = np.flatnonzero((self.shares[:, dying] > 0) & (self._standby >= 0))
        hit = hit[self._standby[hit] != dying]
        # What waits for its first decision after the failover is carried by the standby.
        fresh = hit[self._begun[hit] * TICK_S <= self.death.at_s + self.failover_s]
        self.shares[fresh, self._standby[fresh]] += self.shares[fresh, dying]
        self.shares[fresh, dying] = 0.0

    def samples(self, agent: int) -> list[Sample]:
        """Return what *agent* saw since its last decision."""
        ticks = self._tick - self._begun[agent]
        found: list[Sample] = []
        if ticks <= 0:
            return found
        wait, loss, alive = self._sums - self._since[agent]
        for r in np.flatnonzero(self.shares[agent]).tolist():
            up = float(alive[r])
            rtt = float(self.town.base_ms[agent, r]) + float(wait[r]) / max(up, 1.0)
            sent = DEMAND_BPS * float(self.town.demand[agent] * self.shares[agent, r])
            lost = min(1.0, float(loss[r]) / ticks)
            found.append(self._sample(agent, r, rtt, lost, sent))
        probed = self._probed.pop(agent, None)
        if probed is not None:
            found.append(self._sample(agent, *probed, 0.0))
        return found

    def _sample(self, agent: int, r: int, rtt_ms: float, loss: float, demand_bps: float) -> Sample:
        rtt_ms *= 1.0 + _PRECISION * float(self._rng.standard_normal())
        dead = loss >= 1.0 - 1e-9
        if not dead:
            self._least[agent, r] = min(self._least[agent, r], rtt_ms)
        least = float(self._least[agent, r])
        busy = self._tick - self._dropped[r] <= 1.0 / TICK_S and r not in self.liars
        return Sample(
            arm=self.ids[agent][r],
            rtt_s=None if dead else rtt_ms / 1e3,
            loss=1.0 if dead else loss,
            jitter_s=0.0 if demand_bps == 0.0 else 0.02 * rtt_ms / 1e3,
            rtt_min_s=(least if np.isfinite(least) else rtt_ms) / 1e3,
            demand_bps=demand_bps,
            goodput_bps=demand_bps * (1.0 - loss),
            probe=demand_bps == 0.0,
            busy=busy,
        )
