"""This node in the commons: links to strangers, and the havens it can be found by.

```
haven     a node of the commons that relays for strangers and that we keep a link to
publish   our descriptor names our havens, and the id that we have there
find      who looks for us asks a haven for a circuit to that id; inside it runs the ordinary
          handshake of our network, so that the haven sees sealed datagrams between two ids that
          mean nothing elsewhere
```
Invariant: a link of the commons carries no packets and opens no paths; at most
`Config.commons_relays` havens are held and `OPENINGS_MAX` tried at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs
import structlog
import trio

from veilnet.errors import PeerUnreachable, VeilError
from veilnet.networks.endpoint import Endpoint
from veilnet.protocol.circuit import is_circuit, is_stand_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from veilnet.daemon.node import Node
    from veilnet.daemon.relaying import Circuit
    from veilnet.daemon.sessions import Session
    from veilnet.networks.commons import Commons
    from veilnet.units import PeerId

LOOK_S: Final = 1.0
LINK_S: Final = 4.0
CIRCUIT_S: Final = 3.0
OPENINGS_MAX: Final = 2
OFFER_S: Final = 5.0
"""So long a new link's peer may take to say for whom it relays."""
SHUNNED_S: Final = 120.0
"""So long a node that did not answer, or does not relay for strangers, is not tried again."""
SHUNNED_MAX: Final = 1_024

log = structlog.get_logger("veilnet.commons")


@attrs.frozen
class Haven:
    """Where somebody can be found: a relay of the commons, and whom to ask it for."""

    relay: PeerId
    endpoint: Endpoint
    target: PeerId
    """The id that the one who is looked for has in the commons."""


class CommonsLinks:
    """The full sessions of this node in the commons, and its havens among them."""

    def __init__(self, node: Node, commons: Commons) -> None:
        self._node = node
        self.commons = commons
        self._held: tuple[PeerId, ...] = ()
        self._opening: dict[PeerId, trio.Event] = {}
        self._shunned: dict[PeerId, float] = {}
        self.changed = trio.Event()
        """Set, and replaced, when the havens are others than before."""

    def __repr__(self) -> str:
        return f"<CommonsLinks, {len(self.havens())} havens>"

    # --- links -----------------------------------------------------------------------------------

    def link(self, peer_id: PeerId) -> Session | None:
        """Return the session with a node of the commons if there is a direct one."""
        session = self._node.sessions.carrier(self.commons.id, peer_id)
        if session is None or session.retiring or is_circuit(session.endpoint):
            return None
        return session

    async def open(
        self, peer_id: PeerId, endpoints: Iterable[Endpoint] = (), *, timeout_s: float = LINK_S
    ) -> Session:
        """Return a full session with a node of the commons.

        Cancellation: the handshake is given up, unless it is another caller's.
        Raises: PeerUnreachable, or what the handshake failed with.
        """
        deadline = trio.current_time() + timeout_s
        while (session := self.link(peer_id)) is None:
            under_way = self._opening.get(peer_id)
            if under_way is None:
                return await self._call(peer_id, endpoints, deadline)
            with trio.move_on_at(deadline):
                await under_way.wait()
                continue
            raise PeerUnreachable("a node of the commons does not answer")
        return session

    async def _call(
        self, peer_id: PeerId, endpoints: Iterable[Endpoint], deadline: float
    ) -> Session:
        known = self.commons.members.get(peer_id)
        where = tuple(dict.fromkeys((*endpoints, *(known.endpoints if known else ()))))
        if not where:
            raise PeerUnreachable("no address of that node of the commons is known")
        call = self._node.channels.call

        async def reach(endpoints: tuple[Endpoint, ...]) -> Session:
            # What takes the place of a call that took all its time has as much.
            left_s = deadline - trio.current_time()
            timeout_s = LINK_S if is_stand_in(endpoints[0]) else left_s
            return await call(self.commons, peer_id, endpoints, timeout_s=timeout_s)

        done = self._opening[peer_id] = trio.Event()
        try:
            return await self._node.blocked.reach(where, reach)
        finally:
            del self._opening[peer_id]
            done.set()

    # --- havens ----------------------------------------------------------------------------------

    def holds(self, session: Session) -> bool:
        """Whether *session* is the link to one of this node's havens."""
        return session.network_id == self.commons.id and session.peer_id in self._held

    def havens(self) -> tuple[Haven, ...]:
        """Return where this node can be found just now."""
        links = [link for peer_id in self._held if (link := self.link(peer_id)) is not None]
        places = [(link, self._node.blocked.place(link.endpoint)) for link in links]
        return tuple(
            Haven(link.peer_id, place, self.commons.peer_id) for link, place in places if place
        )

    def lost(self, session: Session) -> None:
        """Look for another haven at once when the link to one has ended."""
        if self.holds(session):
            self._node.spawn(self.look)

    async def look(self) -> None:
        """Keep the havens that still serve, and begin to open what lacks: one round."""
        wanted = self._node.config.commons_relays
        held: list[PeerId] = []
        hoped = 0
        now = trio.current_time()
        discovery = self._node.discovery
        candidates = [] if discovery is None else discovery.relays()
        known = {peer_id: Endpoint(*endpoint) for peer_id, endpoint in candidates}
        for peer_id in dict.fromkeys((*self._held, *known)):
            if len(held) + hoped >= wanted:
                break
            link = self.link(peer_id)
            if link is not None:
                offer = self._node.relaying.offer(link)
                if offer is not None and offer.for_strangers:
                    held.append(peer_id)
                elif offer is None and now < link.established_s + OFFER_S:
                    hoped += 1
                else:
                    self._shun(peer_id)
            elif peer_id in self._opening:
                hoped += 1
            elif now >= self._shunned.get(peer_id, 0.0) and len(self._opening) < OPENINGS_MAX:
                hoped += 1
                where = (known[peer_id],) if peer_id in known else ()
                self._node.spawn(self._open_haven, peer_id, where)
        self._hold(held)

    def _hold(self, held: list[PeerId]) -> None:
        before, self._held = self._held, tuple(held)
        for peer_id in before:
            if peer_id not in held and (link := self.link(peer_id)) is not None:
                self._node.relaying.release(link)
        for peer_id in held:
            if (link := self.link(peer_id)) is not None:
                # The relay keeps the link, too, for as long as there is a reservation.
                self._node.relaying.reserve(link)
        if set(before) != set(held):
            log.info("havens", count=len(held))
            self.changed.set()
            self.changed = trio.Event()

    async def _open_haven(self, peer_id: PeerId, where: Sequence[Endpoint]) -> None:
        try:
            await self.open(peer_id, where)
        except VeilError as error:
            log.debug("no haven", peer=peer_id.hex()[:12], reason=error.message)
            self._shun(peer_id)
        await trio.sleep(0.2)  # its offer is on its way
        await self.look()

    def _shun(self, peer_id: PeerId) -> None:
        self._shunned.pop(peer_id, None)
        self._shunned[peer_id] = trio.current_time() + SHUNNED_S
        if len(self._shunned) > SHUNNED_MAX:
            del self._shunned[next(iter(self._shunned))]

    # --- ways to others --------------------------------------------------------------------------

    async def circuit(self, haven: Haven) -> Circuit:
        """Open a circuit to somebody over one of its havens, and a link there if need be.

        Raises: PeerUnreachable, PeerRefused, LocalProtocolError: no such circuit, and why.
        """
        await self.open(haven.relay, (haven.endpoint,))
        return await self._node.relaying.open_circuit(
            self.commons, haven.relay, haven.target, timeout_s=CIRCUIT_S
        )
