"""The links of this host on which a neighbour may be found, and word of it when they change.

`find` blocks on netlink: call it with `trio.to_thread.run_sync`.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from ipaddress import IPv4Interface, IPv6Interface
from typing import TYPE_CHECKING, Final, Self, TypeAlias

import trio
from attrs import frozen
from pyroute2 import IPRoute

if TYPE_CHECKING:
    from collections.abc import Iterable
    from ipaddress import IPv4Network, IPv6Network
    from types import TracebackType

InterfaceAddress: TypeAlias = IPv4Interface | IPv6Interface

INTERFACES_MAX: Final = 16
"""Links that are joined; the kernel allows 20 memberships of one socket."""
WORDS_MAX: Final = 256
"""Of the kernel's, read at once."""

_UP, _LOOPBACK, _POINTOPOINT, _MULTICAST = 0x1, 0x8, 0x10, 0x1000
_UNUSABLE: Final = 0x20 | 0x40 | 0x08  # IFA_F_DEPRECATED, _TENTATIVE, _DADFAILED
_CHANGES: Final = 0x1 | 0x10 | 0x100  # RTMGRP_LINK, _IPV4_IFADDR, _IPV6_IFADDR
_HEADER: Final = struct.Struct("=IH")  # nlmsg_len, nlmsg_type
_OF_ROUTES: Final = frozenset({24, 25, 32, 33})  # RTM_NEWROUTE, _DELROUTE, _NEWRULE, _DELRULE
_ROUTES: Final = 0x40 | 0x400 | 0x80 | 0x40000  # RTMGRP_IPV4_ROUTE, _IPV6_ROUTE, rules of both


@frozen
class Interface:
    """A link with its addresses, link-local ones included."""

    index: int
    name: str
    addresses: tuple[InterfaceAddress, ...]

    def has(self, version: int) -> bool:
        """Whether it has an address of that IP version."""
        return any(item.version == version for item in self.addresses)

    def is_on_link(self, host: str) -> bool:
        """Whether *host* is a neighbour's address on this link, by its prefixes."""
        address = ipaddress.ip_address(host.partition("%")[0])
        return any(address in item.network for item in self.addresses)

    def shown(self) -> list[str]:
        """Return the addresses that mean something to a neighbour without a zone, IPv4 first."""
        usable = [item for item in self.addresses if not item.is_link_local]
        return [str(item.ip) for item in sorted(usable, key=lambda item: item.version)]


def find(
    *, tun: str | None, overlay: Iterable[IPv4Network | IPv6Network] = ()
) -> tuple[Interface, ...]:
    """Return the links that are up and carry multicast; never an overlay's, ours or another's."""
    prefixes = list(overlay)
    names: dict[int, str] = {}
    held: dict[int, list[InterfaceAddress]] = {}
    with IPRoute() as route:
        for link in route.get_links():
            flags, name = link["flags"], link.get_attr("IFLA_IFNAME")
            if flags & _UP and flags & _MULTICAST and not flags & (_LOOPBACK | _POINTOPOINT):
                names[link["index"]] = name
        for message in route.get_addr():
            if message["index"] not in names or names[message["index"]] == tun:
                continue
            text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
            if text is None or (message.get_attr("IFA_FLAGS") or message["flags"]) & _UNUSABLE:
                continue
            found = ipaddress.ip_interface(f"{text}/{message['prefixlen']}")
            if not any(found.ip in prefix for prefix in prefixes):
                held.setdefault(message["index"], []).append(found)
    usable = [Interface(index, names[index], tuple(held[index])) for index in sorted(held)]
    return tuple(usable[:INTERFACES_MAX])


class Changes:
    """The kernel's word that a link or an address, or also a route, changed; a context manager."""

    def __init__(self, *, routes: bool = False) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        try:
            self._socket.setblocking(False)
            self._socket.bind((0, _CHANGES | (_ROUTES if routes else 0)))
        except BaseException:
            self._socket.close()
            raise

    async def wait(self) -> bool:
        """Return when something changed, and whether it was more than routes.

        What exactly, is to be looked up.
        """
        await trio.lowlevel.wait_readable(self._socket)
        more = False
        for _ in range(WORDS_MAX):  # a router that learns a table of routes is never silent
            try:
                said = self._socket.recv(65_536)
            except BlockingIOError:
                break
            except OSError:  # ENOBUFS: words were lost, so something did change
                more = True
                continue
            more |= len(said) < _HEADER.size or _HEADER.unpack_from(said)[1] not in _OF_ROUTES
        return more

    def close(self) -> None:
        """Stop listening."""
        trio.lowlevel.notify_closing(self._socket)
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
