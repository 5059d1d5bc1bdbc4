"""The contacts that a node keeps: one byte string, sorted by bucket.

```
entry  = packed contact 51 | failures in a row u8 | last answer u32 | first answer u32   60 bytes
bucket = how many leading bits of the id are those of our own; at most `k` entries, `FAR_K` if the
         bucket is farther than `NEAR_BUCKETS` beyond our region
```
Times are seconds since the table was made, 0: it never answered and is mere hearsay.

Invariants: who answers is not put out by a newcomer, however many there are; at most
`PER_BUCKET` entries of a bucket and `PER_TABLE` of the table are of one /24 or /48; one entry per
address, and per id and prefix: who claims another's id takes no place from it; what is told to
others has answered us.
Source: Maymounkov and Mazieres 2002 (buckets, old contacts first); caps as in S/Kademlia's spirit.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from veilnet.discovery.contact import (
    ADDRESS,
    ID_BYTES,
    PACKED_BYTES,
    UNKNOWN_ID,
    Horizon,
)
from veilnet.discovery.locator import rank

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

ENTRY_BYTES: Final = 60
PER_BUCKET: Final = 2
PER_TABLE: Final = 8
BUCKETS: Final = 64
FAR_K: Final = 10
NEAR_BUCKETS: Final = 3
"""Far away ten will do, so that a table grows by ten for a doubling of the commons, not by 20."""
REGION_CONTACTS: Final = 24
"""A region is the smallest subtree around us in which so many others answered us."""
FAILURES_MAX: Final = 3
"""So many in a row, while others answer, and the entry goes; one less, and nobody is told of it."""

_ENTRY = struct.Struct(">51sBII")
_STATE = struct.Struct(">BII")
_ALIVE_S: Final = 60.0
_ZEROS: Final = bytes(10)


def shared_bits(one: int, other: int) -> int:
    """Return how many leading bits two ids of 256 bits have in common."""
    return 256 - (one ^ other).bit_length()


class Table:
    """At most `BUCKETS` x *k* contacts; 60 bytes each, and nothing else that grows."""

    __slots__ = (
        "_counts",
        "_entries",
        "_far",
        "_heard",
        "_start",
        "horizon",
        "k",
        "own_id",
        "value",
    )

    def __init__(self, own_id: bytes, *, now: float, k: int = 20, horizon: Horizon) -> None:
        self.own_id = own_id
        self.value = int.from_bytes(own_id, "big")
        self.k = k
        self.horizon = horizon
        self._entries = b""
        self._counts = bytearray(BUCKETS)
        self._far = 0
        """So many buckets are far."""
        self._start = now - 1.0
        self._heard = 0.0

    def __len__(self) -> int:
        return len(self._entries) // ENTRY_BYTES

    def __iter__(self) -> Iterator[bytes]:
        """Yield the packed contacts that answer."""
        for packed, failures, heard, _ in _ENTRY.iter_unpack(self._entries):
            if heard and failures < FAILURES_MAX - 1:
                yield packed

    def __repr__(self) -> str:
        return f"<Table of {len(self)} contacts>"

    @property
    def memory_bytes(self) -> int:
        """What the contacts take."""
        return len(self._entries) + len(self._counts)

    @property
    def answering(self) -> int:
        """How many contacts answer."""
        return sum(1 for _ in self)

    @property
    def is_poor(self) -> bool:
        """Whether fewer contacts answer than one bucket has."""
        return self.answering < self.k

    # what happens to contacts

    def answered(self, packed: bytes, now: float) -> bool:
        """Note that a contact answered; tell whether the table has it now.

        The id must be the one that it gave itself.
        """
        self._heard = now
        clock = max(1, int(now - self._start))
        at = self._find(packed[ADDRESS], ID_BYTES)
        if at >= 0:
            if self._entries.startswith(packed[:ID_BYTES], at):
                _, _, heard, since = _ENTRY.unpack_from(self._entries, at)
                since = since if heard else clock
                self._write(at, packed + _STATE.pack(0, clock, since))
                return True
            # Somebody else lives at that address now.
            self._remove(at)
        entry = packed + _STATE.pack(0, clock, clock)
        return self._insert(entry)

    def unanswered(self, packed: bytes, now: float) -> None:
        """Note that a contact did not answer.

        While nobody at all answers, the fault is likely ours, and nobody is put out.
        """
        at = self._find(packed[ADDRESS], ID_BYTES)
        if at < 0:
            return
        entry, failures, heard, since = _ENTRY.unpack_from(self._entries, at)
        alive = now - self._heard < _ALIVE_S
        if alive and (not heard or failures + 1 >= FAILURES_MAX):
            self._remove(at)
        else:
            failures = min(failures + 1, 255 if alive else FAILURES_MAX - 1)
            self._write(at, entry + _STATE.pack(failures, heard, since))

    def heard_of(self, packed: bytes) -> bool:
        """Take hearsay in where there is room; tell whether it was."""
        value = int.from_bytes(packed[:ID_BYTES], "big")
        bucket = min(shared_bits(value, self.value), BUCKETS - 1)
        if self._is_full(bucket) or self._find(packed[ADDRESS], ID_BYTES) >= 0:
            return False
        return self._insert(packed + _STATE.pack(0, 0, 0))

    def would_take(self, packed: bytes) -> bool:
        """Tell whether there is room for a contact that is not in the table, if it answers."""
        value = int.from_bytes(packed[:ID_BYTES], "big")
        bucket = min(shared_bits(value, self.value), BUCKETS - 1)
        at = self._find(packed[ADDRESS], ID_BYTES)
        if at >= 0:
            _, failures, heard, _ = _ENTRY.unpack_from(self._entries, at)
            return bool(failures) or not heard
        group = self.horizon.group_of(packed)
        same = self._same(packed[:ID_BYTES], group)
        if same >= 0:
            return self._is_poor(same)
        if self._is_crowded(bucket, group):
            return self._worst(bucket, group) >= 0
        return not self._is_full(bucket) or self._worst(bucket, b"") >= 0

    # who is asked, and who is told

    def nearest(self, target: bytes, count: int, *, told: bool = False) -> list[bytes]:
        """Return the packed contacts nearest to *target*, nearest first.

        *told*: to another node, so only those that answer; else those that do not come last.
        """
        aim = int.from_bytes(target, "big")
        own = min(shared_bits(aim, self.value), BUCKETS - 1)
        good: list[tuple[int, bytes]] = []
        poor: list[tuple[int, bytes]] = []
        start = sum(self._counts[:own])
        end = start + self._counts[own]
        self._gather(start, end, aim, good, poor)
        if len(good) < count:
            self._gather(end, len(self), aim, good, poor)
        bucket = own
        while len(good) < count and bucket:
            # Each of these buckets is farther than all before it.
            bucket -= 1
            end, start = start, start - self._counts[bucket]
            self._gather(start, end, aim, good, poor)
        good.sort()
        if not told and len(good) < count:
            poor.sort()
            good += poor
        return [packed for _, packed in good[:count]]

    def region(self, where: bytes, bits: int, count: int) -> list[bytes]:
        """Return contacts that share *bits* bits with locator *where*, by rank, and then others."""
        aim = int.from_bytes(where, "big")
        common = min(shared_bits(aim, self.value), BUCKETS - 1)
        inside: list[tuple[bytes, bytes]] = []
        first = min(common, bits, BUCKETS - 1)
        start = sum(self._counts[:first])
        end = len(self) if common >= bits else start + self._counts[first]
        shift = 256 - bits
        wanted = aim >> shift
        piece = self._entries[start * ENTRY_BYTES : end * ENTRY_BYTES]
        for packed, failures, heard, _ in _ENTRY.iter_unpack(piece):
            if (
                heard
                and failures < FAILURES_MAX - 1
                and int.from_bytes(packed[:ID_BYTES], "big") >> shift == wanted
            ):
                inside.append((rank(where, packed), packed))
        inside.sort()
        found = [packed for _, packed in inside[:count]]
        if len(found) < count:
            known = set(found)
            found += [one for one in self.nearest(where, count, told=True) if one not in known]
        return found[:count]

    def bits(self) -> int:
        """Return how many bits the ids of our region share: about 24 to 48 nodes have them."""
        inside = 0
        entries = self._entries
        # Deepest first: the table is sorted by bucket, so this is from its end.
        at = len(entries)
        for bucket in range(BUCKETS - 1, 0, -1):
            for _ in range(self._counts[bucket]):
                at -= ENTRY_BYTES
                failures = entries[at + PACKED_BYTES]
                if failures < FAILURES_MAX - 1 and any(entries[at + 52 : at + 56]):
                    inside += 1
            if inside >= REGION_CONTACTS:
                return bucket
        return 0

    def to_probe(self, now: float, rng: random.Random) -> bytes | None:
        """Return the contact whose life should be looked at next, None if there is none.

        One that was seen for long is likely to stay for long, and is asked the more seldom.
        """
        clock = now - self._start
        oldest: tuple[float, bytes] | None = None
        doubtful: list[bytes] = []
        for packed, failures, heard, since in _ENTRY.iter_unpack(self._entries):
            if failures or not heard:
                doubtful.append(packed)
                continue
            age = (clock - heard) / (heard - since + 600.0)
            if oldest is None or age > oldest[0]:
                oldest = (age, packed)
        if doubtful and (oldest is None or rng.random() < 0.5):
            return rng.choice(doubtful)
        return oldest[1] if oldest else None

    # the bytes

    def _gather(
        self,
        start: int,
        end: int,
        aim: int,
        good: list[tuple[int, bytes]],
        poor: list[tuple[int, bytes]],
    ) -> None:
        piece = self._entries[start * ENTRY_BYTES : end * ENTRY_BYTES]
        number = int.from_bytes
        for packed, failures, heard, _ in _ENTRY.iter_unpack(piece):
            distance = number(packed[:ID_BYTES], "big") ^ aim
            if heard and failures < FAILURES_MAX - 1:
                good.append((distance, packed))
            else:
                # Those that were silent before come after those that were never asked.
                poor.append((failures << 256 | distance, packed))

    def _insert(self, entry: bytes) -> bool:
        packed = entry[:PACKED_BYTES]
        if packed.startswith((self.own_id, UNKNOWN_ID)):
            return False
        proven = any(entry[52:56])
        group = self.horizon.group_of(packed)
        same = self._same(packed[:ID_BYTES], group)
        if same >= 0:
            # An id is free to claim: who has it in this prefix and answers keeps it, and whoever
            # shows it elsewhere may be its owner.
            if not proven or not self._is_poor(same):
                return False
            self._remove(same)
        value = int.from_bytes(packed[:ID_BYTES], "big")
        bucket = min(shared_bits(value, self.value), BUCKETS - 1)
        crowded = self._is_crowded(bucket, group)
        if crowded or self._is_full(bucket):
            worst = self._worst(bucket, group if crowded else b"") if proven else -1
            if worst < 0:
                return False
            self._write(worst, entry)
            return True
        end = sum(self._counts[: bucket + 1]) * ENTRY_BYTES
        self._entries = self._entries[:end] + entry + self._entries[end:]
        self._counts[bucket] += 1
        if proven:
            self._trim()
        return True

    def _is_crowded(self, bucket: int, group: bytes) -> bool:
        start = sum(self._counts[:bucket]) * ENTRY_BYTES
        end = start + self._counts[bucket] * ENTRY_BYTES
        return (
            self._count(group, start, end) >= PER_BUCKET
            or self._count(group, 0, len(self._entries)) >= PER_TABLE
        )

    def _is_full(self, bucket: int) -> bool:
        size = self._counts[bucket]
        return size >= self.k or (bucket < self._far and size >= FAR_K)

    def _trim(self) -> None:
        """Let the newest of buckets go that turned out to be far."""
        self._far = max(0, self.bits() - NEAR_BUCKETS)
        start = 0
        for bucket in range(self._far):
            size = self._counts[bucket]
            end = start + size * ENTRY_BYTES
            if size > FAR_K:
                piece = self._entries[start:end]
                entries = [piece[at : at + ENTRY_BYTES] for at in range(0, len(piece), ENTRY_BYTES)]
                kept = b"".join(sorted(entries, key=_newness)[:FAR_K])
                self._entries = self._entries[:start] + kept + self._entries[end:]
                self._counts[bucket] = FAR_K
            start += self._counts[bucket] * ENTRY_BYTES

    def _worst(self, bucket: int, group: bytes) -> int:
        """Return the offset of an entry that anybody who answers may replace, -1 if none."""
        start = sum(self._counts[:bucket]) * ENTRY_BYTES
        end = start + self._counts[bucket] * ENTRY_BYTES
        worst, most = -1, 0
        for at in range(start, end, ENTRY_BYTES):
            if group and not self._entries.startswith(group, at + ID_BYTES):
                continue
            heard = any(self._entries[at + 52 : at + 56])
            badness = 2 * self._entries[at + PACKED_BYTES] + (0 if heard else 3)
            if badness > most:
                worst, most = at, badness
        return worst

    def _is_poor(self, at: int) -> bool:
        return self._entries[at + PACKED_BYTES] > 0 or not any(self._entries[at + 52 : at + 56])

    def _same(self, contact_id: bytes, group: bytes) -> int:
        """Return the offset of the entry that has an id in a prefix, -1 if none has."""
        at = self._entries.find(contact_id)
        while at >= 0:
            if at % ENTRY_BYTES == 0:
                packed = self._entries[at : at + PACKED_BYTES]
                if self.horizon.group_of(packed) == group:
                    return at
            at = self._entries.find(contact_id, at + 1)
        return -1

    def _find(self, pattern: bytes, offset: int) -> int:
        """Return where the entry starts that has *pattern* at *offset*, -1 if none has."""
        pattern, offset = _rare(pattern, offset)
        at = self._entries.find(pattern)
        while at >= 0 and (at - offset) % ENTRY_BYTES:
            at = self._entries.find(pattern, at + 1)
        return at - offset if at >= 0 else -1

    def _count(self, group: bytes, start: int, end: int) -> int:
        """Count the entries between two offsets whose address begins with *group*."""
        count = 0
        pattern, offset = _rare(group, ID_BYTES)
        at = self._entries.find(pattern, start, end)
        while at >= 0:
            if (at - offset) % ENTRY_BYTES == 0:
                count += 1
            at = self._entries.find(pattern, at + 1, end)
        return count

    def _write(self, at: int, entry: bytes) -> None:
        self._entries = self._entries[:at] + entry + self._entries[at + ENTRY_BYTES :]

    def _remove(self, at: int) -> None:
        bucket, end = 0, self._counts[0] * ENTRY_BYTES
        while end <= at:
            bucket += 1
            end += self._counts[bucket] * ENTRY_BYTES
        self._counts[bucket] -= 1
        self._entries = self._entries[:at] + self._entries[at + ENTRY_BYTES :]


def _newness(entry: bytes) -> tuple[bool, int]:
    """Sort those that answer first, the oldest of them before all."""
    _, failures, heard, since = _ENTRY.unpack(entry)
    return bool(failures) or not heard, since


def _rare(pattern: bytes, offset: int) -> tuple[bytes, int]:
    """Leave the zeros out that every IPv4 address begins with: they are found everywhere."""
    return (pattern[10:], offset + 10) if pattern.startswith(_ZEROS) else (pattern, offset)
