"""Channels on demand: opened by a packet or a command, closed when idle, brought back when broken.

```
PacketWanted / connect --> opening (one per peer, shared by all who wait) --> session carries
    at once                the endpoints that are known
    meanwhile              what a `Search` finds: circuits, endpoints that others know
idle for 5 minutes     --> Close                           (the next packet opens it again)
PeerSilent             --> a new handshake, in the same way, beside the old session
```
One handshake calls all of these; whichever answers first is the session's first path.

Invariant: at most one opening per (network, peer) is under way.
"""

from __future__ import annotations

import ipaddress
import math
from typing import TYPE_CHECKING, Final

import attrs
import structlog
import trio

from veilnet._engine import KeySchedule
from veilnet.daemon.birth import Birth
from veilnet.daemon.searching import ENDPOINTS_MAX, Search
from veilnet.errors import LocalProtocolError, PeerUnreachable, UnknownPeer, VeilError
from veilnet.networks.endpoint import Endpoint
from veilnet.protocol import handshake as vnh1
from veilnet.protocol.circuit import is_circuit, is_stand_in
from veilnet.protocol.messages import Close
from veilnet.units import NetworkId, PeerId

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from veilnet._engine import SessionStats
    from veilnet.daemon.node import Node
    from veilnet.daemon.sessions import Session
    from veilnet.networks.commons import Realm
    from veilnet.networks.member import Member
    from veilnet.networks.network import Network

ATTEMPT_S: Final = 10.0
RECENT_S: Final = 10.0
PROBE_AGAIN_S: Final = 0.5
PROBE_PATIENCE_S: Final = 2.0
"""So long a session may leave probes unanswered before a new handshake is tried."""
TRY_S: Final = 1.0
"""So long a session of several paths may take to show that it lives, when one is silent."""
IDLE_LOOK_S: Final = 5.0
STRANGER_IDLE_S: Final = 30.0
"""So long after the last message a link of the commons stays that nobody needs."""
STRAY_S: Final = 60.0
"""A session so old that the engine has and nobody here knows is closed."""
OPENINGS_MAX: Final = 256
MISSED_S: Final = 600.0
"""So long it is remembered that a peer could not be reached."""
MISSED_MAX: Final = 1_024

log = structlog.get_logger("veilnet.channels")

Key = tuple[NetworkId, PeerId]


@attrs.define(eq=False)
class _Opening:
    """A handshake under way, and who waits for it."""

    done: trio.Event = attrs.field(factory=trio.Event)
    session: Session | None = None
    error: VeilError | None = None
    may_detour: trio.Event = attrs.field(factory=trio.Event)
    """Set once somebody waits who takes a session over relays as well."""


@attrs.frozen
class Missed:
    """When a peer could not be reached, and why."""

    at_s: float
    reason: str


