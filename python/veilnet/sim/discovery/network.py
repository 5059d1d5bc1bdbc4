"""A network that has run for a long time, made at once: of machines, or of the model.

38 % of all who are listed are away.  Tables are filled from `Population`, so they list the living
and the away alike; an asker of the model is a machine too, with a table of the same kind.
"""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING, Final, Literal

from attrs import frozen

from veilnet.discovery.contact import RELAYS, STORES, Contact
from veilnet.discovery.events import Found, Sighted, Stored
from veilnet.discovery.kademlia import PROBE_S, Kademlia
from veilnet.discovery.publisher import RETRY_S
from veilnet.sim.discovery.churn import AWAY
from veilnet.sim.discovery.implicit import Implicit
from veilnet.sim.discovery.internet import Internet
from veilnet.sim.discovery.liars import Kind, Liars
from veilnet.sim.discovery.loop import Loop
from veilnet.sim.discovery.machine import (
    Machine,
    Outcome,
    filled,
    filled_at_once,
    in_its_stride,
)
from veilnet.sim.discovery.population import Population
from veilnet.sim.discovery.world import World

if TYPE_CHECKING:
    from collections.abc import Sequence

    from veilnet.sim.discovery.world import Node
    from veilnet.sim.traces import Trace

START_S: Final = 1_000_000.0
BLOB_BYTES: Final = 5_400
"""A sealed descriptor with key and signature."""

System = Literal["machines", "model"]


@frozen
class Setting:
    """What a network is like.  *nodes* are honest and up; those who are away are beside them."""

    nodes: int
    away: float = AWAY
    sybils: float = 0.0
    """Liars with random ids, as a share of all who are up."""
    kind: Kind = "crony"
    ground: tuple[bytes, ...] = ()
    """Locators next to which 20 liars each have ground their ids."""
    one_prefix: bool = False
    upkeep: bool = False
    """Whether machines look after their tables: what happens within a minute does not need it."""
    loss: float = 0.01


@frozen
class Lookup:
    """What became of one lookup.

    Units: seconds from its beginning: *seen_s* until the descriptor was first seen, *took_s* to
    the end, when others had said the same; bytes of the asker, both ways, all that it did then.
    """

    asker: int
    locator: bytes
    found: bool
    hops: int
    asked: int
    seen_s: float
    took_s: float
    cost_bytes: int


def look(machine: Machine, locator: bytes, blob: bytes, results: list[Lookup]) -> None:
    """Begin a lookup of *blob*; what becomes of it is added to *results*."""
    world, began = machine.world, machine.world.loop.now
    meter = world.meters[machine.number]
    before = meter.total()
    seen: list[float] = []

    def sighted(_: Sighted) -> None:
        seen.append(world.loop.now - began)

    def done(outcome: Outcome) -> None:
        took = world.loop.now - began
        found = isinstance(outcome, Found) and blob in outcome.blobs
        results.append(
            Lookup(
                asker=machine.number,
                locator=locator,
                found=found,
                hops=outcome.hops if isinstance(outcome, Found) else 0,
                asked=outcome.asked,
                seen_s=seen[0] if seen else took,
                took_s=took,
                cost_bytes=meter.total() - before,
            )
        )

    machine.get(locator, blob.__eq__, done, sighted)


