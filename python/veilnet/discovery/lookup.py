"""One search through the commons: for nodes, for a blob, or for those who should keep one.

```
approach   FindNodes, on disjoint paths: no contact is asked on two of them.  For a blob each
           path aims at another quarter of the locator's region, the rest of its target random:
           who is asked on the way does not learn the locator, and who sits around the locator
           does not stand in the way
region     FindValue or HaveValue, by rank and in turns: contacts that share `bits` bits with the
           locator, of which everybody knows some; every answer names others
store      Store, over a full session, to the first by rank that answered; whoever does not take
           it is replaced, if need be by others that are looked for then
```
Invariants: a contact is asked once in approach and once in the region; at most `MAX_ASKS` in all,
however the answers go on; `bits` is the median of what many answers said, less at most
`WIDENINGS` where a region yields nothing.

Source: Baumgart and Mies 2007 (disjoint paths); Sridhar et al. 2024 (storage by region).
"""

from __future__ import annotations

import abc
import enum
from typing import TYPE_CHECKING, Final

from veilnet.discovery.candidates import Candidate, Candidates, Step
from veilnet.discovery.contact import ID_BYTES, STORES, Contact, Horizon
from veilnet.discovery.events import Failed, Found, Reason, Sighted, Stored
from veilnet.discovery.storage import digest_of
from veilnet.errors import InternalError
from veilnet.protocol.dht_messages import (
    FindNodes,
    FindValue,
    Have,
    HaveValue,
    Store,
    StoreTaken,
    Values,
)

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable

    from veilnet.discovery.events import Check
    from veilnet.protocol.dht_messages import Question

MAX_ASKS: Final = 96
"""Of lookup sessions; stores come on top."""
STORES_PER_WANTED: Final = 3
"""At most so many are asked to keep a blob for each that is wanted: if a fifth of all lie, half of
those that answer near a locator may."""
PUT_S: Final = 60.0
"""So long after the first answer a store ends with whom it has."""
AGREE: Final = 3
"""So many answers with the same blob, from as many prefixes, end a search for it."""
MAX_BLOBS_KEPT: Final = 16
WIDENINGS: Final = 2
SETTLE_S: Final = 0.3
"""So long after a blob that passes its check, nobody else is waited for."""
STALL_S: Final = 0.7
"""An answer that takes longer is waited for, but something else is asked meanwhile."""
AWAITED: Final = 10
"""Questions at once while somebody waits for a blob: 0.65 s instead of 0.93 among 10,000 nodes, for
twice the bytes."""
AWAITED_STALL_S: Final = 0.3


class Turn(enum.Enum):
    """How a lookup goes on that has nobody to ask."""

    WAIT = enum.auto()
    ASK = enum.auto()
    """A new stage has begun: there may be somebody now."""
    OVER = enum.auto()


