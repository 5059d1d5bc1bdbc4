"""Traffic for the demo: a text to look for on the wires, and a stream to measure."""

from __future__ import annotations

import json
import secrets
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

from veilnet.demo import _transfer
from veilnet.demo.icmp import ping
from veilnet.demo.result import Look
from veilnet.errors import InternalError

if TYPE_CHECKING:
    from veilnet.testing import Host

PINGS = 20
_PORT = 4711
_COPIES = 10
"""How often the canary is sent by each of ICMP, UDP and TCP."""


def look(laptop: Host, server: Host, link: str, inside: str, tapped: Host) -> Look:
    """Send a text nobody else has through the tunnel, with a tap on *tapped*'s wire and one inside.

    Raises: InternalError: the tap missed packets, so that it would prove nothing.
    """
    canary = f"canary-{secrets.token_hex(16)}".encode()
    with (
        tapped.capture("eth0", needle=canary) as wire,
        laptop.capture(link, needle=canary) as tun,
    ):
        ping(laptop, inside, count=_COPIES, payload=canary)
        _say_by_udp(laptop, server, inside, canary)
        _say_by_tcp(laptop, server, inside, canary)
        tun.wait_until(lambda tap: tap.hits >= 3 * _COPIES)
    if wire.dropped:
        raise InternalError(
            f"the tap on the wire missed {wire.dropped} packets, so it proves nothing"
        )
    return Look(wire.hits, tun.hits, wire.seen)


def _say_by_udp(laptop: Host, server: Host, inside: str, text: bytes) -> None:
    with (
        server.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink,
        laptop.socket(socket.AF_INET, socket.SOCK_DGRAM) as source,
    ):
        sink.bind((inside, 0))
        sink.settimeout(5)
        for _ in range(_COPIES):
            source.sendto(text, sink.getsockname())
            if sink.recv(2048) != text:
                raise InternalError("a UDP datagram came out of the tunnel changed")


def _say_by_tcp(laptop: Host, server: Host, inside: str, text: bytes) -> None:
    with (
        server.socket(socket.AF_INET, socket.SOCK_STREAM) as listener,
        laptop.socket(socket.AF_INET, socket.SOCK_STREAM) as source,
    ):
        listener.bind((inside, 0))
        listener.listen()
        listener.settimeout(5)
        source.settimeout(5)
        source.connect(listener.getsockname())
        stream, _ = listener.accept()
        with stream:
            stream.settimeout(5)
            for _ in range(_COPIES):
                source.sendall(text)
                if stream.recv(len(text), socket.MSG_WAITALL) != text:
                    raise InternalError("a TCP stream came out of the tunnel changed")


def transfer_mbps(laptop: Host, server: Host, inside: str, seconds: float) -> float:
    """Return how fast one TCP stream went in *seconds*.  Units: Mbit/s."""
    program = [sys.executable, "-I", "-S", _transfer.__file__]
    receiver: subprocess.Popen[str] = server.popen(
        [*program, "receive", inside, str(_PORT)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        if receiver.stdout is None or receiver.stdout.readline() != "ready\n":
            raise InternalError(f"the TCP sink did not start: {receiver.communicate()[1]}")
        laptop.run([*program, "send", inside, str(_PORT), str(seconds)], timeout_s=seconds + 20)
        out, _ = receiver.communicate(timeout=20)
    finally:
        receiver.kill()
        receiver.communicate()
    moved = json.loads(out)
    return float(moved["bytes"] * 8 / moved["seconds"] / 1e6)


def speed(mbps: float) -> str:
    """Write a rate as people read it."""
    return f"{mbps / 1000:.2f} Gbit/s" if mbps >= 1000 else f"{mbps:.0f} Mbit/s"
