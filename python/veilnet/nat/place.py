"""What an address shares with its neighbours, who may be one and the same party."""

from __future__ import annotations

import ipaddress


def place_of(host: str) -> str:
    """Return the /24 of an IPv4 address, the /48 of an IPv6 one: one vote, one budget."""
    address = ipaddress.ip_address(host.partition("%")[0])
    length = 24 if address.version == 4 else 48
    return str(ipaddress.ip_network((address, length), strict=False))


def version_of(host: str) -> int:
    """Return 4 or 6."""
    return 6 if ":" in host else 4
