"""Two machines, the translators in front of them, the Internet between, in virtual time.

```
machine -- nat -- (nat) -- core routers -- (nat) -- nat -- machine
              observers, relay: on the core
```
A router at hop n sees a packet whose TTL is at least n and passes it on if it is more.
"""

from __future__ import annotations

import heapq
import random
from itertools import count
from typing import Any

from attrs import define, field

from veilnet.nat.attempt import Punch, Side, Spread
from veilnet.nat.budget import ProbeBudget
from veilnet.nat.classify import classify
from veilnet.nat.punching import Gather, Open, Punching, Range, Say, Shut, Vouch
from veilnet.nat.reflexive import Reflexive

UNREPLIED_S = 30.0
TTL = 64
BURST, RATE = 16_384, 2_048
"""Bytes towards an address that never answered, and bytes a second, as the engine has it."""
BARE, PADDED, FEW = 41, 114, 16
"""Bytes of a probe, and of one of so few at once."""
KINDS = ("open", "full", "address", "port", "leaky", "random", "sequential")
EASY = ("open", "full", "address", "port", "leaky")


@define
class _Entry:
    inner: Any
    outer_port: int
    peer: Any
    """The one other end, where the mapping is for one only."""
    used_s: float


class Nat:
    """A translator of one kind, as the nft rules of the lab make it."""

    def __init__(self, kind, host, rng, *, hairpin=True):
        self.kind, self.host, self.rng, self.hairpin = kind, host, rng, hairpin
        self.flows, self.ports, self.holders = {}, {}, {}
        """Entries by (inner endpoint, only peer), by (outer port, only peer); who has a port."""
        self.blocked = {}
        """(source, port) -> when such a packet came too early (leaky)."""
        self.allowed = set()
        self.last_port = 50_000 + rng.randrange(1_000)

    def out(self, inner, to, now):
        """Return the outer endpoint of a packet that leaves."""
        entry = self._find(inner, to, now)
        if entry is None:
            entry = _Entry(inner, self._port(inner, to, now), self._only(to), now)
            self.flows[inner, entry.peer] = entry
            self.ports[entry.outer_port, entry.peer] = entry
            self.holders.setdefault(entry.outer_port, set()).add(inner)
        entry.used_s = now
        self.allowed.add((entry.outer_port, to[0] if self.kind == "address" else to))
        return self.host, entry.outer_port

    def _only(self, to):
        return to if self.kind in ("random", "sequential", "leaky") else None

    def _find(self, inner, to, now):
        only = self._only(to)
        entry = self.flows.get((inner, only))
        alive = entry is not None and now - entry.used_s < (UNREPLIED_S if only else 300.0)
        return entry if alive else None

    def _port(self, inner, to, now):
        if self.kind == "random":
            return self.rng.randrange(1_024, 65_536)
        if self.kind == "sequential":
            self.last_port += 1
            return self.last_port
        if self.kind == "leaky" and now - self.blocked.get((to, inner[1]), -1e9) < UNREPLIED_S:
            return self.rng.randrange(1_024, 65_536)
        return next(port for port in count(inner[1]) if self.holders.get(port, {inner}) == {inner})

    def into(self, source, port, now):
        """Return whose packet it is that came to *port*, None if it stops here."""
        for only in (source, None):
            entry = self.ports.get((port, only))
            if entry is not None and self._lets_in(entry, source, port, now):
                entry.used_s = now
                return entry.inner
        if self.kind == "leaky":
            self.blocked[source, port] = now
        return None

    def _lets_in(self, entry, source, port, now):
        if self.kind == "full":
            return True
        if self.kind == "address":
            return (port, source[0]) in self.allowed
        if self.kind == "port":
            return (port, source) in self.allowed
        return entry.peer == source and now - entry.used_s < 120.0


