import hashlib
from ipaddress import IPv4Network, IPv6Network

from veilnet.networks.address import ipv4_hosts, ipv4_range, network_prefix, overlay_ipv6

NETWORK, PEER = bytes(range(32)), bytes(range(32, 64))


def test_ipv6_is_made_of_the_two_hashes():
    """`fd`, 40 bits of one hash, 80 bits of the other: nothing is allocated."""
    prefix = hashlib.sha256(b"veilnet/prefix/1" + NETWORK).digest()[:5]
    suffix = hashlib.sha256(b"veilnet/address/1" + NETWORK + PEER).digest()[:10]
    assert overlay_ipv6(NETWORK, PEER).packed == b"\xfd" + prefix + suffix
    assert network_prefix(NETWORK) == IPv6Network((b"\xfd" + prefix + bytes(10), 48))


def test_addresses_never_change():
    """Known answers: a release that computes others would cut every network in two."""
    assert str(network_prefix(NETWORK)) == "fda1:1be7:586e::/48"
    assert str(overlay_ipv6(NETWORK, PEER)) == "fda1:1be7:586e:d246:38b5:f8cc:ba58:d0cc"
    assert str(ipv4_range(NETWORK)) == "100.124.64.0/20"


def test_one_search_does_not_serve_every_network():
    """The suffix depends on the network: an id ground for one address is useless elsewhere."""
    other = bytes(32)
    assert overlay_ipv6(NETWORK, PEER).packed[6:] != overlay_ipv6(other, PEER).packed[6:]


def test_ipv4_ranges_lie_in_the_shared_space_and_spread():
    """Every range is a /20 of 100.64.0.0/10, and ranges of many networks differ."""
    ranges = {ipv4_range(number.to_bytes(32, "big")) for number in range(500)}
    assert all(item.prefixlen == 20 for item in ranges)
    assert all(item.subnet_of(IPv4Network("100.64.0.0/10")) for item in ranges)
    assert len(ranges) > 300
    hosts = list(ipv4_hosts(ipv4_range(NETWORK)))
    assert len(hosts) == 4094
