"""The model: answers of nodes whose tables are drawn when they are asked, and never kept.

A node lists whom `Population.listed_near` says and keeps what it was given.  It stands in for a
machine that has run for a long time; it has no quota, no cap per prefix and no clock.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

from veilnet.discovery.contact import ADDRESS, pack_endpoint
from veilnet.discovery.locator import rank
from veilnet.discovery.service import FAR_BITS
from veilnet.protocol.dht_messages import (
    MAX_BLOBS,
    FindNodes,
    FindValue,
    Have,
    HaveValue,
    Nodes,
    Store,
    StoreTaken,
    Values,
)
from veilnet.sim.discovery.population import TOP_BITS, K, top

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator

    from veilnet.sim.discovery.population import Endpoint, Population

LIFE_S: Final = 7_200


class Implicit:
    """A node of the model."""

    def __init__(
        self,
        people: Population,
        number: int,
        packed_of: Callable[[int], bytes],
    ) -> None:
        self._people = people
        self._number = number
        self._packed_of = packed_of
        self._bits = people.region_bits(number)
        self._kept: dict[bytes, dict[bytes, bytes]] = {}

    @property
    def id(self) -> bytes:
        """The id that its key proves."""
        return self._people.id(self._number)

    def answer(self, sender: Endpoint, session: Hashable, message: Any, *, full: bool) -> Any:  # noqa: ANN401
        """Return what a machine with this table would."""
        del session
        own: dict[str, Any] = {"id": self.id, "flags": 3, "bits": self._bits}
        match message:
            case FindNodes():
                return Nodes(contacts=self._near(message.target, sender), **own)
            case FindValue():
                kept = tuple(self._kept.get(message.locator, {}).values())[:MAX_BLOBS]
                named = self._region(message.locator, message.bits, sender)
                return Values(contacts=named, blobs=kept, **own)
            case HaveValue():
                kept = tuple(self._kept.get(message.locator, {}).values())
                found = any(hashlib.sha256(blob).digest() == message.digest for blob in kept)
                named = self._region(message.locator, message.bits, sender)
                return Have(contacts=named, have=found, **own)
            case Store() if full:
                self._kept.setdefault(message.locator, {})[message.owner] = message.blob
                return StoreTaken(life_s=LIFE_S)
        return None

    def _near(self, target: bytes, sender: Endpoint) -> bytes:
        near = self._people.listed_near(self._number, top(target))
        return b"".join(self._told(map(self._packed_of, near), sender))

    @staticmethod
    def _told(contacts: Iterable[bytes], sender: Endpoint) -> Iterator[bytes]:
        """Yield all but the asker itself."""
        own = pack_endpoint(sender)
        return (packed for packed in contacts if packed[ADDRESS] != own)

    def _region(self, locator: bytes, bits: int, sender: Endpoint) -> bytes:
        """Return those of the region by rank, and then the nearest, as `Table.region` does."""
        bits = max(bits, self._bits - FAR_BITS, 0)
        aim, own = top(locator), self._people.top(self._number)
        shared = min(TOP_BITS - (own ^ aim).bit_length(), TOP_BITS - 1)
        listed: list[int] = []
        if shared < bits:
            listed += self._people.bucket(self._number, shared)
        else:
            for bucket in range(bits, TOP_BITS):
                if len(self._people.within(own, bucket)) <= 1:
                    break
                listed += self._people.bucket(self._number, bucket)
        shift = TOP_BITS - bits
        inside = [i for i in listed if self._people.top(i) >> shift == aim >> shift]
        named = sorted(map(self._packed_of, inside), key=lambda packed: rank(locator, packed))
        if len(named) < K:
            known = set(named)
            near = self._people.listed_near(self._number, aim)
            named += [one for one in map(self._packed_of, near) if one not in known]
        return b"".join(self._told(named[:K], sender))
