"""The parts of the simulated world: time, churn, ids, costs, stages."""

import math
import random

import numpy as np
import pytest

from veilnet.discovery.contact import Contact
from veilnet.discovery.kademlia import Kademlia
from veilnet.discovery.routing import FAR_K, NEAR_BUCKETS
from veilnet.errors import ConfigError, UsageError
from veilnet.protocol import messages
from veilnet.protocol.dht_messages import FindNodes, Nodes, Store
from veilnet.sim.discovery import wire
from veilnet.sim.discovery.churn import AWAY, HOUR_S, Churn
from veilnet.sim.discovery.experiments import Plan, check, percentile, run
from veilnet.sim.discovery.first_byte import first_byte
from veilnet.sim.discovery.internet import Internet
from veilnet.sim.discovery.liars import Liars
from veilnet.sim.discovery.living import Life, Living
from veilnet.sim.discovery.loop import Loop
from veilnet.sim.discovery.machine import filled, filled_at_once
from veilnet.sim.discovery.network import Network, Setting
from veilnet.sim.discovery.population import Population, number_of, top
from veilnet.sim.traces import Trace


def test_time_goes_on_in_order():
    """What is due is called by time, then by when it was asked for; the past is now."""
    loop, seen = Loop(10.0), []
    loop.at(12.0, seen.append, "b")
    loop.at(11.0, seen.append, "a")
    loop.at(12.0, seen.append, "c")
    loop.at(3.0, seen.append, "late")
    loop.run(12.0)
    assert seen == ["late", "a", "b", "c"]
    assert loop.now == 12.0
    assert loop.run(99.0, done=lambda: True)
    assert loop.now == 12.0


def test_sessions_are_those_of_ipfs():
    """Half of all leave within two hours, four fifths within eight; 38 % are away on average."""
    churn, rng = Churn(), random.Random(1)
    sessions = sorted(churn.session_s(rng) for _ in range(20_000))
    assert sessions[10_000] / HOUR_S == pytest.approx(2.0, abs=0.1)
    assert sessions[16_000] / HOUR_S == pytest.approx(8.0, abs=0.6)
    absences = [churn.absence_s(rng) for _ in range(20_000)]
    away = sum(absences) / (sum(absences) + sum(sessions))
    assert away == pytest.approx(AWAY, abs=0.02)
    assert sum(sessions) / len(sessions) == pytest.approx(churn.mean_s(), rel=0.05)


def test_who_is_met_is_in_a_long_session():
    """Of those met at a random moment few leave within half an hour; of newcomers a quarter."""
    churn, rng = Churn(), random.Random(2)
    met = sum(churn.met(rng)[1] < HOUR_S / 2 for _ in range(10_000)) / 10_000
    new = sum(churn.session_s(rng) < HOUR_S / 2 for _ in range(10_000)) / 10_000
    assert met == pytest.approx(0.08, abs=0.015)
    assert new == pytest.approx(1 - math.exp(-((0.5 / 3.66) ** 0.61)), abs=0.02)


def test_a_table_lists_whom_it_must():
    """Buckets hold who shares so many bits, as many as there is room for, all where few are."""
    people = Population(seed=1, honest=20_000)
    own = people.top(123)
    seen = set()
    for shared, bucket in enumerate(people.table(123)):
        everybody = [n for n in range(20_000) if 64 - (people.top(n) ^ own).bit_length() == shared]
        far = shared < people.region_bits(123) - NEAR_BUCKETS
        assert len(bucket) == min(FAR_K if far else 20, len(everybody))
        assert set(bucket) <= set(everybody)
        assert bucket == people.bucket(123, shared)
        seen |= set(bucket)
    assert 123 not in seen
    target = top(b"\x5a" * 32)
    listed = sorted(seen, key=lambda n: people.top(n) ^ target)[:20]
    assert people.listed_near(123, target) == listed
    nearest = sorted(range(20_000), key=lambda n: people.top(n) ^ target)[:20]
    assert people.nearest(target) == nearest


