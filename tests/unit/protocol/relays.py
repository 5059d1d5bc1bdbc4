"""Nodes that relay, in virtual time: both machines of each, and the links between them.

What the engine would hold is kept as the machines command it, and asked by `carries`.
"""

from __future__ import annotations

import random
from collections import deque

import attrs

from veilnet.protocol import messages, relay, relay_client, relay_steps
from veilnet.protocol.relay_client import CircuitClient
from veilnet.protocol.relay_messages import HOPS_MAX, CircuitAccepted, CircuitSeen, CircuitVouch
from veilnet.protocol.relay_service import RelayService
from veilnet.protocol.relay_switch import Switch

NET = b"n" * 32


class Peer:
    """One node."""

    def __init__(self, world, name, **terms):
        self.world = world
        self.name = name
        self.id = name.encode().ljust(32, b".")
        rng = random.Random(name)
        self.service = RelayService(
            own_id=self.id, terms=relay.Terms(**terms), rng=rng, now=world.now
        )
        self.client = CircuitClient(own_id=self.id, rng=rng)
        self.switch = Switch(self.service, self.client)
        self.forwards = {}
        self.joined = {}
        self.failed = {}
        self.left = {}
        self.seen = {}
        self.offers = []
        self.welcomes = True

    def __repr__(self):
        return self.name

    def key_of(self, other):
        """Return whose the link with *other* is."""
        return NET, other.id

    # what a test makes it do

    def open(self, by, target, through=None, timeout_s=5.0, com=None):
        """Ask *by* for a circuit; return its id."""
        circuit = self.client.new_id()
        event = relay_client.Open(
            circuit,
            self.key_of(by),
            target.id,
            None if through is None else through.id,
            self.world.now + timeout_s,
            com,
        )
        self.act(self.client.handle(event, self.world.now))
        return circuit

    def confirm(self, circuit):
        """Say that what came through was the peer's."""
        self.act(self.client.handle(relay_client.Confirm(circuit), self.world.now))

    def vouch(self, circuit):
        """Have the relay tell the other end where this one is."""
        key = self.client.get(circuit).relay
        self.act([relay.Send(key, CircuitVouch(circuit=circuit))])

    def close(self, circuit):
        """Give a circuit up."""
        self.act(self.client.handle(relay_client.Close(circuit), self.world.now))

    def reserve(self, by):
        """Hold a reservation."""
        self.act(self.client.handle(relay_client.Reserve(self.key_of(by)), self.world.now))

    def set(self, **terms):
        """Be the operator."""
        event = relay_steps.SetTerms(relay.Terms(**terms))
        self.act(self.service.handle(event, self.world.now))

    def count(self, counts, *, busy=False):
        """Report the engine's counters: circuit -> bytes."""
        made = {each: relay_steps.Count(total, busy=busy) for each, total in counts.items()}
        self.act(self.service.handle(relay_steps.Counted(made), self.world.now))

    # what the machines make it do

    def act(self, actions):
        """Carry out what a machine wants."""
        for action in actions:
            getattr(self, f"_{type(action).__name__.lower()}")(action)

    def _send(self, action):
        self.world.send(self, action.key, action.message)

    def _forward(self, action):
        assert action.circuit not in self.forwards
        self.forwards[action.circuit] = action

    def _remove(self, action):
        assert self.forwards.pop(action.circuit).a == action.a

    def _limit(self, action):
        for circuit, forward in self.forwards.items():
            if forward.a == action.a:
                self.forwards[circuit] = attrs.evolve(
                    forward, rate_bps=action.rate_bps, limit_bytes=action.limit_bytes
                )

    def _join(self, action):
        self.joined[action.end.id] = action.end

    def _welcome(self, action):
        assert action.end.id in self.joined
        accepted = CircuitAccepted(circuit=action.end.id, cookie=action.com[:16])
        self.world.send(self, action.end.relay, accepted)

    def _leave(self, action):
        assert self.joined.pop(action.end.id) is action.end
        self.left[action.end.id] = action.code

    def _failed(self, action):
        self.failed[action.circuit] = relay.Refusal(action.code)

    def _vouch(self, action):
        where = CircuitSeen(circuit=action.circuit, endpoint=self.world.places[action.of[1]])
        self.world.send(self, action.to, where)

    def _seen(self, action):
        self.seen[action.circuit] = action.endpoint

    def _announce(self, action):
        self.offers.append(action.offer)

    def _caprate(self, action):
        self.cap_bps = action.rate_bps


