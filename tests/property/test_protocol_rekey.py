"""Rekey over the real control stream, with a model of the engine and of the key schedule.

```
   Rekey --actions--> End --chunks--> Wire (loss, delay, in virtual time) --> End --> Rekey
                       |  seals under its sending root; opens under previous, current, next
```
"""

import hashlib
import heapq
import itertools
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veilnet.errors import InternalError, RemoteProtocolError, VeilError
from veilnet.protocol import messages, rekey
from veilnet.protocol.arq import ControlStream
from veilnet.protocol.rekey import (
    REST_MAX_S,
    CloseSession,
    FullHandshake,
    Install,
    Phase,
    Rekey,
    SendMessage,
)
from veilnet.protocol.work import (
    Decapsulate,
    Decapsulated,
    Encapsulate,
    Encapsulated,
    GenerateKem,
    KemGenerated,
    WorkFailed,
)

WIPE_S = 10.0


def digest(*parts: bytes) -> bytes:
    """Hash the parts, each with its length."""
    return hashlib.sha256(b"".join(len(p).to_bytes(4, "big") + p for p in parts)).digest()


class ModelSchedule:
    """The generations of `KeySchedule`, with hashes in place of keys and of X25519."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.generation = 0
        self.root = digest(b"session")
        self.offered: bytes | None = None
        self.unconfirmed: bytes | None = None

    def generation_offer(self, ek: bytes) -> bytes:
        """Begin."""
        assert self.offered is None
        assert self.unconfirmed is None
        number = (self.generation + 1).to_bytes(8, "big")
        self.offered = number + self.random.randbytes(32) + ek
        return self.offered

    def generation_answer(self, offer: bytes, ct: bytes, ss: bytes) -> bytes:
        """Answer."""
        assert self.offered is None
        self._check(offer)
        body = offer[:8] + self.random.randbytes(32) + ct
        self.unconfirmed = digest(self.root, ss, offer, body)
        self.root, self.generation = self.unconfirmed, self.generation + 1
        return body + digest(b"answer", self.root)

    def generation_confirm(self, answer: bytes, ss: bytes) -> bytes:
        """Confirm."""
        assert self.offered is not None
        self._check(answer)
        root = digest(self.root, ss, self.offered, answer[:-32])
        if answer[-32:] != digest(b"answer", root):
            raise RemoteProtocolError("the answer's MAC is wrong")
        self.root, self.offered = root, None
        self.generation += 1
        return digest(b"confirm", root)

    def generation_finish(self, confirm: bytes) -> None:
        """Finish."""
        assert self.unconfirmed is not None
        if confirm != digest(b"confirm", self.unconfirmed):
            raise RemoteProtocolError("the confirmation's MAC is wrong")
        self.unconfirmed = None

    def generation_abort(self) -> None:
        """Drop our own offer."""
        assert self.offered is not None
        self.offered = None

    def _check(self, message: bytes) -> None:
        if message[:8] != (self.generation + 1).to_bytes(8, "big"):
            raise RemoteProtocolError("another generation is due")


def work(action: Any, random: Random) -> Any:
    """Do KEM work with hashes."""
    match action:
        case GenerateKem():
            dk = random.randbytes(32)
            return KemGenerated(digest(b"ek", dk), dk)
        case Encapsulate(ek):
            ct = random.randbytes(32)
            return Encapsulated(ct, digest(ek, ct))
        case Decapsulate(candidate, dk, ct):
            return Decapsulated(candidate, digest(digest(b"ek", dk), ct))
    raise AssertionError(action)


class End:
    """One node: its machine, its control stream, and a model of its engine's keys."""

    def __init__(self, world: "World", *, initiator: bool) -> None:
        self.world = world
        self.schedule = ModelSchedule(world.random)
        self.stream = ControlStream()
        self.machine = Rekey(
            initiator=initiator,
            schedule=self.schedule,  # type: ignore[arg-type]
            rng=world.random,
            started_s=world.now,
        )
        self.previous: tuple[bytes, float] | None = None
        self.current = self.sending = self.schedule.root
        self.next: bytes | None = None
        self.packets = 0
        self.closed: VeilError | None = None
        self.full_handshakes: list[float] = []
        self.generations: list[float] = []
        self.said: list[type] = []
        self.stalled_until_s = 0.0
        self.busy = self.needed = False

    # the engine, which never stalls

    def seal(self, payload: bytes) -> tuple[bytes, bytes]:
        """Name the root that seals *payload* now."""
        return self.sending, payload

    def open(self, sealed: tuple[bytes, bytes]) -> bytes:
        """Return the payload, moving to the next generation as the engine does."""
        root, payload = sealed
        if root == self.next:
            self.move(root)
            self.sending = root
        old = self.previous
        fresh = old is not None and self.world.now < old[1] and root == old[0]
        assert root == self.current or fresh, "a datagram that its receiver has no key for"
        return payload

    def move(self, root: bytes) -> None:
        """Receive under *root* first; what came before is wiped 10 s later."""
        self.previous = (self.current, self.world.now + WIPE_S)
        self.current, self.next = root, None

    # Python, which may stall

    def python(self, job: Callable[[], None]) -> None:
        """Run *job* now, or when Python is back."""
        if self.world.now < self.stalled_until_s:
            self.world.at(self.stalled_until_s, lambda: self.python(job))
        else:
            job()

    def act(self, actions: list[Any]) -> None:
        """Carry out what the machine asks for."""
        for action in actions:
            match action:
                case SendMessage(message):
                    self.said.append(type(message))
                    self.stream.send(messages.encode(message))
                case Install(_, send):
                    if send:
                        self.move(self.schedule.root)
                        self.sending = self.current
                    else:
                        self.next = self.schedule.root
                    self.generations.append(self.world.now)
                case CloseSession(error):
                    self.closed = error
                case FullHandshake():
                    self.full_handshakes.append(self.world.now)
                case _:
                    result = work(action, self.world.random)
                    later = self.world.now + self.world.random.uniform(0.0, 0.05)
                    self.world.at(later, partial(self.python, partial(self.done, result)))
        self.flush()

    def done(self, result: Any) -> None:
        """Take what a worker made."""
        self.act(self.machine.handle(result, self.world.now))

    def flush(self) -> None:
        """Send what the stream has, and come back when it must be looked at again."""
        for chunk in self.stream.transmit(self.world.now):
            self.world.carry(self, self.seal(chunk), control=True)
        due = self.stream.deadline()
        if due is not None:
            self.world.at(due, lambda: self.python(self.flush))

    def arrived(self, sealed: tuple[bytes, bytes], *, control: bool) -> None:
        """Take a datagram."""
        payload = self.open(sealed)
        if control:
            self.python(lambda: self.chunk(payload))
        else:
            self.packets += 1

    def chunk(self, payload: bytes) -> None:
        """Take a chunk of control."""
        for data in self.stream.receive(payload, self.world.now):
            message: Any = messages.decode(data).message
            self.act(self.machine.handle(message, self.world.now))
        self.flush()

    def start(self) -> None:
        """Begin a generation, as if the engine had asked for one."""
        self.act(self.machine.stale(self.world.now))

    def second(self) -> None:
        """What the shell does every second: traffic counters and patience."""
        if self.packets:
            self.stream.keep_waiting(self.world.now)
        now, how = self.world.now, {"busy": self.busy, "needed": self.needed}
        self.act(self.machine.traffic(self.packets, now, **how))


