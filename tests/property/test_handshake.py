"""VNH1 whole: both machines, real KEM and signatures, and the engine's own gate.

```
 Node I                                   Wire                                   Node R
 Initiation - Gate  --datagrams-->  drop, double, delay, flip  --datagrams-->  Gate - Acceptance
```
Time is virtual, every random choice comes from one seed.
"""

import heapq
import itertools
from collections.abc import Callable
from functools import partial
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veilnet import crypto
from veilnet._engine import (
    CandidateReceived,
    Established,
    Gate,
    HandshakeReceived,
    InitReceived,
    KeySchedule,
)
from veilnet._engine import SessionConfirmed as EngineConfirmed
from veilnet.errors import PeerMisbehaved, PeerUnreachable, RemoteProtocolError, VeilError
from veilnet.protocol import handshake as hs
from veilnet.protocol.fields import Endpoint
from veilnet.protocol.rekey import CloseSession, Install, Rekey, SendMessage
from veilnet.protocol.work import Primitives, WorkFailed, perform
from veilnet.units import NetworkId

BACKEND = crypto.load("cryptography")
IDENTITIES = [crypto.Identity.create(BACKEND) for _ in range(3)]
NETWORK = NetworkId(b"N" * 32)
K_NET, K_JOIN = b"K" * 32, b"J" * 32
DOOR = b"D" * 32
NOWHERE = ("192.0.2.99", 9)


def credential_of(identity: crypto.Identity) -> bytes:
    """What stands for a credential here: a network's own check is tested with networks."""
    return b"member " + identity.peer_id


def check_credential(credential: bytes) -> Any:
    """Return the membership that *credential* stands for."""
    if not credential.startswith(b"member "):
        raise RemoteProtocolError("no credential")
    return SimpleNamespace(peer_id=credential[7:])


