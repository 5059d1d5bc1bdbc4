"""A member behind a router that forgets a flow after two seconds: its link to its relay lives on.

```
 left -- NAT, 2 s -- west -- one -- two -- east
                             |
                             p1      founded the network; cannot call left unless the NAT lets it
```
"""

from __future__ import annotations

import time

import pytest

from tests.netns.scenes import World, configure, eventually, needs_nft, peer
from veilnet.control import client
from veilnet.errors import VeilError
from veilnet.testing import Internet, Nat

pytestmark = needs_nft

QUICK = """
from veilnet.daemon.nat import silences
from veilnet.nat import keepalive
silences.FIRST_TEST_S, silences.AGAIN_S, silences.SLACK_S = 0.5, 0.2, 0.5
silences.TEST_PAUSE_S = 1.0
keepalive.FIRST_TEST_S = 2.3
"""
"""Tests soon, also after one that something disturbed, of silences about as long as it bears."""


@pytest.fixture
def world(tmp_path):
    """A lab."""
    with World(tmp_path) as made:
        yield made


def answered(node, name):
    """Whether a round trip to a peer comes back within a second."""
    try:
        client.ask(node.socket, "ping", {"peer": name, "timeout_s": 1})
    except VeilError:
        return False
    return True


def test_a_link_outlives_a_router_that_forgets_in_two_seconds(world, request):
    """Once the silences were tested the relay reaches its member at any time, unasked."""
    internet = Internet(world.lab)
    place, _ = internet.place("p1")
    nat = Nat(world.lab, internet, "nat", "port", at=0)
    for name in ("udp_timeout", "udp_timeout_stream"):
        nat.router.sysctl(f"net/netfilter/nf_conntrack_{name}", "2")
    founder = world.founder("p1", place, commons="")
    host = world.host("left")
    nat.admit(host)
    left = world.node("left", host)
    configure(left, commons="")
    process = left.foreground(prelude=QUICK)
    request.addfinalizer(process.communicate)
    request.addfinalizer(process.kill)
    left.connect(founder.invite(), "--name", "left")
    assert peer(founder, "left")["state"] == "connected"
    with nat.router.capture(nat.uplink.link) as tap:
        # More datagrams than a link without short silences sends in so long a time.
        eventually(lambda: tap.seen >= 30, timeout_s=30)
    for pause_s in (3.1, 4.4, 3.7, 5.0):  # at no moment is the hole closed
        time.sleep(pause_s)
        assert answered(founder, "left")
