"""The trio shell of relaying: this node as a relay, and as an end of circuits.

```
session up     -> RelayOffer; the link is bound to the session that carries
carrier moved  -> engine.rebind_link, CircuitsHeld; circuits go on
messages       -> RelayService (what others ask of us) or CircuitClient (what we asked for)
once a second  -> the engine's counters, while something is relayed
```
Invariant: the engine forwards what is in `RelayService` and joins what is in `CircuitClient`,
nothing else; a link is a session reached directly, never one that itself goes over a circuit.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import attrs
import structlog
import trio

from veilnet.daemon.host import unix_now
from veilnet.daemon.relays import lending
from veilnet.daemon.relays.circuits import Circuit, Circuits
from veilnet.daemon.rounds import Alarm, rounds
from veilnet.daemon.sessions import place_of
from veilnet.errors import (
    ClosedError,
    LocalProtocolError,
    PeerUnreachable,
    RemoteProtocolError,
)
from veilnet.networks.endpoint import Endpoint
from veilnet.protocol import handshake as vnh1
from veilnet.protocol import relay, relay_client, relay_messages, relay_service, relay_steps
from veilnet.protocol.circuit import is_circuit, is_stand_in
from veilnet.protocol.relay import refused
from veilnet.protocol.relay_switch import Switch
from veilnet.units import NetworkId, PeerId

if TYPE_CHECKING:
    from collections.abc import Iterable

    from veilnet.daemon.node import Node
    from veilnet.daemon.sessions import Session
    from veilnet.networks.commons import Realm
    from veilnet.networks.network import Network
    from veilnet.protocol.messages import Envelope
    from veilnet.protocol.relay import Key
    from veilnet.protocol.relay_messages import RelayOffer

COUNT_S: Final = 1.0
OFFERS_MAX: Final = 4_096
_NOT_THERE: Final = (LocalProtocolError, ClosedError)
"""What the engine says of a circuit or a link that it has not, or not any more."""

__all__ = ["Circuit", "Relaying"]

log = structlog.get_logger("veilnet.relaying")


class Relaying:
    """All circuits of this node, those that it relays and those that end here."""

    def __init__(self, node: Node) -> None:
        self._node = node
        own_id, now = node.identity.peer_id, trio.current_time()
        self.lending = lending.Lending(node.config, node.remembered)
        self.service = relay_service.RelayService(
            own_id=own_id, terms=self.lending.terms, rng=node.rng, now=now
        )
        self.client = relay_client.CircuitClient(own_id=own_id, rng=node.rng)
        self._switch = Switch(self.service, self.client)
        self._bound: dict[Key, int] = {}
        self._offers: dict[Key, RelayOffer] = {}
        """What members said last; it outlives their links, and there are not many members."""
        self._strange_offers: dict[Key, RelayOffer] = {}
        """What strangers said; of no use, and kept no longer, than their link."""
        self.circuits = Circuits()
        self._alarm = Alarm(self._deadline)
        self._counted_s = -math.inf
        self._counted_bytes = 0
        self._rate_bps = 0.0

    def __repr__(self) -> str:
        return f"<Relaying {len(self.service)} for others, {len(self.circuits)} of its own>"

    # --- for whoever needs a circuit -------------------------------------------------------------

    async def open_circuit(
        self,
        network: Realm,
        relay: PeerId,
        target: PeerId,
        *,
        through: PeerId | None = None,
        com: bytes | None = None,
        timeout_s: float,
    ) -> Circuit:
        """Return a new circuit to *target* over *relay*, with which there must be a direct link.

        *through*: a second relay, which *relay* has a link with; *com*: the commitment of the
        handshake that is to go through, for which the circuit then has a cookie.  The circuit
        carries 64 KB until both ends have called `confirm`.
        Units: *timeout_s* seconds.   Cancellation: the question is taken back.
        Raises: PeerUnreachable: no link, or no answer; relay.CircuitRefused: the relay said no.
        """
        circuit_id = self.client.new_id()
        name = network.members.name_of(relay)
        key: Key = (network.id, relay)
        if key not in self._bound:
            raise PeerUnreachable(f"there is no direct link to the relay {name}")
        until_s = trio.current_time() + timeout_s
        with self.circuits.asking(circuit_id) as question:
            try:
                self._client(relay_client.Open(circuit_id, key, target, through, until_s, com))
                await question.done.wait()
            except BaseException:
                self._client(relay_client.Close(circuit_id))
                raise
        if question.circuit is None:
            raise refused(question.refusal, name)
        return question.circuit

    def incoming(self, circuit_id: bytes) -> Circuit | None:
        """Return the circuit of that id that somebody opened to this node."""
        return self.circuits.incoming(circuit_id)

    async def expect(self, circuit_id: bytes, *, of: Key, timeout_s: float) -> Circuit | None:
        """Return the circuit of that id that comes in within *timeout_s* seconds, if it does.

        What the peer *of* a session says of a circuit over another way may be here before it.
        """
        return await self.circuits.expect(circuit_id, of=of, timeout_s=timeout_s)

    def confirm(self, circuit: Circuit) -> None:
        """Lift the 64 KB limit from this side: what came through it is the peer's, proven."""
        if not circuit.confirmed and not circuit.closed.is_set():
            circuit.confirmed = True
            self._client(relay_client.Confirm(circuit.id))

    def close_circuit(self, circuit: Circuit) -> None:
        """Close a circuit; what is open no more stays so."""
        if not circuit.closed.is_set():
            self._client(relay_client.Close(circuit.id))

    def offers(self, network: Network) -> dict[PeerId, RelayOffer]:
        """Return which members relay for this network, as far as is known here.

        Of one that we have a link with it is what it says; any other is believed to, as every
        member does unless told not to, until it has said otherwise.
        """
        found: dict[PeerId, RelayOffer] = {}
        for peer_id in network.members.valid(network.time(unix_now())):
            offer = self._word(network, peer_id)
            if offer is not None:
                found[peer_id] = offer
        return found

    def offered(self, network: Network, peer_id: PeerId) -> RelayOffer | None:
        """Return the same of one member; None: it does not relay, or is none."""
        member = network.members.get(peer_id)
        if member is None or not network.is_valid(member.credential, unix_now()):
            return None
        return self._word(network, peer_id)

    def _word(self, network: Network, peer_id: PeerId) -> RelayOffer | None:
        key: Key = (network.id, peer_id)
        if peer_id == network.peer_id:
            return None
        offer = self._offers.get(key)
        if key not in self._bound:
            # What it said of its load is old.
            offer = attrs.evolve(offer, busy=False) if offer is not None else _BELIEVED
        return offer if offer is not None and offer.for_own else None

    def is_busy(self, network: Network, peer_id: PeerId) -> bool:
        """Whether a member that relays calls itself busy."""
        offer = self.offered(network, peer_id)
        return offer is not None and offer.busy

    def offer(self, session: Session) -> RelayOffer | None:
        """Return what the peer of a link has said it relays; None: nothing, or it is no link."""
        key: Key = session.key
        if key not in self._bound:
            return None
        return self._offers.get(key) or self._strange_offers.get(key)

    def relays(self, session: Session) -> bool:
        """Whether the peer of a link has said that it relays for this network."""
        offer = self.offer(session)
        return offer is not None and offer.for_own

    def vouch(self, circuit: Circuit) -> None:
        """Have the relay of *circuit* tell the other end where it sees this node."""
        key: Key = (circuit.network_id, circuit.relay)
        self._send(relay.Send(key, relay_messages.CircuitVouch(circuit=circuit.id)))

    def reserve(self, session: Session) -> None:
        """Hold a reservation at the peer of a link, which then keeps the link; until `release`."""
        self._client(relay_client.Reserve(session.key))

    def release(self, session: Session) -> None:
        """Let a reservation run out."""
        self._client(relay_client.Release(session.key))

    def uses(self, session: Session) -> bool:
        """Whether a session must not be closed for idleness: circuits or a reservation need it."""
        key: Key = session.key
        return self._bound.get(key) == session.sid and self._switch.needs(key)

    def carries(self, session: Session) -> bool:
        """Whether circuits go over a session: its own counters do not count their frames."""
        key: Key = session.key
        return self._bound.get(key) == session.sid and self._switch.carries(key)

    # --- sessions come and go --------------------------------------------------------------------

    def session_up(self, session: Session) -> None:
        """Take a new session as a link, or as the proof of a circuit that it was opened over."""
        if session.mode is not vnh1.Mode.FULL:
            return
        self._tell(session, self.service.offer(trio.current_time()))
        if (circuit := self.circuits.at(session.endpoint)) is not None:
            self.confirm(circuit)
        self._bind(session.key)

    def session_down(self, session: Session) -> None:
        """Move what went over a session that is about to be closed, or end it."""
        if self._bound.get(session.key) == session.sid:
            self._count()
        self._bind(session.key)

    def session_moved(self, session: Session) -> None:
        """Note that a session's first path may be direct now, or over a circuit."""
        self._bind(session.key)

    def _bind(self, key: Key) -> None:
        """Bind the link of *key* to the session that carries now, if that is a direct one."""
        carrier = self._node.sessions.carrier(NetworkId(key[0]), PeerId(key[1]))
        old = self._bound.get(key)
        if carrier is None or is_circuit(carrier.endpoint):
            if old is not None:
                self._lose(key)
            return
        if old == carrier.sid:
            return
        lost = [] if old is None else self._unmoved(key, old, carrier.sid)
        self._bound[key] = carrier.sid
        self.circuits.moved(key, carrier.sid)
        self._act(self._switch.handle(self._up(carrier), trio.current_time()))
        for circuit_id in lost:
            # The peer has moved them, and knows nothing of our trouble.
            code = relay.Closing.LINK_LOST
            self._send(relay.Send(key, relay_messages.CircuitClosed(circuit=circuit_id, code=code)))

    def _up(self, session: Session) -> relay.LinkUp:
        own = self._is_own(session)
        return relay.LinkUp(session.key, session.initiator, own, place_of(session))

    def _unmoved(self, key: Key, old: int, new: int) -> list[bytes]:
        """Move a link's circuits to its new session; return those that the engine did not move.

        They are closed then, all of them: a session that holds is worth more than its circuits.
        """
        over = self._switch.over(key)
        if over:
            try:
                self._node.engine.rebind_link(old, new)
            except _NOT_THERE as error:
                peer = key[1].hex()[:12]
                log.warning("circuits lost", peer=peer, count=len(over), reason=error.message)
                self._lose(key)
                return over
        return []

    def _lose(self, key: Key) -> None:
        """Close what goes over a link that is gone."""
        try:
            self._act(self._switch.handle(relay.LinkDown(key), trio.current_time()))
        finally:
            del self._bound[key]
            self._strange_offers.pop(key, None)

    def _is_own(self, session: Session) -> bool:
        """Whether the peer is a valid member: of one that has expired only renewal is served."""
        network = self._node.networks.get(session.network_id)
        return network is not None and self._is_member(network, session.peer_id)

    @staticmethod
    def _is_member(network: Network, peer_id: PeerId) -> bool:
        member = network.members.get(peer_id)
        return member is not None and network.is_valid(member.credential, unix_now())

    # --- messages --------------------------------------------------------------------------------

    def handle(self, session: Session, envelope: Envelope) -> None:
        """Act on one relay message of a peer."""
        key, message = session.key, envelope.message
        if session.mode is not vnh1.Mode.FULL:
            return
        if isinstance(message, relay_messages.RelayOffer):
            self._offered(key, message)
        elif key not in self._bound:
            log.debug("no link", peer=session.peer_id.hex()[:12], kind=type(message).__name__)
        elif isinstance(message, relay_messages.RelayMessage):
            self._heard(session, relay.Heard(key, message))

    def _offered(self, key: Key, offer: RelayOffer) -> None:
        if self._node.networks.get(NetworkId(key[0])) is None:
            if key in self._bound:
                self._strange_offers[key] = offer
            return
        self._offers.pop(key, None)
        self._offers[key] = offer
        if len(self._offers) > OFFERS_MAX:
            del self._offers[next(iter(self._offers))]

    def _heard(self, session: Session, heard: relay.Heard) -> None:
        key, message = heard.key, heard.message
        match message:
            case relay_messages.RelayReserve() | relay_messages.CircuitOpen():
                # A membership may have run out, or been renewed, since the link came up.
                if self.service.is_own(key) != self._is_own(session):
                    self._service(self._up(session))
            case relay_messages.CircuitIncoming(origin=origin):
                network = self._node.networks.get(session.network_id)
                welcome = network is not None and self._is_member(network, PeerId(origin))
                if self._node.strangers is not None and self._node.strangers.holds(session):
                    welcome = True  # who it is shows in the handshake inside
                heard = attrs.evolve(heard, welcome=welcome)
            case relay_messages.CircuitClosed():
                self._count()
        self._act(self._switch.heard(heard, trio.current_time()))

    def spent(self, link: int, label: int) -> None:
        """Take the engine's word that a circuit's bytes are used up: share out what is left."""
        del link, label
        self._count()

    # --- machines --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Do what is due, until cancelled.

        Raises: BrokenEngineError.
        """
        await rounds(self._alarm.wait, self._tick, trouble_s=COUNT_S)

    def _deadline(self) -> float | None:
        due = [self._switch.deadline()]
        if any(circuit.open for circuit in self.service.circuits):
            due.append(self._counted_s + COUNT_S)
        return min((at for at in due if at is not None), default=None)

    async def _tick(self) -> None:
        now = trio.current_time()
        if now >= self._counted_s + COUNT_S:
            self._count()
        self._act(self._switch.tick(now))

    def _count(self) -> None:
        """Read what the engine has forwarded, while it forwards."""
        now = trio.current_time()
        ids = {
            (self._bound.get(circuit.near), circuit.near_label): circuit.id
            for circuit in self.service.circuits
            if circuit.open
        }
        if ids:
            counts = {
                ids[side]: relay_steps.Count(stats.bytes, busy=stats.busy)
                for stats in self._node.engine.circuits()
                for side in (stats.a, stats.b)
                if side in ids
            }
            self._act(self.service.handle(relay_steps.Counted(counts), now))
        total = self.service.quota.total_bytes
        passed_s = now - self._counted_s
        if passed_s >= COUNT_S / 2:
            self._rate_bps = 8 * (total - self._counted_bytes) / passed_s
            self._counted_s, self._counted_bytes = now, total

    def _service(self, event: relay_steps.Event) -> None:
        self._act(self.service.handle(event, trio.current_time()))

    def _client(self, event: relay_client.Event) -> None:
        self._act(self.client.handle(event, trio.current_time()))

    def _act(self, actions: Iterable[relay_steps.Action | relay_client.Action]) -> None:
        for action in actions:
            _ACTS[type(action)](self, action)
        self._alarm.changed()

    def _send(self, action: relay.Send) -> None:
        session = self._node.sessions.get(self._bound.get(action.key, 0))
        if session is not None:
            self._tell(session, action.message)

    def _announce(self, action: relay_steps.Announce) -> None:
        for session in self._node.sessions.carriers():
            if session.mode is vnh1.Mode.FULL:
                self._tell(session, action.offer)

    def _forward(self, action: relay_steps.Forward) -> None:
        try:
            self._node.engine.add_circuit(
                self._side(action.a),
                self._side(action.b),
                rate_bps=action.rate_bps,
                burst_bytes=action.burst_bytes,
                limit_bytes=action.limit_bytes,
            )
        except _NOT_THERE as error:
            log.warning("circuit not forwarded", reason=error.message)
            self._service(relay_steps.Unforwarded(action.circuit))

    def _limit(self, action: relay_steps.Limit) -> None:
        with contextlib.suppress(*_NOT_THERE):  # one that was not forwarded
            self._node.engine.limit_circuit(
                self._side(action.a), rate_bps=action.rate_bps, limit_bytes=action.limit_bytes
            )

    def _remove(self, action: relay_steps.Remove) -> None:
        with contextlib.suppress(*_NOT_THERE):  # with its link it went already
            self._node.engine.remove_circuit(self._side(action.a))

    def _vouch(self, action: relay_steps.Vouch) -> None:
        session = self._node.sessions.get(self._bound.get(action.of, 0))
        if session is not None and not is_stand_in(session.endpoint):
            where = relay_messages.CircuitSeen(circuit=action.circuit, endpoint=session.endpoint)
            self._send(relay.Send(action.to, where))

    def _seen(self, action: relay_client.Seen) -> None:
        endpoint = Endpoint.of(*action.endpoint, blame=RemoteProtocolError)
        self._node.paths.direct.vouched(action.circuit, endpoint)

    def _cap(self, action: relay_steps.CapRate) -> None:
        self._node.engine.set_relay_rate(action.rate_bps)

    def _side(self, side: tuple[Key, int]) -> tuple[int, int]:
        key, label = side
        return self._bound[key], label

    def _join(self, action: relay_client.Join) -> None:
        link = self._bound[action.end.relay]
        try:
            endpoint = self._node.engine.join_circuit(link, action.end.label or 0)
        except _NOT_THERE as error:
            log.warning("circuit not joined", reason=error.message)
            self._client(relay_client.Close(action.end.id))
        else:
            self.circuits.joined(action.end, link, Endpoint(*endpoint))

    def _welcome(self, action: relay_client.Welcome) -> None:
        circuit = self.circuits.incoming(action.end.id)
        if circuit is None:
            return  # not joined
        cookie = self._node.engine.cookie(circuit.endpoint, action.com)
        accepted = relay_messages.CircuitAccepted(circuit=circuit.id, cookie=cookie)
        self._send(relay.Send(action.end.relay, accepted))

    def _leave(self, action: relay_client.Leave) -> None:
        circuit = self.circuits.left(action.end.id, action.code)
        if circuit is not None:
            with contextlib.suppress(*_NOT_THERE):  # with its link it went already
                self._node.engine.leave_circuit(circuit.endpoint)

    def _failed(self, action: relay_client.Failed) -> None:
        self.circuits.failed(action.circuit, action.code)

    @staticmethod
    def _tell(session: Session, message: relay_messages.RelayMessage) -> None:
        try:
            session.link.send(message)
        except _NOT_THERE as error:
            # Full or closing.  What the peer missed it learns when the link is replaced.
            log.info("not told", peer=session.peer_id.hex()[:12], reason=error.message)

    # --- the operator ----------------------------------------------------------------------------

    async def decide(self, **changes: int | str | None) -> None:
        """Change for whom and how much this node relays; it is kept over a restart.

        It holds at once, also where the disk then does not take it.
        Raises: UsageError: a value cannot be one; ConfigError, PrivilegeError: not written.
        """
        remembered = self._node.remembered
        remembered.relay = self.lending.changed(changes)
        self.lending = lending.Lending(self._node.config, remembered)
        self._count()
        self._service(relay_steps.SetTerms(self.lending.terms))
        await trio.to_thread.run_sync(remembered.save, self._node.store, limiter=self._node.disk)

    @property
    def busy(self) -> bool:
        """Whether links are told that this relay is busy."""
        return self.service.offer(trio.current_time()).busy

    @property
    def rate_bps(self) -> int:
        """What is relayed at the moment, in bits per second over the last second or so."""
        if trio.current_time() >= self._counted_s + COUNT_S:
            self._count()
        return round(self._rate_bps)


_BELIEVED: Final = relay_messages.RelayOffer(for_own=True)
_ACTS: Final[Mapping[type, Callable[[Any, Any], None]]] = {
    relay.Send: Relaying._send,  # noqa: SLF001
    relay_steps.Announce: Relaying._announce,  # noqa: SLF001
    relay_steps.Forward: Relaying._forward,  # noqa: SLF001
    relay_steps.Limit: Relaying._limit,  # noqa: SLF001
    relay_steps.Remove: Relaying._remove,  # noqa: SLF001
    relay_steps.CapRate: Relaying._cap,  # noqa: SLF001
    relay_client.Join: Relaying._join,  # noqa: SLF001
    relay_client.Welcome: Relaying._welcome,  # noqa: SLF001
    relay_client.Leave: Relaying._leave,  # noqa: SLF001
    relay_client.Failed: Relaying._failed,  # noqa: SLF001
    relay_client.Seen: Relaying._seen,  # noqa: SLF001
    relay_steps.Vouch: Relaying._vouch,  # noqa: SLF001
}
