"""From a handshake that held to a session in use.

`prepare` judges and enters it in the tables; `begin`, once the engine has it, routes and greets.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import structlog
import trio

from veilnet.daemon.host import unix_now
from veilnet.daemon.links import Link
from veilnet.daemon.sessions import SUPERSEDED, Session
from veilnet.errors import InternalError, LocalProtocolError, PeerRefused
from veilnet.networks.commons import Commons
from veilnet.networks.endpoint import Endpoint
from veilnet.networks.member import Member
from veilnet.protocol import handshake as vnh1
from veilnet.protocol.circuit import is_stand_in
from veilnet.protocol.messages import Close

if TYPE_CHECKING:
    from veilnet.daemon.handshakes import Ended
    from veilnet.daemon.node import Node
    from veilnet.networks.commons import Realm
    from veilnet.networks.network import Network
    from veilnet.units import NetworkId

JOIN_SUITE = 1
"""Join handshakes run in S1 until an invite says otherwise."""

JOINING_S = 60.0
LOOKUP_S = 60.0
"""So long a lookup session is kept, whoever opened it."""
HEARD_S = 2.0
READY_S = 0.25
"""How long to wait for the responder's greeting before packets are sent all the same."""

log = structlog.get_logger("veilnet.sessions")


class Birth:
    """One handshake's way to its session; a joiner has no *network* yet, only its id."""

    def __init__(
        self,
        node: Node,
        network: Realm | None,
        *,
        mode: vnh1.Mode,
        initiator: bool,
        network_id: NetworkId | None = None,
        door: int | None = None,
    ) -> None:
        self._node = node
        self._network = network
        self._network_id = network_id
        self._mode = mode
        self._initiator = initiator
        self._door = door
        self._started_s = trio.current_time()
        self._losers: list[Session] = []
        self._crowded: Session | None = None
        self._early = False

    def may_begin(self, ended: vnh1.Begun) -> bool:
        """Tell whether nothing carries to the peer; what does gives way to what is confirmed."""
        network = self._network
        return network is not None and (
            self._node.sessions.carrier(network.id, ended.peer.peer_id) is None
        )

    def prepare(self, ended: Ended) -> Session:
        """Enter the session in the tables.

        Raises: PeerRefused: the peer's membership has run out, or its address is another's.
        """
        peer = ended.peer
        # What comes behind an AUTH the responder keeps until it has assigned our addresses.
        self._early = isinstance(ended, vnh1.Begun)
        network = self._network
        network_id = self._network_id if network is None else network.id
        if network_id is None:
            raise InternalError("a handshake belongs to no network")
        endpoint = Endpoint(*ended.endpoint)
        if self._initiator:
            self._node.blocked.answered(endpoint)
        if peer is None:
            peer = vnh1.Peer(peer_id=vnh1.NOBODY, public_key=b"", credential=b"")
        elif isinstance(network, Commons):
            if self._initiator and not is_stand_in(endpoint):
                network.members.met(peer.peer_id, (endpoint,))
        elif network is not None and self._mode is vnh1.Mode.FULL:
            self._take_member(network, peer, endpoint)
        session = Session(
            sid=ended.sid,
            network_id=network_id,
            peer_id=peer.peer_id,
            public_key=peer.public_key,
            mode=self._mode,
            suite=JOIN_SUITE if network is None else network.suite,
            initiator=self._initiator,
            schedule=ended.schedule,
            link=Link(self._node.engine, ended.sid),
            endpoint=endpoint,
            started_s=self._started_s,
            established_s=trio.current_time(),
            confirmed=not self._early,
            door=self._door,
        )
        self._losers = self._node.sessions.add(session)
        self._crowded = self._node.sessions.crowded(session, self._node.channels.needs)
        return session

    def withdraw(self, session: Session) -> None:
        """Take the session out of the tables again, and give back what it took over.

        The session before, if there is one, carries the peer's packets and circuits as it did.
        """
        self._losers.clear()
        session.link.close()
        self._node.sessions.remove(session)
        self._node.part(session)

    def end(self, session: Session) -> None:
        """Close a session that began and was never confirmed; what was there before stays."""
        self._losers.clear()
        self._node.end(session, reason="the peer never confirmed it")
        self._node.channels.unconfirmed(session)

    def begin(self, session: Session) -> None:
        """Route the peer's packets to the session, greet the peer, close what it replaces."""
        node = self._node
        if self._initiator and session.mode is vnh1.Mode.FULL and not self._early:
            # The responder assigns our addresses to the session just after it accepts; what we
            # sent sooner would be dropped there.  It greets after that, so its greeting tells.
            session.ready = False
            node.spawn(self._be_ready, session)
        if session.mode is vnh1.Mode.LOOKUP:
            self._begin_lookup(session)
            return
        if self._crowded is not None:
            with contextlib.suppress(LocalProtocolError):
                # One word and no waiting, or strangers would come faster than they go.
                self._crowded.link.send(Close(reason="others need its place"))
            node.end(self._crowded, reason="other strangers need its place")
        if node.sessions.carrier(*session.key) is not session:
            node.take_early(session)
        else:
            node.route(session)
        node.spawn(session.link.run, lambda: node.end(session, reason="control is silent"))
        log.info(
            "session up",
            peer=session.peer_id.hex()[:12],
            mode=session.mode.name,
            initiator=session.initiator,
            ms=round(session.handshake_ms, 1),
        )
        for loser in self._losers:
            node.spawn(self._retire, loser, session)
        if session.mode is vnh1.Mode.JOIN:
            node.spawn(self._end_joining, session)
        else:
            node.rekeying.begin(session)
            node.channels.established(session)
            node.tickets.begin(session)
        node.gossip.greet(session)
        node.relaying.session_up(session)
        node.paths.begin(session, anew=not self._losers)
        if node.discovery is not None:
            node.discovery.met(session)
        for early in node.handshakes.take_early(session.sid):
            node.control(session, early.data)

    def _begin_lookup(self, session: Session) -> None:
        """Serve questions and answers for a minute; nothing else begins."""
        node = self._node
        for loser in self._losers:
            node.end(loser, reason="other lookups need its place")
        node.spawn(session.link.run, lambda: node.end(session, reason="control is silent"))
        node.spawn(self._serve_lookup, session)
        for early in node.handshakes.take_early(session.sid):
            node.control(session, early.data)

    async def _serve_lookup(self, session: Session) -> None:
        with trio.move_on_after(LOOKUP_S):
            if not session.initiator:
                # Before its first question the peer may not have the keys yet.
                await session.heard.wait()
            self._node.gossip.greet(session)
            await session.link.closed.wait()
        self._node.end(session, reason="a lookup's minute is over")

    async def _retire(self, loser: Session, session: Session) -> None:
        """Close what *session* replaces, once the peer is known to have *session*.

        Whose ACK is still on its way would else be without any session, and lose what goes over it.
        """
        if loser is not session and not session.initiator:
            with trio.move_on_after(HEARD_S):
                await session.heard.wait()
        if loser not in self._losers:
            return  # nothing has replaced it
        await self._node.retire(loser, Close(code=SUPERSEDED, reason="another session"))

    async def _end_joining(self, session: Session) -> None:
        """Close a join session that its joiner forgot."""
        await trio.sleep(JOINING_S)
        self._node.end(session, reason="joining took too long")

    async def _be_ready(self, session: Session) -> None:
        """Do not wait for ever on a greeting that got lost."""
        await trio.sleep(READY_S)
        self._node.ready(session)

    def _take_member(self, network: Network, peer: vnh1.Peer, endpoint: Endpoint) -> None:
        if self._node.networks.get(network.id) is None:
            raise PeerRefused(f"this node has left the network {network.name}")
        now = unix_now()
        seen = () if is_stand_in(endpoint) else (endpoint,)
        if peer.membership is None:
            raise PeerRefused("the peer showed no membership")
        member = Member(peer.public_key, peer.membership, peer.credential)
        # An expired member may still come to the issuer, for renewal only: it gets no addresses.
        if not network.is_valid(member.credential, now) and network.issuer is None:
            raise PeerRefused(
                f"the membership of {member.name} has expired",
                hint="It renews itself when it meets the founder of the network.",
            )
        network.members.check_addresses(member.credential, now)
        if member.peer_id in network.members:
            changed = bool(network.members.merge((member,), now).changed)
            changed |= bool(seen) and network.members.observe(member.peer_id, seen, now)
        else:
            known = member.seen_at(seen, now) if seen else member
            changed = bool(network.members.merge((known,), now).changed)
        if changed:
            self._node.changed(network)
