"""Underlay endpoints as they travel: a literal address and a port, no names to look up.

```
packed = address 4 or 16 bytes || port u16
```
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, NamedTuple

from veilnet.errors import RemoteProtocolError, UsageError
from veilnet.networks.names import printable
from veilnet.protocol.circuit import STAND_INS

if TYPE_CHECKING:
    from veilnet.errors import VeilError


class Endpoint(NamedTuple):
    """Where a node may be reached; made by `of`, `parse` or `unpack`, which refuse nonsense."""

    host: str
    port: int

    @classmethod
    def of(cls, host: str, port: int, *, blame: type[VeilError] = UsageError) -> Endpoint:
        """Return the endpoint in its one normal form (an IPv4-mapped IPv6 address is IPv4).

        Raises: *blame*: not a literal address, one that names no single node, or a bad port.
        """
        try:
            address = ip_address(host)
        except ValueError as error:
            raise blame(f"{printable(host)} is not an IP address") from error
        return cls._checked(address, port, blame)

    @classmethod
    def parse(cls, text: str, *, blame: type[VeilError] = UsageError) -> Endpoint:
        """Read ``192.0.2.7:41000`` or ``[2001:db8::7]:41000``.

        Raises: *blame*: anything else.
        """
        host, colon, digits = text.strip().rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        if not colon or not digits.isascii() or not digits.isdigit() or len(digits) > 5:
            raise blame(f"{printable(text)} is not ADDRESS:PORT")
        if (":" in host) != bracketed:
            raise blame(f"{printable(text)} is not ADDRESS:PORT; write IPv6 as [ADDRESS]:PORT")
        return cls.of(host[1:-1] if bracketed else host, int(digits), blame=blame)

    @classmethod
    def unpack(cls, data: bytes, *, blame: type[VeilError] = RemoteProtocolError) -> Endpoint:
        """Read what `pack` wrote, and only that.

        Raises: *blame*: anything else.
        """
        if len(data) == 6:
            address: IPv4Address | IPv6Address = IPv4Address(data[:4])
        elif len(data) == 18:
            address = IPv6Address(data[:16])
        else:
            raise blame(f"an endpoint has 6 or 18 bytes, not {len(data)}")
        endpoint = cls._checked(address, int.from_bytes(data[-2:], "big"), blame)
        if endpoint.pack() != data:
            raise blame("an endpoint is not in its normal form")
        return endpoint

    def pack(self) -> bytes:
        """Return the form that travels."""
        return ip_address(self.host).packed + self.port.to_bytes(2, "big")

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def _checked(
        cls, address: IPv4Address | IPv6Address, port: int, blame: type[VeilError]
    ) -> Endpoint:
        if isinstance(address, IPv6Address):
            if address.scope_id is not None or address.is_link_local:
                # It would need a zone, and a zone is one host's name for an interface.
                raise blame(f"{address} means nothing beyond one link")
            address = address.ipv4_mapped or address
        broadcast = isinstance(address, IPv4Address) and int(address) == 0xFFFF_FFFF
        if address.is_unspecified or address.is_multicast or broadcast:
            raise blame(f"{address} is not the address of one node")
        if address in STAND_INS:
            raise blame(f"{address} is not the address of a node")
        if not 0 < port < 65_536:
            raise blame(f"{port} is not a UDP port")
        return cls(str(address), port)
