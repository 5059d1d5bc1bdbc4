"""The machine that finds nodes and records in the commons, and answers others who search.

```
Find Get Put --> lookup --> Ask (3 at once) --> Answered | Unanswered --> ... --> an end
Asked        --> quota --> table, storage --> Reply
time         --> probes: the contact whose life is least sure is asked the way somewhere,
                 which refreshes its bucket as well; once in a while a search for our own id
```
Invariants: nothing here waits, draws randomness of its own or reads a clock; an endpoint that
`Horizon` does not allow is never asked, whoever told of it; only contacts that answered us are
told to others; nobody is a contact who says that it stores nothing (not all can reach it), but on
our own LAN; every table is bounded; a question from a peer costs a bounded look at ours.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, TypeVar

from veilnet.discovery.contact import (
    ADDRESS,
    ID_BYTES,
    MAX_CONTACTS,
    STORES,
    UNKNOWN_ID,
    Contact,
    Horizon,
    block_of,
    pack_endpoint,
    split,
)
from veilnet.discovery.events import (
    Action,
    Answered,
    Ask,
    Asked,
    Enough,
    Event,
    Failed,
    Find,
    Get,
    Learned,
    Put,
    Reason,
    Reply,
    Unanswered,
)
from veilnet.discovery.locator import owner_of
from veilnet.discovery.lookup import (
    MAX_ASKS,
    FindLookup,
    GetLookup,
    Lookup,
    PutLookup,
    Turn,
)
from veilnet.discovery.routing import BUCKETS, REGION_CONTACTS, Table, shared_bits
from veilnet.discovery.service import Service
from veilnet.discovery.storage import Storage
from veilnet.errors import InternalError, LocalProtocolError, RemoteProtocolError
from veilnet.protocol.dht_messages import (
    MAX_BLOB_BYTES,
    OWNER_BYTES,
    FindNodes,
    FindValue,
    Have,
    HaveValue,
    Nodes,
    Store,
    StoreRefused,
    StoreTaken,
    Values,
)

if TYPE_CHECKING:
    import random

    from veilnet.protocol.dht_messages import Answer, Question

ALPHA: Final = 3
MAX_LOOKUPS: Final = 64
MAX_FLYING: Final = 4 * ALPHA
MAX_QUERIES: Final = 1_024
LOOKUPS_QUERIES: Final = MAX_QUERIES - 128
"""... of them for lookups: upkeep asks beside them."""
CROWDED: Final = 32
"""With so many questions out, whoever they are for, no lookup asks more at once than the others."""
TURNS_MAX: Final = 16
"""Stages of one search that may begin one after the other without a question."""
MAX_SEEDS: Final = 64
MAX_KNOWN: Final = 40
VOTES: Final = 31
"""Sizes of the region that contacts said lately."""
VOTES_LEAST: Final = 3
BITS_APART: Final = 2
"""How far what others say may be from what our own table says of the region."""
SWEEP_S: Final = 600.0
PROBE_S: Final = 60.0
"""One small session a minute: about 50 B/s."""
LEAF_PAUSES: Final = 5.0
"""Nobody asks a node that does not announce itself: its table serves its own lookups alone, and
with all its upkeep a leaf took 140 B/s in the simulation, of which 100 are the goal."""
YOUNG_PROBE_S: Final = 2.0
YOUNG_PROBES: Final = 30
"""The first probes come faster: about 90 KB until the table is filled."""
SELF_S: Final = 3_600.0
POOR_S: Final = 15.0
"""How long after a search for our own id another is begun, if there are few contacts still; twice
as long each time, until there is news, and for a leaf four times: few may be all there are."""
VERIFY_BURST: Final = 8
VERIFY_S: Final = 2.0
"""A node that announces itself is asked back: 8 at once, then one in 2 s."""
VERIFY_PREFIX_S: Final = 30.0
"""... and of one prefix one in so long, or a single host would have all of it."""
VERIFY_PREFIXES_MAX: Final = 64

_ANSWERS: Final[dict[type[Any], tuple[type[Any], ...]]] = {
    FindNodes: (Nodes,),
    FindValue: (Values,),
    HaveValue: (Have,),
    Store: (StoreTaken, StoreRefused),
}


L = TypeVar("L", bound=Lookup)


class _Query:
    """A question that is out."""

    __slots__ = ("kind", "lookup", "packed")

    def __init__(self, packed: bytes, kind: type[Any], lookup: Lookup | None) -> None:
        self.packed = packed
        self.kind = kind
        self.lookup = lookup


class Kademlia:
    """One node of one commons.

    *flags*: what this node does for others (`STORES`, `RELAYS`); *announce*: it can be reached
    where its questions come from, so others may know of it.  Both may change at any time.
    *probe_interval_s* 0: no upkeep of its own.
    Units: *now* seconds, monotonic, the same clock in every call.
    """

    __slots__ = (
        "_internal",
        "_next_probe",
        "_next_self",
        "_next_sweep",
        "_poor_s",
        "_probes",
        "_queries",
        "_query",
        "_secret",
        "_seeds",
        "_service",
        "_verified",
        "_verify_at",
        "_verify_left",
        "_votes",
        "alpha",
        "announce",
        "horizon",
        "k",
        "lookups",
        "own_id",
        "paths",
        "probe_interval_s",
        "rng",
        "table",
    )

    def __init__(
        self,
        own_id: bytes,
        *,
        rng: random.Random,
        now: float,
        k: int = MAX_CONTACTS,
        paths: int = 4,
        alpha: int = ALPHA,
        flags: int = 0,
        announce: bool = False,
        horizon: Horizon | None = None,
        storage: Storage | None = None,
        probe_interval_s: float = PROBE_S,
    ) -> None:
        if not 0 < k <= MAX_CONTACTS or not 0 < paths <= 16 or alpha < 1:
            raise LocalProtocolError("k is 1 to 20, paths 1 to 16, alpha at least 1")
        if len(own_id) != ID_BYTES:
            raise LocalProtocolError(f"an id has {ID_BYTES} bytes, not {len(own_id)}")
        self.own_id = own_id
        self.rng = rng
        self.k = k
        self.paths = paths
        self.alpha = alpha
        self.announce = announce
        self.horizon = horizon if horizon is not None else Horizon()
        self.probe_interval_s = probe_interval_s
        self.table = Table(own_id, now=now, k=k, horizon=self.horizon)
        self.lookups: dict[int, Lookup] = {}
        self._service = Service(
            self.table, storage if storage is not None else Storage(), self.horizon, flags
        )
        self._queries: dict[int, _Query] = {}
        self._query = 0
        self._internal = 0
        self._secret = rng.getrandbits(256).to_bytes(32, "big")
        self._seeds: list[bytes] = []
        self._votes = b""
        self._probes = 0
        self._next_probe = now
        self._next_self = now
        self._poor_s = POOR_S / 2.0
        self._next_sweep = now + SWEEP_S
        self._verify_left = float(VERIFY_BURST)
        self._verify_at = now
        self._verified: dict[bytes, float] = {}

    def __repr__(self) -> str:
        return f"<Kademlia {self.own_id.hex()[:8]} {self.table!r} {len(self.lookups)} lookups>"

    @property
    def flags(self) -> int:
        """What this node does for others."""
        return self._service.flags

    @flags.setter
    def flags(self, flags: int) -> None:
        self._service.flags = flags

    @property
    def storage(self) -> Storage:
        """What it keeps for others."""
        return self._service.storage

    def look_around(self, horizon: Horizon) -> None:
        """Go by another horizon from now on: this host is in other networks than before."""
        self.horizon = self.table.horizon = self._service.horizon = horizon

    def bits(self, now: float) -> int:
        """Return how many bits of an id a region shares, as most of those say who were asked."""
        votes = sorted(self._votes)
        own = self._service.bits(now)
        if len(votes) < VOTES_LEAST:
            return own
        said = votes[len(votes) // 2]
        if self._service.answering < 2 * REGION_CONTACTS:
            return said
        # Liars may be most of those asked lately, but they do not make up what we know ourselves.
        return min(max(said, own - BITS_APART), own + BITS_APART)

    def contacts(self) -> list[Contact]:
        """Return the contacts that answer, for the cache and for others who join."""
        return [Contact.unpack(packed) for packed in self.table]

    # in and out

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take an event in; return what is to be done.

        Raises: LocalProtocolError: the id of a lookup is in use, or a blob or locator has not the
        length it must have; never because of what a peer sent.
        """
        actions: list[Action] = []
        match event:
            case Answered():
                self._answered(event, now, actions)
            case Unanswered():
                self._unanswered(event.query, now, actions, unproven=event.unproven)
            case Asked():
                self._asked(event, now, actions)
            case Find() | Get() | Put():
                self._begin(event, now, actions)
            case Enough():
                lookup = self.lookups.get(event.id)
                if lookup is not None:
                    self._finish(lookup, actions)
            case Learned():
                self._learned(event, now, actions)
        return actions

    def deadline(self) -> float | None:
        """Return when `tick` has something to do next."""
        times = [self._next_sweep]
        if self.probe_interval_s and (len(self.table) or self._seeds):
            times += [self._next_probe, self._next_self]
        times += [look.wake for look in self.lookups.values() if look.wake is not None]
        return min(times)

    def tick(self, now: float) -> list[Action]:
        """Do what is due."""
        actions: list[Action] = []
        if now >= self._next_sweep:
            self.storage.sweep(now)
            self._next_sweep = now + SWEEP_S
        if self.probe_interval_s and (len(self.table) or self._seeds):
            self._upkeep(now, actions)
        for lookup in list(self.lookups.values()):
            if lookup.wake is not None and lookup.wake <= now:
                self._drive(lookup, now, actions)
        return actions

    # searches

    def _begin(self, event: Find | Get | Put, now: float, actions: list[Action]) -> None:
        if event.id in self.lookups:
            raise LocalProtocolError(f"lookup {event.id} is still going on")
        target = event.target if isinstance(event, Find) else event.locator
        if len(target) != ID_BYTES:
            raise LocalProtocolError(f"a target has {ID_BYTES} bytes, not {len(target)}")
        if len(self.lookups) >= MAX_LOOKUPS:
            actions.append(Failed(event.id, Reason.BUSY))
            return
        lookup: Lookup
        match event:
            case Find():
                lookup = self._lookup(FindLookup, event.id, target, now)
            case Get():
                lookup = self._lookup(GetLookup, event.id, target, now)
                lookup.start(event.check)
            case Put():
                lookup = self._lookup(PutLookup, event.id, target, now)
                self._begin_put(lookup, event)
        self._set_out(lookup, now, actions)

    def _begin_put(self, lookup: PutLookup, event: Put) -> None:
        if not 0 < len(event.blob) <= MAX_BLOB_BYTES or len(event.owner) not in (0, OWNER_BYTES):
            raise LocalProtocolError(f"a blob has 1 to {MAX_BLOB_BYTES} bytes, an owner 16 or none")
        known = [one.packed for one in event.known[:MAX_KNOWN] if self.horizon.allows(one.packed)]
        owner = event.owner or owner_of(self._secret, event.locator)
        lookup.start(event.blob, max(1, event.want_storers), owner, known, changed=event.changed)

    def _lookup(self, kind: type[L], lookup_id: int, target: bytes, now: float) -> L:
        return kind(
            lookup_id,
            target,
            rng=self.rng,
            horizon=self.horizon,
            k=self.k,
            paths=self.paths,
            bits=self.bits(now),
        )

    def _set_out(self, lookup: Lookup, now: float, actions: list[Action]) -> None:
        """Deal our own contacts out to the paths, and ask the first of them."""
        self.lookups[lookup.id] = lookup
        nearest = self.table.nearest(lookup.target, 2 * self.k)
        if self.table.is_poor:
            # Most of what is known from long ago is gone: all of it is tried.
            nearest = self.table.nearest(lookup.target, MAX_ASKS) + self._seeds
        for place, packed in enumerate(nearest):
            lookup.begin(place % self.paths, packed)
        self._drive(lookup, now, actions)

    def _drive(self, lookup: Lookup, now: float, actions: list[Action]) -> None:
        """Ask until enough answers are waited for, or the lookup is over."""
        if lookup.ends_at is not None and lookup.ends_at <= now:
            self._finish(lookup, actions)
            return
        turns = 0
        while turns < TURNS_MAX:
            chosen = None
            while self._may_ask(lookup, now):
                chosen = lookup.next(now)
                if chosen is None:
                    break
                turns = 0
                candidate, step, question = chosen
                query = self._ask(candidate.packed, question, actions, lookup)
                lookup.flying[query] = (candidate, step, now)
            else:
                break
            match lookup.turn(now):
                case Turn.OVER:
                    self._finish(lookup, actions)
                    return
                case Turn.WAIT:
                    break
                case Turn.ASK:
                    turns += 1
        else:
            # However a search errs, it does not hold the others up.
            self._finish(lookup, actions)
            return
        stall_s = lookup.stall_s
        fresh = [since for _, _, since in lookup.flying.values() if now - since < stall_s]
        wake = [min(fresh) + stall_s + 0.001] if fresh else []
        wake += [] if lookup.ends_at is None else [lookup.ends_at]
        if not lookup.flying:
            # The questions of others leave no room: later.
            wake.append(now + stall_s)
        lookup.wake = min(wake, default=None)

    def _may_ask(self, lookup: Lookup, now: float) -> bool:
        """Tell whether a lookup may have one more question out."""
        out = len(self._queries)
        at_once = lookup.at_once(self.alpha) if out < CROWDED else self.alpha
        most = max(MAX_FLYING, 2 * at_once)
        room = len(lookup.flying) < most and out < LOOKUPS_QUERIES
        return room and lookup.waiting(now) < at_once

    def _finish(self, lookup: Lookup, actions: list[Action]) -> None:
        del self.lookups[lookup.id]
        for number in lookup.flying:
            query = self._queries.get(number)
            if query is not None:
                # Its answer still tells whether the contact lives.
                query.lookup = None
        if not lookup.internal:
            actions.append(lookup.result())

    def _ask(
        self,
        packed: bytes,
        question: Question,
        actions: list[Action],
        lookup: Lookup | None = None,
    ) -> int:
        self._query += 1
        if len(self._queries) >= MAX_QUERIES:
            raise InternalError("the shell does not say which queries stay unanswered")
        self._queries[self._query] = _Query(packed, type(question), lookup)
        full = isinstance(question, Store)
        actions.append(Ask(self._query, Contact.unpack(packed), question, full))
        return self._query

    # answers

    def _answered(self, event: Answered, now: float, actions: list[Action]) -> None:
        query = self._queries.get(event.query)
        if query is None:
            return
        message = event.message
        told: list[bytes] = []
        packed = query.packed
        if not isinstance(message, _ANSWERS[query.kind]):
            self._unanswered(event.query, now, actions)
            return
        if isinstance(message, Nodes | Values | Have):
            packed = message.id + query.packed[ADDRESS] + bytes((message.flags,))
            try:
                told = self._believed(message, query.packed[ADDRESS])
            except RemoteProtocolError:
                # What breaks the format has not answered.
                self._unanswered(event.query, now, actions)
                return
            if self._serves(packed):
                self.table.answered(packed, now)
            else:
                # It may just be without an address: silence is forgiven a few times, too.
                self.table.unanswered(packed, now)
            # On the way most are honest; next to a locator all may be who wants it hidden.
            if isinstance(message, Nodes) or self._is_far(query.lookup, message):
                self._votes = (self._votes + bytes((message.bits,)))[-VOTES:]
            for contact in told:
                self.table.heard_of(contact)
        del self._queries[event.query]
        lookup = query.lookup
        if lookup is None:
            return
        actions += lookup.answered(event.query, message, packed, told)
        lookup.settle(now)
        lookup.vote(self.bits(now))
        self._drive(lookup, now, actions)

    def _believed(self, message: Answer, teller: bytes) -> list[bytes]:
        """Return the contacts of an answer that may be asked.

        Raises: RemoteProtocolError: no whole contacts, or an answerer that is nobody, or we.
        """
        if message.id in (UNKNOWN_ID, self.own_id):
            raise RemoteProtocolError("an answer has no id of its own")
        return [
            packed
            for packed in split(message.contacts)
            if self.horizon.allows(packed, teller[:16])
            and not packed.startswith(self.own_id)
            and self._serves(packed)
        ]

    @staticmethod
    def _is_far(lookup: Lookup | None, message: Values | Have) -> bool:
        """Tell whether the answerer is not of the region that is searched, as large as it says.

        Who does not know yet how large it is asks anybody as of the region.
        """
        if lookup is None:
            return False
        value = int.from_bytes(message.id, "big")
        return shared_bits(value, lookup.candidates.aim) < message.bits

    def _serves(self, packed: bytes) -> bool:
        """Tell whether a contact is of use to others than those whom it called.

        Behind a translator a node answers whom it has asked itself, and after that nobody.
        """
        return bool(packed[-1] & STORES) or self.horizon.is_near(packed[ADDRESS][:16])

    def _unanswered(
        self, number: int, now: float, actions: list[Action], *, unproven: bool = False
    ) -> None:
        query = self._queries.pop(number, None)
        if query is None:
            return
        if query.kind is not Store:
            # Who would not open a full session may still answer questions.
            self.table.unanswered(query.packed, now)
        if query.lookup is not None:
            query.lookup.unanswered(number, unproven=unproven)
            self._drive(query.lookup, now, actions)

    # others

    def _asked(self, event: Asked, now: float, actions: list[Action]) -> None:
        message = self._service.answer(event, now)
        if message is not None:
            actions.append(Reply(event.token, message))
            question = event.message
            if isinstance(question, FindNodes) and len(question.announce) == ID_BYTES + 1:
                self._announced(question.announce, event.sender, now, actions)

    def _announced(
        self, announce: bytes, sender: tuple[str, int], now: float, actions: list[Action]
    ) -> None:
        """Ask a node back that says it can be reached, within a budget."""
        packed = announce[:ID_BYTES] + pack_endpoint(sender) + announce[ID_BYTES:]
        own = packed.startswith((self.own_id, UNKNOWN_ID))
        if (
            own
            or not self._serves(packed)
            or not self.horizon.allows(packed)
            or not self.table.would_take(packed)
        ):
            return
        earned = (now - self._verify_at) / VERIFY_S
        self._verify_left = min(float(VERIFY_BURST), self._verify_left + earned)
        self._verify_at = now
        prefix = block_of(packed)
        if now < self._verified.get(prefix, -math.inf) + VERIFY_PREFIX_S:
            return
        if self._verify_left >= 1.0 and len(self._queries) < MAX_QUERIES // 2:
            self._verify_left -= 1.0
            # At the pace of all, what is forgotten was asked longer ago than a prefix waits.
            self._verified.pop(prefix, None)
            self._verified[prefix] = now
            if len(self._verified) > VERIFY_PREFIXES_MAX:
                del self._verified[next(iter(self._verified))]
            self._ask(packed, FindNodes(target=self._beside(packed)), actions)

    def _learned(self, event: Learned, now: float, actions: list[Action]) -> None:
        poor, news = self.table.is_poor, False
        for contact in event.contacts:
            packed = contact.packed
            if not self.horizon.allows(packed) or packed.startswith(self.own_id):
                continue
            if event.proven and not packed.startswith(UNKNOWN_ID):
                self.table.answered(packed, now)
            elif not self.table.heard_of(packed) and poor and packed not in self._seeds:
                self._seeds = [*self._seeds, packed][-MAX_SEEDS:]
            else:
                continue
            news = True
        if self.probe_interval_s and poor and news:
            self._poor_s = POOR_S / 2.0
            self._next_self = min(self._next_self, now + POOR_S)
            self._upkeep(now, actions)

    # upkeep

    def _upkeep(self, now: float, actions: list[Action]) -> None:
        if now >= self._next_self and any(one.internal for one in self.lookups.values()):
            # The one before is still going on.
            self._next_self = now + POOR_S
        if now >= self._next_self:
            self._poor_s = min((2.0 if self.announce else 4.0) * self._poor_s, SELF_S)
            steady = SELF_S if self.announce else LEAF_PAUSES * SELF_S
            pause = self._poor_s if self.table.is_poor else steady
            self._next_self = now + pause * self.rng.uniform(0.75, 1.25)
            self._internal -= 1
            lookup = self._lookup(FindLookup, self._internal, self.own_id, now)
            lookup.internal = True
            lookup.announce = self._announcement()
            self._set_out(lookup, now, actions)
        if now >= self._next_probe:
            self._probes += 1
            young = self._probes <= YOUNG_PROBES
            steady = self.probe_interval_s if self.announce else LEAF_PAUSES * self.probe_interval_s
            pause = min(YOUNG_PROBE_S, self.probe_interval_s) if young else steady
            self._next_probe = now + pause * self.rng.uniform(0.75, 1.25)
            packed = self.table.to_probe(now, self.rng)
            if packed is not None:
                target = self._beside(packed)
                question = FindNodes(target=target, announce=self._announcement())
                self._ask(packed, question, actions)

    def _announcement(self) -> bytes:
        return self.own_id + bytes((self.flags,)) if self.announce else b""

    def _beside(self, packed: bytes) -> bytes:
        """Return a random id of the bucket that a contact is in."""
        value = int.from_bytes(packed[:ID_BYTES], "big")
        below = 255 - min(shared_bits(value, self.table.value), BUCKETS - 1)
        other = (self.table.value >> below) ^ 1
        return (other << below | self.rng.getrandbits(below)).to_bytes(ID_BYTES, "big")
