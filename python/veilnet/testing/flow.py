"""A steady TCP flow between two hosts, and how long what happens to the network silences it.

```
with Flow(left, right, address, rate_bps=4e6) as flow:
    flow.wait_for(1 << 18)
    at = time.monotonic()
    ...                                  # break something
    silence_s = flow.outage(at).silence_s    # last byte before to first byte after, at the receiver
    assert flow.finish().intact
```
"""

from __future__ import annotations

import bisect
import itertools
import math
import subprocess
import sys
import threading
import time
from typing import IO, TYPE_CHECKING, Any, Self

import attrs

from veilnet.errors import InternalError, TimedOut
from veilnet.testing import _flow

if TYPE_CHECKING:
    from collections.abc import Callable

    from veilnet.testing.lab import Host

_LATE_S = 0.1
_STEADY_S = 1.0
_LOOK_S = 0.05


@attrs.frozen
class Arrivals:
    """What a receiver has read so far: at *times* so many bytes in all (*totals*), in order.

    The sender owed byte *n* at ``start_s + n // chunk * period_s``.
    Units: seconds, CLOCK_MONOTONIC.
    """

    start_s: float
    chunk: int
    period_s: float
    times: tuple[float, ...]
    totals: tuple[int, ...]

    def gap_s(self, after_s: float, *, until_s: float = math.inf) -> float:
        """Return the longest time without a byte that ended after *after_s*.

        It begins with the last byte before it, which may be earlier than *after_s*.  Up to
        *until_s*, if that is given: a silence that lasts then counts as if it ended.
        """
        first = bisect.bisect_right(self.times, after_s)
        last = bisect.bisect_right(self.times, until_s)
        seen = self.times[max(0, first - 1) : last]
        if math.isfinite(until_s):
            seen += (until_s,)
        return max((later - earlier for earlier, later in itertools.pairwise(seen)), default=0.0)

    def late_s(self, number: int) -> float:
        """Return how late the last byte of arrival *number* was."""
        due = self.start_s + (self.totals[number] - 1) // self.chunk * self.period_s
        return self.times[number] - due

    def recovered_s(self, after_s: float, *, late_s: float = _LATE_S) -> float | None:
        """Return when the flow was on time again, counted from *after_s*; None: not yet.

        On time: no byte is later than *late_s*, for a second that is fully seen.  What was owed
        meanwhile has then arrived too.  0 if it never was late.
        """
        recovered = after_s
        for number in range(bisect.bisect_right(self.times, after_s), len(self.times)):
            if self.late_s(number) > late_s:
                recovered = self.times[number]
        if not self.times or self.times[-1] < recovered + _STEADY_S:
            return None
        return recovered - after_s

    def rate_bps(self, since_s: float, until_s: float) -> float:
        """Return how much arrived between two moments, over the time."""
        first, last = (bisect.bisect_right(self.times, at) for at in (since_s, until_s))
        if first >= last or until_s <= since_s:
            return 0.0
        before = self.totals[first - 1] if first else 0
        return (self.totals[last - 1] - before) * 8 / (until_s - since_s)


@attrs.frozen
class Outage:
    """What a failure did to a flow that has recovered from it.

    *silence_s*: from the last byte before to the first byte after, at the receiver; *recovered_s*:
    from the failure until the flow was on time again.
    """

    silence_s: float
    recovered_s: float


@attrs.frozen
class Ended:
    """How a flow ended: *intact* says that all that was sent arrived, as it was, and no more.

    *lost*: segments that TCP sent again and that had not arrived, as far as the receiver told.
    """

    sent_bytes: int
    received_bytes: int
    intact: bool
    lost: int = 0