def test_addresses_tell_who_it_is():
    """Every node has an address of its own, and its number follows from it."""
    people = Population(seed=1, honest=120_000, sybils=10, one_prefix=True)
    for number in (0, 49_999, 50_000, 119_999):
        assert number_of(people.endpoint(number)) == number
    blocks = {people.endpoint(number)[0].rpartition(".")[0] for number in people.liars}
    assert len(blocks) == 1


def test_ground_ids_are_nearest():
    """Liars next to a locator are nearer to it than any honest node."""
    locator = b"\xc3" * 32
    people = Population(seed=1, honest=5_000, ground=(locator,))
    assert sorted(people.nearest(top(locator), 20)) == people.liars


@pytest.mark.parametrize("kind", ["crony", "forger"])
def test_liars_name_liars(kind):
    """Whoever lies names liars alone; a forger gives them ids that nobody honest can have."""
    people = Population(seed=1, honest=200, sybils=50)
    liars = Liars(people, lambda n: Contact(people.id(n), people.endpoint(n)).packed, kind=kind)
    target = b"\x77" * 32
    said = liars.at(people.liars[0]).answer(
        ("192.0.2.1", 1), 0, FindNodes(target=target), full=False
    )
    named = [Contact.unpack(said.contacts[at : at + 51]) for at in range(0, len(said.contacts), 51)]
    assert len(named) == 20
    assert all(people.evil[number_of(contact.endpoint)] for contact in named)
    assert all(contact.id.startswith(target[:28]) for contact in named) == (kind == "forger")


def test_messages_cost_what_they_are():
    """A message counts with its encoding and the headers of each of its chunks."""
    sizes = wire.Sizes()
    short = FindNodes(target=bytes(32))
    long = Nodes(id=bytes(32), contacts=bytes(20 * 51))
    assert sizes.of(short) == len(messages.encode(short, 0xFFFF))
    assert sizes.of(long) == len(messages.encode(long, 0xFFFF))
    assert wire.sent_bytes(sizes.of(short)) == sizes.of(short) + 77
    assert wire.sent_bytes(1_084) == 1_084 + 2 * 77
    with_blobs = [sizes.of(Nodes(id=bytes(32), contacts=bytes(51 * n))) for n in range(4)]
    assert len(set(with_blobs)) == 4


def test_gaps_in_a_trace_get_a_round_trip(bases):
    """Every pair of nodes has a finite round trip, and a trace of gaps is refused."""
    internet = Internet(bases, seed=1, nodes=100)
    assert all(0 < internet.rtt_s(0, n) < 5 for n in range(100))
    with pytest.raises(ConfigError, match="too few measured pairs"):
        Internet(Trace("gaps", np.full((3, 9, 9), np.nan), 1.0), seed=1, nodes=3)


def test_who_is_asked_again_costs_no_session(bases):
    """A question within the minute takes one round trip and no handshake, a first one three."""
    network = Network(Setting(100, loss=0.0), bases, seed=1, system="machines")
    one, other = sorted(network.up)[:2]
    rtt, world, took = network.world.internet.rtt_s(one, other), network.world, []
    for _ in range(2):
        began = world.loop.now
        world.ask(
            one, network.people.endpoint(other), FindNodes(target=bytes(32)),
            answered=lambda _, began=began: took.append(world.loop.now - began),
            silent=lambda: took.append(-1.0),
        )  # fmt: skip
        world.loop.run(began + 3.0)
    assert took == pytest.approx([3 * rtt, rtt])
    assert world.meters[one].sent["sessions"] == wire.LOOKUP_SENT_BYTES