class World:
    """Two ends and the wire between them, in virtual time."""

    def __init__(
        self, *, seed: int, loss: float = 0.0, delay_s: float = 0.02, traffic: bool = True
    ):
        self.random = Random(seed)
        self.loss, self.delay_s, self.traffic = loss, delay_s, traffic
        self.now = 1_000.0
        self._count = itertools.count()
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self.ends = (End(self, initiator=True), End(self, initiator=False))

    def at(self, time_s: float, job: Callable[[], None]) -> None:
        """Run *job* at *time_s*."""
        heapq.heappush(self._heap, (max(time_s, self.now), next(self._count), job))

    def carry(self, sender: End, sealed: tuple[bytes, bytes], *, control: bool) -> None:
        """Deliver a datagram after a random delay, or lose it."""
        if self.random.random() < self.loss:
            return
        receiver = self.ends[sender is self.ends[0]]
        delay_s = self.random.uniform(self.delay_s, 3 * self.delay_s)
        self.at(self.now + delay_s, lambda: receiver.arrived(sealed, control=control))

    def run(self, for_s: float) -> None:
        """Let *for_s* seconds pass, or less if an end closes."""
        end_s = self.now + for_s
        self._every_second(end_s)
        while self._heap and self._heap[0][0] <= end_s:
            self.now, _, job = heapq.heappop(self._heap)
            job()
            if any(end.closed for end in self.ends):
                return
        self.now = end_s

    def _every_second(self, end_s: float) -> None:
        for end in self.ends:
            if self.traffic:
                self.carry(end, end.seal(b"data"), control=False)
            end.python(end.second)
        if self.now < end_s:
            self.at(self.now + 1.0, lambda: self._every_second(end_s))

    def agree(self) -> bool:
        """Whether both ends hold one root, and send under it."""
        a, b = self.ends
        roots = {a.schedule.root, b.schedule.root, a.sending, b.sending, a.current, b.current}
        return len(roots) == 1 and a.machine.phase is b.machine.phase is Phase.REST


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    loss=st.sampled_from([0.0, 0.01, 0.1, 0.3]),
    delay_s=st.sampled_from([0.001, 0.02, 0.5]),
)
def test_generations_follow_each_other_whatever_the_line_does(seed, loss, delay_s):
    """Loss and reordering: keys are renewed in time and no datagram lacks its key."""
    world = World(seed=seed, loss=loss, delay_s=delay_s)
    world.run(1_500.0)
    a, b = world.ends
    assert a.closed is b.closed is None
    assert 1_500 / 200 <= a.schedule.generation + 1 <= 1_500 / 90 + 2
    assert abs(a.schedule.generation - b.schedule.generation) <= 1
    times = [1_000.0, *a.generations, world.now]
    assert all(later - earlier <= 200.0 for earlier, later in itertools.pairwise(times))
    for end in world.ends:
        end.machine._due_s = float("inf")  # let the last exchange come to its end
    world.run(30.0)
    assert world.agree()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    loss=st.sampled_from([0.0, 0.3]),
    apart_s=st.floats(-0.3, 0.3),
    delay_s=st.sampled_from([0.001, 0.05]),
)
def test_both_may_start_at_once(seed, loss, apart_s, delay_s):
    """Whoever offers first, one new generation results and the initiator's offer made it."""
    world = World(seed=seed, loss=loss, delay_s=delay_s)
    starts = (world.now + 1.0, world.now + 1.0 + apart_s)
    for end, start_s in zip(world.ends, starts, strict=True):
        world.at(start_s, end.start)
    world.run(60.0)
    assert world.agree()
    assert world.ends[0].schedule.generation in (1, 2)


