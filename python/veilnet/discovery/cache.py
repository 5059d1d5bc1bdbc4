"""Contacts for the next start: those that answered, spread over prefixes, in one small file.

```
file = CBOR [1, [[packed contact 51, first answer, last answer], ...]]       unix seconds
```
Invariant: at most `MAX_CONTACTS`, at most `PER_PREFIX` of a /24 or /48 and `PER_BLOCK` of a /16 or
/32.  Who was there for longest is kept: a cache of a week ago must still lead in.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from veilnet.discovery.contact import (
    ADDRESS,
    PACKED_BYTES,
    UNKNOWN_ID,
    Contact,
    Horizon,
    prefix_of,
)
from veilnet.errors import ConfigError
from veilnet.networks.records import Record
from veilnet.protocol import cbor

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable

MAX_CONTACTS: Final = 256
PER_PREFIX: Final = 2
PER_BLOCK: Final = 16
MAX_FILE_BYTES: Final = 32_768
STEADY_S: Final = 7 * 86_400
"""A contact known for so long is worth one that was seen so much later."""


class ContactCache:
    """At most `MAX_CONTACTS` contacts, by address."""

    def __init__(self, horizon: Horizon | None = None) -> None:
        self._horizon = horizon if horizon is not None else Horizon()
        self._seen: dict[bytes, tuple[bytes, int, int]] = {}

    def __len__(self) -> int:
        return len(self._seen)

    def __repr__(self) -> str:
        return f"<ContactCache of {len(self)}>"

    @classmethod
    def decode(cls, data: bytes, horizon: Horizon | None = None) -> ContactCache:
        """Read what `encode` wrote; what may not be asked any more is left out.

        Raises: ConfigError: it is not a cache of this release.
        """
        cache = cls(horizon)
        record = Record.decode(
            "the cache of contacts", data, 2, blame=ConfigError, max_bytes=MAX_FILE_BYTES
        )
        record.version(1)
        for item in record.array(most=MAX_CONTACTS):
            entry = Record("a contact of the cache", item, 3, ConfigError)
            packed = entry.octets(PACKED_BYTES)
            first, last = entry.time(), entry.time()
            if cache._horizon.allows(packed):
                cache._seen[packed[ADDRESS]] = packed, min(first, last), last
        return cache

    def encode(self) -> bytes:
        """Return the file."""
        return cbor.encode([1, list(self._seen.values())], max_bytes=MAX_FILE_BYTES)

    def note(self, contacts: Iterable[Contact], unix_s: int) -> None:
        """Take in contacts that answered lately."""
        for contact in contacts:
            packed = contact.packed
            if packed.startswith(UNKNOWN_ID) or not self._horizon.allows(packed):
                continue
            old = self._seen.get(packed[ADDRESS])
            first = unix_s if old is None or old[0][:32] != packed[:32] else old[1]
            self._seen[packed[ADDRESS]] = packed, first, unix_s
        self._trim()

    def forget(self, contact: Contact) -> None:
        """Leave out one that did not answer, if enough others are left."""
        if len(self) > MAX_CONTACTS // 2:
            self._seen.pop(contact.address, None)

    def contacts(self, count: int, rng: random.Random) -> list[Contact]:
        """Return up to *count* to begin with: half the steadiest, half at random, mixed."""
        ranked = [packed for packed, _, _ in sorted(self._seen.values(), key=_worth, reverse=True)]
        steady, others = ranked[: count // 2], ranked[count // 2 :]
        chosen = steady + rng.sample(others, min(len(others), count - len(steady)))
        rng.shuffle(chosen)
        return [Contact.unpack(packed) for packed in chosen]

    def _trim(self) -> None:
        prefixes: Counter[bytes] = Counter()
        blocks: Counter[bytes] = Counter()
        kept: dict[bytes, tuple[bytes, int, int]] = {}
        for entry in sorted(self._seen.values(), key=_worth, reverse=True):
            packed = entry[0]
            group, block = self._horizon.group_of(packed), self._block(packed)
            if prefixes[group] >= PER_PREFIX or (block and blocks[block] >= PER_BLOCK):
                continue
            prefixes[group] += 1
            blocks[block] += 1
            kept[packed[ADDRESS]] = entry
            if len(kept) == MAX_CONTACTS:
                break
        self._seen = kept

    def _block(self, packed: bytes) -> bytes:
        """Return the /16 or /32, empty for a near address."""
        if self._horizon.is_near(packed[32:48]):
            return b""
        prefix = prefix_of(packed)
        return prefix[:14] if len(prefix) == 15 else prefix[:4]


def _worth(entry: tuple[bytes, int, int]) -> tuple[int, bytes]:
    packed, first, last = entry
    return last + min(last - first, STEADY_S), packed
