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

import math
from typing import TYPE_CHECKING, Final

import attrs
import structlog
import trio

from veilnet.discovery.contact import ADDRESS, UNKNOWN_ID, block_of, pack_endpoint
from veilnet.errors import PeerUnreachable, TimedOut, VeilError
from veilnet.networks.endpoint import Endpoint
from veilnet.protocol.circuit import is_circuit, is_stand_in
from veilnet.protocol.messages import Ping

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from veilnet.daemon.node import Node
    from veilnet.daemon.relays.relaying import Circuit
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
PROBE_S: Final = 150.0
"""Each haven is asked for a sign of life once in so long: keepalives tell only of its engine."""
PROBE_ANSWER_S: Final = 5.0
SILENCES_MAX: Final = 2

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
        self._held: dict[PeerId, Endpoint] = {}
        """The havens, and where each was last."""
        self._opening: dict[PeerId, trio.Event] = {}
        self._trying: dict[PeerId, Endpoint] = {}
        """Who is being called to be a haven, and where."""
        self._probe_at_s = -math.inf
        self._probed: dict[PeerId, float] = {}
        """When each haven was asked for a sign of life last."""
        self._silences: dict[PeerId, int] = {}
        """How often in a row it gave none."""
        self._shunned: dict[tuple[PeerId, Endpoint], float] = {}

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
        self,
        peer_id: PeerId,
        endpoints: Iterable[Endpoint] = (),
        *,
        timeout_s: float = LINK_S,
        begun: Callable[[Session], None] | None = None,
    ) -> Session:
        """Return a full session with a node of the commons.

        *begun*: told of a new one once it carries control, before the node has confirmed it.
        Units: *timeout_s* seconds for the handshake; as long again if somebody else's goes first.

        Cancellation: the handshake is given up, unless it is another caller's.
        Raises: PeerUnreachable, or what the handshake failed with.
        """
        if peer_id == self.commons.peer_id:
            raise PeerUnreachable("that node of the commons is this one")
        waited_until = trio.current_time() + 2 * timeout_s
        while (session := self.link(peer_id)) is None:
            under_way = self._opening.get(peer_id)
            if under_way is None:
                # Somebody else's call may have gone elsewhere: this one has all of its time.
                deadline = trio.current_time() + timeout_s
                return await self._call(peer_id, endpoints, deadline, begun)
            with trio.move_on_at(waited_until):
                await under_way.wait()
                continue
            raise TimedOut("others call that node of the commons, and get no answer")
        return session

    async def _call(
        self,
        peer_id: PeerId,
        endpoints: Iterable[Endpoint],
        deadline: float,
        begun: Callable[[Session], None] | None,
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
            return await call(self.commons, peer_id, endpoints, timeout_s=timeout_s, begun=begun)

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
        """Keep the havens that still serve, and begin to open what lacks: one round.

        No two are opened in one prefix: who holds one would else hold all the ways to us.
        """
        wanted = self._node.config.commons_relays
        held: dict[PeerId, Endpoint] = {}
        hoped: set[PeerId] = set()
        blocks = {self._block(place) for place in self._trying.values()}
        now = trio.current_time()
        for peer_id, where in self._candidates():
            if len(held) + len(hoped) >= wanted:
                break
            if peer_id in held or peer_id in hoped:
                continue
            link = self.link(peer_id)
            place = where if link is None else self._place(link)
            block = self._block(place)
            if peer_id in self._opening or peer_id in self._trying:
                hoped.add(peer_id)
            elif block in blocks and peer_id not in self._held:
                continue
            elif link is not None:
                serves = self._serves(link, place, now)
                if serves:
                    held[peer_id] = place
                elif serves is None:
                    hoped.add(peer_id)
                else:
                    continue
            elif self._is_shunned(peer_id, place) or len(self._trying) >= OPENINGS_MAX:
                continue
            else:
                hoped.add(peer_id)
                self._trying[peer_id] = place
                self._node.spawn(self._open_haven, peer_id, place)
            blocks.add(block)
        self._hold(held)
        self._probe_one(now)

    def _serves(self, link: Session, place: Endpoint, now: float) -> bool | None:
        """Tell whether the peer of a link relays for strangers; None: it has not said yet."""
        if self._is_shunned(link.peer_id, place):
            return False
        offer = self._node.relaying.offer(link)
        if offer is None and now < link.established_s + OFFER_S:
            return None
        if offer is None or not offer.for_strangers:
            self._shun(link.peer_id, place)
            return False
        return True

    def _candidates(self) -> Iterator[tuple[PeerId, Endpoint]]:
        """Yield the havens that are held, then whoever says that it relays for strangers.

        One id may be said to be at several places: anybody may claim it.
        """
        yield from self._held.items()
        discovery = self._node.discovery
        for peer_id, endpoint in () if discovery is None else discovery.relays():
            if peer_id != self.commons.peer_id:
                yield peer_id, Endpoint(*endpoint)

    def _place(self, link: Session) -> Endpoint:
        return self._node.blocked.place(link.endpoint) or link.endpoint

    def _block(self, place: Endpoint) -> bytes:
        """Return what one holder of addresses holds; in our own network each is on its own."""
        packed = UNKNOWN_ID + pack_endpoint(place)
        discovery = self._node.discovery
        if discovery is not None and discovery.is_near(place):
            return packed[ADDRESS]
        return block_of(packed)

    def _hold(self, held: dict[PeerId, Endpoint]) -> None:
        before, self._held = self._held, held
        for peer_id in before:
            if peer_id not in held and (link := self.link(peer_id)) is not None:
                self._node.relaying.release(link)
        for peer_id in held:
            if (link := self.link(peer_id)) is not None:
                # The relay keeps the link, too, for as long as there is a reservation.
                self._node.relaying.reserve(link)
        if set(before) != set(held):
            log.info("havens", count=len(held))

    def _probe_one(self, now: float) -> None:
        """Ask one of the havens for a sign of life, each in its turn."""
        if now < self._probe_at_s or not self._held:
            return
        self._probe_at_s = now + PROBE_S / len(self._held) * self._node.rng.uniform(0.8, 1.2)
        self._silences = {each: self._silences.get(each, 0) for each in self._held}
        peer_id = min(self._held, key=lambda each: self._probed.get(each, -math.inf))
        self._probed = {each: self._probed.get(each, -math.inf) for each in self._held}
        self._probed[peer_id] = now
        if (link := self.link(peer_id)) is not None:
            self._node.spawn(self._probe, peer_id, link)

    async def _probe(self, peer_id: PeerId, link: Session) -> None:
        """Leave a haven that keeps a session but does not answer: one silence may be ours."""
        try:
            await link.link.ask(Ping(), timeout_s=PROBE_ANSWER_S)
            self._silences[peer_id] = 0
        except TimedOut:
            self._silences[peer_id] = self._silences.get(peer_id, 0) + 1
            if self._silences[peer_id] >= SILENCES_MAX:
                log.info("haven left", peer=peer_id.hex()[:12], reason="it does not answer")
                self._shun(peer_id, self._place(link))
                await self.look()

    async def _open_haven(self, peer_id: PeerId, where: Endpoint) -> None:
        try:
            await self.open(peer_id, (where,))
        except VeilError as error:
            log.debug("no haven", peer=peer_id.hex()[:12], reason=error.message)
            self._shun(peer_id, where)
        finally:
            del self._trying[peer_id]
        await trio.sleep(0.2)  # its offer is on its way
        await self.look()

    def _shun(self, peer_id: PeerId, where: Endpoint) -> None:
        self._shunned.pop((peer_id, where), None)
        self._shunned[peer_id, where] = trio.current_time() + SHUNNED_S
        if len(self._shunned) > SHUNNED_MAX:
            del self._shunned[next(iter(self._shunned))]

    def _is_shunned(self, peer_id: PeerId, where: Endpoint) -> bool:
        return trio.current_time() < self._shunned.get((peer_id, where), 0.0)

    # --- ways to others --------------------------------------------------------------------------

    def guest(self, haven: Haven) -> Endpoint | None:
        """Return where somebody is whose haven we are ourselves: its NAT is open towards us."""
        if haven.relay != self.commons.peer_id:
            return None
        link = self.link(haven.target)
        return None if link is None else link.endpoint

    async def circuit(self, haven: Haven, *, com: bytes | None = None) -> Circuit:
        """Open a circuit to somebody over one of its havens, and a link there if need be.

        *com*: the commitment of the handshake that is to go through.
        Cancellation: a link that is being opened is opened all the same.
        Raises: PeerUnreachable, PeerRefused, LocalProtocolError: no such circuit, and why.
        """
        await self._begin(haven)
        return await self._node.relaying.open_circuit(
            self.commons, haven.relay, haven.target, com=com, timeout_s=CIRCUIT_S
        )

    async def _begin(self, haven: Haven) -> None:
        """Return once a link carries questions: a haven answers them when it has let us in."""
        done = trio.Event()
        failed: list[VeilError] = []

        async def call() -> None:
            try:
                await self.open(haven.relay, (haven.endpoint,), begun=lambda _: done.set())
            except VeilError as error:
                failed.append(error)
            finally:
                done.set()

        self._node.spawn(call)
        await done.wait()
        if failed:
            raise failed[0]
