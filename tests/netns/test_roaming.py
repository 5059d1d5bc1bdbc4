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

from tests.netns.scenes import World, eventually, needs_nft, peer, ping
from veilnet.testing import Flow, nft

pytestmark = needs_nft

LONGEST_S = 5.0
HOME, PHONE = "10.0.0.1", "10.0.1.1"


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


def connected(world):
    """The server and the laptop, with a channel."""
    server = world.founder("server")
    laptop = world.member("laptop", server)
    laptop.connect("server")
    return server, laptop


def is_behind(server, router):
    """Whether the server sends to the laptop through that router."""
    return peer(server, "laptop")["paths"][0]["endpoint"].startswith(f"{router}:")


def leave_home(laptop):
    """From now on the phone's router is the laptop's only way out."""
    laptop.host.run(["ip", "link", "set", "eth0", "down"])
    find_phone(laptop)


def find_phone(laptop):
    """The phone's router becomes the laptop's way out."""
    laptop.host.run(["ip", "link", "set", "eth1", "up"])
    laptop.host.route("default", via="192.168.9.1")


def out_of_reach(laptop):
    """For two seconds the laptop has no uplink at all."""
    laptop.host.run(["ip", "link", "set", "eth0", "down"])
    time.sleep(2)
    find_phone(laptop)


def beside_home(laptop):
    """The phone's router is the better way out while home's is still there; then home's goes."""
    laptop.host.run(["ip", "link", "set", "eth1", "up"])
    laptop.host.run(["ip", "route", "del", "default"])
    laptop.host.route("default", via="192.168.9.1")
    time.sleep(1)
    laptop.host.run(["ip", "link", "set", "eth0", "down"])


def without_a_route(laptop):
    """The way over home's router is gone for a moment before there is another; its link stays."""
    laptop.host.run(["ip", "link", "set", "eth1", "up"])
    laptop.host.run(["ip", "route", "del", "default"])
    time.sleep(1)
    laptop.host.route("default", via="192.168.9.1")


@pytest.mark.parametrize("away", ["laptop", "server"])
@pytest.mark.parametrize("leave", [leave_home, out_of_reach, beside_home, without_a_route])
def test_a_stream_survives_another_uplink(world, away, leave):
    """Whether the one that moves sends or only listens, no byte is lost and the channel stays."""
    server, laptop = connected(world)
    ends = {"laptop": laptop, "server": server}
    source = ends.pop(away)
    (sink,) = ends.values()
    with Flow(source.host, sink.host, sink.address(), rate_bps=2e6) as flow:
        flow.wait_for(1 << 18)
        before, at = peer(server, "laptop"), time.monotonic()
        leave(laptop)
        assert flow.outage(at, timeout_s=60).recovered_s < LONGEST_S
        ended = flow.finish()
    assert ended.intact
    assert ended.received_bytes == ended.sent_bytes
    assert is_behind(server, PHONE)
    # The same keys: nobody shook hands anew.
    assert peer(server, "laptop")["last_rekey_s"] > before["last_rekey_s"]


def test_a_channel_that_carries_nothing_moves_too(world):
    """The server, which cannot call the laptop where it is now, reaches it by the same channel."""
    server, laptop = connected(world)
    before = peer(server, "laptop")
    leave_home(laptop)
    eventually(lambda: is_behind(server, PHONE))
    assert ping(server.host, laptop.address()) == 3
    assert peer(server, "laptop")["last_rekey_s"] > before["last_rekey_s"]


def test_there_and_back_within_a_second(world):
    """A peer that has just moved asks nobody for a second: it is told again after that."""
    server, laptop = connected(world)
    before = peer(server, "laptop")
    leave_home(laptop)
    eventually(lambda: is_behind(server, PHONE))
    laptop.host.run(["ip", "link", "set", "eth1", "down"])
    laptop.host.run(["ip", "link", "set", "eth0", "up"])
    laptop.host.route("default", via="192.168.0.1")
    eventually(lambda: is_behind(server, HOME), timeout_s=5)
    assert peer(server, "laptop")["last_rekey_s"] > before["last_rekey_s"]


def test_a_server_of_two_addresses_answers_from_the_one_that_was_called(world):
    """Where its packets leave by is the policy's business, whatever else would be the usual way."""
    host, laptop_host = world.host("server"), world.host("laptop")
    host.run(["ip", "rule", "add", "from", "10.0.0.2", "lookup", "100"])
    host.run(["ip", "route", "add", "default", "via", "10.0.0.1", "dev", "eth0", "table", "100"])
    server, laptop = connected(world)
    with Flow(server.host, laptop_host, laptop.address(), rate_bps=2e6) as flow:
        flow.wait_for(1 << 18)
        before, at = peer(laptop, "server"), time.monotonic()
        host.run(["ip", "route", "add", "10.0.0.1/32", "via", "10.0.1.1"])
        flow.wait_for(1 << 19)
        assert flow.outage(at, timeout_s=60).recovered_s < 0.5
        ended = flow.finish()
    assert ended.intact
    assert peer(laptop, "server")["last_rekey_s"] > before["last_rekey_s"]


def test_circuits_stay_where_the_link_to_their_relay_moves(world):
    """The server relays between the laptop and a desk that it alone reaches; the laptop moves."""
    desk_host, server_host = world.host("desk"), world.host("server")
    world.lab.wire(desk_host, "10.0.2.2/24", server_host, "10.0.2.1/24")
    server = world.founder("server")
    laptop, desk = world.member("laptop", server), world.member("desk", server)
    assert laptop.connect("desk")["path"]["kind"] == "relayed"
    with Flow(desk.host, laptop.host, laptop.address(), rate_bps=2e6) as flow:
        flow.wait_for(1 << 18)
        before, at = peer(desk, "laptop"), time.monotonic()
        leave_home(laptop)
        assert flow.outage(at, timeout_s=60).recovered_s < LONGEST_S
        ended = flow.finish()
    assert ended.intact
    after = peer(desk, "laptop")
    assert after["last_rekey_s"] > before["last_rekey_s"]
    assert [path["via_names"] for path in after["paths"]] == [["server"]]
