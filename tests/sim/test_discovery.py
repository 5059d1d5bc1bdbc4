"""A network of shipped machines in virtual time, at a size that a build can afford."""

import hashlib
import math

import pytest

from veilnet.discovery.contact import PACKED_BYTES
from veilnet.protocol.dht_messages import FindNodes, FindValue
from veilnet.sim.discovery.experiments import lookups_in, summary
from veilnet.sim.discovery.implicit import Implicit
from veilnet.sim.discovery.network import Network, Setting

NODES = 300
BOUND = math.log2(NODES) / 2 + 1


def _figures(bases, setting, **options):
    _, values = lookups_in(
        bases, setting, seed=7, system="machines", published=20, count=100, **options
    )
    return values


@pytest.fixture(scope="module")
def calm(bases):
    """A network of 300 machines, 38 % of all that they list away, and what lookups in it yield."""
    network = Network(Setting(NODES), bases, seed=7, system="machines")
    network.publish(30)
    network.lose(0.08)
    return network, network.lookups(200)


def test_lookups_find_what_was_published(calm):
    """With two contacts of five away, 995 of 1,000 lookups succeed in log2(N)/2 + 1 hops."""
    figures = summary(calm[1], 200)
    assert figures["success_percent"] >= 99.5
    assert 1 <= figures["hops"] <= BOUND
    assert figures["hops_p99"] <= 2 * BOUND


def test_a_seed_decides_everything(calm, bases):
    """The same seed gives the same lookups, to the last microsecond."""
    network = Network(Setting(NODES), bases, seed=7, system="machines")
    network.publish(30)
    network.lose(0.08)
    assert network.lookups(200) == calm[1]


def test_bytes_that_are_sent_arrive(calm):
    """What all receive is what all sent, but for what went to those who are away."""
    meters = calm[0].world.meters.values()
    for kind in ("questions", "answers"):
        sent = sum(meter.sent[kind] for meter in meters)
        received = sum(meter.received[kind] for meter in meters)
        assert 0.9 * sent <= received <= sent, kind


def test_a_fifth_of_all_lie(bases):
    """20 % Sybils that name each other hinder less than one lookup of a hundred."""
    assert _figures(bases, Setting(NODES, sybils=0.2))["success_percent"] >= 99


def test_liars_next_to_a_locator(bases):
    """20 ids ground next to each of two locators hide less than one lookup of twenty."""
    aimed_at = tuple(hashlib.sha256(b"victim %d" % n).digest() for n in range(2))
    network = Network(Setting(NODES, ground=aimed_at), bases, seed=7, system="machines")
    network.publish(2, aimed_at)
    assert summary(network.lookups(60), 60)["success_percent"] >= 95


@pytest.mark.parametrize(("share", "after_s", "least"), [(0.3, 60.0, 99.0), (0.5, 180.0, 97.0)])
def test_much_of_the_network_vanishes(bases, share, after_s, least):
    """Of lookups begun soon after 30 % or 50 % of all nodes were lost at once, most succeed."""
    figures = _figures(bases, Setting(NODES, upkeep=True), lost=share, after_s=after_s)
    assert figures["success_percent"] >= least


def test_nothing_is_found_where_nobody_is_left(bases):
    """The measure can fail: when almost everybody is gone, lookups fail."""
    assert _figures(bases, Setting(NODES), lost=0.97)["success_percent"] < 70


def test_the_model_answers_as_the_machines_do(bases):
    """A node of the model names whom a machine with the same table names, of ways and regions."""
    network = Network(Setting(NODES), bases, seed=7, system="machines")
    number = network.somebody()
    machine = network.machine(number)
    model = Implicit(network.people, number, network.packed)
    asker = network.people.endpoint(network.somebody())
    for n in range(40):
        target = hashlib.sha256(b"target %d" % n).digest()
        if n % 2:
            # Next to the node's own id, where its table is not full.
            target = network.people.id(number)[:1] + target[1:]
        for question in (FindNodes(target=target), FindValue(locator=target, bits=3)):
            said = machine.answer(asker, "session", question, full=False)
            meant = model.answer(asker, "session", question, full=False)
            assert said.bits == meant.bits
            assert _split(said.contacts) == _split(meant.contacts), (n, question)


def _split(contacts):
    return [contacts[at : at + PACKED_BYTES] for at in range(0, len(contacts), PACKED_BYTES)]


def test_the_model_agrees_with_the_machines(bases):
    """Hops and success of the model are those of the machines within a tenth at this size."""
    values = {
        system: lookups_in(bases, Setting(NODES), seed=7, system=system, published=20, count=200)[1]
        for system in ("machines", "model")
    }
    one, other = values["machines"], values["model"]
    assert abs(other["hops"] / one["hops"] - 1) < 0.1
    assert abs(other["success_percent"] - one["success_percent"]) <= 1
