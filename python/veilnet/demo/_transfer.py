"""One TCP stream as fast as Python's sockets go; run as a file, a process at each end.

    _transfer.py receive ADDRESS PORT     prints "ready", then {"bytes", "seconds"}
    _transfer.py send ADDRESS PORT SECONDS

Buffers of 1 MiB and nothing but system calls in the loops: on the bare wire this moves tens of
Gbit/s, so what it measures is the tunnel.
"""

from __future__ import annotations

import json
import socket
import sys
import time

_CHUNK = 1 << 20


def _receive(address: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, port), family=family) as server:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        server.settimeout(20)
        stream, _ = server.accept()
        stream.settimeout(20)
        buffer = memoryview(bytearray(_CHUNK))
        total, start = 0, time.monotonic()
        while count := stream.recv_into(buffer):
            total += count
        seconds = time.monotonic() - start
    sys.stdout.write(json.dumps({"bytes": total, "seconds": seconds}) + "\n")


def _send(address: str, port: int, seconds: float) -> None:
    data = memoryview(bytes(_CHUNK))
    with socket.create_connection((address, port), timeout=20) as stream:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            stream.sendall(data)


if __name__ == "__main__":
    if sys.argv[1] == "receive":
        _receive(sys.argv[2], int(sys.argv[3]))
    else:
        _send(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
