"""Members that cannot reach each other connect all the same, and find the better way when it opens.

```
left  10.1.1.2 --+          +-- 10.1.3.2 one
                 |  router  |                   left and right: parted by the router, silently
right 10.1.2.2 --+          +-- 10.1.4.2 two
```
Nothing is configured: who relays for whom follows from who is a member and who reaches whom.
"""

from __future__ import annotations

import pytest

from tests.netns.scenes import World, eventually, needs_ping, peer, ping, status
from veilnet.testing import Backbone

IDLE_S = 5.0


@pytest.fixture
def world(tmp_path):
    """A lab."""
    with World(tmp_path) as made:
        yield made


def crossing(world, *names, **config):
    """Make a node of each name, the first the founder; each *config* is everybody's."""
    backbone = Backbone(world.lab)
    for name in names:
        backbone.attach(world.host(name))
    founder = world.founder(names[0], **config)
    nodes = [founder, *(world.member(name, founder, **config) for name in names[1:])]
    for node in nodes:
        others = set(names) - {node.name}
        eventually(
            lambda node=node, others=others: {p["name"] for p in status(node)["peers"]} == others
        )
    return backbone, nodes


def kinds(node, name):
    """Return kind and state of each path that *node* has to its peer *name*."""
    return {(path["kind"], path["state"]) for path in node.paths(name)}


def carrying(node, name):
    """Return the path that carries most, None if there is no channel."""
    paths = [path for path in node.paths(name) if path["share"] > 0]
    return paths[0] if paths else None


def homes(node, *names):
    """Whether *node* is connected with all of *names*."""
    return all(peer(node, name)["state"] == "connected" for name in names)


@needs_ping
def test_a_parted_pair_connects_and_is_told_over_whom(world):
    """In words and in JSON; and neither end takes the relay's place for an address of the other."""
    backbone, (one, left, right) = crossing(world, "one", "left", "right")
    backbone.part(left.host, right.host)
    for node, other in ((left, "right"), (right, "left")):
        node.run("disconnect", other)
    eventually(lambda: homes(left, "one") and homes(right, "one"))
    answer = left.connect("right")
    path = answer["path"]
    assert (path["kind"], path["via_names"], path["state"]) == ("relayed", ["one"], "active")
    assert path["endpoint"] == f"{backbone.address(one.host)}:{status(one)['port']}"
    # Direct was tried first: nearly a second goes by before a relay is asked.
    assert 700 < answer["handshake_ms"] < 3_000
    assert "relayed by one" in left.run("connect", "right").stdout
    assert ping(left.host, right.address()) == 3
    assert ping(right.host, left.address(version=6)) == 3
    for node, other in ((left, "right"), (right, "left")):
        shown = node.ask("peer", "show", other)
        assert all(not endpoint.startswith("[100:") for endpoint in shown["endpoints"])
        assert carrying(node, other)["via"] == [status(one)["peer_id"]]


@needs_ping
def test_a_channel_without_data_finds_the_direct_way_as_well(world):
    """The wall between the two falls: within seconds their channel is direct, unasked."""
    backbone, (_, left, right) = crossing(world, "one", "left", "right")
    backbone.part(left.host, right.host)
    for node, other in ((left, "right"), (right, "left")):
        node.run("disconnect", other)
    assert left.connect("right")["path"]["kind"] == "relayed"
    backbone.join(left.host, right.host)
    for node, other in ((left, "right"), (right, "left")):
        eventually(
            lambda node=node, other=other: carrying(node, other)["kind"] == "direct", timeout_s=30
        )
    assert ping(left.host, right.address()) == 3


@needs_ping
def test_when_the_relay_is_lost_another_carries_on(world):
    """The relay's node is killed while pings go: they are answered again within seconds."""
    backbone, (_, _, left, right) = crossing(world, "one", "two", "left", "right")
    backbone.part(left.host, right.host)
    for node, other in ((left, "right"), (right, "left")):
        node.run("disconnect", other)
    eventually(lambda: homes(left, "one", "two") and homes(right, "one", "two"))
    (via,) = left.connect("right")["path"]["via_names"]
    assert ping(left.host, right.address()) == 3
    world.nodes[via].kill()
    eventually(lambda: ping(left.host, right.address(), count=1, wait_s=0.3) == 1, timeout_s=10)
    other = "two" if via == "one" else "one"
    eventually(lambda: carrying(left, "right")["via_names"] == [other])


@needs_ping
def test_two_relays_in_a_row(world):
    """Left reaches only one, right only two: they meet over both."""
    backbone, (one, two, left, right) = crossing(world, "one", "two", "left", "right")
    for here, there in ((left, right), (left, two), (right, one)):
        backbone.part(here.host, there.host)
        here.run("disconnect", there.name)
        there.run("disconnect", here.name)
    eventually(lambda: homes(left, "one") and homes(right, "two") and homes(one, "two"))
    answer = left.connect("right")
    assert answer["path"]["via_names"] == ["one", "two"]
    assert ping(left.host, right.address()) == 3


def test_the_link_to_a_home_is_not_idle(world):
    """Channels close after five seconds here; links to relays stay, and a peer is found by them."""
    config = {"idle_close_s": IDLE_S, "relayed_idle_close_s": IDLE_S}
    backbone, (_, left, right) = crossing(world, "one", "left", "right", **config)
    backbone.part(left.host, right.host)
    for node, other in ((left, "right"), (right, "left")):
        node.run("disconnect", other)
    left.connect("right")
    eventually(lambda: peer(left, "right")["state"] == "idle", timeout_s=3 * IDLE_S)
    eventually(lambda: peer(right, "left")["state"] == "idle")
    assert homes(left, "one")
    assert homes(right, "one")
    assert right.connect("left")["path"]["kind"] == "relayed"


@needs_ping
def test_path_explain_says_why(world):
    """Every way with its forecast, the one in use with its share, in words and in JSON."""
    backbone, (_, left, right) = crossing(world, "one", "left", "right")
    backbone.part(left.host, right.host)
    for node, other in ((left, "right"), (right, "left")):
        node.run("disconnect", other)
    left.connect("right")
    assert ping(left.host, right.address(), count=40, wait_s=2) >= 38

    def is_measured():
        """Data, and not only what asks after a path, is a sample."""
        ping(left.host, right.address(), count=5)
        said = left.ask("path", "explain", "right")
        return said["active"] and any(a["share"] > 0 < a["confidence"] for a in said["arms"])

    eventually(is_measured)
    value = left.ask("path", "explain", "right")
    (arm,) = [arm for arm in value["arms"] if arm["share"] > 0]
    assert (arm["kind"], arm["via_names"], arm["state"]) == ("relayed", ["one"], "alive")
    assert arm["forecast_ms"] is not None
    assert arm["confidence"] > 0
    said = left.run("path", "explain", "right").stdout
    assert "one" in said
    assert value["reason"] in said
