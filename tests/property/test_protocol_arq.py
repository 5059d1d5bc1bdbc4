import contextlib
import heapq
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from veilnet.errors import LocalProtocolError, RemoteProtocolError
from veilnet.protocol.arq import (
    MAX_CHUNK_BYTES,
    MAX_MESSAGE_BYTES,
    MAX_PAYLOAD_BYTES,
    MAX_QUEUED_BYTES,
    RESERVED_BYTES,
    WINDOW,
    Chunk,
    ControlStream,
)


class Line:
    """Two streams joined by a line that loses, doubles and reorders, in virtual time."""

    def __init__(self, *, seed: int, loss: float, doubled: float = 0.0, spread_s: float = 0.0):
        self.random = Random(seed)
        self.loss, self.doubled, self.spread_s = loss, doubled, spread_s
        self.now = 0.0
        self.ends = (ControlStream(), ControlStream())
        self.received: tuple[list[bytes], list[bytes]] = ([], [])
        self.sent_chunks = 0
        self.stalled_until = [0.0, 0.0]
        self._heap: list[tuple[float, int, int, bytes]] = []

    def flush(self, end: int) -> None:
        """Put on the line what *end* has to send."""
        if self.now < self.stalled_until[end]:
            return
        for chunk in self.ends[end].transmit(self.now):
            assert len(chunk) <= MAX_CHUNK_BYTES
            copies = (self.random.random() >= self.loss) + (self.random.random() < self.doubled)
            for _ in range(copies):
                self.sent_chunks += 1
                at = self.now + 0.02 + self.random.random() * self.spread_s
                heapq.heappush(self._heap, (at, self.sent_chunks, 1 - end, chunk))

    def run(self, until_s: float) -> None:
        """Let time pass until everything is acknowledged, or *until_s*."""
        self.flush(0)
        self.flush(1)
        while not all(end.idle for end in self.ends):
            times = [(at, 2) for at, *_ in self._heap[:1]]
            times += [
                (max(due, self.stalled_until[end]), end)
                for end in (0, 1)
                if (due := self.ends[end].deadline()) is not None
            ]
            if not times:
                return
            at, what = min(times)
            if at > until_s:
                self.now = until_s
                return
            self.now = max(self.now, at)
            if what < 2:
                self.flush(what)
                continue
            _, number, end, chunk = heapq.heappop(self._heap)
            if self.now < self.stalled_until[end]:
                heapq.heappush(self._heap, (self.stalled_until[end], number, end, chunk))
                continue
            self.received[end].extend(self.ends[end].receive(chunk, self.now))
            self.flush(end)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    loss=st.sampled_from([0.0, 0.01, 0.1, 0.3]),
    doubled=st.sampled_from([0.0, 0.3]),
    spread_s=st.sampled_from([0.0, 0.01, 0.3]),
    sizes=st.tuples(
        st.lists(st.integers(1, 9_000) | st.just(MAX_MESSAGE_BYTES), max_size=3),
        st.lists(st.integers(1, 9_000), max_size=8),
    ),
)
def test_everything_arrives_once_and_in_order(seed, loss, doubled, spread_s, sizes):
    """Whatever the line loses, doubles or reorders, both ends read what the other wrote."""
    line = Line(seed=seed, loss=loss, doubled=doubled, spread_s=spread_s)
    written = [[line.random.randbytes(size) for size in side] for side in sizes]
    for end, messages in enumerate(written):
        for message in messages:
            line.ends[end].send(message)
    line.run(600.0)
    assert [line.received[1], line.received[0]] == written
    assert all(end.idle and not end.lost for end in line.ends)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32))
def test_a_lossless_line_carries_nothing_twice(seed):
    """Without loss every chunk crosses once, and acknowledgements are no more than chunks."""
    line = Line(seed=seed, loss=0.0)
    message = line.random.randbytes(40 * MAX_PAYLOAD_BYTES)
    line.ends[0].send(message)
    line.run(60.0)
    assert line.received[1] == [message]
    assert line.sent_chunks <= 80
    assert line.now < 0.5


def test_a_dead_peer_is_given_up():
    """Without any answer the stream is lost after its patience, and then keeps quiet."""
    stream = ControlStream()
    stream.send(b"hello")
    now, sent = 0.0, len(stream.transmit(0.0))
    while (due := stream.deadline()) is not None:
        now = due
        sent += len(stream.transmit(now))
    assert stream.lost
    assert 15.0 <= now <= 20.0
    assert sent <= 30
    assert stream.transmit(now + 100.0) == []
    with pytest.raises(LocalProtocolError):
        stream.send(b"more")


def test_a_stopped_process_does_not_blame_its_peer():
    """After a stall longer than the patience, the stream tries again before it gives up."""
    line = Line(seed=1, loss=0.0)
    line.ends[0].send(b"before")
    line.flush(0)
    line._heap.clear()  # lost
    line.stalled_until[0] = 60.0
    line.run(120.0)
    assert line.received[1] == [b"before"]
    assert not line.ends[0].lost


def test_patience_starts_anew_while_the_peers_engine_is_heard():
    """A peer whose Python side is silent for 30 s is waited for if the shell says so."""
    line = Line(seed=1, loss=0.0)
    line.ends[0].send(b"wait for me")
    line.stalled_until[1] = 30.0
    for second in range(1, 40):
        line.ends[0].keep_waiting(float(second))
        line.run(float(second))
    line.run(60.0)
    assert line.received[1] == [b"wait for me"]
    assert not line.ends[0].lost


