"""A reliable, ordered stream of control messages over sealed datagrams that may get lost.

```
chunk:  0       1        5        9         17
        | flags | seq    | ack    | sack    | payload, 0..1,083 bytes |
          u8      u32      u32      u64
flags:  1 carries a payload, numbered `seq`     2 ... the last of its message
ack:    the first number not yet received       sack bit i: number ack + 1 + i is here
```
Every chunk carries an acknowledgement; one without a payload is only that and is never itself
acknowledged.  At most 64 chunks are in flight, just above one message of 64 KB.

Invariant of the sender: a payload leaves `_flight` only when the peer acknowledged its number.
Invariant of the receiver: `_early` holds numbers in (ack, ack + 64) and nothing else.

The engine seals, numbers and replay-protects the datagrams, so what arrives here came from the
peer, in any order, some of it missing; the peer itself is not trusted further than that.

Source: RFC 6298 (timer), RFC 5681 (window); Karn's rule for samples.
"""

from __future__ import annotations

import struct
from collections import deque
from typing import Final

from attrs import define, frozen

from veilnet.errors import LocalProtocolError, RemoteProtocolError

MAX_CHUNK_BYTES: Final = 1_100
MAX_MESSAGE_BYTES: Final = 65_536
WINDOW: Final = 64
"""Chunks in flight at most, and how far the receiver keeps what came early."""

MAX_QUEUED_BYTES: Final = 262_144
RESERVED_BYTES: Final = 8_192
"""Beyond that, for what must not wait: an exchange of keys that has begun, a goodbye."""
PATIENCE_S: Final = 15.0
"""So long without progress, after `_MIN_TRIES` tries, the stream is lost."""

_HEAD: Final = struct.Struct(">BIIQ")
MAX_PAYLOAD_BYTES: Final = MAX_CHUNK_BYTES - _HEAD.size

_PAYLOAD, _LAST = 1, 2
_MIN_TRIES: Final = 6  # a process that was stopped wakes up late, having tried nothing
_FIRST_RTO_S: Final = 0.5
_MIN_RTO_S: Final = 0.2
_MAX_RTO_S: Final = 3.0
_BACKED_OFF_RTO_S: Final = 1.0  # control is little: at 30 % loss a long pause costs more than a try
_REORDERING: Final = 3  # later chunks acknowledged before a missing one is sent again
_FIRST_WINDOW: Final = 16.0
_MIN_WINDOW: Final = 2.0


@frozen
class Chunk:
    """One parsed chunk; *payload* is empty in a plain acknowledgement."""

    seq: int
    ack: int
    sack: int
    payload: bytes
    last: bool

    def encode(self) -> bytes:
        """Return the chunk's bytes."""
        flags = (_PAYLOAD if self.payload else 0) | (_LAST if self.last else 0)
        return _HEAD.pack(flags, self.seq, self.ack, self.sack) + self.payload

    @classmethod
    def decode(cls, data: bytes) -> Chunk:
        """Return the chunk in *data*.   Raises: RemoteProtocolError."""
        if not _HEAD.size <= len(data) <= MAX_CHUNK_BYTES:
            raise RemoteProtocolError(f"a control chunk of {len(data)} bytes")
        flags, seq, ack, sack = _HEAD.unpack_from(data)
        payload = data[_HEAD.size :]
        if flags not in (0, _PAYLOAD, _PAYLOAD | _LAST) or bool(payload) != bool(flags & _PAYLOAD):
            raise RemoteProtocolError(f"a control chunk with flags {flags:#04x}")
        return cls(seq, ack, sack, payload, bool(flags & _LAST))


@define
class _Flight:
    payload: bytes
    last: bool
    sent_s: float
    timeout_s: float
    tries: int = 1
    sacked: bool = False
    passed: int = 0
    """Later chunks acknowledged since it was last sent."""