class Node:
    """One node: a gate, and the shell's part: it carries out what the machines ask for."""

    def __init__(self, world: "World", identity: crypto.Identity, address: Endpoint) -> None:
        self.world, self.identity, self.address = world, identity, address
        self.gate: Any = Gate(world.random.getrandbits(63))
        self.terms: dict[int, hs.Terms] = {}
        self.calls: dict[int, hs.Initiation] = {}
        self.answers: dict[int, hs.Acceptance] = {}
        self.established: dict[int, Established] = {}
        self.ends: dict[type, list[Any]] = {hs.Confirmed: [], hs.Accepted: [], hs.Failed: []}
        self.sent = 0
        self.psks: dict[bytes, bytes] = {}
        self.shown = self.local(hs.Mode.FULL)
        self.primitives = Primitives(
            kem=BACKEND.kem(1),
            signatures=BACKEND.signatures(1),
            signer=identity,
            check_credential=check_credential,
        )

    @property
    def confirmed(self) -> list[hs.Confirmed]:
        """Sessions that this node called for."""
        return self.ends[hs.Confirmed]

    @property
    def accepted(self) -> list[hs.Accepted]:
        """Sessions that others called for."""
        return self.ends[hs.Accepted]

    @property
    def errors(self) -> list[VeilError]:
        """Why there were no others."""
        return [failed.error for failed in self.ends[hs.Failed]]

    def open_door(self, terms: hs.Terms, key: bytes = DOOR) -> None:
        """Answer strangers that hold *key* and agree to *terms*."""
        self.terms[self.gate.add_door(key)] = terms

    def local(self, mode: hs.Mode) -> hs.LocalIdentity:
        """What this node shows."""
        return hs.LocalIdentity(
            peer_id=self.identity.peer_id,
            public_key=self.identity.public_key,
            credential=credential_of(self.identity) if mode is hs.Mode.FULL else b"",
        )

    def call(
        self,
        peer: crypto.Identity,
        terms: hs.Terms,
        *endpoints: Endpoint,
        door: bytes = DOOR,
        psk: tuple[bytes, bytes] | None = None,
    ) -> hs.Initiation:
        """Begin a handshake."""
        machine = hs.Initiation(
            terms=terms,
            identity=self.local(terms.mode),
            responder=peer.peer_id,
            door_key=door,
            endpoints=endpoints,
            schedules=KeySchedule,
            rng=self.world.random,
            psk=psk,
        )
        self.drive(machine, machine.start(self.world.now))
        return machine

    def drive(self, machine: hs.Initiation | hs.Acceptance, actions: list[hs.Action]) -> None:
        """Carry out *actions* and what follows from them."""
        todo = list(actions)
        while todo:
            action = todo.pop(0)
            if isinstance(action, hs.Work):
                todo += machine.handle(perform(action, self.primitives), self.world.now)
                continue
            try:
                self.engine(action)
            except VeilError as error:
                if not isinstance(action, hs.Try):
                    todo += machine.handle(WorkFailed(error), self.world.now)
        if isinstance(machine, hs.Initiation) and machine.sid is not None:
            self.calls.setdefault(machine.sid, machine)
        elif isinstance(machine, hs.Acceptance) and machine.sid is not None:
            self.answers.setdefault(machine.sid, machine)
        self.poll()
        due = machine.deadline()
        if due is not None:
            self.world.at(due, partial(self.tick, machine))

    def tick(self, machine: hs.Initiation | hs.Acceptance) -> None:
        """Let *machine* see the time, if it is still due."""
        due = machine.deadline()
        if due is not None and due <= self.world.now:
            self.drive(machine, machine.tick(self.world.now))

    def engine(self, action: hs.Action) -> None:
        """Make the one call of the engine that *action* names, or note the end."""
        gate = self.gate
        match action:
            case hs.SendHello(schedule, door_key, endpoint):
                gate.hello(schedule, door_key=door_key, endpoint=endpoint)
            case hs.Respond(schedule, init, message):
                gate.respond(schedule, init, message)
            case hs.Try(sid, candidate, ss):
                gate.candidate(sid, candidate, ss)
            case hs.Authenticate(sid, message, psk):
                self.established[sid] = gate.authenticate(sid, message, psk=psk)
            case hs.Accept(sid, psk):
                self.established[sid] = gate.accept(sid, psk=psk)
            case hs.Dismiss(init):
                gate.dismiss(init)
            case hs.Reject(sid) | hs.Resend(sid) | hs.Abandon(sid):
                {hs.Reject: gate.reject, hs.Resend: gate.resend, hs.Abandon: gate.abandon}[
                    type(action)
                ](sid)
            case _:
                self.ends[type(action)].append(action)

    def receive(self, datagram: bytes, source: Endpoint) -> None:
        """Take a datagram."""
        self.gate.receive(datagram, source, int(self.world.now * 1e9))
        self.poll()

    def poll(self) -> None:
        """Send what the gate wants sent, and hand its events to the machines."""
        for output in self.gate.poll():
            if isinstance(output, tuple):
                _, endpoint, datagram = output
                self.sent += 1
                self.world.carry(self, endpoint, datagram)
            else:
                self.event(output)

    def event(self, event: Any) -> None:
        """Hand one event to the machine that it belongs to."""
        machine: hs.Initiation | hs.Acceptance | None
        match event:
            case InitReceived():
                machine = hs.Acceptance(
                    init=event,
                    terms=self.terms[event.door],
                    identity=self.shown,
                    schedules=KeySchedule,
                    psks=self.psks,
                )
                self.drive(machine, machine.start(self.world.now))
                return
            case CandidateReceived():
                step: Any = hs.CandidateArrived(event.candidate, event.ct, event.source)
            case HandshakeReceived():
                step = hs.MessageOpened(event.message, event.source)
            case EngineConfirmed():
                step = hs.SessionConfirmed()
            case _:
                return
        machine = self.calls.get(event.sid) or self.answers.get(event.sid)
        if machine is not None:
            self.drive(machine, machine.handle(step, self.world.now))


Tamper = Callable[[Node, int, bytes], list[bytes]]
"""`(sender, number of the datagram, datagram) -> what the wire delivers`."""


