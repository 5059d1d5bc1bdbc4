"""Which steps a configuration makes."""

from __future__ import annotations

import random

import pytest

from tests.unit.daemon.ladder.steps import scope
from veilnet.config import Config, fault
from veilnet.daemon.ladder.beacon import Beacon
from veilnet.daemon.ladder.build import Surroundings, build
from veilnet.daemon.ladder.lan import Lan
from veilnet.daemon.ladder.portmap import PortMap
from veilnet.networks.endpoint import Endpoint

OURS, COMMONS = scope(b"n", b"s"), scope(b"c", b"t", public=True)


class Cache:
    """An empty one."""

    def sample(self, count):
        """Return nothing."""
        return []


def built(*, commons=COMMONS.network_id, **keys):
    """Return what a configuration of these keys climbs with."""
    around = Surroundings(
        port=41_000,
        scopes=lambda: [COMMONS, OURS],
        rng=random.Random(1),
        commons=commons,
        cache=Cache(),
    )
    return build(Config(**keys), around)


def states(climb):
    """Return the state of every step by its name."""
    return {line["name"]: line["state"] for line in climb.ladder.report()}


def step(climb, kind):
    """Return the step of a kind."""
    (found,) = [step for step, _ in climb.ladder._steps if isinstance(step, kind)]
    return found


def test_without_a_file_nothing_is_told_to_strangers():
    """By default no name is asked for and no foreign DHT used; a step that is off says how to."""
    climb = built()
    assert states(climb) == {
        "saved": "idle",
        "known": "idle",
        "lan": "idle",
        "seeds": "off",
        "beacon": "off",
        "portmap": "idle",
    }
    for line in climb.ladder.report():
        if line["state"] == "off":
            assert line["remedy"]
    assert climb.mapped is None


def test_everything_can_be_switched_off():
    """A node that keeps to its own networks has its link and its gateway, if that."""
    climb = built(commons=None)
    assert {name for name, state in states(climb).items() if state != "off"} == {"lan", "portmap"}
    climb = built(commons=None, lan="off", port_mapping=False)
    assert set(states(climb).values()) == {"off"}
    assert climb.mapped is None


def test_everything_can_be_switched_on():
    """Seeds and the beacon are steps like the others."""
    climb = built(dns_seeds=["Seed.Example."], dns_servers=["192.0.2.1:53"], beacon=True)
    assert "off" not in states(climb).values()


def test_on_the_link_own_networks_alone():
    """With lan = "own" this host's id of the commons is not told to neighbours."""
    assert step(built(lan="own"), Lan)._scopes() == [OURS]
    assert step(built(), Lan)._scopes() == [COMMONS, OURS]


def test_the_beacon_announces_the_gateways_port_if_there_is_one():
    """Behind a gateway our own port leads nowhere."""
    climb = built(beacon=True)
    announced = step(climb, Beacon)._port
    assert announced() == 41_000
    step(climb, PortMap).mapped = Endpoint("203.0.113.7", 50_000)
    assert announced() == 50_000
    assert climb.mapped == Endpoint("203.0.113.7", 50_000)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lan", "some"),
        ("dns_seeds", "seed.example"),
        ("dns_seeds", ["no name"]),
        ("dns_seeds", [f"s{n}.example" for n in range(9)]),
        ("dns_servers", ["192.0.2.1"]),
        ("beacon", 1),
        ("beacon_bootstrap", [":5"]),
        ("port_mapping", "yes"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused(key, value):
    """`config check` names what the operator wrote wrong."""
    assert fault(key, value)
