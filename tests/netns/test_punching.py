"""Two members behind NATs, three public ones that relay: the channel becomes direct.

```
 left -- NAT -- west -- one -- two -- east -- NAT -- right
                         |      |
                    p1, p3      p2        members, public: they relay and see where others are
```
Nothing is configured; first data goes over a relay, meanwhile both ends call each other.
"""

from __future__ import annotations

import pytest

from tests.netns.scenes import World, eventually, needs_nft, needs_ping, peer, ping, status
from veilnet.control import client
from veilnet.testing import Flow, Internet, Nat

pytestmark = [needs_nft, needs_ping]

PLACES = ("p1", "p2", "p3")


class Street:
    """The Internet, public members, and two members behind NATs."""

    def __init__(self, folder, left, right, **config):
        self.world = World(folder)
        self.world.__enter__()
        internet = Internet(self.world.lab)
        config = {"commons": "", **config}
        founder, *others = PLACES
        self.places = [self.founder(internet, founder, config)]
        self.places += [self.member(internet.place(name)[0], name, config) for name in others]
        self.nats = {}
        for name, kind, at in (("left", left, 0), ("right", right, 3)):
            self.nats[name] = Nat(self.world.lab, internet, f"nat-{name}", kind, at=at)
            host = self.world.host(name)
            self.nats[name].admit(host)
        ends = config | {"relay": "off"}
        self.left, self.right = (
            self.member(self.world.host(name), name, ends) for name in ("left", "right")
        )

    def founder(self, internet, name, config):
        """Start the first member."""
        return self.world.founder(name, internet.place(name)[0], **config)

    def member(self, host, name, config):
        """Start another."""
        return self.world.member(name, self.places[0], host, **config)

    def homes(self):
        """Wait until both ends have links to all public members."""
        for node in (self.left, self.right):
            eventually(
                lambda node=node: all(peer(node, name)["state"] == "connected" for name in PLACES),
                timeout_s=20,
            )

    def become(self, left, right):
        """Part the two, put NATs of these kinds in front of them, and renew the links to homes."""
        for node, other in ((self.left, "right"), (self.right, "left")):
            client.ask(node.socket, "disconnect", {"peer": other})
        for name, kind in (("left", left), ("right", right)):
            self.nats[name].enforce(kind)
            self.nats[name].forget()
        self.homes()
        for node in (self.left, self.right):
            for name in PLACES:
                client.ask(node.socket, "ping", {"peer": name})
        wanted = {"port": "independent", "full": "independent", "address": "independent"}
        wanted |= {"symmetric_random": "random", "symmetric_sequential": "sequential"}
        for node, kind in ((self.left, left), (self.right, right)):
            nat = wanted.get(kind, "independent")
            eventually(lambda node=node, nat=nat: status(node)["discovery"]["nat"] == nat)

    def is_direct(self):
        """Whether the channel of the two goes straight, at both ends."""
        ends = ((self.left, "right"), (self.right, "left"))
        return all(carrying(node, other) == "direct" for node, other in ends)

    def close(self):
        """End everything."""
        self.world.__exit__(None, None, None)


def carrying(node, name):
    """Return the kind of the path that carries most, None if there is none."""
    paths = [path for path in node.paths(name) if path["share"] > 0]
    return paths[0]["kind"] if paths else None


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    """Two members behind NATs, whose kinds change from test to test."""
    made = Street(tmp_path_factory.mktemp("punching"), "port", "port")
    made.homes()
    yield made
    made.close()


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("address", "symmetric_random"),
        ("full", "symmetric_sequential"),
        ("leaky", "port"),
        ("port", "symmetric_random"),
    ],
)
def test_a_pair_becomes_direct(street, left, right):
    """Over a relay at once, direct within seconds; and `peer show` says what there is."""
    street.become(left, right)
    assert street.left.connect("right")["path"]["kind"] == "relayed"
    eventually(street.is_direct, timeout_s=35)
    shown = street.left.ask("peer", "show", "right")["direct"]
    assert shown["state"] == "direct"
    assert any(each.startswith("11.") for each in shown["candidates"])


def test_the_change_from_relayed_to_direct_loses_nothing(street):
    """Twenty pings a second, each answered: from no channel over a relay to the direct way."""
    street.become("port", "port")
    assert peer(street.left, "right")["state"] == "idle"
    assert ping(street.left.host, street.right.address(), count=120, wait_s=2) == 120
    # What carries most is the policy's to say: in a lab a relay is as near as the peer.
    eventually(lambda: any(path["kind"] == "direct" for path in street.left.paths("right")))


def test_a_stream_that_becomes_direct_loses_no_segment(street):
    """It begins over the relay, the path moves under it, and TCP has nothing to send again."""
    street.become("port", "port")
    assert street.left.connect("right")["path"]["kind"] == "relayed"
    with Flow(street.left.host, street.right.host, street.right.address(), rate_bps=4e6) as flow:
        flow.wait_for(1 << 16)
        eventually(lambda: carrying(street.left, "right") == "direct", timeout_s=35)
        flow.wait_for(1 << 20)
        ended = flow.finish()
    assert ended.intact
    assert ended.lost == 0


def test_doctor_tells_what_is_in_front_of_a_node(street):
    """The class, the address, and over what others are reached."""
    street.become("port", "symmetric_random")
    assert "nat: independent" in street.left.run("doctor").stdout
    said = street.right.run("doctor").stdout
    assert "nat: random" in said
    assert "reachable: over udp4" in said
    assert "--endpoint" in said
