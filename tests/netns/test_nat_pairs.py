"""Two members behind NATs meet, directly where that can be, and over a stranger where not.

```
 a -- NAT -- west -- one -- two -- east -- NAT -- b
                      |      |
          strangers, of whom three relay; the inviter, dead by then
```
One meeting of a few pairs; `bench/nat.py` has all of them, and more often.  Beside that: which way
they take where there are several.
"""

from __future__ import annotations

import pytest

from tests.netns.ladder_scenes import Program
from tests.netns.scenes import eventually, needs_nft, needs_ping, ping
from veilnet.networks.endpoint import Endpoint
from veilnet.testing import Internet, Lab, NatScene, Strangers
from veilnet.testing.internet import EAST, WEST
from veilnet.testing.nat import Nat

pytestmark = [needs_nft, needs_ping]

DIRECT_S, FOUND_S, CALL_S = 35.0, 20.0, 30.0
GATE = """
table ip lab_gate {{
    map mapped {{ type inet_service : ipv4_addr . inet_service;
    }}
    chain pre {{ type nat hook prerouting priority -110;
        iifname "{wan}" dnat ip to udp dport map @mapped
    }}
}}
insert rule ip lab_nat pass ct status dnat accept
"""


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    """The Internet with its strangers, for all tests."""
    with Lab() as lab:
        internet = Internet(lab)
        yield lab, internet, Strangers(internet, tmp_path_factory.mktemp("strangers"))


@pytest.fixture
def meet(street, tmp_path):
    """Return a function that brings two members behind NATs of two kinds as far as their call."""
    scenes = []
    lab, internet, strangers = street

    def made(kind_a, kind_b, *, first=lambda _: None, **more):
        name = f"m{len(scenes)}-{kind_a}-{kind_b}"
        scene = NatScene(
            lab, internet, tmp_path, kind_a, kind_b, name=name, strangers=strangers, **more
        )
        scenes.append(scene)
        first(scene)
        scene.join()
        scene.wait_until_found(timeout_s=FOUND_S)
        scene.lose_inviter()
        scene.forget_each_other()
        return scene

    yield made
    for scene in scenes:
        scene.close()


@pytest.mark.parametrize(
    ("kind_a", "kind_b"),
    [
        ("full", "full"),
        ("full", "address"),
        ("port", "full"),
        ("address", "address"),
        ("address", "port"),
        ("port", "port"),
        ("full", "symmetric_random"),
        ("symmetric_sequential", "full"),
        ("symmetric_random", "address"),
        ("address", "symmetric_sequential"),
        ("port", "symmetric_random"),
        ("double", "double"),
        ("hairpin", "hairpin"),
        ("ipv6_only", "ipv6_only"),
    ],
)
def test_they_meet_directly(meet, kind_a, kind_b):
    """Whatever carries at first, within 35 s both send directly, and pings pass."""
    scene = meet(kind_a, kind_b)
    scene.a.tell("connect", wait_s=CALL_S + 5, peer="b", timeout_s=CALL_S)
    eventually(scene.direct, timeout_s=DIRECT_S)
    assert ping(scene.a.host, scene.b.address()) == 3


@pytest.mark.parametrize(
    ("kind_a", "kind_b"),
    [("symmetric_random", "symmetric_sequential")],
)
def test_they_meet_over_a_stranger(meet, kind_a, kind_b):
    """No direct path can be between them: a node of the commons carries, in both directions."""
    scene = meet(kind_a, kind_b)
    answer = scene.a.tell("connect", wait_s=CALL_S + 5, peer="b", timeout_s=CALL_S)
    assert answer["path"]["kind"] == "relayed"
    assert ping(scene.a.host, scene.b.address()) == 3
    assert ping(scene.b.host, scene.a.address()) == 3

    said = {}

    def explained():
        # The next call may begin at any time.
        said.update(scene.a.ask("peer", "show", "b")["direct"])
        return "nobody can foretell it" in said["reason"]

    eventually(explained, timeout_s=DIRECT_S)
    assert said["state"] == "relayed"
    assert {said["own_nat"], said["peer_nat"]} == {"random", "sequential"}
    assert any(place.startswith(scene.nat_b.address) for place in said["candidates"])
    assert 0 <= said["again_s"] <= 3_600


def direct_places(scene):
    """Let a call b; return where each of the two sends to once both send directly."""
    scene.a.tell("connect", wait_s=CALL_S + 5, peer="b", timeout_s=CALL_S)
    eventually(scene.direct, timeout_s=DIRECT_S)
    assert ping(scene.a.host, scene.b.address()) == 3
    return [Endpoint.parse(path["endpoint"]) for path in scene.carrying()]


def test_ipv6_is_taken_where_both_have_it(meet, street):
    """Two symmetric NATs cannot be punched through; the IPv6 beside them can, firewalls and all."""
    lab, internet, _ = street

    def dual(scene):
        for at, host in ((WEST, scene.a.host), (EAST, scene.b.host)):
            Nat(lab, internet, f"six-{host.name}", "ipv6_only", at=at).admit(host)

    scene = meet("symmetric_random", "symmetric_random", first=dual)
    places = direct_places(scene)
    assert all(":" in place.host for place in places), places


def test_behind_one_router_the_lan_is_taken(meet):
    """Their public address is the same, and leads nowhere from within: they meet where they are."""
    scene = meet("port", "port", one_roof=True)
    places = direct_places(scene)
    assert {place.host for place in places} == {"192.168.1.2", "192.168.2.2"}


def test_a_mapped_port_is_taken(meet):
    """One of two symmetric NATs grants a port, by PCP: the other end comes in at it."""
    gates = []

    def grant(scene):
        nat = scene.nat_a
        nat.router.nft(GATE.format(wan=nat.uplink.link))
        words = ("192.168.1.1", nat.address, "pcp", "7200", "ip lab_gate mapped")
        gates.append(Program(nat.router, "gate", *words).up())

    scene = meet("symmetric_random", "symmetric_random", first=grant)
    try:
        _, at_a = direct_places(scene)
        (granted,) = {line["inside"] for line in gates[0].lines if line.get("by") == "PCP"}
    finally:
        gates[0].end()
    assert (at_a.host, at_a.port) == (scene.nat_a.address, granted)