class ControlStream:
    """Both directions of one session's control messages.

    The shell calls `transmit` after `send`, after `receive`, and at `deadline()`.

    Units: *now* seconds, monotonic.
    """

    def __init__(self, *, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._lost = False
        # send side
        self._queue: deque[tuple[bytes, bool]] = deque()
        self._queued_bytes = 0
        self._flight: dict[int, _Flight] = {}  # in order of number
        self._next = 0
        self._progress_s = 0.0
        self._tries_since_progress = 0
        self._window = _FIRST_WINDOW
        self._cut_s: float | None = None
        self._srtt_s: float | None = None
        self._rttvar_s = 0.0
        # receive side
        self._ack = 0
        self._early: dict[int, Chunk] = {}
        self._parts: list[bytes] = []
        self._parts_bytes = 0
        self._ack_owed = False

    def __repr__(self) -> str:
        state = "lost" if self._lost else "idle" if self.idle else "busy"
        return f"<ControlStream {state}, sent {self._next}, received {self._ack}>"

    @property
    def idle(self) -> bool:
        """Whether the peer has acknowledged everything."""
        return not self._queue and not self._flight

    @property
    def lost(self) -> bool:
        """Whether the stream gave up: nothing more is sent, for the peer may have lost it."""
        return self._lost

    @property
    def rto_s(self) -> float:
        """How long the first try of a chunk waits for its acknowledgement."""
        if self._srtt_s is None:
            return _FIRST_RTO_S
        return min(max(self._srtt_s + 4 * self._rttvar_s, _MIN_RTO_S), _MAX_RTO_S)

    def send(self, message: bytes, *, reserved: bool = False) -> None:
        """Queue *message*; *reserved* may use the space that others leave free.

        Raises: LocalProtocolError: empty, above 64 KB, the queue is full, or the stream is lost.
        """
        if self._lost:
            raise LocalProtocolError("the control stream is lost")
        if not 0 < len(message) <= MAX_MESSAGE_BYTES:
            raise LocalProtocolError(f"a control message of {len(message)} bytes")
        most = MAX_QUEUED_BYTES + (RESERVED_BYTES if reserved else 0)
        if self._queued_bytes + len(message) > most:
            raise LocalProtocolError("the control stream's queue is full: the peer is slow")
        self._queued_bytes += len(message)
        for start in range(0, len(message), MAX_PAYLOAD_BYTES):
            end = start + MAX_PAYLOAD_BYTES
            self._queue.append((message[start:end], end >= len(message)))

    def receive(self, data: bytes, now: float) -> list[bytes]:
        """Take one chunk and return the messages that it completed.

        Raises: RemoteProtocolError: what no honest peer sends; close the session.
        """
        chunk = Chunk.decode(data)
        self._take_ack(chunk, now)
        return self._take_payload(chunk) if chunk.payload else []

    def transmit(self, now: float) -> list[bytes]:
        """Return the chunks to send now: repeated, new, or a plain acknowledgement."""
        out: list[Chunk] = []
        if not self._lost:
            out = self._repeats(now)
            if self._starved(now):
                self._lost = True
                self._queue.clear()
                self._flight.clear()
                out.clear()
            else:
                out += self._fresh(now)
        if self._ack_owed and not out:
            out.append(self._chunk(self._next, b"", last=False))
        self._ack_owed = False
        return [chunk.encode() for chunk in out]

    def deadline(self) -> float | None:
        """Return when `transmit` must run at the latest; None while nothing is awaited."""
        waiting = [f.sent_s + f.timeout_s for f in self._flight.values() if not f.sacked]
        return min(waiting, default=None)

    def keep_waiting(self, now: float) -> None:
        """Start patience anew: the peer's engine is heard, only its Python side is silent."""
        self._progress_s = now
        self._tries_since_progress = 0

    # --- sending -----------------------------------------------------------------------------

    def _starved(self, now: float) -> bool:
        return (
            bool(self._flight)
            and now - self._progress_s >= self._patience_s
            and self._tries_since_progress >= _MIN_TRIES
        )

    def _chunk(self, seq: int, payload: bytes, *, last: bool) -> Chunk:
        sack = sum(1 << (early - self._ack - 1) for early in self._early)
        return Chunk(seq, self._ack, sack, payload, last)

    def _repeats(self, now: float) -> list[Chunk]:
        out = []
        oldest = next(iter(self._flight), None)
        for seq, flight in self._flight.items():
            if flight.sacked:
                continue
            late = now >= flight.sent_s + flight.timeout_s
            if not late and flight.passed < _REORDERING:
                continue
            if late:
                # Later chunks of the same burst are as late: the pause is doubled by the oldest.
                doubled = min(2 * flight.timeout_s, max(_BACKED_OFF_RTO_S, self.rto_s))
                flight.timeout_s = doubled
                self._tries_since_progress += seq == oldest
            flight.sent_s = now
            flight.tries += 1
            flight.passed = 0
            self._shrink(now)
            out.append(self._chunk(seq, flight.payload, last=flight.last))
            if len(out) >= self._window:
                break
        return out

    def _fresh(self, now: float) -> list[Chunk]:
        out = []
        unacknowledged = sum(not flight.sacked for flight in self._flight.values())
        oldest = next(iter(self._flight), self._next)
        while (
            self._queue
            and unacknowledged < int(self._window)
            and self._next - oldest < WINDOW
            and self._next < 2**32 - 1
        ):
            payload, last = self._queue.popleft()
            self._queued_bytes -= len(payload)
            if not self._flight:
                self.keep_waiting(now)
            self._flight[self._next] = _Flight(payload, last, now, self.rto_s)
            out.append(self._chunk(self._next, payload, last=last))
            self._next += 1
            unacknowledged += 1
        return out

    def _shrink(self, now: float) -> None:
        # Once per round trip: the losses of one burst are one sign of congestion.
        if self._cut_s is None or now - self._cut_s >= (self._srtt_s or _FIRST_RTO_S):
            self._window = max(self._window / 2, _MIN_WINDOW)
            self._cut_s = now

    # --- acknowledgements ----------------------------------------------------------------------

    def _take_ack(self, chunk: Chunk, now: float) -> None:
        highest = chunk.ack + chunk.sack.bit_length()
        if chunk.ack > self._next or (chunk.sack and highest >= self._next):
            raise RemoteProtocolError("the peer acknowledges what was never sent")
        newly = [
            (seq, flight)
            for seq, flight in self._flight.items()
            if not flight.sacked
            and (seq < chunk.ack or (seq > chunk.ack and chunk.sack >> (seq - chunk.ack - 1) & 1))
        ]
        for seq, flight in newly:
            flight.sacked = True
            if flight.tries == 1:
                self._sample(now - flight.sent_s)
            for earlier, other in self._flight.items():
                if earlier >= seq:
                    break
                # Only what was sent later than the missing one says that it is missing.
                if not other.sacked and other.sent_s <= flight.sent_s:
                    other.passed += 1
        for seq in [seq for seq in self._flight if seq < chunk.ack]:
            del self._flight[seq]
        if newly:
            self._window = min(self._window + len(newly) / self._window, float(WINDOW))
            self.keep_waiting(now)

    def _sample(self, rtt_s: float) -> None:
        rtt_s = max(rtt_s, 0.0)
        if self._srtt_s is None:
            self._srtt_s, self._rttvar_s = rtt_s, rtt_s / 2
        else:
            self._rttvar_s += (abs(self._srtt_s - rtt_s) - self._rttvar_s) / 4
            self._srtt_s += (rtt_s - self._srtt_s) / 8

    # --- receiving -----------------------------------------------------------------------------

    def _take_payload(self, chunk: Chunk) -> list[bytes]:
        if chunk.seq >= self._ack + WINDOW:
            raise RemoteProtocolError("the peer sends beyond its window")
        self._ack_owed = True
        if chunk.seq < self._ack or chunk.seq in self._early:
            return []  # a repeat whose acknowledgement got lost
        self._early[chunk.seq] = chunk
        messages = []
        while (ready := self._early.pop(self._ack, None)) is not None:
            self._ack += 1
            self._parts_bytes += len(ready.payload)
            if self._parts_bytes > MAX_MESSAGE_BYTES:
                raise RemoteProtocolError(f"a control message above {MAX_MESSAGE_BYTES} bytes")
            self._parts.append(ready.payload)
            if ready.last:
                messages.append(b"".join(self._parts))
                self._parts.clear()
                self._parts_bytes = 0
        return messages