@define(eq=False)
class Machine:
    """One end: its address, the translators from the inside out, the machine under test."""

    name: str
    inner: Any
    nats: Any
    machine: Any = None
    peer: Any = None
    reflexive: Reflexive = field(factory=Reflexive)
    path: int = 0
    met_s: float | None = None
    attempt: int = 0
    seen: Any = field(factory=set)
    probes: int = 0
    sockets: int = 0
    bytes_left: Any = field(factory=dict)
    sent: Any = field(factory=list)
    """(seconds, target, TTL) of each probe."""
    vouched_for: Any = None

    @property
    def side(self):
        """What it says of itself."""
        own = self.reflexive.own(4, local={self.inner[0]})
        verdict = classify(own, local=[self.inner])
        public = () if verdict.public in (None, self.inner) else (verdict.public,)
        return Side(
            local=(self.inner,), public=public, mapping=verdict.mapping, stride=verdict.stride
        )


class World:
    """The events of everything, in order."""

    def __init__(self, seed, *, delay_s=0.03, relay_s=(0.05, 0.05), core=3, jitter_s=0.01):
        self.rng = random.Random(seed)
        self.now, self.events, self.order = 0.0, [], count()
        self.delay_s, self.relay_s, self.core, self.jitter_s = delay_s, relay_s, core, jitter_s
        self.machines = []
        self.knows_hops = True
        self.vouches = True

    def machine(self, kind, *, lan=None, nats=None, observers=4):
        """Add a machine behind a translator of that kind, or behind *nats*."""
        number = len(self.machines) + 1
        if nats is None:
            made = Nat(kind, f"100.{number}.0.1", self.rng)
            nats = [] if kind == "open" else [made]
        inner = (f"100.{number}.0.9", 41_000 + number) if not nats else lan
        inner = inner or (f"192.168.{number}.2", 41_000 + number)
        made = Machine(f"m{number}", inner, nats)
        for at in range(observers):
            self.now += 0.01
            place = (f"20.{at}.0.1", 4_000)
            made.reflexive.heard(
                at, at=place, said=self._outer(made.inner, made, place), now=self.now
            )
        made.vouched_for = self._outer(made.inner, made, ("20.9.0.1", 4_000))
        self.machines.append(made)
        return made

    def pair(self, left, right, *, wait_s=0.0):
        """Have the two call each other, *left* first."""
        for made, other, prior in ((left, right, True), (right, left, False)):
            made.peer = other
            made.machine = Punching(
                prior=prior,
                rng=self.rng,
                budget=ProbeBudget(),
                now=self.now,
                wait_s=0.0 if prior else wait_s + 2.0,
            )
            self.at(0.0, self.look, made)

    def at(self, after_s, act, *args):
        """Do something later."""
        heapq.heappush(self.events, (self.now + after_s, next(self.order), act, args))

    def run(self, until_s):
        """Run until both have met or the time is over; return whether they have."""
        until_s += self.now
        while self.events and not all(made.met_s is not None for made in self.machines):
            if self.events[0][0] > until_s:
                break
            self.now, _, act, args = heapq.heappop(self.events)
            act(*args)
        return all(made.met_s is not None for made in self.machines)

    # the shell

    def look(self, made):
        """Ask for a call as long as there is no direct way."""
        if made.met_s is None:
            self.obey(made, made.machine.want(self.now))
            self.at(0.25, self.look, made)

    def obey(self, made, actions):
        """Do what a machine says; then wake it when it wants."""
        for action in actions:
            self._obey(made, action)
        deadline = made.machine.deadline()
        if deadline is not None:
            self.at(max(deadline - self.now, 0.0), self.tick, made)

    def tick(self, made):
        """Wake a machine if it is still due."""
        deadline = made.machine.deadline()
        if deadline is not None and deadline <= self.now:
            self.obey(made, made.machine.tick(self.now))

    def _obey(self, made, action):  # noqa: C901 - a table of actions
        machine, soon_s = made.machine, self.rng.random() * self.jitter_s
        match action:
            case Gather(path=path):
                made.attempt += path
                ident = 2 * made.attempt + (made is not self.machines[0]) if path else None
                self.at(
                    soon_s, self._tell, made, lambda: machine.gathered(made.side, ident, self.now)
                )
            case Range():
                hops = len(made.nats) + self.core + 1 if self.knows_hops else None
                self.at(soon_s, self._tell, made, lambda: machine.ranged(hops, self.now))
            case Vouch() if self.vouches:
                there = made.peer.machine
                told = made.vouched_for
                self.at(
                    sum(self.relay_s) / 2,
                    self._tell,
                    made.peer,
                    lambda: there.told(told, self.now),
                )
            case Open(path=path):
                made.path, made.seen = path, set()
            case Say(message):
                way_s = self.relay_s[made is self.machines[0]] + soon_s
                there = made.peer
                self.at(way_s, self._tell, there, lambda: there.machine.heard(message, self.now))
            case Shut():
                made.path = 0
            case Punch(endpoints, ttl):
                size = BARE if len(endpoints) > FEW else PADDED
                sent = sum(self._may(made, endpoint, size) for endpoint in endpoints)
                machine.unsent(endpoints[sent:]) if sent < len(endpoints) else None
                for endpoint in endpoints[:sent]:
                    made.probes += 1
                    made.sent.append((self.now, endpoint, ttl))
                    self.send(made, made.inner, endpoint, "probe", ttl or TTL)
            case Spread(endpoint, sockets):
                sockets = sum(self._may(made, endpoint, BARE) for _ in range(sockets))
                made.sockets += sockets
                for number in range(made.sockets - sockets, made.sockets):
                    self.send(made, (made.inner[0], 10_000 + number), endpoint, "probe", TTL)

    def _may(self, made, endpoint, size):
        """Take bytes out of the engine's budget towards an address that never answered."""
        left, at_s = made.bytes_left.get(endpoint[0], (BURST, self.now))
        left = min(BURST, left + RATE * (self.now - at_s))
        granted = left >= size
        made.bytes_left[endpoint[0]] = (left - size * granted, self.now)
        return granted

    def _tell(self, made, act):
        if made.met_s is None:
            self.obey(made, act())

    # the wire

    def _outer(self, source, made, to):
        for nat in made.nats:
            source = nat.out(source, to, self.now)
        return source

    def send(self, made, inner, to, what, ttl):
        """Send a datagram on its way, hop by hop."""
        other = made.peer
        if made.nats and to[0] == other.inner[0] and made.nats[0] is (other.nats or [None])[0]:
            self.at(0.001, self.arrive, other, inner, to, what)  # on one LAN
            return
        source, left = inner, ttl
        for nat in made.nats:
            left -= 1
            if left < 1:
                return
            source = nat.out(source, to, self.now)
            if nat.host == to[0]:
                if nat.hairpin and nat is other.nats[-1]:
                    self.at(0.002, self._enter, other, source, to, what, left + 1)
                return
        left -= self.core
        if left >= 1:
            delay_s = self.delay_s + self.rng.random() * self.jitter_s
            self.at(delay_s, self._enter, other, source, to, what, left)

    def _enter(self, made, source, to, what, left):
        """Come to the outermost translator of *made*, if that is where it is sent."""
        for nat in reversed(made.nats):
            if nat.host != to[0]:
                return
            inner = nat.into(source, to[1], self.now)
            left -= 1
            if inner is None or left < 1:
                return
            to = inner
        if to[0] == made.inner[0]:
            self.arrive(made, source, to, what)

    def arrive(self, made, source, to, what):
        """Take a datagram as the engine does: answer a probe, ask whoever sent it back."""
        if not made.path or not made.peer.path or made.path != made.peer.path:
            return
        if what == "answer":
            if made.met_s is None:
                made.met_s = self.now
                made.machine.met(self.now)
            return
        self.send(made, to, source, "answer", TTL)
        if (to, source) not in made.seen:
            made.seen.add((to, source))
            self.send(made, to, source, "probe", TTL)
