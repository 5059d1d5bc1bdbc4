"""Endpoints that stand for circuits: a block of addresses that no datagram ever has.

```
100:0:SSSS:SSSS::LLLL:LLLL port 1      S = sid of the link, L = the circuit's label on it
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


def is_circuit(endpoint: Endpoint) -> bool:
    """Whether *endpoint* stands for a circuit, so that there is no address in it."""
    host = endpoint[0]
    # Most endpoints are IPv4, and this is asked of every one that a session is seen at.
    return ":" in host and ipaddress.ip_address(host) in BLOCK


def link_of(endpoint: Endpoint) -> int:
    """Return the sid of the link that a circuit's endpoint goes over; ask `is_circuit` first."""
    return int(ipaddress.IPv6Address(endpoint[0])) >> 64 & 0xFFFF_FFFF
