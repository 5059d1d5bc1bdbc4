"""A world for VNH1: both machines, real KEM and signatures, and the engine's own gate.

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
from veilnet.errors import RemoteProtocolError, VeilError
from veilnet.protocol import handshake as hs
from veilnet.protocol.fields import Endpoint
from veilnet.protocol.tickets import Shown, holder_of
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
        self.ends: dict[type, list[Any]] = {
            kind: [] for kind in (hs.Begun, hs.Confirmed, hs.Accepted, hs.Failed)
        }
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

    def open_door(self, terms: hs.Terms, key: bytes = DOOR, *, public: bool = False) -> None:
        """Answer strangers that hold *key* and agree to *terms*."""
        self.terms[self.gate.add_door(key, replay_set=not public)] = terms

    def local(self, mode: hs.Mode) -> hs.LocalIdentity:
        """What this node shows."""
        return hs.LocalIdentity(
            peer_id=self.identity.peer_id,
            public_key=self.identity.public_key,
            credential=b"" if mode is hs.Mode.JOIN else credential_of(self.identity),
        )

    def call(
        self,
        peer: crypto.Identity | None,
        terms: hs.Terms,
        *endpoints: Endpoint,
        door: bytes = DOOR,
        psk: tuple[bytes, bytes] | None = None,
        ticket: Shown | None = None,
    ) -> hs.Initiation:
        """Begin a handshake; without a *peer* it is a lookup."""
        machine = hs.Initiation(
            terms=terms,
            identity=None if peer is None else self.local(terms.mode),
            responder=hs.NOBODY if peer is None else peer.peer_id,
            door_key=door,
            endpoints=endpoints,
            schedules=KeySchedule,
            rng=self.world.random,
            psk=psk,
            ticket=ticket,
        )
        self.drive(machine, machine.start(self.world.now))
        return machine

    def ticket_of(self, issuer: "Node", *, life_s: float = 3600.0) -> Shown:
        """What *issuer* gives this node inside a session."""
        issuer.gate.expire(int(self.world.now * 1e9))
        holder = holder_of(NETWORK, self.identity.peer_id)
        ticket, key = issuer.gate.issue_ticket(self.address[0], holder=holder, life_s=life_s)
        return Shown(issuer.address, ticket, key)

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
            case hs.SendHello(schedule, door_key, endpoint, ticket):
                gate.hello(schedule, door_key=door_key, endpoint=endpoint, ticket=ticket)
            case hs.Respond(schedule, init, message):
                session = gate.respond(schedule, init, message)
                if session is not None:
                    self.established[session.local_sid] = session
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
                if isinstance(action, hs.Confirmed) and action.peer is None:
                    self.established[action.sid] = gate.established(action.sid)

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

    def step(self) -> None:
        """Do the next thing, whenever that is."""
        self.now, _, job = heapq.heappop(self._heap)
        job()

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
            if end.peer is None:
                (theirs,) = (s for (_, sid), s in sessions.items() if sid == mine.remote_sid)
            else:
                theirs = sessions[end.peer.peer_id, mine.remote_sid]
            assert theirs.fingerprint == mine.fingerprint
            assert (theirs.local_sid, theirs.remote_sid) == (mine.remote_sid, mine.local_sid)
        for node in self.nodes.values():
            accepted = {end.sid for end in node.accepted}
            for confirmed in node.confirmed:
                if confirmed.peer is None:
                    continue
                # ACK exists only once the responder has accepted this very initiator.
                peer_id = confirmed.peer.peer_id
                peer = next(n for n in self.nodes.values() if n.identity.peer_id == peer_id)
                mine = node.established[confirmed.sid]
                there = {end.sid: end.peer.peer_id for end in peer.accepted if end.peer}
                assert there[mine.remote_sid] == node.identity.peer_id
            assert len(accepted) == len(node.accepted)


FULL = hs.Terms(suite=1, mode=hs.Mode.FULL, network_id=NETWORK, secret=K_NET)
JOIN = hs.Terms(suite=1, mode=hs.Mode.JOIN, network_id=NETWORK, secret=K_JOIN)
TICKET = hs.Terms(suite=1, mode=hs.Mode.TICKET, network_id=NETWORK, secret=K_NET)
LOOKUP = hs.Terms(suite=1, mode=hs.Mode.LOOKUP, network_id=NETWORK, secret=K_NET)


def flip(datagram: bytes, bit: int) -> bytes:
    """Return *datagram* with one bit changed."""
    changed = bytearray(datagram)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
