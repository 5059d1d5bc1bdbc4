"""Contacts of former days: the cache that discovery keeps, and the members whose place is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from veilnet.daemon.ladder.ladder import Found

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from veilnet.daemon.ladder.ladder import Rung
    from veilnet.networks.endpoint import Endpoint
    from veilnet.units import NetworkId

SAMPLE: Final = 64
"""Contacts tried in one climb; the next climb draws others."""
KNOWN_MAX: Final = 256


class SavedContact(Protocol):
    """What a cached contact has."""

    @property
    def id(self) -> bytes:
        """The id that it had in the commons."""

    @property
    def endpoint(self) -> Endpoint:
        """Where it was."""


class SavedContacts(Protocol):
    """What the cache of contacts can do for us."""

    def sample(self, count: int) -> Sequence[SavedContact]:
        """Return up to *count* contacts of different prefixes, the likeliest to be up first."""


class Saved:
    """The step: contacts from the cache of the last run."""

    name: Final = "saved"
    standing: Final = False
    limit_s: Final = 60.0
    remedy: Final = "There are contacts to save once this node has met somebody."

    def __init__(self, cache: SavedContacts, network_id: NetworkId) -> None:
        self._cache, self._network_id = cache, network_id

    async def climb(self, rung: Rung) -> None:
        """Pass a sample on."""
        contacts = self._cache.sample(SAMPLE)
        if not contacts:
            rung.fail("no contact is saved")
        for contact in contacts[:SAMPLE]:
            # Its id in the commons may be another one by now: the place is what counts.
            await rung.found(contact.endpoint, network_id=self._network_id)


class Known:
    """The step: where the members of our networks, and the inviter, were last known to be."""

    name: Final = "known"
    standing: Final = False
    limit_s: Final = 60.0
    remedy: Final = "Join a network with an invite: veilnet connect veil:..."

    def __init__(self, known: Callable[[], Iterable[Found]]) -> None:
        self._known = known

    async def climb(self, rung: Rung) -> None:
        """Pass on what is known, one endpoint of everybody before the second of anybody."""
        by_peer: dict[tuple[object, object], list[Found]] = {}
        count = 0
        for item in self._known():
            by_peer.setdefault((item.network_id, item.peer), []).append(item)
            if (count := count + 1) == KNOWN_MAX:
                break
        if not by_peer:
            rung.fail("no member with a known place")
        ranks = max((len(items) for items in by_peer.values()), default=0)
        for rank in range(ranks):
            for items in by_peer.values():
                if rank < len(items):
                    item = items[rank]
                    await rung.found(item.endpoint, network_id=item.network_id, peer=item.peer)
