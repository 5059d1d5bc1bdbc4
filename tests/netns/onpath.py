"""Who stands on the path between two nodes: hears everything, holds it back, says what it likes.

```
left 10.0.1.2 -- 10.0.1.1 [eth0] mallory [eth1] 10.0.2.1 -- 10.0.2.2 right
                                 tap, drop, inject
```
What is injected bears the addresses of the true sender; the receiver's kernel cannot tell.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
from typing import TYPE_CHECKING, NamedTuple, Self

from tests.netns.scenes import eventually

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from veilnet.testing import Capture, Frame, Host

LEFT, RIGHT = "left", "right"
_LINKS = {LEFT: "eth0", RIGHT: "eth1"}
_ETHERNET, _IPV4, _UDP = 14, 20, 8
_HOLD = """
table inet held {
    chain pass { type filter hook forward priority filter; drop
    }
}
"""
_BLACK_HOLE = """
table ip narrow {{
    chain pass {{ type filter hook forward priority filter; ip length > {size} drop
    }}
}}
"""


class Heard(NamedTuple):
    """One datagram on the wire: its headers and its UDP payload."""

    head: bytes
    payload: bytes


class Mallory:
    """On the path between ``left`` and ``right``, IPv4 only; a context manager."""

    def __init__(self, left: Host, router: Host, right: Host) -> None:
        self.host = router
        for host in (left, right):
            # It wants datagrams, and with this offload it would see batches.
            host.offload("eth0", tx_udp_segmentation=False)
        # Where frames to an end go, and the router's own address on that wire.
        self._ethernet = {
            end: _mac(host, "eth0") + _mac(router, _LINKS[end]) + b"\x08\x00"
            for end, host in ((LEFT, left), (RIGHT, right))
        }
        self._addresses = {LEFT: _addresses(left), RIGHT: _addresses(right)}
        # Frames that come in by a link travel to the other end.
        self._taps = {
            RIGHT: router.capture(_LINKS[LEFT]),
            LEFT: router.capture(_LINKS[RIGHT]),
        }
        self._mouths: dict[str, socket.socket] = {}
        for end, link in _LINKS.items():
            self._mouths[end] = mouth = router.socket(socket.AF_PACKET, socket.SOCK_RAW)
            mouth.bind((link, 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for tap in self._taps.values():
            tap.close()
        for mouth in self._mouths.values():
            mouth.close()

    # -- hearing ------------------------------------------------------------------------------

    def heard(self, to: str) -> list[Heard]:
        """Return every datagram so far that is addressed to *to*."""
        return [
            item
            for frame in tuple(self._taps[to].frames)
            if (item := _datagram(frame)) is not None and item.head[30:34] in self._addresses[to]
        ]

    def of_size(self, to: str, size_bytes: int) -> list[bytes]:
        """Return the payloads of that size so far that are addressed to *to*."""
        return [item.payload for item in self.heard(to) if len(item.payload) == size_bytes]

    def wait_for(self, to: str, count: int, *, timeout_s: float = 10.0) -> list[Heard]:
        """Return all that was heard on its way to *to* once it is at least *count*."""
        eventually(lambda: len(self.heard(to)) >= count, timeout_s=timeout_s)
        return self.heard(to)

    def tap(self, to: str) -> Capture:
        """Return the capture that hears what travels to *to*."""
        return self._taps[to]

    # -- holding ------------------------------------------------------------------------------

    @contextlib.contextmanager
    def holding(self) -> Iterator[None]:
        """Let nothing pass meanwhile; it is still heard."""
        self.host.nft(_HOLD)
        try:
            yield
        finally:
            self.host.nft("delete table inet held")

    def narrow(self, mtu_bytes: int) -> None:
        """Swallow what is larger than *mtu_bytes*, without a word."""
        self.host.nft(_BLACK_HOLE.format(size=mtu_bytes))

    # -- saying -------------------------------------------------------------------------------

    def say(self, to: str, payloads: Iterable[bytes]) -> int:
        """Send datagrams to *to* as if the other end had; return how many."""
        model = self.heard(to)[-1]
        source, destination = model.head[26:30], model.head[30:34]
        ports = model.head[34:38]
        count = 0
        for payload in payloads:
            udp = ports + struct.pack("!HH", _UDP + len(payload), 0)  # 0: no checksum
            ip = _ip(source, destination, len(udp) + len(payload))
            self._mouths[to].sendall(self._ethernet[to] + ip + udp + payload)
            count += 1
        return count


def _addresses(host: Host) -> set[bytes]:
    """Return the host's IPv4 addresses."""
    found = host.netlink("get_addr", family=socket.AF_INET)
    return {socket.inet_aton(item.get("address")) for item in found}


def _mac(host: Host, link: str) -> bytes:
    """Return a link's address."""
    with host.socket(socket.AF_PACKET, socket.SOCK_RAW) as probe:
        probe.bind((link, 0))
        return bytes(probe.getsockname()[4])


def _datagram(frame: Frame) -> Heard | None:
    """Return the UDP datagram in *frame*, if it came in and is one."""
    data = frame.data
    if frame.outgoing or data[12:14] != b"\x08\x00" or data[14] != 0x45 or data[23] != 17:
        return None
    (length,) = struct.unpack_from("!H", data, _ETHERNET + _IPV4 + 4)
    start = _ETHERNET + _IPV4 + _UDP
    return Heard(data[:start], data[start : start - _UDP + length])


def _ip(source: bytes, destination: bytes, length: int) -> bytes:
    """Return an IPv4 header for UDP, DF set."""
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, _IPV4 + length, 0, 0x4000, 64, 17, 0, source, destination
    )
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return head[:10] + struct.pack("!H", ~total & 0xFFFF) + head[12:]


def udp_packet(source: str, destination: str, port: int, payload: bytes) -> bytes:
    """Return an inner packet, IPv4 or IPv6, with a right checksum, from any source address."""
    here, there = ipaddress.ip_address(source), ipaddress.ip_address(destination)
    udp = struct.pack("!HHHH", port, port, _UDP + len(payload), 0) + payload
    pseudo = here.packed + there.packed + struct.pack("!IHBB", len(udp), 0, 0, 17)
    words = pseudo + udp + b"\0" * (len(udp) % 2)
    total = sum(struct.unpack(f"!{len(words) // 2}H", words))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    udp = udp[:6] + struct.pack("!H", (~total & 0xFFFF) or 0xFFFF) + udp[8:]
    if here.version == 4:
        return _ip(here.packed, there.packed, len(udp)) + udp
    return struct.pack("!IHBB", 6 << 28, len(udp), 17, 64) + here.packed + there.packed + udp