def test_who_is_away_costs_patience(bases):
    """A question to nobody is given up after the patience, at the cost of a few HELLOs."""
    network = Network(Setting(100, loss=0.0), bases, seed=1, system="machines")
    one = min(network.up)
    away = next(n for n in range(len(network.people)) if n not in network.up)
    given_up: list[float] = []
    network.world.ask(
        one, network.people.endpoint(away), FindNodes(target=bytes(32)),
        answered=lambda _: given_up.append(-1.0),
        silent=lambda: given_up.append(network.loop.now),
    )  # fmt: skip
    began = network.loop.now
    network.loop.run(began + 10)
    assert given_up == [began + network.world.patience_s]
    assert 0 < network.world.meters[one].total() < 1_500


def test_a_full_session_needs_the_true_id(bases):
    """Under an id that is not its own nobody answers: at the cost of a handshake's beginning."""
    network = Network(Setting(100, loss=0.0), bases, seed=1, system="machines")
    one, other = sorted(network.up)[:2]
    said: list[bool] = []
    store = Store(locator=bytes(32), owner=bytes(16), blob=b"blob")
    for whom in (network.people.id(other), bytes(32)):
        network.world.ask(
            one, network.people.endpoint(other), store, whom=whom,
            answered=lambda _: said.append(True), silent=lambda: said.append(False),
        )  # fmt: skip
        network.loop.run(network.loop.now + 10)
    assert said == [True, False]


def test_the_first_byte_takes_its_stages():
    """Link, circuit, handshake and the way add up over the relay that is nearest to the asker."""
    rtts = {(0, 5): 0.1, (0, 6): 0.3, (5, 9): 0.02, (6, 9): 0.01}
    found = first_byte(0.5, 0, 9, [5, 6], lambda a, b: rtts[a, b])
    assert found.link_s == pytest.approx(0.2)
    assert found.circuit_s == pytest.approx(0.12)
    assert found.channel_s == pytest.approx(0.12)
    assert found.whole_s == pytest.approx(0.5 + 0.2 + 0.12 + 0.12 + 0.06)


def test_nodes_that_come_and_go_keep_finding(bases):
    """Machines that join by themselves, an hour of comings and goings: lookups still succeed."""
    fast = Churn(scale_s=3.66 * HOUR_S / 4)
    network = Living(Life(40, leaves=4, churn=fast), bases, seed=3)
    network.loop.run(network.loop.now + 0.5 * HOUR_S)
    assert network.comings > 45
    found, begun = network.lookups(60)
    assert begun >= 50
    assert sum(one.found for one in found) >= 0.95 * begun
    assert network.stale() < 0.4


def test_an_unknown_experiment_is_refused():
    """The error names those that there are."""
    with pytest.raises(UsageError, match="no experiment is called 'magic'"):
        check(["growth", "magic"])


def test_every_experiment_ends(bases):
    """The cheapest of them runs through and yields a sample for each size."""
    samples = list(run("state", Plan(quick=True, seeds=(1,)), bases))
    assert [sample.row for sample in samples] == [
        "state/1000", "state/10000", "state/100000", "state/1000000",
    ]  # fmt: skip
    assert samples[-1].values["table_bytes"] < 2 * samples[0].values["table_bytes"]


def test_percentiles_are_values_that_occurred():
    """Nearest rank: the 95th of a hundred is the 95th, of one the only one."""
    assert percentile(range(1, 101), 95) == 95
    assert percentile([3.0], 95) == 3.0
    assert percentile([1.0, 2.0], 1) == 1.0


def test_tables_filled_at_once_are_those_filled_one_by_one(bases):
    """Whole buckets at once make the very table that answers one by one make."""
    network = Network(Setting(5_000), bases, seed=1, system="model")
    for number in sorted(network.up)[:3]:
        one, other = (
            Kademlia(network.people.id(number), rng=random.Random(1), now=5.0) for _ in range(2)
        )
        buckets = [[*map(network.packed, bucket)] for bucket in network.people.table(number)]
        for bucket in buckets:
            filled(one, bucket, 5.0)
        filled_at_once(other, buckets, 5.0)
        assert one.table._counts == other.table._counts
        assert one.table._entries == other.table._entries
