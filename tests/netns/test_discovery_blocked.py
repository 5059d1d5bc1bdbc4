"""A member whose network lets no UDP through is found, and finds, over one TCP connection.

```
 a -- NAT -- west -- one -- two -- east -- no UDP -- b
                      |      |
          strangers, of whom three relay; the inviter, dead by then
```
"""

from __future__ import annotations

import pytest

from tests.netns.scenes import eventually, needs_nft, needs_ping, ping
from veilnet.testing import Internet, Lab, Nat, NatScene, Node, Strangers
from veilnet.testing.internet import EAST

pytestmark = [needs_nft, needs_ping]

FOUND_S, CALL_S = 20.0, 30.0


@pytest.fixture
def scene(tmp_path):
    """a behind a port-restricted NAT; b joined before its network let no UDP through."""
    with Lab() as lab:
        internet = Internet(lab)
        strangers = Strangers(internet, tmp_path)
        with NatScene(lab, internet, tmp_path, "port", "udp_blocked", strangers=strangers) as made:
            made.join()
            made.wait_until_found(timeout_s=FOUND_S)
            made.lose_inviter()
            made.return_later()
            yield made


def test_where_udp_is_blocked_one_tcp_connection_carries(scene):
    """b has nothing but TCP: a reaches it over a stranger, and it reaches a."""
    answer = scene.a.tell("connect", wait_s=CALL_S + 5, peer="b", timeout_s=CALL_S)
    assert answer["path"]["kind"] == "relayed"
    assert ping(scene.b.host, scene.a.address()) == 3
    scene.a.tell("disconnect", peer="b")
    eventually(lambda: not scene.connected(scene.b, "a"))
    answer = scene.b.tell("connect", wait_s=CALL_S + 5, peer="a", timeout_s=CALL_S)
    assert answer["path"]["kind"] == "relayed"
    assert ping(scene.a.host, scene.b.address()) == 3
    explained(scene)


def test_where_udp_is_blocked_one_joins_by_an_invite(tmp_path):
    """Nobody knows anybody but the inviter, who takes TCP as it was told to."""
    with Lab() as lab:
        internet = Internet(lab)
        host, _ = internet.place("inviter")
        inviter = Node(host, tmp_path, name="inviter")
        nat = Nat(lab, internet, "nat", "udp_blocked", at=EAST)
        joiner = Node(lab.host("joiner"), tmp_path, name="joiner")
        nat.admit(joiner.host)
        inviter.configure(relay="off", tcp_listen="on")
        joiner.configure(relay="off")
        inviter.start("--name", inviter.name)
        invite = inviter.invite()
        joiner.connect(invite, "--name", joiner.name, "--timeout", str(CALL_S))
        assert ping(joiner.host, inviter.address()) == 3
        assert ping(inviter.host, joiner.address()) == 3


def explained(scene):
    """Both ends say why; the one that is cut off says how it got in, and what can be done."""
    said = scene.b.run("doctor").stdout
    assert "nat: blocked: UDP does not get out" in said
    assert "reachable: over tcp\n" in said
    assert "Let UDP out in the firewall" in said
    assert "first contact: by " in said

    def reason():
        return scene.a.ask("peer", "show", "b")["direct"]["reason"]

    eventually(lambda: "UDP does not get through there" in reason())
