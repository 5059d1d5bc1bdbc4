"""A member behind a home router.

```
 laptop 192.168.0.2 ==== 192.168.0.1 router 10.0.0.1 ==== 10.0.0.2 server
                              masquerades; lets nobody in
```
`server` has founded the network and has no route to 192.168.0.0/24.
"""

from __future__ import annotations

import pytest

from tests.netns.scenes import (
    Files,
    World,
    eventually,
    needs_nft,
    needs_ping,
    peer,
    ping,
    status,
)
from veilnet.testing import nft
from veilnet.testing.nat import forget_mappings

pytestmark = [needs_nft, needs_ping]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The hosts, with the router in the middle."""
    with World(tmp_path_factory.mktemp("nat")) as world:
        laptop, router, server = map(world.host, ("laptop", "router", "server"))
        router.forward()
        world.lab.wire(laptop, "192.168.0.2/24", router, "192.168.0.1/24")
        world.lab.wire(router, "10.0.0.1/24", server, "10.0.0.2/24")
        laptop.route("default", via="192.168.0.1")
        router.nft(nft.masquerade("eth1"))
        yield world


@pytest.fixture(scope="module")
def router(world):
    """The home router."""
    return world.host("router")


@pytest.fixture(scope="module")
def nodes(world):
    """Laptop and server, joined."""
    server = world.founder("server")
    return world.member("laptop", server), server


def test_a_joiner_behind_a_nat_is_seen_at_the_routers_address(nodes):
    """It joined through the router, and the server's path to it ends there."""
    laptop, server = nodes
    laptop.connect("server")
    (path,) = peer(server, "laptop")["paths"]
    assert path["endpoint"].startswith("10.0.0.1:")
    assert peer(laptop, "server")["paths"][0]["endpoint"] == f"10.0.0.2:{status(server)['port']}"


@pytest.mark.parametrize("version", [4, 6])
def test_both_ends_ping(nodes, version):
    """Traffic that either side starts crosses the open channel."""
    laptop, server = nodes
    laptop.connect("server")
    assert ping(server.host, laptop.address(version=version)) == 3
    assert ping(laptop.host, server.address(version=version)) == 3


def test_the_server_opens_a_channel_while_the_mapping_lives(nodes):
    """The channel is closed, the router's mapping is not: the server's first packet gets in."""
    laptop, server = nodes
    laptop.connect("server")
    laptop.ask("disconnect", "server")
    eventually(lambda: peer(server, "laptop")["state"] == "idle")
    assert ping(server.host, laptop.address(), count=1) == 1


def test_a_download_through_the_router(nodes, tmp_path):
    """A file served behind the NAT arrives outside of it as it was."""
    laptop, server = nodes
    address = laptop.address()
    laptop.connect("server")
    with Files(laptop.host, address, tmp_path / "files", size_bytes=16 << 20) as files:
        assert files.fetched(server.host)


def test_the_channel_follows_its_peer_to_a_new_mapping(nodes, router):
    """The router forgets its mapping and gives out another port: no handshake, the path moves."""
    laptop, server = nodes
    laptop.connect("server")
    before = peer(server, "laptop")
    router.nft(nft.clear("lab_nat", family="ip"))
    ports = "meta l4proto udp masquerade to :50000-50999"
    router.nft(nft.masquerade("eth1").replace("masquerade", ports))
    forget_mappings(router)
    # A second of silence until the return key is used, a quarter of one to ask both endpoints.
    eventually(lambda: ping(laptop.host, server.address(), count=1, wait_s=0.2) == 1, timeout_s=5)
    assert _port(server) in range(50000, 51000)
    assert peer(server, "laptop")["epoch"] == before["epoch"]
    assert peer(server, "laptop")["rx_packets"] > before["rx_packets"]


def _port(server):
    (path,) = peer(server, "laptop")["paths"]
    return int(path["endpoint"].rpartition(":")[2])
