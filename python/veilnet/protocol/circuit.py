"""Endpoints that stand for circuits and carriers: blocks of addresses that no datagram ever has.

```
100:0:SSSS:SSSS::LLLL:LLLL port 1      a circuit: S = sid of the link, L = its label on it
100:1:RRRR:RRRR::NNNN:NNNN port 1      a carrier: R = some number of the remote prefix, N = its own
```
The engine makes them and understands them.  They mean something inside one node alone, so none is
ever told to anybody, believed of anybody, or kept.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from veilnet.protocol.fields import Endpoint

BLOCK: Final = ipaddress.IPv6Network("100::/32")
CARRIERS: Final = ipaddress.IPv6Network("100:1::/32")
STAND_INS: Final = ipaddress.IPv6Network("100::/31")
"""Both: no such endpoint is told to anybody, believed of anybody, or kept."""


def is_circuit(endpoint: Endpoint) -> bool:
    """Whether *endpoint* stands for a circuit, so that there is no address in it."""
    host = endpoint[0]
    # Most endpoints are IPv4, and this is asked of every one that a session is seen at.
    return ":" in host and ipaddress.ip_address(host) in BLOCK


def is_carrier(endpoint: Endpoint) -> bool:
    """Whether *endpoint* stands for a carrier: as direct as UDP, but with no address in it."""
    host = endpoint[0]
    return ":" in host and ipaddress.ip_address(host) in CARRIERS


def is_stand_in(endpoint: Endpoint) -> bool:
    """Whether *endpoint* is no place on the underlay: never told, never kept, seen by nobody."""
    host = endpoint[0]
    return ":" in host and ipaddress.ip_address(host) in STAND_INS


def link_of(endpoint: Endpoint) -> int:
    """Return the sid of the link that a circuit's endpoint goes over; ask `is_circuit` first."""
    return int(ipaddress.IPv6Address(endpoint[0])) >> 64 & 0xFFFF_FFFF