class Lookup(abc.ABC):
    """The state of one search; the machine feeds it and asks it for the `next` question."""

    regional = True
    stall_s = STALL_S
    announce = b""
    """What to tell of ourselves on the way: nothing in a search on somebody's behalf."""

    def __init__(
        self,
        lookup_id: int,
        target: bytes,
        *,
        rng: random.Random,
        horizon: Horizon,
        k: int,
        paths: int,
        bits: int,
    ) -> None:
        self.id = lookup_id
        self.target = target
        self.flying: dict[int, tuple[Candidate, Step, float]] = {}
        """Query -> whom, for what, since when."""
        self.wake: float | None = None
        """When an answer has been waited for long enough to ask somebody else meanwhile."""
        self.ends_at: float | None = None
        """When what there is will do."""
        self.internal = False
        """Begun by the machine itself, for its table: nobody waits for the result."""
        self.asked = 0
        self.k = k
        self._turn = 0
        self._widened = 0
        self._votes = bits
        self.candidates = Candidates(
            target,
            horizon=horizon,
            paths=paths,
            k=k,
            bits=bits if self.regional else 0,
            regional=self.regional,
        )
        if self.regional:
            self.candidates.aim_apart(rng.getrandbits)

    # what differs

    @abc.abstractmethod
    def inquiry(self, step: Step) -> Question:
        """Return what one is asked once it is the way no more."""

    @abc.abstractmethod
    def is_satisfied(self) -> bool:
        """Tell whether nobody more needs to be asked."""

    @abc.abstractmethod
    def result(self) -> Found | Stored | Failed:
        """Return the end of it."""

    @abc.abstractmethod
    def absorb(self, candidate: Candidate, message: object) -> list[Sighted]:
        """Take in what an answer brings beside contacts."""

    def lacks(self) -> bool:
        """Tell whether the region yielded too little, once all of it was asked."""
        return False

    def carry_on(self) -> bool:
        """Begin the next stage once all were asked; tell whether there is one."""
        return False

    # what does not

    @property
    def bits(self) -> int:
        """How many bits the ids of the region share with the target."""
        return self.candidates.bits

    def vote(self, bits: int) -> None:
        """Take the size of the region from what the machine heard lately."""
        self._votes = bits
        self._resize()

    def begin(self, path: int, packed: bytes) -> None:
        """Take in a contact that the node has itself."""
        self.candidates.add(packed, path, self.candidates.root)

    def waiting(self, now: float) -> int:
        """Return how many answers are worth waiting for."""
        return sum(now - since < self.stall_s for _, _, since in self.flying.values())

    def at_once(self, alpha: int) -> int:
        """Return how many questions are asked at once where it is *alpha* as a rule."""
        return alpha

    def next(self, now: float) -> tuple[Candidate, Step, Question] | None:
        """Return whom to ask what, None: nobody, before there is another answer."""
        del now
        if self.asked >= MAX_ASKS or self.is_satisfied():
            return None
        self._turn += 1
        # Two of three questions go into the region as soon as anybody of it is known.
        chosen = self.candidates.next(approach_first=self._turn % 3 == 0)
        if chosen is None:
            return None
        candidate, step = chosen
        self.candidates.charge(candidate, step)
        self.asked += 1
        return candidate, step, self._question(candidate, step)

    def answered(
        self, query: int, message: object, packed: bytes, told: Iterable[bytes]
    ) -> list[Sighted]:
        """Take an answer in, from the contact *packed* as it names itself.

        *told*: the contacts of it that may be asked at all.
        """
        candidate, step, _ = self.flying.pop(query)
        if step is not Step.STORE:
            self.candidates.answered(candidate, packed)
            for contact in told:
                self.candidates.add(contact, candidate.path, candidate)
        return self.absorb(candidate, message)

    def unanswered(self, query: int, *, unproven: bool = False) -> None:
        """Take note that there will be no answer; *unproven*: it did not show the id it gave."""
        candidate, step, _ = self.flying.pop(query)
        if unproven:
            self.candidates.disbelieve(candidate)
        elif step is not Step.STORE:
            self.candidates.unanswered(candidate)

    def turn(self, now: float) -> Turn:
        """Return how it goes on once `next` has nobody."""
        if not self.is_satisfied():
            if self.waiting(now):
                return Turn.WAIT
            if self._widened < WIDENINGS and self.bits and self.lacks():
                self._widened += 1
                self._resize()
                return Turn.ASK
            # Late answers are worth more than nothing.
            if self.flying and not self.is_content():
                return Turn.WAIT
        return Turn.ASK if self.carry_on() else Turn.OVER

    def is_content(self) -> bool:
        """Tell whether there is a result that late answers would only confirm."""
        return False

    def settle(self, now: float) -> None:
        """Set `ends_at`, if that depends on what was found."""
        del now

    def _resize(self) -> None:
        bits = max(0, self._votes - self._widened)
        if self.regional and bits != self.bits:
            self.candidates.resize(bits)

    def _question(self, candidate: Candidate, step: Step) -> Question:
        if step is not Step.APPROACH:
            return self.inquiry(step)
        aim = self.candidates.paths[candidate.path].aim
        return FindNodes(target=aim.to_bytes(ID_BYTES, "big"), announce=self.announce)

    def _failed(self, reason: Reason) -> Failed:
        if not len(self.candidates):
            reason = Reason.NO_CONTACTS
        elif not any(one.replied for one in self.candidates):
            reason = Reason.NO_ANSWER
        return Failed(self.id, reason, self.asked)


class FindLookup(Lookup):
    """The nodes nearest to a target."""

    regional = False

    def inquiry(self, step: Step) -> Question:
        """Never asked: there is nothing but the way."""
        raise InternalError(f"a search for nodes has no {step}")

    def is_satisfied(self) -> bool:
        """Never, before all paths are at their end."""
        return False

    def absorb(self, candidate: Candidate, message: object) -> list[Sighted]:  # noqa: ARG002
        """Nothing: contacts are all that is looked for."""
        return []

    def result(self) -> Found | Stored | Failed:
        """Return the nearest that answered."""
        nearest = self.candidates.nearest(self.k)
        if not nearest:
            return self._failed(Reason.NO_ANSWER)
        contacts = tuple(Contact.unpack(one.packed) for one in nearest)
        return Found(self.id, contacts, (), nearest[0].hops, self.asked)


