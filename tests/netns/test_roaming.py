"""A member's uplink changes under a stream: from a home's router to a phone's.

```
 laptop 192.168.0.2 ==== home 10.0.0.1 ====+
        192.168.9.2 ==== phone 10.0.1.1 ===+=== server 10.0.0.2, 10.0.1.2
```
Both routers masquerade and let nobody in: the server cannot call where the laptop is now.
"""

from __future__ import annotations

import time

import pytest

from tests.netns.scenes import World, needs_nft, peer
from veilnet.testing import Flow, nft

pytestmark = needs_nft

LONGEST_S = 5.0


@pytest.fixture
def world(tmp_path):
    """The hosts; the laptop is at home."""
    with World(tmp_path) as world:
        laptop, home, phone, server = map(world.host, ("laptop", "home", "phone", "server"))
        for router, inner, outer in ((home, 0, 0), (phone, 9, 1)):
            router.forward()
            world.lab.wire(laptop, f"192.168.{inner}.2/24", router, f"192.168.{inner}.1/24")
            world.lab.wire(router, f"10.0.{outer}.1/24", server, f"10.0.{outer}.2/24")
            router.nft(nft.masquerade("eth1"))
        phone.route("10.0.0.0/24", via="10.0.1.2")
        laptop.run(["ip", "link", "set", "eth1", "down"])
        laptop.route("default", via="192.168.0.1")
        yield world


def leave_home(laptop):
    """From now on the phone's router is the laptop's only way out."""
    laptop.host.run(["ip", "link", "set", "eth0", "down"])
    laptop.host.run(["ip", "link", "set", "eth1", "up"])
    laptop.host.route("default", via="192.168.9.1")


@pytest.mark.parametrize("away", ["laptop", "server"])
def test_a_stream_survives_another_uplink(world, away):
    """Whether the one that moves sends or only listens, no byte of the stream is lost.

    A new handshake carries it on: paths keep to the source address of the link that is down.
    """
    server = world.founder("server")
    laptop = world.member("laptop", server)
    laptop.connect("server")
    before = peer(server, "laptop")
    ends = {"laptop": laptop, "server": server}
    source = ends.pop(away)
    (sink,) = ends.values()
    with Flow(source.host, sink.host, sink.address(), rate_bps=2e6) as flow:
        flow.wait_for(1 << 18)
        at = time.monotonic()
        leave_home(laptop)
        assert flow.outage(at, timeout_s=60).recovered_s < LONGEST_S
        ended = flow.finish()
    assert ended.intact
    assert ended.received_bytes == ended.sent_bytes
    after = peer(server, "laptop")
    assert after["epoch"] >= before["epoch"]
    assert after["suite"] == before["suite"]
    assert after["paths"][0]["endpoint"].startswith("10.0.1.1:")
