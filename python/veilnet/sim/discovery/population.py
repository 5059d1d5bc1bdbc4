"""Who there is: ids in order, addresses, who lies, and whom everybody's routing table lists.

Ids are told apart by their first 64 bits.  A table that a long time filled lists, of those who
share exactly b bits with its owner, as many as `routing.Table` has room for at random, whether
they are up or not: `bucket`.  The
machines of a simulated network are filled from it, and beyond 10,000 nodes it answers in their
place.
"""

from __future__ import annotations

import random
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from veilnet.discovery.routing import FAR_K, NEAR_BUCKETS, REGION_CONTACTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Tops = np.ndarray[Any, np.dtype[np.uint64]]
Endpoint = tuple[str, int]

K: Final = 20
TOP_BITS: Final = 64
_ID_BYTES: Final = 32
_FIRST_PREFIX: Final = 11 << 16  # 11.0.0.0/8 to 222.0.0.0/8, past what is private below it
_PREFIXES: Final = (100 - 11) << 16
_PORT: Final = 4_433
_PORTS: Final = 50_000


def number_of(endpoint: Endpoint) -> int:
    """Return which node of a population has *endpoint*: its last byte and its port say so."""
    host, port = endpoint
    return (int(host.rpartition(".")[2]) - 1) * _PORTS + port - _PORT


def top(value: bytes) -> int:
    """Return the first 64 bits of an id or locator."""
    return int.from_bytes(value[:8], "big")


class Population:
    """Nodes 0 .. n - 1 in the order of their ids.

    *evil* are the liars: a share of all at random places, and those ground next to a locator.
    """

    def __init__(
        self,
        *,
        seed: int,
        honest: int,
        sybils: int = 0,
        ground: Sequence[bytes] = (),
        ground_each: int = K,
        one_prefix: bool = False,
    ) -> None:
        self.seed = seed
        rng = np.random.default_rng([seed, 0x706F70])
        near = np.fromiter(self._ground(ground, ground_each, honest + sybils, rng), np.uint64)
        tops = rng.integers(0, 2**64, honest + sybils, dtype=np.uint64, endpoint=False)
        evil = np.arange(honest + sybils + len(near)) >= honest
        tops = np.concatenate([tops, near])
        order = np.argsort(tops, kind="stable")
        self.tops: Tops = tops[order]
        self.evil: list[bool] = evil[order].tolist()
        self.liars: list[int] = np.nonzero(evil[order])[0].tolist()
        self._top_list: list[int] = self.tops.tolist()
        prefixes = rng.integers(0, _PREFIXES, len(tops)) + _FIRST_PREFIX
        if one_prefix:
            prefixes[evil[order]] = _FIRST_PREFIX
        self._prefix: list[int] = prefixes.tolist()

    @staticmethod
    def _ground(
        locators: Sequence[bytes], each: int, nodes: int, rng: np.random.Generator
    ) -> Iterator[int]:
        """Yield ids nearer to each of *locators* than an honest one is."""
        free = max(1, TOP_BITS - (max(1, nodes).bit_length() + 4))
        for locator in locators:
            for _ in range(each):
                yield top(locator) ^ int(rng.integers(1, 2**free))

    def __len__(self) -> int:
        return len(self._top_list)

    def id(self, index: int) -> bytes:
        """Return the id of a node; its last bytes tell which it is."""
        head = self._top_list[index].to_bytes(8, "big")
        return head + index.to_bytes(_ID_BYTES - 8, "big")

    def endpoint(self, index: int) -> Endpoint:
        """Return the address of a node, in a prefix of its own as a rule."""
        p = self._prefix[index]
        host, port = divmod(index, _PORTS)
        return f"{p >> 16}.{p >> 8 & 255}.{p & 255}.{host + 1}", port + _PORT

    def top(self, index: int) -> int:
        """Return the first 64 bits of a node's id."""
        return self._top_list[index]

    def within(self, prefix: int, bits: int) -> range:
        """Return the nodes whose ids begin with the first *bits* bits of *prefix*."""
        if bits <= 0:
            return range(len(self))
        span = TOP_BITS - bits
        low = prefix >> span << span
        high = low + (1 << span)
        first = int(np.searchsorted(self.tops, np.uint64(low)))
        if high >= 2**TOP_BITS:
            return range(first, len(self))
        return range(first, int(np.searchsorted(self.tops, np.uint64(high))))

    def nearest(self, target: int, count: int = K) -> list[int]:
        """Return the *count* nodes nearest to *target*, as nobody can know them all."""
        bits = max(0, len(self).bit_length() - 1)
        while bits > 0 and len(self.within(target, bits)) < count:
            bits -= 1
        return sorted(self.within(target, bits), key=lambda i: self._top_list[i] ^ target)[:count]

    def bucket(self, index: int, shared: int) -> tuple[int, ...]:
        """Return whom the table of *index* lists of those who share exactly *shared* bits."""
        return _bucket(self, index, shared)

    def table(self, index: int) -> Iterator[tuple[int, ...]]:
        """Yield the buckets of a table, the farthest first, as far as there is anybody."""
        for shared in range(TOP_BITS):
            if len(self.within(self._top_list[index], shared)) <= 1:
                return
            yield self.bucket(index, shared)

    def region_bits(self, index: int) -> int:
        """Return how many bits the smallest subtree around a node shares that lists enough."""
        return _region_bits(self, index)

    def listed_near(self, index: int, target: int, count: int = K) -> list[int]:
        """Return the *count* nearest to *target* that the table of *index* lists."""
        own = self._top_list[index]
        shared = TOP_BITS - (own ^ target).bit_length()
        found = list(self.bucket(index, shared)) if shared < TOP_BITS else []
        if len(found) < count:
            deeper = shared + 1
            while deeper < TOP_BITS and len(self.within(own, deeper)) > 1:
                found += self.bucket(index, deeper)
                deeper += 1
            nearer = shared - 1
            while len(found) < count and nearer >= 0:
                found += self.bucket(index, nearer)
                nearer -= 1
        return sorted(found, key=lambda i: self._top_list[i] ^ target)[:count]


@lru_cache(maxsize=200_000)
def _bucket(people: Population, index: int, shared: int) -> tuple[int, ...]:
    """Draw one bucket, the same whenever it is asked for."""
    others = people.within(people.top(index) ^ (1 << (TOP_BITS - 1 - shared)), shared + 1)
    if len(others) <= FAR_K:
        return tuple(others)
    room = FAR_K if shared < people.region_bits(index) - NEAR_BUCKETS else K
    if len(others) <= room:
        return tuple(others)
    rng = random.Random(people.seed << 96 ^ index << 64 ^ shared)  # noqa: S311 - a simulation
    return tuple(rng.sample(others, room))


@lru_cache(maxsize=50_000)
def _region_bits(people: Population, index: int) -> int:
    own = people.top(index)
    bits = TOP_BITS - 1
    while bits > 0 and len(people.within(own, bits)) <= 1:
        bits -= 1
    listed, inside = 0, 1
    while bits > 0:
        wider = len(people.within(own, bits))
        listed += min(K, wider - inside)
        if listed >= REGION_CONTACTS:
            return bits
        inside = wider
        bits -= 1
    return 0
