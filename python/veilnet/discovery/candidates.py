"""Whom one lookup may ask next, fairly: the contacts it heard of, by whose word.

```
paths    each a heap by distance to its own target; no contact is on two of them
region   each teller's heap by rank; tellers form a tree, and a turn goes down it along the
         branch from which the fewest have been asked
```
Invariant: whoever tells of a thousand contacts, and those of a thousand more, gets for all of them
together one share among those that were asked beside it.
"""

from __future__ import annotations

import enum
import heapq
from bisect import bisect_left, insort
from typing import TYPE_CHECKING, Final

from veilnet.discovery.contact import ADDRESS, ID_BYTES, UNKNOWN_ID, Horizon
from veilnet.discovery.locator import rank
from veilnet.discovery.routing import shared_bits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_CANDIDATES: Final = 768
MAX_HOPS: Final = 16
MAX_PATH_ASKS: Final = 24
WIDTH_LEAST: Final = 3
"""A path ends once so many that answered are nearer than any that was not asked."""
DOUBT: Final = 3
"""So many silent contacts and no other, and what their teller told comes last."""
PER_GROUP: Final = 2
"""Asked of one /24 or /48."""

_NOWHERE: Final = 1 << 256


class Step(enum.Enum):
    """Which of its questions a contact is asked."""

    APPROACH = enum.auto()
    REGION = enum.auto()
    STORE = enum.auto()


class Candidate:
    """A contact in one lookup, and what followed from it."""

    __slots__ = (
        "charged",
        "group",
        "heads",
        "hops",
        "is_unproven",
        "kept",
        "lost",
        "near",
        "own",
        "packed",
        "path",
        "place",
        "replied",
        "shared",
        "step",
        "teller",
        "told",
    )

    def __init__(
        self, packed: bytes, path: int, teller: Candidate | None, *, group: bytes, shared: int
    ) -> None:
        self.packed = packed
        self.shared = shared
        """Leading bits that its id has in common with the target; -1: its id is not known."""
        self.path = path
        self.teller = teller
        self.group = group
        self.hops: int = 0 if teller is None else teller.hops + 1
        self.step: Step | None = None
        """What it was asked last."""
        self.replied = False
        self.place = b""
        """By which it is sorted in the region."""
        self.charged = 0
        """Questions to all that it, and those it told of, told of."""
        self.own = 0
        """Questions to those that it told of itself."""
        self.is_unproven = False
        """It could not be reached under the id that it gave."""
        self.near: int | None = None
        """Its distance, if it counts among those of its path that answered."""
        self.kept = self.lost = 0
        """How many of those it told of answered, and did not."""
        self.told: list[tuple[bytes, int, Candidate]] = []
        self.heads: list[Candidate] = []
        """Of those it told of, the ones that told of others in turn."""

    @property
    def is_doubtful(self) -> bool:
        """Whether it is not who it said, or none of several that it told of was there."""
        return self.is_unproven or (self.lost >= DOUBT and not self.kept)

    @property
    def id(self) -> bytes:
        """The id that it goes by."""
        return self.packed[:ID_BYTES]

    @property
    def value(self) -> int:
        """The id as a number."""
        return int.from_bytes(self.packed[:ID_BYTES], "big")

    def __repr__(self) -> str:
        return f"<Candidate {self.packed[:4].hex()} {self.step} replied={self.replied}>"


class Path:
    """One of the disjoint ways towards a target."""

    __slots__ = ("aim", "arrived", "asks", "late", "near", "waiting")

    def __init__(self, aim: int) -> None:
        self.aim = aim
        self.arrived: list[Candidate] = []
        """Who on it answered from within the region."""
        self.asks = 0
        self.near: list[int] = []
        """Distances of those that answered, sorted."""
        self.waiting: list[tuple[int, int, Candidate]] = []
        self.late: list[tuple[int, int, Candidate]] = []
        """By the word of doubtful tellers: when there are no others."""

    @property
    def is_there(self) -> bool:
        """Whether somebody of the region, who does not seem to lie, was come to."""
        return any(not one.is_doubtful for one in self.arrived)


