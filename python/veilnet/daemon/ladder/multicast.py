"""The sockets of LAN discovery: one group per family, joined on every link, and one to speak from.

```
ears    239.255.86.78 and ff02::5645:494c:4e45:5401, UDP port 34543, shared with other nodes here
mouth   a port of its own per family: asks the group from there, so that answers come back to
        this node alone, and not to whichever node of this host the shared port would pick
```
Time to live 1: nothing leaves the link.  What comes in is taken with the link it came by.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
from typing import TYPE_CHECKING, Any, Final

import trio
from attrs import frozen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from veilnet.daemon.ladder.interfaces import Interface

PORT: Final = 34_543
GROUPS: Final = {4: "239.255.86.78", 6: "ff02::5645:494c:4e45:5401"}
READ_BYTES: Final = 2_048

_IP_PKTINFO, _IP_MULTICAST_ALL, _IPV6_MULTICAST_ALL = 8, 49, 29  # linux/in.h, linux/in6.h
_FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}


@frozen
class Heard:
    """A datagram, who sent it, and by which link it came."""

    data: bytes
    source: tuple[Any, ...]
    version: int
    interface: int
    """Index of the link."""
    to_group: bool

    @property
    def host(self) -> str:
        """The sender's address, without a zone."""
        return str(self.source[0]).partition("%")[0]


@frozen
class Inlet:
    """A socket that datagrams come in by."""

    socket: trio.socket.SocketType
    version: int
    of_group: bool
    """Whether it is an ear: what comes to it by another address is not for it."""


class Sockets:
    """Ears and mouths of the families that this host has.

    Raises: OSError: no family can be used at all.
    """

    def __init__(self) -> None:
        self._ears: dict[int, trio.socket.SocketType] = {}
        self._mouths: dict[int, trio.socket.SocketType] = {}
        self._joined: dict[int, set[int]] = {4: set(), 6: set()}
        faults: list[OSError] = []
        for version in (4, 6):
            try:
                self._ears[version] = _ear(version)
                self._mouths[version] = _mouth(version)
            except OSError as error:
                faults.append(error)
                if (ear := self._ears.pop(version, None)) is not None:
                    ear.close()
        if not self._ears:
            raise faults[0]

    def close(self) -> None:
        """Close them all."""
        for item in (*self._ears.values(), *self._mouths.values()):
            item.close()

    @property
    def inlets(self) -> list[Inlet]:
        """Every socket."""
        return [
            *(Inlet(item, version, of_group=True) for version, item in self._ears.items()),
            *(Inlet(item, version, of_group=False) for version, item in self._mouths.items()),
        ]

    def join(self, interfaces: Sequence[Interface]) -> list[str]:
        """Be in the groups on these links and no others; return what could not be joined."""
        faults = []
        for version, ear in self._ears.items():
            wanted = {item.index: item.name for item in interfaces if item.has(version)}
            for index in self._joined[version] - wanted.keys():
                # A link that is gone has taken its membership along.
                with contextlib.suppress(OSError):
                    _member(ear, version, index, join=False)
            self._joined[version] &= wanted.keys()
            for index in wanted.keys() - self._joined[version]:
                try:
                    _member(ear, version, index, join=True)
                except OSError as error:
                    faults.append(f"{wanted[index]}, IPv{version}: {error.strerror}")
                else:
                    self._joined[version].add(index)
        return faults

    async def shout(self, version: int, interface: int, data: bytes) -> None:
        """Send to the group on one link.  Raises: OSError."""
        mouth = self._mouths.get(version)
        if mouth is None or interface not in self._joined[version]:
            return
        if version == 4:
            level, kind = socket.IPPROTO_IP, _IP_PKTINFO
            info = struct.pack("=i4s4s", interface, bytes(4), bytes(4))
            to: tuple[Any, ...] = (GROUPS[4], PORT)
        else:
            level, kind = socket.IPPROTO_IPV6, socket.IPV6_PKTINFO
            info = struct.pack("=16si", bytes(16), interface)
            to = (GROUPS[6], PORT, 0, interface)
        await mouth.sendmsg([data], [(level, kind, info)], 0, to)

    async def tell(self, heard: Heard, data: bytes) -> None:
        """Send to whoever sent *heard*.  Raises: OSError."""
        await self._mouths[heard.version].sendto(data, heard.source)


async def listen(inlet: Inlet) -> Heard | None:
    """Return the next datagram of one socket, None for one that is not for it.

    Raises: OSError: of something that was sent before.
    """
    source: Any  # two or four words, by the family
    data, ancillary, _, source = await inlet.socket.recvmsg(READ_BYTES, 256)
    heard = _heard(data, ancillary, source, inlet.version)
    # The shared port must not be a way around the group.
    return heard if heard is not None and heard.to_group == inlet.of_group else None


def _heard(
    data: bytes, ancillary: Sequence[tuple[int, int, bytes]], source: tuple[Any, ...], version: int
) -> Heard | None:
    for level, kind, info in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO) and len(info) >= 12:
            index, _, group = struct.unpack_from("=i4s4s", info)
            return Heard(data, source, version, index, group == _packed(4))
        if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO) and len(info) >= 20:
            group, index = struct.unpack_from("=16si", info)
            return Heard(data, source, version, index, group == _packed(6))
    return None


def _packed(version: int) -> bytes:
    return ipaddress.ip_address(GROUPS[version]).packed


def _ear(version: int) -> trio.socket.SocketType:
    made = socket.socket(_FAMILIES[version], socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _want_link(made, version)
        if version == 4:
            made.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
            made.bind((GROUPS[4], PORT))
        else:
            made.setsockopt(socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL, 0)
            # The group itself could only be bound with one link's zone.
            made.bind(("::", PORT))
        return trio.socket.from_stdlib_socket(made)
    except BaseException:
        made.close()
        raise


def _mouth(version: int) -> trio.socket.SocketType:
    made = socket.socket(_FAMILIES[version], socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        _want_link(made, version)
        made.bind(("0.0.0.0" if version == 4 else "::", 0))  # noqa: S104 - every link's neighbours
        return trio.socket.from_stdlib_socket(made)
    except BaseException:
        made.close()
        raise


def _want_link(made: socket.socket, version: int) -> None:
    if version == 4:
        made.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
    else:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 1)


def _member(ear: trio.socket.SocketType, version: int, index: int, *, join: bool) -> None:
    group = _packed(version)
    if version == 4:
        option = socket.IP_ADD_MEMBERSHIP if join else socket.IP_DROP_MEMBERSHIP
        ear.setsockopt(socket.IPPROTO_IP, option, struct.pack("=4s4si", group, bytes(4), index))
    else:
        option = socket.IPV6_JOIN_GROUP if join else socket.IPV6_LEAVE_GROUP
        ear.setsockopt(socket.IPPROTO_IPV6, option, struct.pack("=16si", group, index))