def test_the_initiator_wins():
    """Offers that cross are one exchange: the responder drops its own."""
    world = World(seed=7)
    for end in world.ends:
        end.act(end.machine.stale(world.now))
    world.run(30.0)
    assert world.agree()
    assert world.ends[0].said == [messages.GenerationOffer, messages.GenerationConfirm]
    assert world.ends[1].said == [messages.GenerationOffer, messages.GenerationAnswer]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    loss=st.sampled_from([0.0, 0.1]),
    stall_s=st.sampled_from([5.0, 60.0, 180.0]),
    at_s=st.floats(1.0, 200.0),
    both=st.booleans(),
)
def test_python_may_stall(seed, loss, stall_s, at_s, both):
    """A Python side that is gone for three minutes costs no datagram and no session."""
    world = World(seed=seed, loss=loss)

    def stall() -> None:
        for end in world.ends[: 1 + both]:
            end.stalled_until_s = world.now + stall_s

    world.at(world.now + at_s, stall)
    world.run(800.0)
    a, b = world.ends
    assert a.closed is b.closed is None
    assert not a.stream.lost
    assert not b.stream.lost
    assert a.schedule.generation >= 3
    for end in world.ends:
        end.machine._due_s = float("inf")
    world.run(30.0)
    assert world.agree()


def test_an_idle_session_waits_for_traffic_and_then_ends():
    """Without traffic no generation is made, and ten minutes are the end."""
    world = World(seed=1, traffic=False)
    world.run(590.0)
    assert world.ends[0].schedule.generation == 0
    world.run(20.0)
    assert any(end.closed for end in world.ends)
    assert world.now == pytest.approx(1_600.0, abs=1.0)


