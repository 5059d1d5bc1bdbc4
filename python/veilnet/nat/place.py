"""What an address shares with its neighbours, who may be one and the same party."""

from __future__ import annotations

import ipaddress
from typing import Final

_NOT_BEYOND: Final = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "224.0.0.0/3",
        "::/96",
        "::ffff:0:0/96",
        "fc00::/7",
        "fe80::/10",
        "fec0::/10",
        "ff00::/8",
    )
)
"""This machine, its LAN, its provider's inside, groups.   Source: RFC 6890, RFC 6598."""


def place_of(host: str) -> str:
    """Return the /24 of an IPv4 address, the /48 of an IPv6 one: one vote, one budget."""
    address = ipaddress.ip_address(host.partition("%")[0])
    length = 24 if address.version == 4 else 48
    return str(ipaddress.ip_network((address, length), strict=False))


def is_private(host: str) -> bool:
    """Whether an address is on our side of a translator, if it is anywhere."""
    address = ipaddress.ip_address(host.partition("%")[0])
    return any(address in network for network in _NOT_BEYOND)


def version_of(host: str) -> int:
    """Return 4 or 6."""
    return 6 if ":" in host else 4