class GetLookup(Lookup):
    """The blobs under a locator."""

    stall_s = AWAITED_STALL_S
    check: Check | None = None
    _hops = 0
    _agreed = False

    def start(self, check: Check | None) -> None:
        """Say which blobs count."""
        self.check = check
        self._said: dict[bytes, set[bytes]] = {}
        """Blob -> prefixes of those that had it."""
        self._false: set[bytes] = set()
        """Digests of blobs that did not pass."""

    def inquiry(self, step: Step) -> Question:  # noqa: ARG002 - there is one
        """Ask for the blobs."""
        return FindValue(locator=self.target, bits=self.bits)

    def is_satisfied(self) -> bool:
        """Once storers of several prefixes agree on one blob that passes."""
        return self._agreed

    def is_content(self) -> bool:
        """With any that passes a check."""
        return bool(self._said) and self.check is not None

    def at_once(self, alpha: int) -> int:
        """Ask more while nothing was found: somebody waits."""
        return alpha if self.is_content() else max(alpha, AWAITED)

    def settle(self, now: float) -> None:
        """End soon after a blob that passes: others who keep it may have a newer one."""
        if self.ends_at is None and self.is_content():
            self.ends_at = now + SETTLE_S

    def lacks(self) -> bool:
        """Nothing was found."""
        return not self._said

    def absorb(self, candidate: Candidate, message: object) -> list[Sighted]:
        """Take in the blobs of an answer."""
        sighted: list[Sighted] = []
        if not isinstance(message, Values):
            return sighted
        for blob in message.blobs:
            groups = self._said.get(blob)
            if groups is None:
                if len(self._said) >= MAX_BLOBS_KEPT or not self._passes(blob):
                    continue
                groups = self._said[blob] = set()
                self._hops = self._hops or candidate.hops
                sighted.append(Sighted(self.id, blob, candidate.hops))
            groups.add(candidate.group)
            self._agreed = self._agreed or len(groups) >= AGREE
        return sighted

    def result(self) -> Found | Stored | Failed:
        """Return all blobs that count."""
        if not self._said:
            return self._failed(Reason.NOT_FOUND)
        contacts = tuple(Contact.unpack(one.packed) for one in self.candidates.ranked()[: self.k])
        return Found(self.id, contacts, tuple(self._said), self._hops, self.asked)

    def _passes(self, blob: bytes) -> bool:
        if self.check is None:
            return True
        digest = digest_of(blob)
        if digest in self._false:
            return False
        if self.check(blob):
            return True
        self._false.add(digest)
        return False