class World:
    """All nodes, their links, and the time."""

    def __init__(self):
        self.now = 1000.0
        self.peers = {}
        self.links = set()
        self.queue = deque()
        self.deaf = set()
        self.said = []
        self.places = {}

    def peer(self, name, **terms):
        """Make a node; one of the same name takes the place of the older."""
        made = Peer(self, name, **terms)
        self.peers[made.id] = made
        self.places[made.id] = (f"192.0.2.{len(self.peers)}", 41_000)
        return made

    def link(self, first, second, *, own=True, place=b""):
        """Put a link up, or another session in the place of its session; *first* is initiator."""
        self.links.add(frozenset((first.id, second.id)))
        for one, other, initiator in ((first, second, True), (second, first, False)):
            up = relay.LinkUp(one.key_of(other), initiator, own, place)
            one.act(one.switch.handle(up, self.now))

    def cut(self, first, second):
        """Take a link down at both ends."""
        self.links.discard(frozenset((first.id, second.id)))
        for one, other in ((first, second), (second, first)):
            one.act(one.switch.handle(relay.LinkDown(one.key_of(other)), self.now))

    def send(self, sender, key, message):
        """Put a message on a link."""
        if frozenset((sender.id, key[1])) in self.links:
            # As the wire has it: what breaks its limits is seen here.
            self.queue.append((sender, key[1], messages.encode(message)))

    def run(self):
        """Deliver until nobody has anything to say."""
        while self.queue:
            sender, to, data = self.queue.popleft()
            receiver = self.peers[to]
            message = messages.decode(data).message
            self.said.append((sender.name, receiver.name, message))
            if receiver in self.deaf or frozenset((sender.id, to)) not in self.links:
                continue
            heard = relay.Heard(receiver.key_of(sender), message, receiver.welcomes)
            receiver.act(receiver.switch.heard(heard, self.now))
        return self

    def wait(self, seconds):
        """Let time pass, each deadline at its own moment."""
        end = self.now + seconds
        while True:
            self.run()
            due = [(p.switch.deadline() or end + 1, p.name, p) for p in self.peers.values()]
            at, _, peer = min(due)
            if at > end:
                self.now = end
                return self
            self.now = max(self.now, at)
            peer.act(peer.switch.tick(self.now))

    def carries(self, origin, target, circuit):
        """Whether a frame of *origin* would reach *target*, and one back *origin*."""
        ends = origin.joined.get(circuit), target.joined.get(circuit)
        if None in ends:
            return False
        return self._walk(origin, ends[0], target, ends[1]) and self._walk(
            target, ends[1], origin, ends[0]
        )

    def _walk(self, sender, end, receiver, there):
        at, key, label = sender, end.relay, end.label
        for _ in range(HOPS_MAX + 1):
            if frozenset((at.id, key[1])) not in self.links:
                return False
            came, at = at, self.peers[key[1]]
            side = (at.key_of(came), label)
            if at is receiver:
                return side == (there.relay, there.label)
            ways = {each.a: each.b for each in at.forwards.values()}
            ways |= {each.b: each.a for each in at.forwards.values()}
            if side not in ways:
                return False
            key, label = ways[side]
        return False


def opened(world, origin=None):
    """Open a circuit over the one relay and confirm it at both ends."""
    origin = origin or world.origin
    circuit = origin.open(world.relay, world.target)
    world.run()
    origin.confirm(circuit)
    world.target.confirm(circuit)
    world.run()
    assert world.carries(origin, world.target, circuit)
    return circuit


def refusal(world, asker=None, by=None, target=None, through=None):
    """Ask for a circuit that will not be, and say why not."""
    asker, by = asker or world.origin, by or world.relay
    circuit = asker.open(by, target or world.target, through)
    world.run()
    assert not world.relay.forwards
    return asker.failed[circuit]
