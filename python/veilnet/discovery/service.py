"""What a node of the commons answers to strangers: the way, what it keeps, and whether it keeps.

Invariants: an answer costs a bounded look at our own table and store; nothing is asked, opened or
verified on anybody's word; what is told to others has answered us; nobody on the Internet hears of
our neighbours' addresses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from veilnet.discovery.contact import (
    ADDRESS,
    MAX_CONTACTS,
    STORES,
    Horizon,
    is_global,
    pack_endpoint,
    prefix_of,
)
from veilnet.discovery.quota import Quota
from veilnet.discovery.routing import shared_bits
from veilnet.discovery.storage import LIFE_S, Refusal, Storage
from veilnet.protocol.dht_messages import (
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
    from veilnet.discovery.events import Asked
    from veilnet.discovery.routing import Table
    from veilnet.protocol.dht_messages import DhtMessage

FAR_BITS: Final = 3
"""A locator that shares so many bits less with us than our region does is not ours to keep."""
BITS_S: Final = 30.0
"""How long the size of our region is taken for the same."""
WORDS: Final = {
    Refusal.QUOTA: "this session or its network stored too much",
    Refusal.FULL: "no room for another candidate",
    Refusal.FAR: "that locator is not of this node's region",
    Refusal.NOT_HERE: "this node keeps nothing, or not for who shows no identity",
}


class Service:
    """The answering half of one node."""

    __slots__ = (
        "_bits",
        "_bits_until",
        "_quota",
        "_table",
        "answering",
        "flags",
        "horizon",
        "storage",
    )

    def __init__(self, table: Table, storage: Storage, horizon: Horizon, flags: int) -> None:
        self.storage = storage
        self.flags = flags
        self._table = table
        self.horizon = horizon
        self._quota = Quota()
        self.answering = 0
        """How many contacts answer, as of the last look at `bits`."""
        self._bits = 0
        self._bits_until = float("-inf")

    def bits(self, now: float) -> int:
        """Return how many bits the ids of our region share."""
        if now >= self._bits_until:
            self._bits = self._table.bits()
            self.answering = self._table.answering
            self._bits_until = now + BITS_S
        return self._bits

    def answer(self, asked: Asked, now: float) -> DhtMessage | None:
        """Return what to say to a peer, None: nothing, it asked too much or no question at all."""
        message = asked.message
        if not isinstance(message, FindNodes | FindValue | HaveValue | Store) or (
            not self._quota.pace(self._prefix(asked), now)
        ):
            return None
        if isinstance(message, Store):
            return self._store(asked, message, now)
        if not self._quota.ask(asked.session, now):
            return None
        bits = self.bits(now)
        own_id, flags = self._table.own_id, self.flags
        if isinstance(message, FindNodes):
            near = self._table.nearest(message.target, MAX_CONTACTS, told=True)
            return Nodes(id=own_id, flags=flags, bits=bits, contacts=self._told(near, asked))
        # The asker's idea of the region, unless it would have us look at everything we know.
        wanted = max(message.bits, bits - FAR_BITS, 0)
        region = self._table.region(message.locator, wanted, MAX_CONTACTS)
        contacts = self._told(region, asked)
        if isinstance(message, HaveValue):
            have = self.storage.have(message.locator, message.digest, now)
            return Have(id=own_id, flags=flags, bits=bits, contacts=contacts, have=have)
        blobs = self.storage.get(message.locator, now)
        self._quota.answer(asked.session, sum(map(len, blobs)), now)
        return Values(id=own_id, flags=flags, bits=bits, contacts=contacts, blobs=blobs)

    def _prefix(self, asked: Asked) -> bytes:
        """Return what shares a quota: a prefix, or one host of our own network."""
        packed = bytes(32) + pack_endpoint(asked.place or asked.sender)
        address = packed[32:48]
        return address if self.horizon.is_near(address) else prefix_of(packed)

    def _told(self, contacts: list[bytes], asked: Asked) -> bytes:
        sender = pack_endpoint(asked.sender)
        strange = bool(self.horizon.near) and not self.horizon.is_near(sender[:16])
        return b"".join(
            one
            for one in contacts
            if one[ADDRESS] != sender and not (strange and not is_global(one[32:48]))
        )

    def _store(self, asked: Asked, message: Store, now: float) -> StoreTaken | StoreRefused:
        refusal = self._refusal(asked, message, now)
        if refusal is not None:
            return StoreRefused(code=refusal, reason=WORDS[refusal])
        return StoreTaken(life_s=int(LIFE_S))

    def _refusal(self, asked: Asked, message: Store, now: float) -> Refusal | None:
        if not asked.full or not self.flags & STORES:
            return Refusal.NOT_HERE
        if not self._quota.store(asked.session, self._prefix(asked), now):
            return Refusal.QUOTA
        where = int.from_bytes(message.locator, "big")
        if shared_bits(where, self._table.value) < self.bits(now) - FAR_BITS:
            return Refusal.FAR
        return self.storage.put(
            message.locator,
            message.blob,
            owner=message.owner,
            prefix=self._prefix(asked),
            now=now,
        )
