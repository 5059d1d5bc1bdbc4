"""Two nodes on one host, and one beyond.

```
 host: one (veil0), two (veil1)   10.0.0.1 ============ 10.0.0.2   far
```
Each has --state and --socket of its own; `one` has founded a network, `two` another.
"""

from __future__ import annotations

import pytest

from tests.netns.scenes import World, needs_ping, ping, status, two_lines


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """The nodes one, two and far."""
    with World(tmp_path_factory.mktemp("one-host")) as world:
        host, far = world.host("host"), world.host("far")
        world.lab.wire(host, "10.0.0.1/24", far, "10.0.0.2/24")
        one, two = world.founder("one", host), world.founder("two", host)
        far = world.member("far", one)
        far.connect(two.invite())
        yield one, two, far


def test_two_nodes_share_a_host(nodes):
    """Two daemons, two identities, two devices, two ports."""
    one, two = (status(node) for node in nodes[:2])
    for key in ("peer_id", "tun", "port", "state_folder"):
        assert one[key] != two[key]
    assert {one["tun"], two["tun"]} <= set(nodes[0].host.links())


@needs_ping
@pytest.mark.parametrize("version", [4, 6])
def test_both_networks_carry_at_once(nodes, version):
    """A third node in both networks reaches either node of the shared host by its own address."""
    one, two, far = nodes
    for node in (one, two):
        address = node.address(version=version)
        assert ping(far.host, address) == 3


def test_the_two_join_each_other(nodes):
    """An invite from one node to the other on the same host: a channel over the host itself."""
    one, two, _ = nodes
    answer = two.connect(one.invite())
    assert answer["peer_id"] == status(one)["peer_id"]
    assert two.ask("ping", "one", "-c", "1")["received"] == 1
    assert one.ask("ping", "two", "-c", "1")["received"] == 1


def test_a_state_folder_has_one_node(nodes):
    """A second daemon on the same state folder is refused; the first goes on."""
    one, two, _ = nodes
    words = ["--state", str(one.state), "--socket", str(two.socket) + "2"]
    done = one.host.run([*one.command()[:4], *words, "up"], check=False)
    assert done.returncode == 7, done.stderr
    assert two_lines(done), done.stderr
    assert status(one)["state"] == "up"


def test_down_of_one_leaves_the_other(nodes):
    """`down` stops the node whose socket is named, and takes away its device alone."""
    one, two, _ = nodes
    device = status(two)["tun"]
    one.down()
    assert status(two)["state"] == "up"
    assert device in two.host.links()
    done = one.run("status")
    assert done.returncode == 3
