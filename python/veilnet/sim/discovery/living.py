"""A network that lives: nodes come, join by what they remember, keep up, publish, and go.

Every node alternates between sessions and absences (`churn`).  Who comes back has its old address
and another id, as a daemon has that starts anew, and knows what the cache of its last session
held; who was never there knows a few nodes.  Leaves ask and publish but keep nothing for others.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from attrs import define, field, frozen

from veilnet.discovery.contact import RELAYS, STORES, Contact
from veilnet.discovery.events import Stored
from veilnet.discovery.kademlia import Kademlia
from veilnet.discovery.publisher import REFRESH_S
from veilnet.sim.discovery.churn import Churn
from veilnet.sim.discovery.internet import Internet
from veilnet.sim.discovery.loop import Loop
from veilnet.sim.discovery.machine import Machine
from veilnet.sim.discovery.network import BLOB_BYTES, START_S, Lookup, look
from veilnet.sim.discovery.population import Population
from veilnet.sim.discovery.world import World

if TYPE_CHECKING:
    from veilnet.sim.discovery.machine import Outcome
    from veilnet.sim.traces import Trace

REMEMBERED: Final = 200
SETTLED_S: Final = 60.0
"""Who asks has been there for so long."""
INVITED: Final = 4
"""Contacts of who was never there."""


@frozen
class Life:
    """What a living network is like."""

    nodes: int
    """Up at any time, as a rule."""
    leaves: int = 20
    """Beside them; always up."""
    churn: Churn = field(factory=Churn)
    loss: float = 0.01


@define
class _Published:
    locator: bytes
    blob: bytes
    owner: bytes
    storers: tuple[Contact, ...] = ()
    done: bool = False


class Living:
    """Machines that come and go."""

    def __init__(self, life: Life, trace: Trace, *, seed: int) -> None:
        self.life = life
        self.rng = random.Random(f"living {seed}")  # noqa: S311 - a simulation
        listed = round(life.nodes / (1 - life.churn.away))
        total = listed + life.leaves
        places = Population(seed=seed, honest=total)
        self.loop = Loop(START_S)
        internet = Internet(trace, seed=seed, nodes=total, loss=life.loss)
        self.world = World(self.loop, internet, places.endpoint)
        self.leaves = range(listed, total)
        self.machines: dict[int, Machine] = {}
        self.published: dict[int, _Published] = {}
        self.comings = 0
        self._cached: dict[int, tuple[Contact, ...]] = {}
        first = self.rng.sample(range(listed), life.nodes)
        # The first of all know each other; everybody else joins within the first minutes.
        for order, number in enumerate(first):
            self.loop.at(START_S + order * 0.2, self._come, number, True)
        for number in sorted(set(range(listed)) - set(first)):
            self.loop.at(START_S + life.churn.missed(self.rng), self._come, number, False)
        for number in self.leaves:
            self.loop.at(START_S + life.nodes * 0.2 + number % 60, self._leaf, number)

    def _machine(self, number: int, flags: int) -> Machine:
        kademlia = Kademlia(
            self.rng.randbytes(32),
            rng=random.Random(self.rng.getrandbits(64)),  # noqa: S311 - a simulation
            now=self.loop.now,
            flags=flags,
            announce=bool(flags),
        )
        machine = Machine(self.world, number, kademlia)
        self.world.nodes[number] = machine
        known = self._cached.get(number, ())
        if not known:
            others = list(self.machines)
            picked = self.rng.sample(others, min(INVITED, len(others)))
            known = tuple(self.machines[n].contact for n in picked)
        machine.learn(known)
        return machine

    def _come(self, number: int, first: bool) -> None:  # noqa: FBT001 - called by the loop
        churn = self.life.churn
        stays = churn.met(self.rng)[1] if first else churn.session_s(self.rng)
        self.comings += 1
        self.machines[number] = self._machine(number, STORES | RELAYS)
        self.loop.at(self.loop.now + stays, self._go, number, self.machines[number])
        self._publish_soon(number)

    def _go(self, number: int, machine: Machine) -> None:
        self._cached[number] = tuple(machine.known())[:REMEMBERED]
        del self.machines[number]
        del self.world.nodes[number]
        self.published.pop(number, None)
        self.loop.at(self.loop.now + self.life.churn.absence_s(self.rng), self._come, number, False)

    def _leaf(self, number: int) -> None:
        self._machine(number, 0)
        self._publish_soon(number)

    def _publish_soon(self, number: int) -> None:
        entry = _Published(
            locator=self.rng.randbytes(32),
            blob=self.rng.randbytes(BLOB_BYTES),
            owner=self.rng.randbytes(16),
        )
        self.published[number] = entry
        self.loop.at(self.loop.now + 20 + 20 * self.rng.random(), self._publish, number, entry)

    def _publish(self, number: int, entry: _Published) -> None:
        machine = self.world.nodes.get(number)
        if self.published.get(number) is not entry or not isinstance(machine, Machine):
            return

        def done(outcome: Outcome) -> None:
            if isinstance(outcome, Stored):
                entry.storers, entry.done = outcome.storers, True

        machine.put(entry.locator, entry.blob, done, known=entry.storers, owner=entry.owner)
        again = REFRESH_S * self.rng.uniform(0.9, 1.1)
        self.loop.at(self.loop.now + again, self._publish, number, entry)

    def lookups(
        self, count: int, *, each_s: float = 0.2, limit_s: float = 60.0
    ) -> tuple[list[Lookup], int]:
        """Look *count* descriptors up whose publishers are there.

        Returns: what became of the lookups, and how many there were whose asker stayed.
        """
        results: list[Lookup] = []
        askers: list[Machine] = []
        for number in range(count):
            self.loop.at(self.loop.now + number * each_s, self._look, results, askers)
        self.loop.run(self.loop.now + count * each_s + limit_s, done=lambda: len(results) == count)
        ended = {one.asker for one in results}
        left = sum(one.gone and one.number not in ended for one in askers)
        return results, len(askers) - left

    def _look(self, results: list[Lookup], askers: list[Machine]) -> None:
        published = [entry for entry in self.published.values() if entry.done]
        entry = self.rng.choice(published)
        now = self.loop.now
        settled = [m for m in self.machines.values() if now - m.began >= SETTLED_S]
        asker = self.rng.choice(settled)
        askers.append(asker)
        look(asker, entry.locator, entry.blob, results)

    def stale(self) -> float:
        """Return the share of contacts in tables at whose address nobody is."""
        listed = [
            contact.endpoint for machine in self.machines.values() for contact in machine.known()
        ]
        gone = sum(self.world.at(endpoint) is None for endpoint in listed)
        return gone / max(1, len(listed))