class World:
    """Nodes, and the wire between them, in virtual time."""

    def __init__(self, *, seed: int, tamper: Tamper | None = None, spread_s: float = 0.0) -> None:
        self.random = Random(seed)
        self.tamper, self.spread_s = tamper, spread_s
        self.now = 100.0
        self._count = itertools.count()
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self.nodes: dict[Endpoint, Node] = {}
        self.i = self.node(IDENTITIES[0], ("192.0.2.1", 1001))
        self.r = self.node(IDENTITIES[1], ("192.0.2.2", 1002))

    def node(self, identity: crypto.Identity, address: Endpoint) -> Node:
        """Add a node."""
        self.nodes[address] = Node(self, identity, address)
        return self.nodes[address]

    def at(self, time_s: float, job: Callable[[], None]) -> None:
        """Run *job* at *time_s*."""
        heapq.heappush(self._heap, (max(time_s, self.now), next(self._count), job))

    def carry(self, sender: Node, to: Endpoint, datagram: bytes) -> None:
        """Deliver what the tampering leaves of a datagram."""
        receiver = self.nodes.get(to)
        if receiver is None:
            return
        copies = [datagram] if self.tamper is None else self.tamper(sender, sender.sent, datagram)
        for copy in copies:
            delay_s = 0.01 + self.random.random() * self.spread_s
            self.at(self.now + delay_s, partial(receiver.receive, copy, sender.address))

    def run(self, for_s: float = 20.0) -> None:
        """Let *for_s* seconds pass."""
        end_s = self.now + for_s
        while self._heap and self._heap[0][0] <= end_s:
            self.now, _, job = heapq.heappop(self._heap)
            job()
        self.now = end_s

    def check_agreement(self) -> None:
        """Nobody holds a session that its peer does not hold just so."""
        sessions = {
            (node.identity.peer_id, sid): established
            for node in self.nodes.values()
            for sid, established in node.established.items()
        }
        ends: list[tuple[Node, hs.Confirmed | hs.Accepted]] = []
        for node in self.nodes.values():
            ends += [(node, end) for end in node.confirmed]
            ends += [(node, end) for end in node.accepted]
        for node, end in ends:
            mine = sessions[node.identity.peer_id, end.sid]
            theirs = sessions[end.peer.peer_id, mine.remote_sid]
            assert theirs.fingerprint == mine.fingerprint
            assert (theirs.local_sid, theirs.remote_sid) == (mine.remote_sid, mine.local_sid)
        for node in self.nodes.values():
            accepted = {end.sid for end in node.accepted}
            for confirmed in node.confirmed:
                # ACK exists only once the responder has accepted this very initiator.
                peer = next(
                    n for n in self.nodes.values() if n.identity.peer_id == confirmed.peer.peer_id
                )
                mine = node.established[confirmed.sid]
                there = {end.sid: end.peer.peer_id for end in peer.accepted}
                assert there[mine.remote_sid] == node.identity.peer_id
            assert len(accepted) == len(node.accepted)


FULL = hs.Terms(suite=1, mode=hs.Mode.FULL, network_id=NETWORK, secret=K_NET)
JOIN = hs.Terms(suite=1, mode=hs.Mode.JOIN, network_id=NETWORK, secret=K_JOIN)


@pytest.mark.parametrize("terms", [FULL, JOIN], ids=["full", "join"])
def test_a_quiet_wire_gives_one_session(terms):
    """Both ends hold one session, know each other, and are done within four one-way delays."""
    world = World(seed=1)
    world.r.open_door(terms)
    world.i.call(world.r.identity, terms, world.r.address)
    world.run(0.2)
    (confirmed,), (accepted,) = world.i.confirmed, world.r.accepted
    assert confirmed.peer.peer_id == world.r.identity.peer_id
    assert accepted.peer.peer_id == world.i.identity.peer_id
    assert (accepted.peer.membership is None) == (terms.mode is hs.Mode.JOIN)
    world.check_agreement()
    assert world.i.errors == world.r.errors == []


rates = st.tuples(
    st.sampled_from([0.0, 0.1, 0.3]), st.sampled_from([0.0, 0.3]), st.sampled_from([0.0, 0.1, 0.3])
)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    faults=rates,
    spread_s=st.sampled_from([0.0, 0.05, 1.0]),
    both=st.booleans(),
)
def test_never_a_session_unless_both_agree(seed, faults, spread_s, both):
    """Whatever is dropped, doubled, delayed or flipped, a session has two equal ends or none."""
    random = Random(seed)
    loss, doubled, flipped = faults

    def tamper(_sender: Node, _number: int, datagram: bytes) -> list[bytes]:
        copies = (random.random() >= loss) + (random.random() < doubled)
        return [
            flip(datagram, random.randrange(8 * len(datagram)))
            if random.random() < flipped
            else datagram
            for _ in range(copies)
        ]

    world = World(seed=seed, tamper=tamper, spread_s=spread_s)
    world.r.open_door(FULL)
    world.i.open_door(FULL)
    world.i.call(world.r.identity, FULL, NOWHERE, world.r.address)
    if both:
        world.r.call(world.i.identity, FULL, world.i.address)
    world.run()
    world.check_agreement()
    if loss == flipped == 0.0 and spread_s < 1.0:
        assert len(world.i.confirmed) == len(world.r.accepted) == 1
        assert len(world.r.confirmed) == len(world.i.accepted) == both
    assert len(world.i.confirmed) + len(world.i.errors) >= 1


