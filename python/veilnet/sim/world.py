"""Environments that do not care what one does: a recorded trace, or a scenario made before.

One exception: attackers (`veilnet.sim.attackers`) react to how they are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
from attrs import field, frozen

from veilnet.paths import DIRECT, Arm, ArmId, Decision, Sample
from veilnet.sim.environment import (
    DEMAND_BPS,
    Allowance,
    Tally,
    absent_as_infinite,
    equivalent_ms,
    peer_id,
    split,
)
from veilnet.sim.traces import Flags, Floats

if TYPE_CHECKING:
    from collections.abc import Sequence


@frozen(eq=False)
class Scenario:
    """All that will happen, made before it is run.

    Shape: (steps, agents, arms) for *rtt_ms*, *loss*, *seen_ms* and *own_ms*.
    """

    step_s: float
    nodes: tuple[int, ...]
    present: Flags
    """(agents, arms)."""
    relays: np.ndarray[tuple[int, ...], np.dtype[np.int64]]
    """(agents, arms): the relay of each arm, -1 for the direct one."""
    rtt_ms: Floats = field(repr=False)
    """What counts: the level of each path."""
    loss: Floats = field(repr=False)
    seen_ms: Floats = field(repr=False)
    """What data measures: with noise and spikes; NaN: this step has no measurement."""
    probe_ms: Floats = field(repr=False)
    """What a probe measures on top of the level.  Shape: (steps, agents)."""
    lots: Floats = field(repr=False)
    """A probe is one datagram: it is lost where its lot is below the loss.  (steps, agents)."""
    own_ms: Floats = field(repr=False)
    """The leg to the relay as it is known when the step begins."""
    far_ms: Floats = field(repr=False)
    """The leg from there, as the destination says when the run begins.  (agents, arms)."""
    fresh: Flags = field(repr=False)
    """Steps at whose beginning own legs were measured anew.  (steps,)."""
    jitter_ms: float = 0.0
    allowance: Allowance = field(factory=lambda: Allowance(1.0))
    quiet: bool = False
    prefixes: tuple[frozenset[str], ...] = ()
    """Of each relay; none: every relay stands alone."""

    @property
    def steps(self) -> int:
        """How many steps."""
        return int(self.rtt_ms.shape[0])


@frozen(eq=False)
class Treatment:
    """What attackers make of one step: round trips and losses of data and of probes."""

    data_ms: Floats
    data_loss: Floats
    probe_ms: Floats
    probe_loss: Floats


class Attack(Protocol):
    """Relays that treat what they carry as they like."""

    bad: Flags
    """(agents, arms): the arms that go over an attacker."""

    shunned: bool
    """Whether the oracle keeps away from them."""

    def treat(self, shares: Floats, rtt_ms: Floats, loss: Floats) -> Treatment:
        """Return what becomes of this step; *shares* is how much each arm carries."""


class World:
    """A scenario that runs; see `veilnet.sim.environment` for the calls."""

    def __init__(self, scenario: Scenario, attack: Attack | None = None) -> None:
        self.scenario, self.attack = scenario, attack
        self.step_s, self.nodes = scenario.step_s, scenario.nodes
        self.agents, self.width = scenario.present.shape
        self.ids: list[list[ArmId]] = [
            [DIRECT if r < 0 else (peer_id("relay", int(r)),) for r in row]
            for row in scenario.relays
        ]
        self._columns = [{arm: k for k, arm in enumerate(row)} for row in self.ids]
        self.tally = Tally()
        self.shares = np.zeros((self.agents, self.width))
        self._probes = np.full(self.agents, -1)
        self._least = np.full((self.agents, self.width), np.inf)
        self._stale = np.ones(self.agents, bool)
        self._tokens = np.full(self.agents, scenario.allowance.burst)
        self._slot = 0
        self._everybody = range(self.agents)
        self._data: list[list[tuple[int, float, float]]] = [[] for _ in range(self.agents)]
        self._probed: list[tuple[int, float, float] | None] = [None] * self.agents

    @property
    def now_s(self) -> float:
        """The clock."""
        return self._slot * self.step_s

    @property
    def done(self) -> bool:
        """Whether the last step was taken."""
        return self._slot >= self.scenario.steps

    @property
    def quiet(self) -> bool:
        """Whether policies are told that hardly any data flows, so that they probe less."""
        return self.scenario.quiet

    def due(self) -> Sequence[int]:
        """Return all agents: here everybody decides before every step."""
        return self._everybody

    def stale(self, agent: int) -> bool:
        """Say whether own legs were measured anew since `arms` was last asked."""
        return bool(self._stale[agent])

    def arms(self, agent: int) -> tuple[Arm, ...]:
        """Return the arms of *agent* with what is known of their legs now."""
        self._stale[agent] = False
        scenario = self.scenario
        own = scenario.own_ms[min(self._slot, scenario.steps - 1), agent].tolist()
        far = scenario.far_ms[agent].tolist()
        relays = scenario.relays[agent].tolist()
        return tuple(
            Arm(arm, own[k] / 1e3, far[k] / 1e3, self._prefixes(relays[k]))
            for k, arm in enumerate(self.ids[agent])
            if scenario.present[agent, k]
        )

    def _prefixes(self, relay: int) -> frozenset[str]:
        known = self.scenario.prefixes
        return known[relay] if 0 <= relay < len(known) else frozenset()

    def act(self, agent: int, decision: Decision) -> None:
        """Take *decision* as what *agent* does from now on."""
        shares, probe, _ = split(decision, self._columns[agent], self.width)
        before = self.shares[agent]
        if before.any():
            self.tally.moved += float(np.abs(shares - before).sum()) / 2
        self.shares[agent] = shares
        if probe >= 0 and self._tokens[agent] < 1.0 - 1e-9:
            self.tally.refused += 1
            probe = -1
        if probe >= 0:
            self._tokens[agent] -= 1.0
            self.tally.probes += 1
        self._probes[agent] = probe

    def costs_ms(self) -> Floats:
        """Return what each arm will cost in the coming step; attackers are not there."""
        scenario, t = self.scenario, self._slot
        costs = equivalent_ms(scenario.rtt_ms[t], scenario.loss[t])
        usable = scenario.present
        if self.attack is not None and self.attack.shunned:
            usable = usable & ~self.attack.bad
        return absent_as_infinite(costs, usable)

    def step(self) -> None:
        """Move the clock by one step."""
        scenario, t = self.scenario, self._slot
        rtt, loss = scenario.rtt_ms[t], scenario.loss[t]
        best = self.costs_ms().min(axis=1)
        if self.attack is None:
            took = Treatment(rtt, loss, rtt, loss)
        else:
            took = self.attack.treat(self.shares, rtt, loss)
            self.tally.attacked += float(self.shares[self.attack.bad].sum())
        costs = equivalent_ms(took.data_ms, took.data_loss)
        self._pay(costs, took, best)
        self._observe(t, took)
        allowance = scenario.allowance
        np.minimum(
            self._tokens + allowance.rate_per_s * self.step_s, allowance.burst, out=self._tokens
        )
        self._slot += 1
        if self._slot < scenario.steps and scenario.fresh[self._slot]:
            self._stale[:] = True

    def _pay(self, costs: Floats, took: Treatment, best: Floats) -> None:
        tally, shares = self.tally, self.shares
        paid = np.where(shares > 0, shares * costs, 0.0).sum(axis=1)
        # Who decided nothing delivers nothing.
        paid += np.maximum(0.0, 1.0 - shares.sum(axis=1)) * 2_000.0
        tally.cost_ms += float(paid.sum())
        tally.best_ms += float(best.sum())
        alive = shares * (1.0 - took.data_loss)
        tally.latency_ms += float(np.where(alive > 0, alive * took.data_ms, 0.0).sum())
        tally.lost += float((shares * took.data_loss).sum())
        tally.sent += self.agents
        tally.elapsed_s += self.step_s * self.agents
        tally.series_ms.append(float(paid.mean()))

    def _observe(self, t: int, took: Treatment) -> None:
        """Keep what data and probes of this step measure."""
        scenario = self.scenario
        # Noise and spikes ride on whatever an attacker makes of the path.
        off = scenario.seen_ms[t] - scenario.rtt_ms[t]
        self._probed = [None] * self.agents
        seen = took.data_ms + off
        for agent, columns in enumerate(self._data):
            columns.clear()
            for k in np.flatnonzero(self.shares[agent]).tolist():
                if not np.isnan(off[agent, k]):
                    columns.append((k, float(seen[agent, k]), float(took.data_loss[agent, k])))
            k = int(self._probes[agent])
            if k >= 0 and not np.isnan(off[agent, k]):
                value = float(took.probe_ms[agent, k] + scenario.probe_ms[t, agent])
                lost = scenario.lots[t, agent] < took.probe_loss[agent, k]
                self._probed[agent] = (k, value, float(lost))
        self._probes[:] = -1

    def samples(self, agent: int) -> list[Sample]:
        """Return what *agent* saw in the last step."""
        found = [
            self._sample(agent, *seen, DEMAND_BPS * float(self.shares[agent, seen[0]]))
            for seen in self._data[agent]
        ]
        probed = self._probed[agent]
        if probed is not None:
            found.append(self._sample(agent, *probed, 0.0))
        return found

    def _sample(self, agent: int, k: int, rtt_ms: float, loss: float, demand_bps: float) -> Sample:
        probe = demand_bps == 0.0
        rtt_ms = max(rtt_ms, 0.1)
        dead = loss >= 1.0
        if not dead:
            self._least[agent, k] = min(self._least[agent, k], rtt_ms)
        least = float(self._least[agent, k])
        return Sample(
            arm=self.ids[agent][k],
            rtt_s=None if dead else rtt_ms / 1e3,
            loss=loss,
            jitter_s=0.0 if probe else self.scenario.jitter_ms / 1e3,
            rtt_min_s=(least if np.isfinite(least) else rtt_ms) / 1e3,
            demand_bps=demand_bps,
            goodput_bps=demand_bps * (1.0 - loss),
            probe=probe,
        )