class Network:
    """Nodes, their world and what was published in it."""

    def __init__(self, setting: Setting, trace: Trace, *, seed: int, system: System) -> None:
        self.setting = setting
        self.system = system
        self.rng = random.Random(f"network {seed}")  # noqa: S311 - a simulation
        listed = round(setting.nodes / (1 - setting.away))
        liars = round(setting.nodes * setting.sybils / (1 - setting.sybils))
        self.people = Population(
            seed=seed,
            honest=listed,
            sybils=liars,
            ground=setting.ground,
            one_prefix=setting.one_prefix,
        )
        internet = Internet(trace, seed=seed, nodes=len(self.people), loss=setting.loss)
        self.loop = Loop(START_S)
        self.world = World(self.loop, internet, self.people.endpoint, otherwise=self._implicit)
        self.seed = seed
        honest = [n for n, evil in enumerate(self.people.evil) if not evil]
        self.up: set[int] = set(self.rng.sample(honest, setting.nodes))
        self._order = sorted(self.up)
        self.published: dict[bytes, bytes] = {}
        self._packed: dict[int, bytes] = {}
        self._machines: dict[int, Machine] = {}
        liars_all = Liars(self.people, self.packed, kind=setting.kind, seed=seed)
        for number in self.people.liars:
            self.world.nodes[number] = liars_all.at(number)
        if system == "machines":
            for number in self._order:
                self.machine(number)

    def contact(self, number: int) -> Contact:
        """Return how others know a node."""
        return Contact(self.people.id(number), self.people.endpoint(number), STORES | RELAYS)

    def packed(self, number: int) -> bytes:
        """Return the same, packed."""
        known = self._packed.get(number)
        if known is None:
            known = self._packed[number] = self.contact(number).packed
        return known

    def machine(self, number: int) -> Machine:
        """Return the machine at *number*, made if there was none."""
        machine = self._machines.get(number)
        if machine is None:
            machine = self._machines[number] = self._made(number)
        return machine

    def _made(self, number: int) -> Machine:
        kademlia = Kademlia(
            self.people.id(number),
            rng=random.Random(self.seed << 32 ^ number),  # noqa: S311 - a simulation
            now=self.loop.now,
            flags=STORES | RELAYS,
            announce=self.setting.upkeep,
            probe_interval_s=PROBE_S if self.setting.upkeep else 0.0,
        )
        buckets = (map(self.packed, bucket) for bucket in self.people.table(number))
        if self.setting.one_prefix:
            for bucket in buckets:
                filled(kademlia, bucket, self.loop.now)
        else:
            filled_at_once(kademlia, buckets, self.loop.now)
        answers = self.system == "machines"
        machine = Machine(self.world, number, kademlia, answers=answers)
        if self.setting.upkeep:
            in_its_stride(kademlia, self.loop.now)
            machine.arm()
        if answers:
            self.world.nodes[number] = machine
        return machine

    def _implicit(self, number: int) -> Node | None:
        if self.system == "machines" or number not in self.up:
            return None
        node = self.world.nodes[number] = Implicit(self.people, number, self.packed)
        return node

    def somebody(self) -> int:
        """Draw an honest node that is up."""
        while True:
            number = self.rng.choice(self._order)
            if number in self.up:
                return number

    def lose(self, share: float) -> None:
        """Take *share* of all honest nodes away at once, without a word."""
        gone = self.rng.sample(sorted(self.up), round(share * len(self.up)))
        for number in gone:
            self.up.discard(number)
            self.world.nodes.pop(number, None)

    def publish(self, count: int, locators: Sequence[bytes] = (), *, limit_s: float = 120.0) -> int:
        """Have *count* descriptors published, under *locators* first; return how many storers.

        What nobody kept is tried again after a while, as a publisher does.
        """
        outcomes: list[Outcome] = []
        for number in range(count):
            told = f"descriptor {self.seed} {len(self.published)}".encode()
            locator = locators[number] if number < len(locators) else hashlib.sha256(told).digest()
            blob = self.rng.randbytes(BLOB_BYTES)
            self.published[locator] = blob
            self._put(self.machine(self.somebody()), locator, blob, outcomes)
        self.loop.run(self.loop.now + limit_s, done=lambda: len(outcomes) == count)
        return sum(found.count for found in outcomes if isinstance(found, Stored))

    def _put(self, machine: Machine, locator: bytes, blob: bytes, outcomes: list[Outcome]) -> None:
        def done(outcome: Outcome) -> None:
            if isinstance(outcome, Stored):
                outcomes.append(outcome)
            else:
                again = self.loop.now + RETRY_S
                self.loop.at(again, self._put, machine, locator, blob, outcomes)

        machine.put(locator, blob, done)

    def lookups(self, count: int, *, each_s: float = 0.05, limit_s: float = 60.0) -> list[Lookup]:
        """Run *count* lookups of what was published, one begun every *each_s*."""
        results: list[Lookup] = []
        locators = sorted(self.published)
        for number in range(count):
            when = self.loop.now + number * each_s
            self.loop.at(when, self._look, self.rng.choice(locators), results)
        until = self.loop.now + count * each_s + limit_s
        self.loop.run(until, done=lambda: len(results) == count)
        return results

    def _look(self, locator: bytes, results: list[Lookup]) -> None:
        look(self.machine(self.somebody()), locator, self.published[locator], results)

    # Who comes back after long

    def nobody(self, rng: random.Random) -> Contact:
        """Return a contact at whose address nobody is any more."""
        endpoint = f"{rng.randrange(96, 100)}.{rng.randrange(256)}.{rng.randrange(256)}.255", 4_433
        return Contact(rng.randbytes(32), endpoint, STORES)

    def newcomer(self, known: Sequence[Contact]) -> Machine:
        """Return a machine that has no table and knows *known* alone."""
        away = [n for n, evil in enumerate(self.people.evil) if not evil and n not in self.up]
        number = self.rng.choice(away)
        kademlia = Kademlia(
            self.rng.randbytes(32),
            rng=random.Random(self.rng.getrandbits(64)),  # noqa: S311 - a simulation
            now=self.loop.now,
        )
        machine = self.world.nodes[number] = Machine(self.world, number, kademlia)
        machine.learn(known)
        return machine

    def rejoin(self, machine: Machine, *, limit_s: float = 60.0) -> tuple[bool, float, int]:
        """Have a newcomer look something up, again and again; return whether, when and for what.

        Units: seconds and bytes, since it began.
        """
        began = self.loop.now
        locator = self.rng.choice(sorted(self.published))
        results: list[Lookup] = []
        while self.loop.now < began + limit_s:
            results.clear()
            look(machine, locator, self.published[locator], results)
            self.loop.run(began + limit_s, done=lambda: bool(results))
            if results and results[0].found:
                break
            self.loop.run(min(self.loop.now + 1.0, began + limit_s))
        found = bool(results) and results[0].found
        took, cost = self.loop.now - began, self.world.meters[machine.number].total()
        del self.world.nodes[machine.number]
        self.world.meters[machine.number].clear()
        return found, took, cost