class Flow:
    """One such flow under way; a context manager."""

    def __init__(
        self,
        source: Host,
        sink: Host,
        address: str,
        *,
        rate_bps: float = 4e6,
        period_s: float = 0.004,
    ) -> None:
        self._chunk = max(1, round(rate_bps / 8 * period_s))
        self._period_s = period_s
        self._times: list[float] = []
        self._totals: list[int] = []
        self._sha256: bytes | None = None
        self._changed = threading.Condition()
        program = [sys.executable, "-I", "-S", _flow.__file__]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self._receiver = sink.popen([*program, "receive", address], **pipes)
        port = _line(self._receiver)
        send = ["send", address, port, str(self._chunk), str(period_s)]
        self._sender = source.popen([*program, *send], stdin=subprocess.PIPE, **pipes)
        self._start_s = 0.0
        self._thread = threading.Thread(target=self._read, name="flow", daemon=True)

    def __enter__(self) -> Self:
        try:
            self._start_s = float(_line(self._sender).split()[1])
        except BaseException:
            self.__exit__()
            raise
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for process in (self._sender, self._receiver):
            process.kill()
            process.wait()
        if self._thread.is_alive():
            self._thread.join()
        for process in (self._sender, self._receiver):
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()

    def _read(self) -> None:
        said, total = _pipe(self._receiver), 0
        while len(record := said.read(_flow.RECORD.size)) == _flow.RECORD.size:
            at, count = _flow.RECORD.unpack(record)
            total += count
            with self._changed:
                if count:
                    self._times.append(at)
                    self._totals.append(total)
                else:
                    self._sha256 = said.read(32)
                self._changed.notify_all()

    def arrivals(self) -> Arrivals:
        """Return what has arrived so far."""
        with self._changed:
            times, totals = tuple(self._times), tuple(self._totals)
        return Arrivals(self._start_s, self._chunk, self._period_s, times, totals)

    @property
    def received_bytes(self) -> int:
        """How much has arrived so far."""
        with self._changed:
            return self._totals[-1] if self._totals else 0

    def wait_for(self, size_bytes: int, *, timeout_s: float = 10.0) -> None:
        """Wait until so much *more* than now has arrived.  Raises: TimedOut."""
        with self._changed:
            wanted = (self._totals[-1] if self._totals else 0) + size_bytes
            self._wait(lambda: bool(self._totals) and self._totals[-1] >= wanted, timeout_s)

    def wait_until(self, fact: Callable[[Arrivals], bool], *, timeout_s: float = 10.0) -> Arrivals:
        """Wait until *fact* of the arrivals is true; return them.  Raises: TimedOut."""
        deadline = time.monotonic() + timeout_s
        while not fact(seen := self.arrivals()):
            if time.monotonic() >= deadline:
                raise self._too_late(timeout_s)
            time.sleep(_LOOK_S)
        return seen

    def outage(self, after_s: float, *, timeout_s: float = 20.0) -> Outage:
        """Wait until the flow is on time again after what happened at *after_s*.

        Raises: TimedOut: it is not.
        """
        seen = self.wait_until(lambda s: s.recovered_s(after_s) is not None, timeout_s=timeout_s)
        recovered_s = seen.recovered_s(after_s) or 0.0
        return Outage(seen.gap_s(after_s), recovered_s)

    def _wait(self, fact: Callable[[], bool], timeout_s: float) -> None:
        if not self._changed.wait_for(fact, timeout_s):
            raise self._too_late(timeout_s)

    def _too_late(self, timeout_s: float) -> TimedOut:
        silent_s = time.monotonic() - (self._times[-1] if self._times else self._start_s)
        return TimedOut(
            f"the flow did not do so within {timeout_s:g} s",
            hint=f"Its last byte arrived {silent_s:.2f} s ago.",
        )

    def finish(self, *, timeout_s: float = 20.0) -> Ended:
        """End the stream and return how it ended.

        Raises: TimedOut: it did not end in time; InternalError: an end of it died.
        """
        if self._sender.stdin is not None:
            self._sender.stdin.close()
        with self._changed:
            self._wait(lambda: self._sha256 is not None, timeout_s)
            received = self._totals[-1] if self._totals else 0
        _, size, sha256, lost = _line(self._sender).split()
        intact = bytes.fromhex(sha256) == self._sha256
        return Ended(int(size), received, intact=intact, lost=int(lost))


def _pipe(process: subprocess.Popen[Any]) -> IO[bytes]:
    if process.stdout is None:
        raise InternalError("a flow's end was started without a pipe")
    return process.stdout


def _line(process: subprocess.Popen[Any]) -> str:
    line = _pipe(process).readline().decode()
    if not line:
        error = process.stderr.read().decode().strip() if process.stderr else ""
        raise InternalError(f"an end of a flow died: {error}")
    return line.strip()
