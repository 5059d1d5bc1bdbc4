"""What the tunnel carries, over both IP versions and over a narrow underlay.

```
 over 4 and 6    left 10.0.1.2 or fd00:1::2 ==== router ==== right 10.0.2.2 or fd00:2::2
 narrow          left 10.0.0.1 ====== MTU 1280 ====== 10.0.0.2 right
```
`left` has founded the network and offers the files, `right` has joined it.
"""

from __future__ import annotations

import time

import pytest

from tests.netns.scenes import (
    Files,
    World,
    eventually,
    iperf3,
    needs_iperf3,
    needs_nft,
    needs_ping,
    pair,
    peer,
    ping,
    routed,
    status,
)
from veilnet.testing import nft

LARGE_BYTES = 200 << 20
SMALL_BYTES = 16 << 20
INNER_MTU = 1380
UDP = b"\x08\x00\x11"
"""EtherType of IPv4, and the protocol that it carries."""
QUIET_S = 5.0
QUIET_MAX = 10


def _joined(world):
    left = world.founder("left")
    return left, world.member("right", left)


@pytest.fixture(scope="module")
def over4(tmp_path_factory):
    """Two nodes with a router between them, which sees each datagram by itself."""
    with World(tmp_path_factory.mktemp("over4")) as world:
        for host in routed(world):
            for link in ("eth0", "eth1"):
                if link in host.links():
                    host.offload(link, tx_udp_segmentation=False, tx_tcp_segmentation=False)
        yield world, *_joined(world)


@pytest.fixture(scope="module")
def over6(tmp_path_factory):
    """Two nodes whose underlay is IPv6 and nothing else."""
    with World(tmp_path_factory.mktemp("over6")) as world:
        routed(world, version=6)
        yield world, *_joined(world)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """Two nodes on a wire that carries packets of 1280 bytes at most."""
    with World(tmp_path_factory.mktemp("narrow")) as world:
        pair(world, mtu_bytes=1280)
        yield world, *_joined(world)


@pytest.fixture(scope="module")
def large(over4, tmp_path_factory):
    """A large file, offered inside the tunnel."""
    _, left, _ = over4
    folder = tmp_path_factory.mktemp("large") / "files"
    with Files(left.host, left.address(), folder, size_bytes=LARGE_BYTES) as files:
        yield files


@pytest.fixture(params=["over4", "over6"])
def nodes(request):
    """Both underlays in turn."""
    _, left, right = request.getfixturevalue(request.param)
    return left, right


@needs_ping
@pytest.mark.parametrize("version", [4, 6])
def test_the_kernel_pings_both_ways(nodes, version):
    """Echoes to the overlay address are all answered, from either end, IPv4 and IPv6 inside."""
    left, right = nodes
    assert ping(right.host, left.address(version=version)) == 3
    assert ping(left.host, right.address(version=version)) == 3


@needs_ping
def test_who_has_nothing_to_say_is_quiet(over4):
    """A few seconds after a ping nothing but the odd report or probe crosses between the two."""
    _, left, right = over4
    assert ping(right.host, left.address()) == 3
    with right.host.capture("eth0") as tap:
        end_s = time.monotonic() + QUIET_S
        eventually(lambda: time.monotonic() >= end_s, timeout_s=2 * QUIET_S)
    assert tap.dropped == 0
    datagrams = [frame for frame in tap.frames if frame.data[12:14] + frame.data[23:24] == UDP]
    assert len(datagrams) <= QUIET_MAX


@needs_iperf3
@pytest.mark.parametrize("direction", [(), ("-R",)], ids=["up", "down"])
def test_iperf3(nodes, direction):
    """TCP flows in both directions, and what was sent has arrived."""
    left, right = nodes
    end = iperf3(right.host, left.host, left.address(), "-t", "1", *direction)
    assert end["sum_received"]["bytes"] > 4 << 20
    assert end["sum_received"]["bytes"] > 0.5 * end["sum_sent"]["bytes"]


def test_the_path_is_the_underlay_of_that_version(over4, over6):
    """Over IPv4 the path's endpoint is an IPv4 address, over IPv6 an IPv6 one."""
    for (_, left, right), host in ((over4, "10.0.1.2"), (over6, "[fd00:1::2]")):
        (path,) = peer(right, "left")["paths"]
        assert path["endpoint"] == f"{host}:{status(left)['port']}"


def test_a_large_download_arrives_as_it_was(over4, large):
    """200 MB of random bytes over HTTP: size and SHA-256 are right, and the tunnel carried them."""
    right = over4[2]
    before = peer(right, "left")["rx_bytes"]
    assert large.fetched(right.host)
    assert peer(right, "left")["rx_bytes"] - before >= LARGE_BYTES


@needs_nft
def test_a_large_download_survives_one_percent_loss(over4, large):
    """The same with a router that loses one datagram in a hundred, both ways."""
    world, _, right = over4
    router = world.lab.hosts["router"]
    router.nft(nft.loss(0.01))
    try:
        with right.host.capture("eth0") as tap:
            assert large.fetched(right.host)
    finally:
        router.nft(nft.clear())
    # Had the router seen super-packets only, this would have tested something else.
    assert max(len(frame.data) for frame in tap.frames if not frame.outgoing) <= 1514


@needs_ping
@pytest.mark.parametrize("version", [4, 6])
def test_a_narrow_underlay_carries_whole_inner_packets(narrow, version):
    """MTU 1280 below, 1380 inside: a packet of 1380 bytes that must not be fragmented crosses.

    It goes in two parts; one byte more is refused by the sender's own kernel.
    """
    _, left, right = narrow
    headers = 28 if version == 4 else 48
    full = str(INNER_MTU - headers)
    assert ping(right.host, left.address(version=version), "-M", "do", "-s", full) == 3
    too_large = str(INNER_MTU - headers + 1)
    address = left.address(version=version)
    assert ping(right.host, address, "-M", "do", "-s", too_large, count=1, wait_s=0.5) == 0


def test_a_narrow_underlay_carries_tcp(narrow, tmp_path):
    """A download through parts arrives as it was, and no datagram below was fragmented."""
    _, left, right = narrow
    with (
        Files(left.host, left.address(), tmp_path / "files", size_bytes=SMALL_BYTES) as files,
        right.host.capture("eth0") as tap,
    ):
        assert files.fetched(right.host)
    packets = [frame.data for frame in tap.frames if frame.data[12:14] == b"\x08\x00"]
    assert packets
    assert not any(int.from_bytes(data[20:22], "big") & 0x3FFF for data in packets)