class Candidates:
    """All that one lookup heard of, at most `MAX_CANDIDATES`."""

    __slots__ = (
        "_by_address",
        "_groups",
        "_horizon",
        "_k",
        "_serial",
        "_target",
        "aim",
        "bits",
        "first",
        "paths",
        "regional",
        "root",
    )

    def __init__(
        self, target: bytes, *, horizon: Horizon, paths: int, k: int, bits: int, regional: bool
    ) -> None:
        self._target = target
        self.aim = int.from_bytes(target, "big")
        self.bits = bits
        self.regional = regional
        """Whether there is a region at all, or only nodes near to a target."""
        self._horizon = horizon
        self._k = k
        self.paths = [Path(self.aim) for _ in range(paths)]
        self.root = Candidate(UNKNOWN_ID, 0, None, group=b"", shared=-1)
        self.first: list[Candidate] = []
        """To be asked as of the region, before all others."""
        self._by_address: dict[bytes, Candidate] = {}
        self._groups: dict[bytes, int] = {}
        self._serial = 0

    def __len__(self) -> int:
        return len(self._by_address)

    def __iter__(self) -> Iterator[Candidate]:
        return iter(self._by_address.values())

    def aim_apart(self, random_bits: Callable[[int], int]) -> None:
        """Give each path a target in another part of the region."""
        apart = (len(self.paths) - 1).bit_length()
        rest = 256 - self.bits - apart
        for number, path in enumerate(self.paths):
            head = self.aim >> (256 - self.bits) << apart | number
            path.aim = head << rest | random_bits(rest)

    def is_inside(self, candidate: Candidate) -> bool:
        """Tell whether a contact is of the region."""
        return self.regional and candidate.shared >= self.bits

    def add(self, packed: bytes, path: int, teller: Candidate) -> Candidate | None:
        """Take a contact in; return it if it is new."""
        known = self._by_address.get(packed[ADDRESS])
        if known is not None:
            if known.step is None and self.is_inside(known):
                # Whoever else tells of it may have its turn for it too.
                self._into_region(known, teller)
            return None
        if len(self._by_address) >= MAX_CANDIDATES or teller.hops >= MAX_HOPS:
            return None
        candidate = Candidate(
            packed, path, teller, group=self._horizon.group_of(packed), shared=self._shared(packed)
        )
        self._by_address[packed[ADDRESS]] = candidate
        self._queue(candidate)
        return candidate

    def answered(self, candidate: Candidate, packed: bytes) -> None:
        """Note that one answered; *packed* has the id and the flags that it gave itself."""
        if packed != candidate.packed:
            candidate.packed, candidate.place = packed, b""
            candidate.shared = self._shared(packed)
        candidate.replied = True
        if candidate.teller is not None:
            candidate.teller.kept += 1
        path = self.paths[candidate.path]
        if candidate.near is None:
            candidate.near = candidate.value ^ path.aim
            insort(path.near, candidate.near)
        if self.is_inside(candidate):
            path.arrived.append(candidate)
            if candidate.step is Step.APPROACH:
                # It told the way; now it is asked for what lies here.
                self._into_region(candidate, candidate.teller or self.root)
        teller = candidate.teller
        if teller is not None and candidate not in teller.heads:
            teller.heads.append(candidate)

    def unanswered(self, candidate: Candidate) -> None:
        """Note that one did not answer."""
        if candidate.teller is not None:
            candidate.teller.lost += 1

    def disbelieve(self, candidate: Candidate) -> None:
        """Note that one did not show that it has the id under which it answered."""
        candidate.is_unproven = True
        if candidate.near is not None:
            # Where it said to be nobody has arrived.
            self.paths[candidate.path].near.remove(candidate.near)
            candidate.near = None

    def resize(self, bits: int) -> None:
        """Let the region be all that share *bits* bits."""
        wider = bits < self.bits
        self.bits = bits
        for candidate in self._by_address.values():
            if not self.is_inside(candidate):
                if candidate.step is None and not wider:
                    self._into_path(candidate)
            elif wider and self._is_due(candidate):
                self._into_region(candidate, candidate.teller or self.root)

    def next(self, *, approach_first: bool) -> tuple[Candidate, Step] | None:
        """Take out whom to ask next, None if there is nobody."""
        while self.first:
            candidate = self.first.pop()
            if candidate.step is None:
                return candidate, Step.REGION
        region, paths = self._in_region, self._on_paths
        order = (paths, region) if approach_first else (region, paths)
        # What nobody but doubtful tellers knows of comes after everything else.
        for desperate in (False, True):
            for queue in order:
                chosen = queue(desperate=desperate)
                if chosen is not None:
                    return chosen
        return None

    def _in_region(self, *, desperate: bool) -> tuple[Candidate, Step] | None:
        chosen = self._next_in_region(self.root, desperate=desperate)
        return None if chosen is None else (chosen, Step.REGION)

    def _on_paths(self, *, desperate: bool) -> tuple[Candidate, Step] | None:
        chosen = self._next_on_paths(desperate=desperate)
        return None if chosen is None else (chosen, Step.APPROACH)

    def charge(self, candidate: Candidate, step: Step) -> None:
        """Count a question to one against all by whose word it is asked."""
        self._groups[candidate.group] = self._groups.get(candidate.group, 0) + 1
        candidate.step = step
        candidate.replied = False
        if step is Step.APPROACH:
            self.paths[candidate.path].asks += 1
        teller = candidate.teller
        if teller is not None:
            teller.own += 1
        while teller is not None:
            teller.charged += 1
            teller = teller.teller

    def ranked(self) -> list[Candidate]:
        """Return all that answered from within the region, by rank."""
        inside = [one for one in self if one.replied and self.is_inside(one)]
        return sorted(inside, key=self._place)

    def nearest(self, count: int) -> list[Candidate]:
        """Return those nearest to the target of all that answered."""
        replied = [one for one in self if one.replied]
        return heapq.nsmallest(count, replied, key=lambda one: one.value ^ self.aim)

    # queues

    def _shared(self, packed: bytes) -> int:
        if packed.startswith(UNKNOWN_ID):
            return -1
        return shared_bits(int.from_bytes(packed[:ID_BYTES], "big"), self.aim)

    def _queue(self, candidate: Candidate) -> None:
        if self.is_inside(candidate):
            self._into_region(candidate, candidate.teller or self.root)
        else:
            self._into_path(candidate)

    def _into_region(self, candidate: Candidate, teller: Candidate) -> None:
        self._serial += 1
        heapq.heappush(teller.told, (self._place(candidate), self._serial, candidate))

    def _into_path(self, candidate: Candidate) -> None:
        path = self.paths[candidate.path]
        distance = _NOWHERE if candidate.shared < 0 else candidate.value ^ path.aim
        self._serial += 1
        heapq.heappush(path.waiting, (distance, self._serial, candidate))

    def _place(self, candidate: Candidate) -> bytes:
        if not candidate.place:
            candidate.place = rank(self._target, candidate.packed) + candidate.packed[:ID_BYTES]
        return candidate.place

    def _is_due(self, candidate: Candidate) -> bool:
        """Tell whether one may still be asked as of the region."""
        if candidate.step is Step.APPROACH:
            return candidate.replied
        return candidate.step is None and self._groups.get(candidate.group, 0) < PER_GROUP

    def _next_in_region(self, node: Candidate, *, desperate: bool) -> Candidate | None:
        turns = [
            (head.charged, at)
            for at, head in enumerate(node.heads)
            if desperate or not head.is_doubtful
        ]
        if node.told:
            turns.append((node.own, -1))
        turns.sort()
        for _, at in turns:
            if at >= 0:
                chosen = self._next_in_region(node.heads[at], desperate=desperate)
                if chosen is not None:
                    return chosen
                continue
            while node.told:
                _, _, candidate = heapq.heappop(node.told)
                if self._is_due(candidate) and self.is_inside(candidate):
                    return candidate
        return None

    def _next_on_paths(self, *, desperate: bool) -> Candidate | None:
        # With contacts for one path only, that one has to look as well as all of them.
        begun = sum(bool(path.asks or path.waiting) for path in self.paths)
        width = max(WIDTH_LEAST, -(-self._k // max(1, begun)))
        for path in sorted(self.paths, key=lambda one: one.asks):
            if path.asks >= MAX_PATH_ASKS or path.is_there:
                continue
            if desperate:
                for entry in path.late:
                    heapq.heappush(path.waiting, entry)
                path.late.clear()
            while path.waiting:
                distance, _, candidate = entry = path.waiting[0]
                if bisect_left(path.near, distance) >= width and distance < _NOWHERE:
                    # Enough nearer ones have answered: this path is at its end.
                    break
                heapq.heappop(path.waiting)
                if candidate.step is not None or self.is_inside(candidate):
                    continue
                if self._groups.get(candidate.group, 0) >= PER_GROUP:
                    continue
                if desperate or candidate.teller is None or not candidate.teller.is_doubtful:
                    return candidate
                path.late.append(entry)
        return None