def test_the_queue_is_bounded():
    """Messages for a peer that takes none are refused, not kept."""
    stream = ControlStream()
    for _ in range(MAX_QUEUED_BYTES // MAX_MESSAGE_BYTES):
        stream.send(bytes(MAX_MESSAGE_BYTES))
    with pytest.raises(LocalProtocolError):
        stream.send(b"x")
    assert len(stream.transmit(0.0)) <= WINDOW


@pytest.mark.parametrize("message", [b"", bytes(MAX_MESSAGE_BYTES + 1)])
def test_a_message_has_a_size(message):
    """An empty message and one above 64 KB are our own fault."""
    with pytest.raises(LocalProtocolError):
        ControlStream().send(message)


def test_plain_acknowledgements_are_not_acknowledged():
    """Two idle ends never keep each other busy."""
    a, b = ControlStream(), ControlStream()
    a.send(b"x")
    (chunk,) = a.transmit(0.0)
    assert b.receive(chunk, 0.0) == [b"x"]
    (ack,) = b.transmit(0.0)
    assert a.receive(ack, 0.1) == []
    assert a.transmit(0.1) == b.transmit(0.1) == []
    assert a.deadline() is b.deadline() is None


def test_one_lost_chunk_is_repeated_before_its_timer():
    """Three later chunks acknowledged are enough of a sign; the others are not sent again."""
    a, b = ControlStream(), ControlStream()
    a.send(bytes(8 * MAX_PAYLOAD_BYTES))
    chunks = a.transmit(0.0)
    for chunk in chunks[1:]:
        b.receive(chunk, 0.01)
    (ack,) = b.transmit(0.01)
    a.receive(ack, 0.02)
    (again,) = a.transmit(0.02)
    assert Chunk.decode(again).seq == 0
    assert b.receive(again, 0.03) == [bytes(8 * MAX_PAYLOAD_BYTES)]


@pytest.mark.parametrize(
    "chunk",
    [
        Chunk(0, 1, 0, b"", last=False),  # acknowledges what was never sent
        Chunk(0, 0, 1, b"", last=False),
        Chunk(WINDOW, 0, 0, b"x", last=True),  # beyond the window
    ],
)
def test_what_no_honest_peer_sends_is_its_fault(chunk):
    """Claims about numbers that cannot be are refused."""
    with pytest.raises(RemoteProtocolError):
        ControlStream().receive(chunk.encode(), 0.0)


def test_an_endless_message_is_refused():
    """A peer that never ends its message fills 64 KB and no more."""
    stream = ControlStream()
    chunks = [Chunk(n, 0, 0, bytes(MAX_PAYLOAD_BYTES), last=False).encode() for n in range(100)]
    fitting = MAX_MESSAGE_BYTES // MAX_PAYLOAD_BYTES
    for chunk in chunks[:fitting]:
        assert stream.receive(chunk, 0.0) == []
    with pytest.raises(RemoteProtocolError):
        stream.receive(chunks[fitting], 0.0)


class HostilePeer(RuleBasedStateMachine):
    """Any chunks at any time: only RemoteProtocolError, and bounded tables."""

    def __init__(self):
        super().__init__()
        self.stream = ControlStream()
        self.now = 0.0

    def take(self, data: bytes) -> None:
        """Feed *data*; the shell would close on an error, here it goes on."""
        with contextlib.suppress(RemoteProtocolError):
            self.stream.receive(data, self.now)

    @rule(data=st.binary(max_size=60))
    def noise(self, data):
        """Bytes."""
        self.take(data)

    @rule(
        flags=st.integers(0, 4),
        seq=st.integers(0, 90) | st.integers(0, 2**32 - 1),
        ack=st.integers(0, 90) | st.integers(0, 2**32 - 1),
        sack=st.integers(0, 15) | st.integers(0, 2**64 - 1),
        size=st.integers(0, MAX_CHUNK_BYTES),
    )
    def shaped(self, flags, seq, ack, sack, size):
        """A chunk with a well-formed head."""
        head = bytes((flags,)) + seq.to_bytes(4, "big") + ack.to_bytes(4, "big")
        self.take(head + sack.to_bytes(8, "big") + bytes(size))

    @rule(size=st.integers(1, 5_000))
    def send(self, size):
        """We speak, too."""
        try:
            self.stream.send(bytes(size))
        except LocalProtocolError:
            assert self.stream.lost or self.stream._queued_bytes + size > MAX_QUEUED_BYTES

    @rule(passed_s=st.floats(0, 20))
    def tick(self, passed_s):
        """Time passes."""
        self.now += passed_s
        assert len(self.stream.transmit(self.now)) <= 2 * WINDOW

    @invariant()
    def bounded(self):
        """No table grows with what a peer sends."""
        assert len(self.stream._flight) <= WINDOW
        assert len(self.stream._early) < WINDOW
        assert all(0 < n - self.stream._ack < WINDOW for n in self.stream._early)
        assert self.stream._parts_bytes <= MAX_MESSAGE_BYTES + MAX_PAYLOAD_BYTES
        assert self.stream._queued_bytes <= MAX_QUEUED_BYTES


TestHostilePeer = HostilePeer.TestCase
TestHostilePeer.settings = settings(max_examples=60, deadline=None)


def test_a_full_queue_leaves_room_for_what_must_not_wait():
    """Key exchanges and goodbyes still fit when others do not; that room has an end, too."""
    stream = ControlStream()
    for _ in range(MAX_QUEUED_BYTES // MAX_MESSAGE_BYTES):
        stream.send(bytes(MAX_MESSAGE_BYTES))
    with pytest.raises(LocalProtocolError):
        stream.send(b"x")
    for _ in range(RESERVED_BYTES // 2_048):
        stream.send(bytes(2_048), reserved=True)
    with pytest.raises(LocalProtocolError):
        stream.send(b"x", reserved=True)