@pytest.mark.parametrize("which", [0, 1])
def test_a_link_that_one_end_needs_lives_for_hours_without_a_packet(which):
    """A haven or a home carries nothing but control: its keys are renewed all the same, seldom."""
    world = World(seed=5, traffic=False)
    world.ends[which].needed = True
    world.run(2 * 3_600.0)
    assert [end.closed for end in world.ends] == [None, None]
    times = [1_000.0, *world.ends[0].generations, world.now]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert sum(gaps) / len(gaps) > 200.0
    assert max(gaps) < REST_MAX_S + 10.0


def test_a_link_of_circuits_gets_keys_as_any_busy_one():
    """Its frames are not counted as packets, and a circuit that is gone by then has been there."""
    world = World(seed=5, traffic=False)
    world.ends[0].busy = True
    world.run(3_000.0)
    world.ends[0].needed = True
    world.run(30.0)
    world.ends[0].busy = False
    before = len(world.ends[0].generations)
    world.run(180.0)
    assert len(world.ends[0].generations) > before
    times = [1_000.0, *world.ends[0].generations, world.now]
    assert all(later - earlier <= 200.0 for earlier, later in itertools.pairwise(times))


def test_traffic_after_a_pause_begins_a_generation_at_once():
    """A due generation starts with the first packet, not a period later."""
    world = World(seed=1, traffic=False)
    world.run(300.0)
    world.traffic = True
    world.run(5.0)
    assert world.ends[0].schedule.generation == 1
    assert world.agree()


def test_a_peer_that_never_answers_ends_the_session_in_time():
    """The hard limit holds though our own side keeps trying."""
    world = World(seed=1)
    world.ends[1].stalled_until_s = float("inf")
    world.run(700.0)
    assert world.ends[0].closed is not None
    assert world.now == pytest.approx(1_600.0, abs=1.0)
    assert world.ends[0].machine.deadline() is None


def test_a_full_handshake_is_due_every_hour():
    """The initiator is asked first; the responder only if nothing came of it."""
    world = World(seed=3)
    world.run(3_550.0)
    assert world.ends[0].full_handshakes == []
    world.run(200.0)
    assert world.ends[0].full_handshakes[0] == pytest.approx(4_600.0, abs=1.5)
    assert world.ends[1].full_handshakes == []
    world.run(200.0)
    assert world.ends[1].full_handshakes[0] == pytest.approx(4_900.0, abs=1.5)


def machine(*, initiator: bool = True) -> Rekey:
    """A machine of its own, at time 0."""
    model: Any = ModelSchedule(Random(0))
    return Rekey(initiator=initiator, schedule=model, rng=Random(0), started_s=0.0)


@pytest.mark.parametrize(
    "message",
    [
        messages.GenerationAnswer(data=bytes(104)),
        messages.GenerationConfirm(data=bytes(32)),
    ],
)
def test_what_was_never_asked_for_ends_the_session(message):
    """An answer without an offer, and a confirmation without an answer, are misbehaviour."""
    tested = machine()
    (action,) = tested.handle(message, 1.0)
    assert isinstance(action, CloseSession)
    assert isinstance(action.error, RemoteProtocolError)
    assert tested.handle(message, 2.0) == tested.tick(9_999.0) == []


def test_a_forged_answer_ends_the_session():
    """An answer whose MAC does not fit never installs anything."""
    tested = machine()
    (generate,) = tested.stale(1.0)
    (offer,) = tested.handle(work(generate, Random(1)), 1.0)
    assert isinstance(offer, SendMessage)
    forged = messages.GenerationAnswer(data=offer.message.data[:8] + bytes(96))
    (decapsulate,) = tested.handle(forged, 2.0)
    (close,) = tested.handle(work(decapsulate, Random(1)), 2.0)
    assert isinstance(close, CloseSession)
    assert tested.generation == 0


def test_our_own_trouble_is_tried_again():
    """A worker that cannot make a key pair delays the generation and no more."""
    tested = machine()
    tested.stale(1.0)
    assert tested.handle(WorkFailed(InternalError("no memory")), 1.0) == []
    assert tested.tick(1.0 + rekey.RETRY_S) == [GenerateKem()]


def test_no_secret_is_shown():
    """Neither the machine nor its actions print a key."""
    tested = machine()
    tested.stale(1.0)
    tested.handle(KemGenerated(b"E" * 32, b"D" * 32), 1.0)
    assert "DDDD" not in repr(tested)
    assert "DDDD" not in repr(Decapsulate(0, b"D" * 32, b"c"))
