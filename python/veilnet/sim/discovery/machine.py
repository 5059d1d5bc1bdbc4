"""A shipped `Kademlia` in the simulated world, and around it the shell that a daemon has."""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any, Final

from veilnet.discovery.contact import Contact
from veilnet.discovery.events import (
    Answered,
    Ask,
    Asked,
    Enough,
    Failed,
    Find,
    Found,
    Get,
    Learned,
    Put,
    Reply,
    Sighted,
    Stored,
    Unanswered,
)
from veilnet.discovery.kademlia import PROBE_S, SELF_S, SWEEP_S, YOUNG_PROBES

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

    from veilnet.discovery.events import Check
    from veilnet.discovery.kademlia import Kademlia
    from veilnet.sim.discovery.population import Endpoint
    from veilnet.sim.discovery.world import World

Outcome = Found | Stored | Failed

_ANSWERED: Final = struct.pack(">BII", 0, 1, 1)
"""No failures; answered in the first second of the table."""


class Machine:
    """One node: the machine, and the shell around it that a daemon has.

    Invariant: `tick` is due no later than the machine's deadline, and not at all without one.
    """

    def __init__(
        self, world: World, number: int, kademlia: Kademlia, *, answers: bool = True
    ) -> None:
        self._answers = answers
        """Whether it stands in the world at all, or only asks from where a model node stands."""
        self.world = world
        self.number = number
        self.kademlia = kademlia
        self.began = world.loop.now
        self.asked = 0
        self._waiting: dict[int, Callable[[Outcome], None]] = {}
        self._sighted: dict[int, Callable[[Sighted], None]] = {}
        self._next_id = 0
        self._armed = math.inf
        self._reply: Any = None

    def __repr__(self) -> str:
        return f"<Machine {self.number} at {self.world.endpoint_of(self.number)}>"

    @property
    def id(self) -> bytes:
        """The id that its key proves."""
        return self.kademlia.own_id

    @property
    def contact(self) -> Contact:
        """How others know this node."""
        endpoint = self.world.endpoint_of(self.number)
        return Contact(self.kademlia.own_id, endpoint, self.kademlia.flags)

    def known(self) -> list[Contact]:
        """Return the contacts that answer, as far as this node knows."""
        return [Contact.unpack(packed) for packed in self.kademlia.table]

    @property
    def gone(self) -> bool:
        """Whether another node has this one's place, or nobody."""
        return self._answers and self.world.node(self.number) is not self

    # What the daemon would ask for

    def find(self, target: bytes, done: Callable[[Outcome], None]) -> None:
        """Look for the nodes nearest to *target*."""
        self._handle(Find(self._new(done), target))

    def get(
        self,
        locator: bytes,
        check: Check,
        done: Callable[[Outcome], None],
        sighted: Callable[[Sighted], None] = lambda _: None,
    ) -> None:
        """Look for the blob under *locator* that passes *check*; *sighted* hears of it first."""
        wanted = self._new(done)
        self._sighted[wanted] = sighted
        self._handle(Get(wanted, locator, check))

    def enough(self, wanted: int) -> None:
        """End a search with what it has, as the daemon does at the first blob."""
        self._handle(Enough(wanted))

    def put(
        self,
        locator: bytes,
        blob: bytes,
        done: Callable[[Outcome], None],
        *,
        known: tuple[Contact, ...] = (),
        owner: bytes = b"",
        want_storers: int = 20,
    ) -> None:
        """Publish *blob*, or see to it that *known* still have it."""
        self._handle(Put(self._new(done), locator, blob, want_storers, known, owner))

    def learn(self, contacts: Iterable[Contact]) -> None:
        """Hear of *contacts*."""
        self._handle(Learned(tuple(contacts)))

    def _new(self, done: Callable[[Outcome], None]) -> int:
        self._next_id += 1
        self._waiting[self._next_id] = done
        return self._next_id

    # What the world wants of a node

    def answer(self, sender: Endpoint, session: Hashable, message: Any, *, full: bool) -> Any:  # noqa: ANN401
        """Return the machine's answer."""
        self.asked += 1
        self._reply = None
        self._handle(Asked(self.asked, sender, session, full, message))
        return self._reply

    # The shell

    def _handle(self, event: Any) -> None:  # noqa: ANN401 - an event of the machine
        self._do(self.kademlia.handle(event, self.world.loop.now))

    def _tick(self) -> None:
        self._armed = math.inf
        if not self.gone:
            self._do(self.kademlia.tick(self.world.loop.now))

    def arm(self) -> None:
        """Have the machine's next deadline kept."""
        due = self.kademlia.deadline()
        if due is not None and due < self._armed:
            self._armed = due
            self.world.loop.at(due, self._due, due)

    def _due(self, when: float) -> None:
        if when == self._armed:
            self._tick()

    def _do(self, actions: Iterable[Any]) -> None:
        for action in actions:
            match action:
                case Ask():
                    self._ask(action)
                case Reply():
                    self._reply = action.message
                case Found() | Stored() | Failed():
                    self._sighted.pop(action.id, None)
                    done = self._waiting.pop(action.id, None)
                    if done is not None:
                        done(action)
                case Sighted():
                    seen = self._sighted.get(action.id)
                    if seen is not None:
                        seen(action)
        self.arm()

    def _ask(self, ask: Ask) -> None:
        self.world.ask(
            self.number,
            ask.contact.endpoint,
            ask.message,
            whom=ask.contact.id if ask.full else None,
            answered=lambda message: self._back(Answered(ask.query, message)),
            silent=lambda: self._back(Unanswered(ask.query, unproven=ask.full)),
        )

    def _back(self, event: Answered | Unanswered) -> None:
        if not self.gone:
            self._handle(event)


def filled(kademlia: Kademlia, contacts: Iterable[bytes], now: float) -> None:
    """Put packed *contacts* into the table of *kademlia*, as if all of them had answered."""
    for packed in contacts:
        kademlia.table.answered(packed, now)


def filled_at_once(kademlia: Kademlia, buckets: Iterable[Iterable[bytes]], now: float) -> None:
    """Do what `filled` does with whole *buckets*, the farthest first, without looking at caps.

    One by one is quadratic: ten thousand tables would take longer than all that they are for.
    """
    table = kademlia.table
    counts = bytearray(len(table._counts))  # noqa: SLF001 - a test compares it with `filled`
    entries = []
    for number, bucket in enumerate(buckets):
        of_bucket = [packed + _ANSWERED for packed in bucket]
        counts[min(number, len(counts) - 1)] += len(of_bucket)
        entries += of_bucket
    table._entries, table._counts, table._heard = b"".join(entries), counts, now  # noqa: SLF001
    table._trim()  # noqa: SLF001


def in_its_stride(kademlia: Kademlia, now: float) -> None:
    """Let the upkeep of *kademlia* be that of a node that has run for hours."""
    rng = kademlia.rng
    kademlia._probes = YOUNG_PROBES  # noqa: SLF001 - it counts what this one never did
    kademlia._next_probe = now + rng.random() * PROBE_S  # noqa: SLF001
    kademlia._next_self = now + rng.random() * SELF_S  # noqa: SLF001
    kademlia._next_sweep = now + rng.random() * SWEEP_S  # noqa: SLF001
