"""What a node keeps for others: blobs that it cannot read, a few candidates for each locator.

A storer sees neither who publishes nor who asks, so it cannot tell the true blob from a false
one and keeps several.  Invariants: bounded in bytes, locators and candidates; of one owner one
candidate for each locator; a newcomer never puts out what is there and alive, except that a full
store takes from the prefix that holds the most, if that is more than the newcomer's would.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
from typing import TYPE_CHECKING, Final

from attrs import define, field

if TYPE_CHECKING:
    from collections.abc import Iterator

LIFE_S: Final = 7_200.0
"""A blob is kept so long after it was last sent or asked for by its digest."""
LIFE_MAX_S: Final = 86_400.0 + 7_200.0
"""... and so long in all: nobody but the publisher can keep it for ever."""
CANDIDATES: Final = 4
MAX_BYTES: Final = 32 * 1024 * 1024
MAX_LOCATORS: Final = 16_384
OVERHEAD_BYTES: Final = 512
"""What a candidate counts for beside its blob, so that empty ones are not free."""


class Refusal(enum.IntEnum):
    """Why a blob is not kept."""

    QUOTA = 1
    """The session or its prefix stored too much."""
    FULL = 2
    """There are other candidates for that locator already, or no room at all."""
    FAR = 3
    """The locator is not of this node's region."""
    NOT_HERE = 4
    """This node keeps nothing for others, or not what comes in a lookup session."""


def digest_of(blob: bytes) -> bytes:
    """Return what a blob is asked for by."""
    return hashlib.sha256(blob).digest()


@define
class _Kept:
    blob: bytes = field(repr=False)
    digest: bytes
    owner: bytes = field(repr=False)
    prefix: bytes
    born: float
    expires: float

    @property
    def size(self) -> int:
        return len(self.blob) + OVERHEAD_BYTES


class Storage:
    """Blobs by locator."""

    __slots__ = ("_bytes", "_kept", "_max_bytes", "_max_locators", "_prefixes")

    def __init__(self, max_bytes: int = MAX_BYTES, max_locators: int = MAX_LOCATORS) -> None:
        self._kept: dict[bytes, list[_Kept]] = {}
        self._prefixes: dict[bytes, int] = {}
        self._bytes = 0
        self._max_bytes = max_bytes
        self._max_locators = max_locators

    def __len__(self) -> int:
        """Return how many locators something is kept for."""
        return len(self._kept)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._kept)

    @property
    def size_bytes(self) -> int:
        """What is kept, with `OVERHEAD_BYTES` for each candidate."""
        return self._bytes

    def get(self, locator: bytes, now: float) -> tuple[bytes, ...]:
        """Return the candidates of a locator, the longest kept first."""
        kept = self._kept.get(locator)
        return tuple(one.blob for one in kept if one.expires > now) if kept else ()

    def have(self, locator: bytes, digest: bytes, now: float) -> bool:
        """Tell whether that very blob is kept, and keep it on."""
        for one in self._kept.get(locator, ()):
            if one.expires > now and hmac.compare_digest(one.digest, digest):
                one.expires = max(one.expires, min(now + LIFE_S, one.born + LIFE_MAX_S))
                return True
        return False

    def put(
        self, locator: bytes, blob: bytes, *, owner: bytes, prefix: bytes, now: float
    ) -> Refusal | None:
        """Keep a blob; return why not, None if it is kept."""
        self._expire(locator, now)
        there = self._kept.get(locator, [])
        new = _Kept(blob, digest_of(blob), owner, prefix, now, now + LIFE_S)
        for at, one in enumerate(there):
            if hmac.compare_digest(one.owner, owner):
                if not self._room_for(new, now, instead=one):
                    return Refusal.FULL
                self._count(one, -1)
                self._count(new, 1)
                there[at] = new
                return None
            if one.digest == new.digest:
                # The same from somebody else: it is kept already, and stays its owner's.
                return None
        crowded = len(there) >= CANDIDATES or sum(one.prefix == prefix for one in there) >= 2
        if crowded or (not there and not self._locator_for(new, now)):
            return Refusal.FULL
        if not self._room_for(new, now):
            return Refusal.FULL
        self._kept.setdefault(locator, []).append(new)
        self._count(new, 1)
        return None

    def sweep(self, now: float) -> None:
        """Forget what has expired."""
        for locator in list(self._kept):
            self._expire(locator, now)

    def _expire(self, locator: bytes, now: float) -> None:
        there = self._kept.get(locator)
        if there is None or all(one.expires > now for one in there):
            return
        for one in there:
            if one.expires <= now:
                self._count(one, -1)
        alive = [one for one in there if one.expires > now]
        if alive:
            self._kept[locator] = alive
        else:
            del self._kept[locator]

    def _locator_for(self, new: _Kept, now: float) -> bool:
        """Make room for one more locator; tell whether there is."""
        if len(self._kept) < self._max_locators:
            return True
        self.sweep(now)
        while len(self._kept) >= self._max_locators:
            if not self._evict(new):
                return False
        return True

    def _room_for(self, new: _Kept, now: float, instead: _Kept | None = None) -> bool:
        """Make room for *new*; tell whether there is."""
        free = instead.size if instead else 0
        if self._bytes + new.size - free <= self._max_bytes:
            return True
        if instead is not None:
            return False
        self.sweep(now)
        while self._bytes + new.size > self._max_bytes:
            if not self._evict(new):
                return False
        return True

    def _evict(self, new: _Kept) -> bool:
        """Take one blob from the prefix that holds the most; tell whether one was."""
        greedy = max(self._prefixes, key=lambda prefix: self._prefixes[prefix], default=b"")
        held = self._prefixes.get(new.prefix, 0) + new.size
        if self._prefixes.get(greedy, 0) <= held:
            return False
        for locator, there in self._kept.items():
            for one in there:
                if one.prefix == greedy:
                    there.remove(one)
                    self._count(one, -1)
                    if not there:
                        del self._kept[locator]
                    return True
        return False

    def _count(self, one: _Kept, sign: int) -> None:
        self._bytes += sign * one.size
        held = self._prefixes.get(one.prefix, 0) + sign * one.size
        if held:
            self._prefixes[one.prefix] = held
        else:
            del self._prefixes[one.prefix]
