"""Members on a link that leads nowhere else."""

from __future__ import annotations

import pytest

from tests.netns.scenes import World, eventually, needs_ping, ping, status

COMMONS = {"commons": "a-test", "lan": "all"}
ALONE = {"commons": "", "lan": "all"}


@needs_ping
@pytest.mark.slow
@pytest.mark.parametrize("config", [COMMONS, ALONE], ids=["commons", "alone"])
def test_members_that_moved_to_another_link_find_each_other_there(tmp_path, config):
    """New addresses, no router, no founder, nobody else: the link itself tells who is on it."""
    with World(tmp_path) as world:
        founder, left, right = (world.host(name) for name in ("founder", "left", "right"))
        world.lab.wire(founder, "10.0.1.1/24", left, "10.0.1.2/24")
        world.lab.wire(founder, "10.0.2.1/24", right, "10.0.2.2/24")
        first = world.founder("founder", **config)
        nodes = [world.member(name, first, **config) for name in ("left", "right")]
        for node, peer in zip(nodes, ("right", "left"), strict=True):
            eventually(lambda node=node, peer=peer: _knows(node, peer))
        first.down()
        for node in nodes:
            node.down()
        for host in (left, right):
            host.run(["ip", "link", "del", "eth0"])
        world.lab.wire(left, "172.20.0.1/24", right, "172.20.0.2/24")
        for node in nodes:
            node.up()
        one, other = nodes
        answer = one.connect("right", "--timeout", "30")
        assert answer["path"]["kind"] == "direct"
        assert ping(left, other.address()) >= 1


def _knows(node, peer):
    return any(item["name"] == peer for item in status(node)["peers"])


@pytest.mark.slow
def test_a_member_table_that_was_lost_is_told_again(tmp_path):
    """Damage does not keep a node from starting, and on the link it knows its members soon."""
    with World(tmp_path) as world:
        left, right = world.host("left"), world.host("right")
        world.lab.wire(left, "10.0.1.1/24", right, "10.0.1.2/24")
        founder = world.founder("left", **COMMONS)
        member = world.member("right", founder, **COMMONS)
        for node, peer in ((founder, "right"), (member, "left")):
            node.down()
            (table,) = node.state.glob("networks/*/members.db")
            table.write_bytes(b"nonsense" * 4_096)
            node.up()
            eventually(lambda node=node, peer=peer: _knows(node, peer))
            assert node.run("ping", peer, "-c", "1").returncode == 0
            assert table.with_name("members.db.damaged").exists()
