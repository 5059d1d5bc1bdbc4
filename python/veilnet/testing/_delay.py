"""Carry packets between pairs of TUN devices, each some time later; run as a file.

    _delay.py CONTROL_FD      a message on it: two devices (SCM_RIGHTS) and their delay as JSON;
                              answered by "k"; at its end of file the program ends

Invariant: a direction's queue is in order of departure, since its delay is constant.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import json
import os
import select
import socket
import sys
import time

_LARGEST = 10 + 65_536  # virtio_net_hdr and a packet
_READS = 64
_QUEUE_MAX = 4096


class _Direction:
    """What came from one device and waits to go to the other."""

    def __init__(self, source: int, sink: int, delay_s: float) -> None:
        self.source, self.sink, self.delay_s = source, sink, delay_s
        self.waiting: collections.deque[tuple[float, bytes]] = collections.deque()

    def take(self) -> bool:
        """Queue what the source has; what the queue cannot hold is lost, as in a router.

        Say whether the source is still a device: with its namespace it is gone for good.
        """
        due = time.monotonic() + self.delay_s
        for _ in range(_READS):
            try:
                packet = os.read(self.source, _LARGEST)
            except OSError as error:
                # Otherwise nothing is left, or the device is down.
                return error.errno != errno.EBADFD
            if len(self.waiting) < _QUEUE_MAX:
                self.waiting.append((due, packet))
        return True

    def give(self, now: float) -> None:
        """Hand over all that is due."""
        while self.waiting and self.waiting[0][0] <= now:
            _, packet = self.waiting.popleft()
            with contextlib.suppress(OSError):  # the device is down: lost
                os.write(self.sink, packet)


def _accept(control: socket.socket, directions: dict[int, _Direction]) -> bool:
    """Take one wire; say whether there will be more."""
    text, handles, _, _ = socket.recv_fds(control, 64, 2)
    if not text:
        return False
    delay_s = float(json.loads(text))
    one, other = handles
    directions[one] = _Direction(one, other, delay_s)
    directions[other] = _Direction(other, one, delay_s)
    control.sendall(b"k")
    return True


def main(number: int) -> None:
    """Carry until the control socket ends."""
    control = socket.socket(fileno=number)
    directions: dict[int, _Direction] = {}
    while True:
        now = time.monotonic()
        heads = [way.waiting[0][0] for way in directions.values() if way.waiting]
        wait = max(0.0, min(heads) - now) if heads else None
        # select, not epoll: its time-out is finer than a millisecond.
        ready, _, _ = select.select([number, *directions], [], [], wait)
        for item in ready:
            if item == number:
                if not _accept(control, directions):
                    return
            elif item in directions and not directions[item].take():
                lost = directions[item]
                for end in (lost.source, lost.sink):  # as with veth: one end takes the other along
                    del directions[end]
                    os.close(end)
        now = time.monotonic()
        for way in directions.values():
            way.give(now)


if __name__ == "__main__":
    main(int(sys.argv[1]))
