"""Ping an overlay address as `ping` does: ICMP echo, answered by the far kernel."""

from __future__ import annotations

import socket
import struct
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from veilnet.testing import Host

_ECHO, _ECHO_REPLY = 8, 0
_OURS = 0x5EED


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _request(number: int, payload: bytes) -> bytes:
    payload += b"\0" * (len(payload) % 2)
    head = struct.pack("!BBHHH", _ECHO, 0, 0, _OURS, number)
    return struct.pack("!BBHHH", _ECHO, 0, _checksum(head + payload), _OURS, number) + payload


def ping(
    host: Host, address: str, *, count: int, payload: bytes = b"", wait_s: float = 1.0
) -> list[float]:
    """Send *count* echo requests to an IPv4 *address*, one at a time; return the round trips.

    Units: milliseconds; those not answered within *wait_s* seconds are left out.
    """
    times = []
    with host.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as link:
        for number in range(count):
            sent = time.monotonic()
            link.sendto(_request(number, payload), (address, 0))
            deadline = sent + wait_s
            while (left := deadline - time.monotonic()) > 0:
                link.settimeout(left)
                try:
                    packet = link.recv(2048)
                except TimeoutError:
                    break
                start = (packet[0] & 15) * 4
                kind, _, _, whose, which = struct.unpack_from("!BBHHH", packet, start)
                if (kind, whose, which) == (_ECHO_REPLY, _OURS, number):
                    times.append((time.monotonic() - sent) * 1000)
                    break
    return times
