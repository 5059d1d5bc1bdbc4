"""How far an opener may go: the routers on the way to an address, counted as traceroute does.

```
five datagrams, TTL 1 to 5, of a socket of their own     -> time exceeded: a router, not the target
                                                         -> unreachable, from the target: that far
```
A packet with one hop less opens our translator and never reaches the peer's.  Python owns this
socket, as it owns that of DNS: nothing of a session goes over it.
Source: ip(7), IP_RECVERR.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import time
from typing import TYPE_CHECKING, Final

import trio

from veilnet.nat.attempt import TTL

if TYPE_CHECKING:
    from veilnet.protocol.fields import Endpoint

WAIT_S: Final = 0.4
KEPT_S: Final = 600.0
KEPT_MAX: Final = 256
COUNTING_MAX: Final = 4
PORT: Final = 33_434
"""Nobody listens there; what is sent there meets no flow of ours."""
_IP_RECVERR: Final = 11
_EXCEEDED: Final = 11
_EXTENDED_ERROR: Final = struct.Struct("=IBBBBII")
_ORIGIN_ICMP: Final = 2


class Hops:
    """What was counted lately, by address.   Units: hops to the target, it included."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, int | None]] = {}
        self._threads = trio.CapacityLimiter(COUNTING_MAX)

    def __len__(self) -> int:
        return len(self._known)

    async def count(self, endpoint: Endpoint) -> int | None:
        """Return the hops to an IPv4 address, `TTL` + 1 if there are more; None: cannot be said.

        Cancellation: the count goes on in its thread, for nobody.
        """
        host, now = endpoint[0], trio.current_time()
        known = self._known.get(host)
        if known is not None and now < known[0] + KEPT_S:
            return known[1]
        found = await trio.to_thread.run_sync(
            count, host, limiter=self._threads, abandon_on_cancel=True
        )
        self._known.pop(host, None)
        self._known[host] = (now, found)
        if len(self._known) > KEPT_MAX:
            del self._known[next(iter(self._known))]
        return found


def count(host: str) -> int | None:
    """Return the hops to *host*, at least as many as answered for; blocks up to `WAIT_S`."""
    passed, reached = 0, TTL + 1
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.setblocking(False)
            probe.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
            for ttl in range(1, TTL + 1):
                probe.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
                # An error that is waiting is told by the next call, whatever that is.
                for _ in range(2):
                    with contextlib.suppress(OSError):
                        probe.sendto(bytes([ttl]) + os.urandom(15), (host, PORT))
                        break
            waits = select.poll()
            waits.register(probe, select.POLLERR)
            until_s = time.monotonic() + WAIT_S
            while (left_s := until_s - time.monotonic()) > 0 and passed + 1 < reached:
                if not waits.poll(left_s * 1000):
                    break
                for ttl, kind in _errors(probe):
                    if kind == _EXCEEDED:
                        passed = max(passed, ttl)
                    else:
                        reached = min(reached, ttl)
    except OSError:
        return None
    if reached <= TTL:
        return reached
    return passed + 1 if passed else None


def _errors(probe: socket.socket) -> list[tuple[int, int]]:
    """Return the TTL and the ICMP type of each error that has come."""
    found: list[tuple[int, int]] = []
    while True:
        try:
            data, parts, _, _ = probe.recvmsg(16, 512, socket.MSG_ERRQUEUE)
        except OSError:
            return found
        for level, kind, body in parts:
            if (level, kind) == (socket.IPPROTO_IP, _IP_RECVERR) and data:
                error = _EXTENDED_ERROR.unpack_from(body)
                if error[1] == _ORIGIN_ICMP:
                    found.append((data[0], error[2]))