class PutLookup(Lookup):
    """Storers of a blob: those that have it, and those that it is sent to."""

    def start(
        self, blob: bytes, want: int, owner: bytes, known: Iterable[bytes], *, changed: bool
    ) -> None:
        """Say what to store where; *known* had it before, or what was there if it has *changed*."""
        self.blob = blob
        self.changed = changed
        self.digest = digest_of(blob)
        self.want = want
        self.owner = owner
        self.sent = 0
        self._queue: list[Candidate] | None = None
        """Whom to send it to, in order; None: still searching."""
        self._tried = 0
        """How many were asked to keep it."""
        self._asked_ids: set[bytes] = set()
        self._holders: dict[bytes, Candidate] = {}
        """Who has it, by id: one node may stand at many addresses."""
        self._storers: list[Candidate] | None = None
        self._known: dict[Candidate, bytes] = {}
        """Who had it before, and under which id."""
        for packed in known:
            candidate = self.candidates.add(packed, 0, self.candidates.root)
            if candidate is not None:
                self._known[candidate] = candidate.id
        self.candidates.first = list(self._known)[::-1]

    @property
    def have(self) -> int:
        """How many have it."""
        return len(self._near())

    def _near(self) -> list[Candidate]:
        """Return who has it and is where it will be looked for.

        Regions shrink where the commons grows, or when it was not yet known how large they are.
        """
        return [one for one in self._holders.values() if one.shared > self.bits - 2]

    def inquiry(self, step: Step) -> Question:
        """Ask whether it is there, or to keep it."""
        if step is Step.STORE:
            return Store(locator=self.target, owner=self.owner, blob=self.blob)
        return HaveValue(locator=self.target, digest=self.digest, bits=self.bits)

    def next(self, now: float) -> tuple[Candidate, Step, Question] | None:
        """Return whom to ask what: those that had it, then the region, then to keep it."""
        if self._queue is None:
            # Nobody else is asked before it is clear that too few have it still.
            waiting = not self.candidates.first and self._is_asking_known()
            return None if waiting else super().next(now)
        stores = [since for _, step, since in self.flying.values() if step is Step.STORE]
        # Who takes long is not waited for: a storer too many does no harm.
        sending = sum(now - since < self.stall_s for since in stores)
        if self.have + sending >= self.want:
            return None
        busy = self._busy()
        for candidate in self._queue:
            if candidate.id not in busy:
                self._queue.remove(candidate)
                candidate.step = Step.STORE
                self._tried += 1
                self._asked_ids.add(candidate.id)
                self._storers = None
                return candidate, Step.STORE, self.inquiry(Step.STORE)
        return None

    def unanswered(self, query: int, *, unproven: bool = False) -> None:
        """Take note that there will be no answer: whoever should have kept it does not."""
        self._storers = None
        super().unanswered(query, unproven=unproven)

    def settle(self, now: float) -> None:
        """End in time: a change waits for it, and there will be another."""
        if self.ends_at is None:
            self.ends_at = now + PUT_S

    def is_satisfied(self) -> bool:
        """Once enough have it, or enough are known that could."""
        if self.have >= self.want:
            return True
        if self._queue is not None:
            return not (self._queue or self.flying)
        if self.candidates.first or self._is_asking_known():
            return False
        return self._is_refreshed() or 2 * len(self._able()) >= 3 * (self.want - self.have)

    def lacks(self) -> bool:
        """Fewer storers than wanted answered."""
        if self._queue is not None:
            return False
        self._storers = None
        return len(self._able()) < self.want - self.have

    def is_content(self) -> bool:
        """With enough that could keep it, or most that should."""
        if self._queue is None:
            return len(self._able()) >= self.want - self.have
        return self._will_do()

    def carry_on(self) -> bool:
        """Begin to send once the region is known; search again if too few took it."""
        if self.have >= self.want:
            return False
        self._storers = None
        room = STORES_PER_WANTED * self.want - self._tried
        if self._queue is not None:
            self._queue = None
            return room > 0 and (self.asked < MAX_ASKS or bool(self._able()))
        if self._is_refreshed():
            return False
        self._queue = self._able()[: max(0, room)]
        return bool(self._queue)

    def absorb(self, candidate: Candidate, message: object) -> list[Sighted]:
        """Note who has it."""
        self._storers = None
        took = isinstance(message, StoreTaken)
        self.sent += took
        # Who never took it and says that it has it lies: twenty such answers would end the search.
        known = not self.changed and self._known.get(candidate) == candidate.id
        kept = known and isinstance(message, Have) and message.have
        if kept or took:
            self._holders.setdefault(candidate.id, candidate)
        return []

    def result(self) -> Found | Stored | Failed:
        """Return who has it."""
        storers = self._near()
        if not storers:
            return self._failed(Reason.NOT_STORED)
        contacts = tuple(Contact.unpack(one.packed) for one in storers)
        lost = len(self._asked_ids - self._holders.keys())
        return Stored(self.id, len(storers), contacts, self.sent, self.asked, lost)

    def _is_asking_known(self) -> bool:
        return any(
            one in self._known and step is Step.REGION for one, step, _ in self.flying.values()
        )

    def _busy(self) -> set[bytes]:
        """Return the ids that have it, or are being asked to keep it."""
        asked = (one.id for one, step, _ in self.flying.values() if step is Step.STORE)
        return {*self._holders, *asked}

    def _is_refreshed(self) -> bool:
        """Tell whether most of those that took it had it still."""
        return bool(self._known) and self._will_do()

    def _will_do(self) -> bool:
        """Tell whether three of four have it, which is enough until the next time."""
        return 4 * self.have >= 3 * self.want

    def _able(self) -> list[Candidate]:
        """Return those of the region that could still be asked to keep it, by rank.

        First those who were known: they may have what was there before.
        """
        if self._storers is None:
            busy = self._busy()
            able = [
                one
                for one in self.candidates.ranked()
                if one.packed[-1] & STORES and one.step is not Step.STORE and one.id not in busy
            ]
            self._storers = sorted(able, key=lambda one: one not in self._known)
        return self._storers
