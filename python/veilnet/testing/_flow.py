"""A TCP stream at a steady pace, and what arrives of it when; run as a file, one process an end.

    _flow.py receive ADDRESS
        says its port, then for every read its time and size (`RECORD`), a size of 0 at the end of
        the stream, then the SHA-256 of all of it
    _flow.py send ADDRESS PORT BYTES PERIOD_S
        sends BYTES every PERIOD_S; says "start TIME" with the first, and "done SIZE SHA256 LOST"
        after its stdin has ended, LOST being segments that were sent again and not in vain

Times are of CLOCK_MONOTONIC, which all processes of a machine share.  A sender that was held up
sends at once what it owes: chunk *n* is due at the start + *n* periods, whatever came between.
"""

from __future__ import annotations

import hashlib
import os
import select
import socket
import struct
import sys
import time

RECORD = struct.Struct("!dI")
_TCP_INFO = struct.Struct("100x I 112x I")
"""Of `struct tcp_info` (linux/tcp.h): tcpi_total_retrans and tcpi_dsack_dups."""
_BUFFER = 1 << 18
_PATIENCE_S = 60.0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _receive(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as server:
        _say(str(server.getsockname()[1]))
        server.settimeout(_PATIENCE_S)
        stream, _ = server.accept()
    stream.settimeout(_PATIENCE_S)
    out = sys.stdout.buffer
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_BUFFER))
    with stream:
        while count := stream.recv_into(buffer):
            out.write(RECORD.pack(time.monotonic(), count))
            out.flush()
            digest.update(buffer[:count])
    out.write(RECORD.pack(time.monotonic(), 0) + digest.digest())
    out.flush()


def _send(address: str, port: int, size: int, period_s: float) -> None:
    with socket.create_connection((address, port), timeout=_PATIENCE_S) as stream:
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        digest, number = hashlib.sha256(), 0
        start = time.monotonic()
        _say(f"start {start!r}")
        while True:
            wait = max(0.0, start + number * period_s - time.monotonic())
            if select.select([0], [], [], wait)[0]:
                break
            chunk = os.urandom(size)
            stream.sendall(chunk)
            digest.update(chunk)
            number += 1
        stream.shutdown(socket.SHUT_WR)
        stream.recv(1)  # until the receiver has all of it and closes
        info = stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        again, twice = _TCP_INFO.unpack(info.ljust(_TCP_INFO.size, b"\0"))
        _say(f"done {number * size} {digest.hexdigest()} {max(0, again - twice)}")


if __name__ == "__main__":
    if sys.argv[1] == "receive":
        _receive(sys.argv[2])
    else:
        _send(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