class Channels:
    """Opens, probes and closes sessions with members."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._openings: dict[Key, _Opening] = {}
        self._missed: dict[Key, Missed] = {}
        self._wanted: set[str] = set()
        self._probes: dict[int, list[trio.MemorySendChannel[float]]] = {}

    # --- opening ---------------------------------------------------------------------------------

    def connecting(self, key: Key) -> bool:
        """Whether an opening is under way."""
        return key in self._openings

    def missed(self, key: Key) -> Missed | None:
        """Return how the last try to reach a peer failed, if that was in the last ten minutes."""
        found = self._missed.get(key)
        if found is not None and trio.current_time() > found.at_s + MISSED_S:
            del self._missed[key]
            return None
        return found

    async def open(
        self,
        network: Network,
        member: Member,
        *,
        timeout_s: float,
        anew: bool = False,
        direct: bool = False,
    ) -> Session:
        """Return the session that carries to *member*, opening one if there is none.

        *anew* opens one beside what there is; *direct*: none over a relay will do.
        Units: *timeout_s* seconds.
        Cancellation: an opening that others wait for goes on.
        Raises: PeerUnreachable, or what the peer refused with.
        """
        key = (network.id, member.peer_id)
        deadline = trio.current_time() + timeout_s
        while True:
            carrier = self._node.sessions.carrier(*key)
            if carrier is not None and not anew and not (direct and is_circuit(carrier.endpoint)):
                return carrier
            left_s = deadline - trio.current_time()
            opening = self._openings.get(key) or self._start(network, member, left_s)
            if not direct:
                opening.may_detour.set()
            with trio.move_on_at(deadline):
                await opening.done.wait()
                session = opening.session
                if session is not None and not (direct and is_circuit(session.endpoint)):
                    return session
                if opening.error is not None and not isinstance(opening.error, PeerUnreachable):
                    raise opening.error
            if trio.current_time() >= deadline - 0.05 or (direct and opening.session is not None):
                raise opening.error or PeerUnreachable(
                    f"{member.name} does not answer", hint="Is its node up? There: veilnet status"
                )
            if opening.error is not None and not self.endpoints(network, member):
                raise opening.error

    def _start(self, network: Network, member: Member, timeout_s: float) -> _Opening:
        if len(self._openings) >= OPENINGS_MAX:
            raise LocalProtocolError("too many channels are being opened at once")
        opening = _Opening()
        self._openings[network.id, member.peer_id] = opening
        self._node.spawn(self._open, network, member, opening, timeout_s)
        return opening

    async def _open(
        self, network: Network, member: Member, opening: _Opening, timeout_s: float
    ) -> None:
        try:
            opening.session = await self._find_and_call(
                network, member, timeout_s=timeout_s, may_detour=opening.may_detour
            )
        except VeilError as error:
            opening.error = error
            # Who is not reached directly may be reached over a relay, if somebody asks for that.
            if opening.may_detour.is_set():
                self._miss((network.id, member.peer_id), error)
        finally:
            self._openings.pop((network.id, member.peer_id), None)
            if opening.session is None and opening.error is None:
                opening.error = PeerUnreachable(f"opening a channel to {member.name} was given up")
            opening.done.set()

    def unconfirmed(self, session: Session) -> None:
        """Take note of a peer that proved itself and did not let us in: the next packets wait."""
        self._miss(session.key, PeerUnreachable("it proved itself, but never confirmed a session"))

    def _miss(self, key: Key, error: VeilError) -> None:
        if self._node.sessions.carrier(*key) is not None:
            return
        self._missed.pop(key, None)
        self._missed[key] = Missed(trio.current_time(), error.message)
        if len(self._missed) > MISSED_MAX:
            del self._missed[next(iter(self._missed))]

    async def _find_and_call(
        self,
        network: Network,
        member: Member,
        *first: Endpoint,
        timeout_s: float,
        may_detour: trio.Event,
        psk: tuple[bytes, bytes] | None = None,
    ) -> Session:
        """Call a member where it was last seen, and wherever else it turns out to be.

        Circuits that open meanwhile are kept by the node's paths if one of them wins.
        Raises: PeerUnreachable, or what the handshake failed with.
        """
        known = self.endpoints(network, member, *first)
        search = Search(
            self._node, network, member, known, may_detour=may_detour, timeout_s=timeout_s
        )
        ended: Session | VeilError
        async with trio.open_nursery() as nursery:
            nursery.start_soon(search.run)
            try:
                ended = await self._call_found(search, psk)
            except VeilError as error:
                ended = error
            nursery.cancel_scope.cancel()
        self._node.paths.found(search.circuits, None if isinstance(ended, Exception) else ended)
        if isinstance(ended, Exception):
            raise ended
        return ended

    async def _call_found(self, search: Search, psk: tuple[bytes, bytes] | None) -> Session:
        name = search.member.name
        machine = self._machine(
            search.network,
            search.member.peer_id,
            search.known,
            timeout_s=search.deadline - trio.current_time(),
            psk=psk,
        )
        search.calls(machine)
        try:
            return await self._run(search.network, machine, late=search.take, keyed=search.keyed)
        except PeerUnreachable as error:
            if machine.endpoints:
                raise
            if trio.current_time() >= search.deadline:
                raise PeerUnreachable(f"no way to {name} was found in time") from error
            raise PeerUnreachable(
                f"no address of {name} is known",
                hint="It has to come to us, or to a member that both can reach.",
            ) from error

    def endpoints(self, network: Network, member: Member, *first: Endpoint) -> tuple[Endpoint, ...]:
        """Return where to call *member*, best first, none of them inside an overlay."""
        known = network.members.get(member.peer_id) or member
        return self.outside((*first, *known.endpoints))

    def outside(self, endpoints: Iterable[Endpoint]) -> tuple[Endpoint, ...]:
        """Return those of *endpoints* that may be called, at most ENDPOINTS_MAX."""
        outside = (item for item in endpoints if not self._is_overlay(item))
        return tuple(dict.fromkeys(outside))[:ENDPOINTS_MAX]

    def _is_overlay(self, endpoint: Endpoint) -> bool:
        address = ipaddress.ip_address(endpoint.host)
        return any(address in prefix for prefix in self._node.networks.overlay)

    async def call(
        self,
        network: Realm,
        peer_id: PeerId,
        endpoints: Iterable[Endpoint],
        *,
        timeout_s: float = ATTEMPT_S,
        psk: tuple[bytes, bytes] | None = None,
        begun: Callable[[Session], None] | None = None,
    ) -> Session:
        """Run one full handshake with a member, bound to an older session by *psk* if given.

        *begun*: told of the session once it may be used, which is sooner than the peer confirms it.
        Raises: PeerUnreachable, or what the handshake failed with.  LocalProtocolError: the node
        stops, and whoever it called would keep a session with nobody.
        """
        machine = self._machine(network, peer_id, tuple(endpoints), timeout_s=timeout_s, psk=psk)
        return await self._run(network, machine, begun=begun)

    def _machine(
        self,
        network: Realm,
        peer_id: PeerId,
        endpoints: tuple[Endpoint, ...],
        *,
        timeout_s: float,
        psk: tuple[bytes, bytes] | None,
    ) -> vnh1.Initiation:
        ticket = self._node.tickets.use(network.id, peer_id, endpoints)
        return vnh1.Initiation(
            terms=vnh1.Terms(
                suite=network.suite,
                mode=vnh1.Mode.FULL if ticket is None else vnh1.Mode.TICKET,
                network_id=network.id,
                secret=network.k_net,
            ),
            identity=self._node.local_identity(network),
            responder=peer_id,
            door_key=network.door_key(peer_id),
            endpoints=endpoints,
            ticket=ticket,
            # What carries already goes on until the peer has confirmed what takes its place; and
            # packets for whom nobody could reach wait, so that who sent them is told.
            eager=self._node.sessions.carrier(network.id, peer_id) is None
            and self.missed((network.id, peer_id)) is None,
            schedules=KeySchedule,
            rng=self._node.rng,
            psk=psk,
            timeout_s=max(timeout_s, 0.1),
        )

    async def _run(
        self,
        network: Realm,
        machine: vnh1.Initiation,
        *,
        late: trio.MemoryReceiveChannel[vnh1.EndpointFound] | None = None,
        begun: Callable[[Session], None] | None = None,
        keyed: trio.Event | None = None,
    ) -> Session:
        if self._node.stopping.is_set():
            raise LocalProtocolError("the node stops")
        birth = Birth(self._node, network, mode=vnh1.Mode.FULL, initiator=True)
        primitives = self._node.primitives(network.suite, network)
        run = self._node.handshakes.run
        return await run(machine, primitives, birth, late=late, begun=begun, keyed=keyed)

    def wanted(self, destination: str) -> None:
        """Open the channel that a local packet waits for, or refuse the packet."""
        if destination in self._wanted:
            return
        address = ipaddress.ip_address(destination)
        for network in self._node.networks:
            member = network.members.by_address(address)
            if member is not None and member.peer_id != self._node.identity.peer_id:
                self._wanted.add(destination)
                self._node.spawn(self._open_for, network, member, destination)
                return
        self._node.engine.refuse(destination)

    async def _open_for(self, network: Network, member: Member, destination: str) -> None:
        try:
            await self.open(network, member, timeout_s=self._node.config.queue_s)
        except VeilError:
            self._node.engine.refuse(destination)
            raise
        finally:
            self._wanted.discard(destination)

    def established(self, session: Session) -> None:
        """Tell whoever waits for this peer that a session, ours or the peer's, is there."""
        self._missed.pop(session.key, None)
        opening = self._openings.get(session.key)
        if opening is not None and opening.session is None and not session.initiator:
            opening.session = session
            opening.done.set()

    def ended(self, session: Session) -> None:
        """Forget what waited for *session*."""
        for waiting in self._probes.pop(session.sid, []):
            waiting.close()

    # --- probes ----------------------------------------------------------------------------------

    def probe_answered(self, sid: int, rtt_s: float) -> None:
        """Take the engine's word that a probe came back."""
        session = self._node.sessions.get(sid)
        if session is not None:
            session.rtt_s = rtt_s
        for waiting in self._probes.pop(sid, []):
            waiting.send_nowait(rtt_s)

    async def probe(self, session: Session, *, timeout_s: float) -> float:
        """Make an authenticated round trip and return its time in seconds.

        Raises: PeerUnreachable: no probe was answered in time.
        """
        put, take = trio.open_memory_channel[float](1)
        self._probes.setdefault(session.sid, []).append(put)
        deadline = trio.current_time() + timeout_s
        try:
            while trio.current_time() < deadline and not session.link.closed.is_set():
                self._node.engine.probe(session.sid)
                with trio.move_on_at(min(deadline, trio.current_time() + PROBE_AGAIN_S)):
                    return await take.receive()
        except trio.EndOfChannel:
            pass  # the session ended
        finally:
            waiting = self._probes.get(session.sid, [])
            if put in waiting:
                waiting.remove(put)
        raise PeerUnreachable(
            f"peer {session.peer_id.hex()[:12]} does not answer at {session.endpoint}",
            hint="Is its node up? There: veilnet status",
        )

    async def reach(
        self, network: Network, member: Member, *, timeout_s: float
    ) -> tuple[Session, float]:
        """Return the session to *member* and the time of a round trip on it just made.

        Units: seconds.   Raises: PeerUnreachable, or what the peer refused with.
        """
        deadline = trio.current_time() + timeout_s
        anew = False
        while True:
            left_s = deadline - trio.current_time()
            session = await self.open(network, member, timeout_s=left_s, anew=anew)
            left_s = deadline - trio.current_time()
            try:
                patience_s = min(left_s, PROBE_PATIENCE_S)
                return session, await self.probe(session, timeout_s=patience_s)
            except PeerUnreachable:
                if trio.current_time() >= deadline - 0.05:
                    raise
                # What there was is dead (the peer restarted): a new one beside it.
                anew = self._node.sessions.carrier(*session.key) is session

    # --- silence, idleness, return ----------------------------------------------------------------

    def silent(self, sid: int, silent_s: float) -> None:
        """Handshake anew with a peer that takes our packets and answers nothing."""
        session = self._node.sessions.get(sid)
        if session is not None and self._may_recover(session):
            log.info("peer is silent", peer=session.peer_id.hex()[:12], silent_s=round(silent_s, 1))
            self._node.spawn(self.recover, session)

    def _may_recover(self, session: Session) -> bool:
        if session.recovering or session.mode is not vnh1.Mode.FULL:
            return False
        return self._node.sessions.carrier(*session.key) is session

    async def recover(self, session: Session) -> None:
        """Handshake anew where *session* carries and its peer does not know us any more."""
        if not self._may_recover(session):
            return
        session.recovering = True
        try:
            if not await self._is_only_a_try(session):
                await self._again(session)
        except VeilError as error:
            stats = self._node.statistics().get(session.sid)
            heard_s = math.inf if stats is None or stats.heard_s is None else stats.heard_s
            if heard_s > ATTEMPT_S:
                self._node.end(session, reason=f"silent, and {error.message}")
                self._miss(session.key, error)
        finally:
            session.recovering = False

    async def _is_only_a_try(self, session: Session) -> bool:
        """Whether the peer was silent on a path that is being tried, and lives on another."""
        course = self._node.paths.course(session)
        if course is None or len(course.ways) < 2:
            return False
        try:
            await self.probe(session, timeout_s=TRY_S)
        except PeerUnreachable:
            return False
        return True

    def renew(self, session: Session) -> None:
        """Run a full handshake again, bound to the old session's keys: the hourly one."""
        self._node.spawn(self._again, session, session.schedule.next_psk())

    async def _again(self, session: Session, psk: tuple[bytes, bytes] | None = None) -> None:
        commons = self._node.commons
        if commons is not None and session.network_id == commons.id:
            if not self.needs(session):
                raise UnknownPeer("nobody here needs the link to that stranger")
            await self.call(commons, session.peer_id, (session.endpoint,), psk=psk)
            return
        network = self._node.networks.get(session.network_id)
        member = None if network is None else network.members.get(session.peer_id)
        if network is None or member is None:
            raise UnknownPeer("the peer is no member any more")
        may_detour = trio.Event()
        may_detour.set()
        await self._find_and_call(
            network,
            member,
            *self._node.paths.endpoints(session),
            timeout_s=ATTEMPT_S,
            may_detour=may_detour,
            psk=psk,
        )

    async def look_around(self) -> None:
        """Close what carried nothing for long, and set right what lost events left: one round."""
        statistics = self._node.engine.sessions()
        for stats in statistics:
            session = self._node.sessions.get(stats.sid)
            if session is None:
                if stats.age_s > STRAY_S and not self._node.handshakes.expects(stats.sid):
                    log.warning("stray session closed", age_s=round(stats.age_s))
                    self._node.engine.close_session(stats.sid)
                continue
            if (endpoint := self._node.paths.endpoint(session, stats)) != session.endpoint:
                self.moved(session, endpoint)
            self._close_idle(session, stats)
        known = {stats.sid for stats in statistics}
        for session in self._node.sessions:
            if session.sid not in known:
                self._node.end(session, reason="the engine has it no more")

    def moved(self, session: Session, endpoint: Endpoint) -> None:
        """Note where *session*'s peer is now; tell it, if that is a place and no circuit."""
        session.endpoint = endpoint
        self._node.relaying.session_moved(session)
        if not is_stand_in(endpoint):
            self._node.gossip.observed(session)
            self._node.tickets.moved(session)

    def needs(self, session: Session) -> bool:
        """Whether a session must live on though it carries no packets: to be found, to relay."""
        node = self._node
        return (
            node.homes.holds(session)
            or (node.strangers is not None and node.strangers.holds(session))
            or node.relaying.uses(session)
        )

    def _close_idle(self, session: Session, stats: SessionStats) -> None:
        quiet_s = stats.age_s if stats.data_s is None else stats.data_s
        carrier = self._node.sessions.carrier(*session.key)
        left_behind = carrier is not session and session.mode is vnh1.Mode.FULL
        config = self._node.config
        relayed = is_circuit(session.endpoint)
        idle = quiet_s > (config.relayed_idle_close_s if relayed else config.idle_close_s)
        commons = self._node.commons
        strange = commons is not None and session.network_id == commons.id
        if strange and session.mode is vnh1.Mode.FULL:
            # It carries no packets, only questions.
            spoke_s = max(session.established_s, session.spoke_s)
            idle = trio.current_time() > spoke_s + STRANGER_IDLE_S
        if self.needs(session):
            idle = False
        if (idle or (left_behind and quiet_s > 2 * ATTEMPT_S)) and not session.retiring:
            self._node.spawn(self._node.retire, session, Close(reason="idle"))

    async def return_to_recent(self) -> None:
        """Call the peers of the last run, which still believe in sessions that are gone."""
        for network_hex, peer_hex in self._node.remembered.recent:
            try:
                network_id = NetworkId(bytes.fromhex(network_hex))
                peer_id = PeerId(bytes.fromhex(peer_hex))
            except ValueError:
                continue
            network = self._node.networks.get(network_id)
            member = None if network is None else network.members.get(peer_id)
            if network is not None and member is not None:
                self._node.spawn(self._return, network, member)

    async def _return(self, network: Network, member: Member) -> None:
        await self.open(network, member, timeout_s=RECENT_S)
