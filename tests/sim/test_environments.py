import itertools

import numpy as np
import pytest
from attrs import evolve

from veilnet.errors import LocalProtocolError
from veilnet.paths import Decision, Guard, make_policy, policy_names
from veilnet.sim.attackers import ATTACKS, attacked
from veilnet.sim.crowd import Crowd, Death, town
from veilnet.sim.hybrid import hybrid_scenario
from veilnet.sim.optimum import queue_ms, system_optimum
from veilnet.sim.play import guarded, play, play_full_information, play_oracle
from veilnet.sim.replay import replay_scenario
from veilnet.sim.world import World


@pytest.fixture(scope="module")
def scenario(bases):
    """A short run of B."""
    return hybrid_scenario(bases, seed=3, steps=60, sources=2, destinations=2)


def test_the_experiments_run_what_the_daemon_runs():
    """No copy: the class behind each name is that of veilnet.paths, inside its guard."""
    for name in policy_names():
        ours, theirs = (
            guarded(name)(np.random.default_rng(0)),
            make_policy(name, rng=np.random.default_rng(0)),
        )
        assert type(ours) is Guard
        assert type(ours.policy) is type(theirs)
        assert type(theirs).__module__.startswith("veilnet.paths.")


@pytest.mark.parametrize("name", policy_names())
def test_nobody_beats_the_oracle(scenario, recorded, name):
    """The oracle's cost is a lower bound for every policy, in A as in B."""
    short = replay_scenario(recorded, seed=2, pairs=4, slots=60)
    for world in (World(scenario), World(short)):
        tally = play(world, guarded(name), seed=1, quiet=world.quiet)
        assert tally.excess() >= -1e-9
        assert tally.sent == world.agents * world.scenario.steps


def test_the_oracle_pays_what_it_says_and_a_slot_late_costs_more(recorded):
    """Played through the same calls the oracle has no excess; full information has some."""
    short = replay_scenario(recorded, seed=2, pairs=8, slots=80)
    assert play_oracle(World(short)).excess() == pytest.approx(0.0, abs=1e-9)
    assert play_full_information(World(short)).excess() > 0.01


def test_the_same_seed_gives_the_same_run(bases):
    """Scenario, policy and crowd are functions of their seeds."""
    runs = []
    for seed in (5, 5, 6):
        made = hybrid_scenario(bases, seed=seed, steps=40, sources=2, destinations=2)
        crowd = Crowd(
            town(bases, seed=seed, sources=20, relays=4), seed=seed, seconds=8, warm_up_s=2
        )
        first = play(World(made), guarded("veil"), seed=seed, quiet=True)
        second = play(crowd, guarded("veil"), seed=seed)
        runs.append((first.cost_ms, first.moved, second.cost_ms, tuple(second.series_ms)))
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_probes_stay_within_the_allowance(scenario):
    """Whatever a policy asks for, B carries out 0.1 probes a second and agent, plus the burst."""

    class Curious:
        name = "curious"

        def __init__(self, ids):
            self.ids = ids

        def set_arms(self, *_):
            pass

        update = set_arms

        def decide(self, destination, now_s, *, quiet=False):
            return Decision(((self.ids[0], 1.0),), probe=self.ids[1])

    world = World(scenario)
    tally = play(world, lambda _: Curious(world.ids[0]), seed=0)
    allowed = 3 + 0.1 * scenario.steps
    assert tally.probes <= world.agents * allowed
    assert tally.probes + tally.refused == world.agents * scenario.steps


def test_a_missing_measurement_is_no_sample(recorded):
    """In a slot without a measurement an arm in use gives no sample, rather than a round trip."""
    short = replay_scenario(recorded, seed=2, pairs=2, slots=10)
    world = World(evolve(short, seen_ms=np.full_like(short.seen_ms, np.nan)))
    world.act(0, Decision(((world.ids[0][1], 1.0),), probe=world.ids[0][2]))
    world.step()
    assert world.samples(0) == []