def flip(datagram: bytes, bit: int) -> bytes:
    """Return *datagram* with one bit changed."""
    changed = bytearray(datagram)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    toward=st.booleans(),
    first=st.integers(1, 14),
    at=st.floats(0, 1, exclude_max=True),
)
def test_a_bit_flipped_in_every_copy_leaves_no_session(seed, toward, first, at):
    """From the first damaged datagram on nothing gets through: no downgrade, no half session."""
    world: World
    damaged = 0

    def tamper(sender: Node, number: int, datagram: bytes) -> list[bytes]:
        nonlocal damaged
        if (sender is world.i) == toward and number >= first:
            damaged += 1
            return [flip(datagram, int(at * 8 * len(datagram)))]
        return [datagram]

    world = World(seed=seed, tamper=tamper)
    world.r.open_door(FULL)
    world.i.call(world.r.identity, FULL, world.r.address)
    world.run()
    world.check_agreement()
    if first == 1:
        assert damaged > 0
        assert world.i.confirmed == []
        assert world.r.accepted == []
        assert isinstance(world.i.errors[0], PeerUnreachable)


def test_recorded_datagrams_open_nothing():
    """Everything that ever crossed the wire, sent again, makes no session and gets no reply."""
    record: list[tuple[Node, bytes]] = []

    def tamper(sender: Node, _number: int, datagram: bytes) -> list[bytes]:
        record.append((sender, datagram))
        return [datagram]

    world = World(seed=5, tamper=tamper)
    world.r.open_door(FULL)
    world.i.call(world.r.identity, FULL, world.r.address)
    world.run()
    assert len(world.i.confirmed) == 1
    before = (world.i.sent, world.r.sent)
    for sender, datagram in record:
        receiver = world.r if sender is world.i else world.i
        for source in (sender.address, NOWHERE):
            receiver.receive(datagram, source)
    world.run()
    assert (world.i.sent, world.r.sent) == before
    assert len(world.r.accepted) == len(world.i.confirmed) == 1


@pytest.mark.parametrize(
    ("terms", "door"),
    [
        pytest.param(FULL, b"x" * 32, id="no door key"),
        pytest.param(
            hs.Terms(suite=1, mode=hs.Mode.FULL, network_id=NETWORK, secret=b"x" * 32),
            DOOR,
            id="another K_net",
        ),
        pytest.param(
            hs.Terms(suite=1, mode=hs.Mode.FULL, network_id=NetworkId(b"x" * 32), secret=K_NET),
            DOOR,
            id="another network",
        ),
        pytest.param(JOIN, DOOR, id="join at a door of members"),
    ],
)
def test_who_does_not_agree_gets_nothing(terms, door):
    """Any difference in the terms ends in silence or an unopened answer, never in a session."""
    world = World(seed=2)
    world.r.open_door(FULL)
    world.i.call(world.r.identity, terms, world.r.address, door=door)
    world.run()
    assert world.i.established == world.r.established == {}
    assert isinstance(world.i.errors[0], PeerUnreachable)
    assert world.i.sent > 0
    assert (world.r.sent == 0) == (door != DOOR)


