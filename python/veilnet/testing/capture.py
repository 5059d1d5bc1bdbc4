"""See the packets of a link, in pure Python: what a tap on that wire would see."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, NamedTuple, Self

from veilnet.errors import TimedOut

if TYPE_CHECKING:
    from collections.abc import Callable

    from veilnet.testing.lab import Host

_ETH_P_ALL = 0x0003
_SOL_PACKET, _PACKET_STATISTICS = 263, 6
_SO_RCVBUFFORCE = 33
_OUTGOING = 4
_LARGEST = 65_536 + 64  # a whole super-packet and its link header


class Frame(NamedTuple):
    """One packet as the link carried it; with offloads it may be a super-packet."""

    outgoing: bool
    data: bytes


class Capture:
    """A running capture on one link; a context manager.

    Frames are kept in *frames* up to *keep_bytes*; *needle* is counted in every frame, kept or not
    (`hits`).  `dropped` says how many frames the kernel could not hand over: a capture that must
    prove an absence has to look at it.
    """

    def __init__(
        self,
        host: Host,
        link: str,
        *,
        needle: bytes | None = None,
        keep_bytes: int = 64 << 20,
        buffer_bytes: int = 16 << 20,
    ) -> None:
        self.host, self.link = host, link
        self.frames: list[Frame] = []
        self.hits = 0
        self.seen = 0
        self.dropped = 0
        self._needle = needle
        self._room = keep_bytes
        self._changed = threading.Condition()
        self._socket = host.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        with contextlib.suppress(OSError):  # not allowed in a user namespace
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, buffer_bytes)
        self._socket.bind((link, _ETH_P_ALL))
        self._wake, self._stop = socket.socketpair()
        self._thread = threading.Thread(target=self._read, name=f"capture-{link}", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Capture {self.host.name}/{self.link} frames={self.seen} dropped={self.dropped}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        stopping = False
        while True:
            ready = {fd for fd, _ in poll.poll(0 if stopping else None)}
            if self._socket.fileno() not in ready and stopping:
                return  # drained: what was on the wire before close() has been seen
            stopping = stopping or self._wake.fileno() in ready
            if self._socket.fileno() in ready:
                try:
                    data, origin = self._socket.recvfrom(_LARGEST)
                except OSError:  # the link went down or away
                    continue
                self._take(Frame(origin[2] == _OUTGOING, data))

    def _take(self, frame: Frame) -> None:
        with self._changed:
            self.seen += 1
            if self._needle is not None and self._needle in frame.data:
                self.hits += 1
            if len(frame.data) <= self._room:
                self._room -= len(frame.data)
                self.frames.append(frame)
            self._changed.notify_all()

    def count(self, needle: bytes) -> int:
        """Return how many kept frames contain *needle*."""
        with self._changed:
            return sum(needle in frame.data for frame in self.frames)

    def wait_until(self, fact: Callable[[Capture], bool], *, timeout_s: float = 5.0) -> None:
        """Wait until *fact* of this capture is true.

        Raises: TimedOut: it was still false after *timeout_s* seconds.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            if not self._changed.wait_for(lambda: fact(self), deadline - time.monotonic()):
                raise TimedOut(
                    f"The capture on {self.host.name}/{self.link} did not see it in {timeout_s} s.",
                    hint=f"It saw {self.seen} frames.",
                )

    def close(self) -> None:
        """Stop after what has arrived was read; the frames stay."""
        if self._socket.fileno() < 0:
            return
        self._stop.send(b"x")
        self._thread.join()
        with contextlib.suppress(OSError):
            counters = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
            self.dropped = int(struct.unpack("II", counters)[1])
        for handle in (self._socket, self._wake, self._stop):
            handle.close()