@pytest.mark.parametrize("kind", ATTACKS)
def test_what_attackers_do_to_data_and_probes(scenario, kind):
    """Each attack shows the face that it is named for, to data and to a probe at the same time."""
    calm = evolve(
        scenario, loss=np.zeros_like(scenario.loss), seen_ms=scenario.rtt_ms,
        rtt_ms=scenario.rtt_ms, lots=np.zeros_like(scenario.lots),
    )  # fmt: skip
    world = attacked(calm, kind, seed=0)
    column = int(np.flatnonzero(world.attack.bad[0])[0])
    arm = world.ids[0][column]
    faces = []
    while not world.done:
        world.act(0, Decision(((arm, 1.0),), probe=arm))
        world.step()
        data = next(s for s in world.samples(0) if not s.probe)
        probe = next((s for s in world.samples(0) if s.probe), None)
        faces.append((data.loss, probe.loss if probe else None))
    early, late = faces[0], faces[-1]
    probed = {loss for _, loss in faces if loss is not None}
    if kind == "probes":
        assert early[0] == late[0] == pytest.approx(0.2)
        assert probed == {0.0}
    elif kind == "liars":
        assert {loss for loss, _ in faces} == {0.0}
        said = next(a for a in world.arms(0) if a.id == arm)
        assert said.far_leg_s == pytest.approx(calm.far_ms[0, column] * 0.2 / 1e3)
    else:
        assert early[0] == 0.0
        assert late[0] == pytest.approx(0.2)
        # Lots of 0 lose every probe that can be lost.
        assert probed == ({0.0, 1.0} if kind == "later" else {0.0})
    if kind == "sybils":
        prefixes = [a.prefixes for a in world.arms(0) if not a.is_direct]
        assert sum(p == frozenset({"198.51.100.0/24"}) for p in prefixes) == 8


def test_the_optimum_is_that_of_brute_force():
    """On three sources and three relays no split of a fine grid costs less than the bound."""
    rng = np.random.default_rng(4)
    base, demand = rng.uniform(5, 40, (3, 3)), rng.uniform(0.5, 1.5, 3)
    capacity = np.array([2.0, 1.0, 1.2])
    found = system_optimum(base, demand, capacity, service_ms=4.0, tolerance=1e-5)
    steps = np.linspace(0, 1, 13)
    simplex = np.array([(a, b, 1 - a - b) for a in steps for b in steps if a + b <= 1 + 1e-9])
    best = np.inf
    for rows in itertools.product(simplex, repeat=2):
        # The third source's splits all at once.
        load = sum(demand[i] * rows[i] for i in range(2)) + demand[2] * simplex
        cost = (
            sum(demand[i] * (rows[i] @ base[i]) for i in range(2)) + demand[2] * simplex @ base[2]
        )
        full = (load >= capacity).any(axis=1)
        cost += (load * queue_ms(load, capacity, 4.0, 1e9)).sum(axis=1)
        best = min(best, float(np.where(full, np.inf, cost).min()))
    best /= demand.sum()
    assert found.bound_ms <= found.mean_ms <= best + 1e-9
    assert found.bound_ms == pytest.approx(best, rel=0.02)
    assert found.shares.sum(axis=1) == pytest.approx(1.0)


def test_more_demand_than_room_has_no_optimum():
    """It is said, not divided by."""
    with pytest.raises(LocalProtocolError, match="beyond"):
        system_optimum(np.ones((1, 1)), np.ones(1), np.ones(1) * 0.5, service_ms=1.0)


def test_a_crowd_at_its_optimum_costs_the_optimum(bases):
    """Shares of the optimum, played through the crowd, cost what the optimum says."""
    place = town(bases, seed=2, sources=30, relays=5)
    best = place.optimum()
    crowd = Crowd(place, seed=0, seconds=4, warm_up_s=2)

    class Told:
        name = "told"

        def set_arms(self, *_):
            pass

        update = set_arms

        def decide(self, destination, now_s, *, quiet=False):
            row = best.shares[int.from_bytes(destination, "big")]
            ids = crowd.ids[0]
            return Decision(tuple((ids[r], float(x)) for r, x in enumerate(row) if x > 0))

    tally = play(crowd, lambda _: Told(), seed=0)
    assert tally.latency_ms / tally.sent == pytest.approx(best.mean_ms, rel=1e-6)
    assert tally.lost == pytest.approx(0.0, abs=1e-9)


def test_the_standby_takes_over_when_a_relay_dies(bases):
    """What a dead relay carried is lost for 0.6 s, then carried by the standby."""
    place = town(bases, seed=1, sources=20, relays=3)
    crowd = Crowd(place, seed=0, seconds=4, warm_up_s=0.2, death=Death(2.0, rank=0))
    largest, second = np.argsort(-place.capacity)[:2]
    ids = crowd.ids[0]
    decision = Decision(((ids[largest], 1.0),), standby=ids[second])
    lost = []
    for agent in range(crowd.agents):
        crowd.act(agent, decision)
    while not crowd.done:
        before = crowd.tally.lost
        crowd.step()
        lost.append(crowd.tally.lost - before)
    assert lost[10:13] == pytest.approx([1.0, 1.0, 1.0])
    assert max(lost[13:]) < 1.0
    assert crowd.shares[:, second] == pytest.approx(1.0)
