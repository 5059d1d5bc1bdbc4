"""What the kernel may refuse, and what the path may not carry: the tunnel works all the same.

```
left 10.0.0.1 ========== 10.0.0.2 right            offloads: one wire
left 10.0.1.2 == mallory == 10.0.2.2 right         path MTU: a router that forwards less, or nothing
```
"""

from __future__ import annotations

import contextlib
import functools

import pytest

from tests.netns import flows
from tests.netns.onpath import Mallory
from tests.netns.scenes import World, eventually, pair, peer, ping, routed, status
from veilnet.testing import nft

needs_nft = pytest.mark.skipif(not nft.available(), reason="nft is not installed")

OFFLOADS = {"tun_offload": "vnet_hdr", "udp_gso": "udp_gso", "udp_gro": "udp_gro"}
"""The key in config.toml, and what status calls it."""

_FULL = 1412
"""UDP payload that carries a whole inner packet: 1380 and 32."""
_IP_AND_UDP = 28
_SIZES = [0, 1, 64, 255, 256, 1000, 1351, 1352, 1353, 4000, 20_000]
"""Of inner UDP datagrams: 1352 is the largest that is not cut by the kernel."""


def _joined(world, left_off=(), right_off=()):
    left = world.founder("left", **dict.fromkeys(left_off, False))
    return left, world.member("right", left, **dict.fromkeys(right_off, False))


def _address(node, of, *, version=4):
    """Return the address of *node* in the network that *of* founded."""
    return node.address(status(of)["networks"][0]["id"], version=version)


def _used(node):
    engine = status(node)["engine"]
    return {name for name in OFFLOADS.values() if engine[name]}


def _all_works(left, right):
    for version in (4, 6):
        for source, sink in ((left, right), (right, left)):
            address = _address(sink, left, version=version)
            assert ping(source.host, address) == 3
            assert ping(source.host, address, "-s", "1400") == 3  # in two pieces
            assert flows.stream(source.host, sink.host, address)
            assert flows.datagrams(source.host, sink.host, address, _SIZES)


ALL = tuple(OFFLOADS)


@pytest.mark.parametrize(
    ("left_off", "right_off"),
    [
        (("tun_offload",), ()),
        (("tun_offload",), ("tun_offload",)),
        (("udp_gso",), ()),
        ((), ("udp_gro",)),
        (ALL, ()),
        (ALL, ALL),
    ],
    ids=lambda off: "+".join(off) or "none",
)
def test_without_offloads_everything_still_works(tmp_path, left_off, right_off):
    """Ping, UDP and TCP of right content pass both ways; status shows what is (not) in use."""
    with World(tmp_path) as world:
        pair(world)
        left, right = _joined(world, left_off, right_off)
        for node, off in ((left, left_off), (right, right_off)):
            assert _used(node) == set(OFFLOADS.values()) - {OFFLOADS[key] for key in off}
        _all_works(left, right)


def test_a_link_without_checksum_offload_carries_everything(tmp_path):
    """Where the kernel refuses to cut batches (it did before Linux 6.10) nothing is lost by it."""
    with World(tmp_path) as world:
        pair(world)
        left, right = _joined(world)
        left.host.offload("eth0", tx_checksum_ip_generic=False)
        _all_works(left, right)


# -- path MTU -------------------------------------------------------------------------------------


def _mtu(node, other):
    (path,) = peer(node, other)["paths"]
    return path["mtu_bytes"]


def _mtu_is_in(node, other, low, high):
    return low <= _mtu(node, other) <= high


def _wait_for_mtu(nodes, low, high, *, timeout_s=15.0):
    left, right = nodes
    for node, other in ((left, "right"), (right, "left")):
        eventually(functools.partial(_mtu_is_in, node, other, low, high), timeout_s=timeout_s)


def test_an_ordinary_path_carries_whole_packets(tmp_path):
    """At an MTU of 1500 the search ends at once with the size of a full inner packet."""
    with World(tmp_path) as world:
        pair(world)
        left, right = _joined(world)
        assert ping(left.host, _address(right, left)) == 3
        _wait_for_mtu((left, right), _FULL, _FULL, timeout_s=2.0)


@pytest.mark.parametrize("mtu_bytes", [1400, 1320])
def test_a_narrow_path_is_found_and_used(tmp_path, mtu_bytes):
    """Behind a router whose next link takes less, a size that passes is found; TCP works."""
    with World(tmp_path) as world:
        _, router, right_host = routed(world)
        router.mtu("eth1", mtu_bytes)
        right_host.mtu("eth0", mtu_bytes)
        left, right = _joined(world)
        largest = mtu_bytes - _IP_AND_UDP
        assert ping(left.host, _address(right, left), "-s", "1352") == 3
        _wait_for_mtu((left, right), largest - 16, largest)
        for source, sink in ((left, right), (right, left)):
            assert flows.stream(source.host, sink.host, _address(sink, left))
            assert flows.datagrams(source.host, sink.host, _address(sink, left), _SIZES)
        _wait_for_mtu((left, right), largest - 16, largest, timeout_s=1.0)


@contextlib.contextmanager
def _in_mid_flow(left, right):
    """Yield a TCP stream from left to right that is well under way on whole packets."""
    address = _address(right, left)
    assert ping(left.host, address) == 3
    _wait_for_mtu((left, right), _FULL, _FULL)
    with flows.Pouring(left.host, right.host, address) as poured:
        poured.wait_for(1 << 20)
        yield poured
    assert poured.is_right()


@needs_nft
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside-small-packets"])
def test_a_flow_survives_a_path_that_becomes_narrow(tmp_path, beside):
    """In mid-flow a router swallows what is larger than 1300, without ICMP: the flow recovers.

    Also when small packets still pass, so that the peer never falls silent.
    """
    with World(tmp_path) as world, Mallory(*routed(world)) as mallory:
        left, right = _joined(world)
        small = flows.Ticking(left.host, right.host, _address(right, left))
        with _in_mid_flow(left, right) as poured, small if beside else contextlib.nullcontext():
            mallory.narrow(1300)
            eventually(lambda: _mtu(left, "right") <= 1300 - _IP_AND_UDP, timeout_s=20.0)
            poured.wait_for(4 << 20, more=True, timeout_s=20.0)
        assert _mtu(left, "right") <= 1300 - _IP_AND_UDP
        if beside:
            assert small.received > 0
            assert small.gap_s < 1.0


def test_a_flow_survives_a_link_of_its_own_that_becomes_narrow(tmp_path):
    """In mid-flow the MTU of left's own link falls to 1300: the flow goes on within seconds."""
    with World(tmp_path) as world:
        pair(world)
        left, right = _joined(world)
        with _in_mid_flow(left, right) as poured:
            left.host.mtu("eth0", 1300)
            # What is in flight fits into the receiver's buffer.
            eventually(lambda: _mtu(left, "right") <= 1300 - _IP_AND_UDP)
            poured.wait_for(4 << 20, more=True, timeout_s=10.0)
        assert _mtu(left, "right") <= 1300 - _IP_AND_UDP