@pytest.mark.parametrize("key_of", [1, 2], ids=["own key", "the peer's key"])
@pytest.mark.parametrize("true_peer_answers", [False, True])
def test_another_member_cannot_stand_in(key_of, true_peer_answers):
    """A member that knows every secret but the peer's signing key is rejected, and only it."""
    world = World(seed=3)
    peer = IDENTITIES[2]
    world.r.open_door(FULL)
    world.r.shown = hs.LocalIdentity(
        peer_id=peer.peer_id,
        public_key=IDENTITIES[key_of].public_key,
        credential=credential_of(peer),
    )
    endpoints = [world.r.address]
    if true_peer_answers:
        true_node = world.node(peer, ("192.0.2.3", 1003))
        true_node.open_door(FULL)
        endpoints.append(true_node.address)
    world.i.call(peer, FULL, *endpoints)
    world.run()
    world.check_agreement()
    assert world.r.established == {}
    if true_peer_answers:
        (confirmed,) = world.i.confirmed
        assert confirmed.peer.peer_id == peer.peer_id
        assert confirmed.endpoint == true_node.address
    else:
        assert world.i.established == {}
        assert isinstance(world.i.errors[0], PeerMisbehaved)


def test_a_lossy_wire_is_good_enough():
    """At 10 % loss nearly every attempt ends in a session within its ten seconds."""
    sessions = 0
    for seed in range(40):
        random = Random(seed)

        def tamper(_: Node, __: int, datagram: bytes, random: Random = random) -> list[bytes]:
            return [datagram] if random.random() >= 0.1 else []

        world = World(seed=seed, tamper=tamper)
        world.r.open_door(FULL)
        world.i.call(world.r.identity, FULL, world.r.address)
        world.run()
        world.check_agreement()
        sessions += len(world.i.confirmed)
    assert sessions >= 38


@pytest.mark.parametrize("both", [False, True])
def test_a_session_renews_its_keys(both):
    """The generations of a real session agree, also when both ends begin one at once."""
    world = World(seed=6)
    world.r.open_door(FULL)
    world.i.call(world.r.identity, FULL, world.r.address)
    world.run()
    schedules = (world.i.confirmed[0].schedule, world.r.accepted[0].schedule)
    machines = [
        Rekey(initiator=not end, schedule=schedule, rng=Random(end), started_s=0.0)
        for end, schedule in enumerate(schedules)
    ]
    prints = {schedules[0].fingerprint}
    for turn in range(4):
        todo: list[tuple[int, Any]] = []
        for end, machine in enumerate(machines):
            if both or end == turn % 2:
                todo += [(end, action) for action in machine.stale(float(turn))]
        while todo:
            end, action = todo.pop(0)
            match action:
                case SendMessage(message):
                    end = 1 - end
                    following = machines[end].handle(message, float(turn))
                case Install():
                    continue
                case CloseSession(error):
                    raise error
                case _:
                    result: Any = perform(action, world.i.primitives)
                    following = machines[end].handle(result, float(turn))
            todo += [(end, step) for step in following]
        assert schedules[0].generation == schedules[1].generation == turn + 1
        assert schedules[0].fingerprint == schedules[1].fingerprint
        prints.add(schedules[0].fingerprint)
    assert len(prints) == 5


def test_a_shared_key_is_mixed_in():
    """With a psk of one session the next one differs from one without, and both ends agree."""
    world = World(seed=8)
    world.r.open_door(FULL)
    world.i.call(world.r.identity, FULL, world.r.address)
    world.run()
    named, theirs = (
        world.i.confirmed[0].schedule.next_psk(),
        world.r.accepted[0].schedule.next_psk(),
    )
    assert named == theirs
    world.r.psks = dict([theirs])
    world.i.call(world.r.identity, FULL, world.r.address, psk=named)
    world.run()
    assert len(world.i.confirmed) == len(world.r.accepted) == 2
    world.check_agreement()
    world.r.psks = {named[0]: b"another key of the same name ..."}
    world.i.call(world.r.identity, FULL, world.r.address, psk=named)
    world.run()
    assert len(world.i.confirmed) == 2
    world.r.psks = {}
    world.i.call(world.r.identity, FULL, world.r.address, psk=named)
    world.run()
    assert len(world.i.confirmed) == 2


def test_a_used_door_stays_shut_after_it_was_removed():
    """A removed door answers nobody."""
    world = World(seed=4)
    door = world.r.gate.add_door(DOOR)
    world.r.gate.remove_door(door)
    world.i.call(world.r.identity, FULL, world.r.address)
    world.run()
    assert world.r.sent == 0
    assert isinstance(world.i.errors[0], PeerUnreachable)
