"""Either side goes away and comes back: the channel returns by itself.

```
 left 10.0.0.1 ============ 10.0.0.2 right
```
`left` has founded the network, `right` has joined it.
"""

from __future__ import annotations

import socket
import time

import pytest

from tests.netns.scenes import Pinging, World, eventually, needs_ping, pair, peer, ping, status
from veilnet.errors import TimedOut

RETURN_S = 5.0
"""The promise: so long after it is up again, a node has its channels back."""

pytestmark = needs_ping


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """Two nodes by name, joined."""
    with World(tmp_path_factory.mktemp("restart")) as world:
        pair(world)
        left = world.founder("left")
        yield {"left": left, "right": world.member("right", left)}


def stop_in_order(node):
    """Stop it as people do."""
    node.down()


def stop_by_sigkill(node):
    """End it as a crash does: nobody is told, nothing is tidied up."""
    node.kill()
    eventually(lambda: not node.pids())


@pytest.mark.parametrize("stop", [stop_in_order, stop_by_sigkill])
@pytest.mark.parametrize("who", ["left", "right"])
def test_the_channel_returns_to_whoever_stayed(nodes, who, stop):
    """Inviter or joiner, stopped or killed: the ping of the side that stayed is answered again.

    Measured from the moment that `up` returns.
    """
    gone = nodes[who]
    stayed = nodes["right" if who == "left" else "left"]
    with Pinging(stayed.host, gone.address()) as pinging:
        pinging.answered_after(0)
        stop(gone)
        gone.up()
        assert pinging.answered_after(time.monotonic()) < RETURN_S


@pytest.mark.parametrize("stop", [stop_in_order, stop_by_sigkill])
@pytest.mark.parametrize("who", ["left", "right"])
def test_whoever_returned_has_its_channel_at_once(nodes, who, stop):
    """The node that was away reaches its peer with its own first packet, without a command."""
    gone = nodes[who]
    stayed = nodes["right" if who == "left" else "left"]
    stayed.connect(gone.name)
    address = stayed.address()
    stop(gone)
    gone.up()
    began = time.monotonic()
    assert ping(gone.host, address, count=1) == 1
    assert time.monotonic() - began < RETURN_S


def test_a_node_calls_its_last_peers_when_it_returns(nodes):
    """Killed and started again it opens the channel itself: nobody asks for it."""
    left, right = nodes["left"], nodes["right"]
    left.connect("right")
    eventually(lambda: _remembers(left, right))
    stop_by_sigkill(left)
    left.up()
    eventually(lambda: peer(left, "right")["state"] == "connected", timeout_s=RETURN_S)


def _remembers(node, other):
    """Say whether *node* has written down that it is connected with *other*."""
    peer_id = status(other)["peer_id"]
    return any(peer_id in file.read_text(errors="replace") for file in node.state.glob("*.json"))


@pytest.mark.parametrize("who", ["left", "right"])
def test_a_tcp_connection_lives_on(nodes, who):
    """A connection that is open while its node is killed goes on afterwards, nothing lost."""
    gone = nodes[who]
    stayed = nodes["right" if who == "left" else "left"]
    stayed.connect(gone.name)
    with gone.host.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind(("0.0.0.0", 0))
        listener.listen()
        with stayed.host.socket(socket.AF_INET, socket.SOCK_STREAM) as here:
            here.settimeout(20)
            here.connect((gone.address(), listener.getsockname()[1]))
            there, _ = listener.accept()
            with there:
                there.settimeout(20)
                here.sendall(b"before ")
                assert there.recv(100) == b"before "
                stop_by_sigkill(gone)
                here.sendall(b"between")
                gone.up()
                assert there.recv(100) == b"between"
                there.sendall(b"after")
                assert here.recv(100) == b"after"


def test_a_restarted_node_is_who_it_was(nodes):
    """Peer id, port, addresses and members outlive a SIGKILL."""
    right = nodes["right"]
    kept = ("peer_id", "port", "networks")
    before = {key: value for key, value in status(right).items() if key in kept}
    known = {item["id"] for item in status(right)["peers"]}
    stop_by_sigkill(right)
    right.up()
    after = status(right)
    assert {key: after[key] for key in kept} == before
    assert {item["id"] for item in after["peers"]} == known


def test_both_restart_at_once(nodes):
    """After a power cut on both sides the first packet opens the channel anew."""
    left, right = nodes["left"], nodes["right"]
    for node in (left, right):
        stop_by_sigkill(node)
    for node in (left, right):
        node.up()
    began = time.monotonic()
    assert ping(left.host, right.address(), count=1) == 1
    assert time.monotonic() - began < RETURN_S


def test_a_cut_wire_that_mends(nodes):
    """The wire is cut under a running ping; mended, the same channel carries again."""
    left, right = nodes["left"], nodes["right"]
    with Pinging(right.host, left.address()) as pinging:
        pinging.answered_after(0)
        left.host.down("eth0")
        with pytest.raises(TimedOut):
            pinging.answered_after(time.monotonic() + 0.2, timeout_s=2.0)
        left.host.up("eth0")
        assert pinging.answered_after(time.monotonic()) < RETURN_S
