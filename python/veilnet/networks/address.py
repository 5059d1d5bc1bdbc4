"""Overlay addresses: computed from hashes, so that nobody allocates them.

```
IPv6  fd | 40 bits H(network id) | 80 bits H(network id || peer id)     a /48 per network
IPv4  100.64.0.0/10, the /20 picked by H(network id); the address in it stands in the credential
```
Source: RFC 4193 section 3.1 (the prefix), RFC 6598 section 7 (the IPv4 range).
"""

from __future__ import annotations

import hashlib
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_SHARED: Final = IPv4Network("100.64.0.0/10")
_RANGE_BITS: Final = 20


def network_prefix(network_id: bytes) -> IPv6Network:
    """Return the /48 that the network's members have their addresses in."""
    head = b"\xfd" + _digest(b"veilnet/prefix/1", network_id)[:5]
    return IPv6Network((head + bytes(10), 48))


def overlay_ipv6(network_id: bytes, peer_id: bytes) -> IPv6Address:
    """Return the one IPv6 address of *peer_id* in the network."""
    prefix = network_prefix(network_id).network_address.packed[:6]
    return IPv6Address(prefix + _digest(b"veilnet/address/1", network_id, peer_id)[:10])


def ipv4_range(network_id: bytes) -> IPv4Network:
    """Return the /20 of the shared address space that the network uses."""
    choices = 1 << (_RANGE_BITS - _SHARED.prefixlen)
    pick = int.from_bytes(_digest(b"veilnet/ipv4/1", network_id)[:8], "big") % choices
    base = int(_SHARED.network_address) + (pick << (32 - _RANGE_BITS))
    return IPv4Network((base, _RANGE_BITS))


def ipv4_hosts(network: IPv4Network) -> Iterator[IPv4Address]:
    """Yield what may be given to members, lowest first: all but the first and the last."""
    return network.hosts()


def _digest(label: bytes, *inputs: bytes) -> bytes:
    # Every input is a 32-byte id, so plain concatenation is unambiguous.
    return hashlib.sha256(label + b"".join(inputs)).digest()
