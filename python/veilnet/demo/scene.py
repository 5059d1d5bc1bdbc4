"""What the demo plays, inside namespaces; started by `veilnet.demo.run`."""

from __future__ import annotations

import json
import secrets
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from veilnet.demo import _transfer
from veilnet.demo.icmp import ping
from veilnet.demo.result import Result, Step
from veilnet.errors import InternalError
from veilnet.testing import Capture, Host, Lab, Node

if TYPE_CHECKING:
    from collections.abc import Callable

_PORT = 4711
_PINGS = 20
_COPIES = 10
"""How often the canary is sent by each of ICMP, UDP and TCP."""


def play(folder: Path, tell: Callable[[Step], None], *, seconds: float = 3.0) -> Result:
    """Build the lab, make the tunnel, use it, look at the wire; everything is gone afterwards."""
    started = time.monotonic()
    with Lab() as lab:
        tell(Step("two namespaces joined by a veth pair"))
        laptop, server = lab.host("laptop"), lab.host("server")
        lab.wire(laptop, "192.0.2.1/24", server, "192.0.2.2/24")
        tell(Step("two namespaces joined by a veth pair", "192.0.2.1 -- 192.0.2.2"))
        inside, link, connected = _connect(Node(laptop, folder), Node(server, folder), tell)
        tell(Step("ping through the tunnel"))
        times = ping(laptop, inside, count=_PINGS)
        if not times:
            raise InternalError("the tunnel is up, but no ping through it was answered")
        rtt_ms = statistics.median(times)
        tell(Step("ping through the tunnel", f"{len(times)} of {_PINGS}, {rtt_ms:.2f} ms"))
        wire, tun = _look(laptop, server, link, inside, tell)
        tell(Step(f"one TCP stream for {seconds:g} s"))
        mbps = _transfer_mbps(laptop, server, inside, seconds)
        tell(Step(f"one TCP stream for {seconds:g} s", _speed(mbps)))
    return Result(
        nodes=2,
        handshake_ms=round(float(connected["handshake_ms"]), 2),
        direct_mbps=round(mbps, 1),
        plaintext_on_wire=wire.hits,
        plaintext_inside=tun.hits,
        wire_frames=wire.seen,
        ping_ms=round(rtt_ms, 3),
        pings_answered=len(times),
        pings_sent=_PINGS,
        suite=str(connected["suite"]),
        took_s=round(time.monotonic() - started, 1),
    )


def _connect(
    laptop: Node, server: Node, tell: Callable[[Step], None]
) -> tuple[str, str, dict[str, Any]]:
    """Return the server's overlay address, the laptop's TUN link, and what connect said."""
    tell(Step("veilnet up"))
    status = laptop.up()
    network = status["networks"][0]
    tell(Step("veilnet up", f"peer id {status['peer_id'][:12]}, {network['addresses'][0]}"))
    tell(Step("veilnet invite"))
    invite = laptop.invite()
    tell(Step("veilnet invite", f"{invite[:24]}... ({len(invite)} characters)"))
    tell(Step("veilnet connect veil:..."))
    connected = server.connect(invite)
    path = connected["path"]
    tell(Step("veilnet connect veil:...", f"{path['kind']}, {connected['handshake_ms']:.1f} ms"))
    address = server.address(network["id"])
    status = laptop.status()
    connected["suite"] = next(p["suite"] for p in status["peers"] if address in p["addresses"])
    return address, status["tun"], connected


def _look(
    laptop: Host, server: Host, link: str, inside: str, tell: Callable[[Step], None]
) -> tuple[Capture, Capture]:
    """Send a text nobody else has through the tunnel, with a tap on the wire and one inside."""
    tell(Step("looking for clear text on the wire"))
    canary = f"canary-{secrets.token_hex(16)}".encode()
    with (
        laptop.capture("eth0", needle=canary) as wire,
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
    found = f"{wire.hits} of {wire.seen} packets on the wire, {tun.hits} inside the tunnel"
    tell(Step("looking for clear text on the wire", found))
    return wire, tun


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


def _transfer_mbps(laptop: Host, server: Host, inside: str, seconds: float) -> float:
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


def _speed(mbps: float) -> str:
    return f"{mbps / 1000:.2f} Gbit/s" if mbps >= 1000 else f"{mbps:.0f} Mbit/s"
