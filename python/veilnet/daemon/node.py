"""The node: what it owns, how sessions begin and end, and what is kept on the disk.

Invariant: everything here runs in trio's thread; what blocks (disk, signatures, netlink) goes to
worker threads and comes back as a value, never as a change made from there.
"""

from __future__ import annotations

import contextlib
import random
import secrets
from typing import TYPE_CHECKING, Any, Self

import structlog
import trio

from veilnet import crypto
from veilnet._engine import Engine, KeySchedule
from veilnet.daemon import channels, doors, events, gossip
from veilnet.daemon.addresses import Addresses
from veilnet.daemon.birth import Birth
from veilnet.daemon.blocked import Blocked
from veilnet.daemon.bootstrap import Bootstrap
from veilnet.daemon.channels import Channels
from veilnet.daemon.commons import discovery, havens, publishing
from veilnet.daemon.commons.discovery import Discovery
from veilnet.daemon.commons.havens import CommonsLinks
from veilnet.daemon.doors import Doors
from veilnet.daemon.gossip import Gossip
from veilnet.daemon.handshakes import Handshakes, Kind
from veilnet.daemon.host import own_name, unix_now
from veilnet.daemon.joining import Joining
from veilnet.daemon.paths import choosing
from veilnet.daemon.paths.choosing import Paths
from veilnet.daemon.rekeying import Rekeying
from veilnet.daemon.relays import homes
from veilnet.daemon.relays.detours import Detours
from veilnet.daemon.relays.homes import Homes
from veilnet.daemon.relays.relaying import Relaying
from veilnet.daemon.remembered import RECENT_MAX
from veilnet.daemon.rounds import rounds
from veilnet.daemon.sessions import GOING, Session, SessionTable, SharedKeys
from veilnet.daemon.tickets import Tickets
from veilnet.daemon.uplink import Uplink
from veilnet.errors import (
    BrokenEngineError,
    ClosedError,
    ConfigError,
    LocalProtocolError,
    RemoteProtocolError,
    VeilError,
)
from veilnet.networks import credential as credentials
from veilnet.networks.collection import Networks
from veilnet.networks.commons import Commons
from veilnet.networks.names import parse_node_name
from veilnet.networks.network import Network, check_none_lost
from veilnet.protocol import handshake as vnh1
from veilnet.protocol.dht_messages import Question as DhtQuestion
from veilnet.protocol.messages import Close
from veilnet.protocol.relay_messages import PathMessage, RelayMessage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from veilnet._engine import InitReceived, SessionStats
    from veilnet.config import Config
    from veilnet.daemon.remembered import Remembered
    from veilnet.networks.commons import Realm
    from veilnet.networks.credential import Credential
    from veilnet.protocol.messages import Envelope
    from veilnet.store import Store
    from veilnet.units import NetworkId, PeerId

SEEN_INITS = "seen-inits.bin"
WORKERS = 2
GOODBYE_S = 1.0
SAVE_S = 1.0
HEARD_MAX = 4_096

log = structlog.get_logger("veilnet.node")


class Node:
    """One running VeilNet.  `open`, `run` in a nursery, `close`."""

    def __init__(
        self,
        *,
        config: Config,
        store: Store,
        remembered: Remembered,
        backend: crypto.Backend,
        identity: crypto.Identity,
        engine: Engine,
        networks: Networks,
    ) -> None:
        self.config = config
        self.store = store
        self.remembered = remembered
        self.backend = backend
        self.identity = identity
        self.engine = engine
        self.networks = networks
        self.rng: random.Random = random.SystemRandom()
        self.workers = trio.CapacityLimiter(WORKERS)
        self.disk = trio.CapacityLimiter(1)
        self.stopping = trio.Event()
        self.commons: Commons | None = None
        if config.commons:
            self.commons = Commons(config.commons, crypto.Identity.create(backend))
        elsewhere = {self.commons.id: self.commons.peer_id} if self.commons else {}
        self.sessions = SessionTable(identity.peer_id, elsewhere)
        self.handshakes = Handshakes(engine, self.workers)
        self.doors = Doors(self)
        self.addresses = Addresses(self)
        self.channels = Channels(self)
        self.gossip = Gossip(self)
        self.joining = Joining(self)
        self.rekeying = Rekeying(self)
        self.relaying = Relaying(self)
        self.homes = Homes(self)
        self.blocked = Blocked(self)
        self.strangers = None if self.commons is None else CommonsLinks(self, self.commons)
        self.discovery = None if self.commons is None else Discovery(self, self.commons)
        self.bootstrap = Bootstrap(self, self.discovery)
        self.detours = Detours(self)
        self.paths = Paths(self)
        self.tickets = Tickets(self)
        self.uplink = Uplink(self)
        self._nursery: trio.Nursery | None = None
        self._dirty: set[NetworkId] = set()
        self._dirty_whole: set[NetworkId] = set()
        self._inits_dirty = False
        self.heard: dict[tuple[NetworkId, PeerId], int] = {}
        """Unix time at which a peer without a session was last heard; at most HEARD_MAX."""

    def __repr__(self) -> str:
        return f"<Node {self.identity.peer_id.hex()[:12]} of {len(self.networks)} networks>"

    @classmethod
    async def open(
        cls,
        *,
        config: Config,
        store: Store,
        remembered: Remembered,
        backend: crypto.Backend,
        identity: crypto.Identity,
        found_network: bool,
    ) -> Self:
        """Open the engine, load the networks (or found the first) and bring the TUN device up.

        Raises: PrivilegeError, ConfigError: what the operator must see to.
        """
        networks = await trio.to_thread.run_sync(Networks.load, store, identity, backend)
        if not len(networks) and found_network:
            await trio.to_thread.run_sync(check_none_lost, store)
            name = parse_node_name(config.name) if config.name else own_name()
            networks.add(
                await trio.to_thread.run_sync(
                    lambda: Network.found(
                        store, identity, node_name=name, now=unix_now(), rng=secrets.token_bytes
                    )
                )
            )
        engine = open_engine(config, remembered)
        try:
            # A port that somebody else has for once is asked for again the next time.
            if config.listen_port or not remembered.listen_port:
                remembered.listen_port = engine.port
            await trio.to_thread.run_sync(remembered.save, store)
            if (seen := store.read(SEEN_INITS)) is not None:
                engine.load_seen_inits(seen)
            node = cls(
                config=config,
                store=store,
                remembered=remembered,
                backend=backend,
                identity=identity,
                engine=engine,
                networks=networks,
            )
            await node.addresses.bring_up()
            node.doors.refresh()
        except BaseException:
            engine.close()
            raise
        return node

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled.

        Raises: BrokenEngineError.
        """
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(events.pump, self)
            nursery.start_soon(self.relaying.run)
            nursery.start_soon(self.blocked.carriers.run)
            nursery.start_soon(self.uplink.run)
            self.blocked.look()
            if self.discovery is not None:
                nursery.start_soon(self.discovery.run)
            nursery.start_soon(self.bootstrap.run)
            for period_s, round_ in (
                (lambda: channels.IDLE_LOOK_S, self.channels.look_around),
                (lambda: self.config.gossip_s, self.gossip.compare),
                (lambda: self.config.gossip_s, self.uplink.look),
                (lambda: doors.REFRESH_S, self.doors.refresh_soon),
                (lambda: SAVE_S, self.save_changes),
                (lambda: gossip.RENEW_LOOK_S, self.gossip.renew_due),
                (lambda: gossip.RETURN_KEY_S, self.gossip.rotate_return_keys),
                (lambda: homes.LOOK_S, self.homes.look),
                *self._rounds_of_the_commons(),
                (lambda: choosing.LOOK_S, self.paths.look),
                (lambda: choosing.SAVE_S, self.paths.save),
            ):
                nursery.start_soon(rounds, _pause(period_s), round_)
            self.spawn(self.gossip.renew_due)
            self.spawn(self.channels.return_to_recent)
            self.spawn(self.homes.look)
            task_status.started()
            await trio.sleep_forever()

    def _rounds_of_the_commons(
        self,
    ) -> Iterator[tuple[Callable[[], float], Callable[[], Awaitable[None]]]]:
        if self.discovery is not None and self.strangers is not None:
            yield lambda: discovery.LOOK_S, self.discovery.look
            yield lambda: discovery.SAVE_S, self.discovery.save
            yield lambda: publishing.LOOK_S, self.discovery.publishing.look
            yield lambda: havens.LOOK_S, self.strangers.look

    async def close(self) -> None:
        """Save what is not yet saved, take the names away, close the engine."""

        async def remember() -> None:
            await trio.to_thread.run_sync(self.remembered.save, self.store)

        try:
            # Each for itself: with a broken engine the names still have to go.
            saving = () if self.discovery is None else (self.discovery.save,)
            for last in (
                self._save,
                remember,
                *saving,
                self.paths.close,
                self.addresses.take_down,
            ):
                try:
                    await last()
                except VeilError as error:
                    log.warning("not saved", reason=error.message)
                except Exception:
                    log.exception("not saved, by a bug")
        finally:
            for network in self.networks:
                network.close()
            trio.lowlevel.notify_closing(self.engine.fileno())
            await trio.to_thread.run_sync(self.engine.close)

    def spawn(self, task: Callable[..., Awaitable[Any]], *args: Any) -> None:  # noqa: ANN401
        """Run *task* once beside everything else; its failure ends it alone.

        Only a broken engine ends the node.  What must go on for ever is one of `rounds`.
        """
        if self._nursery is None:
            raise ClosedError("the node does not run")
        self._nursery.start_soon(self._guard, task, args)

    async def _guard(self, task: Callable[..., Awaitable[Any]], args: tuple[Any, ...]) -> None:
        try:
            await task(*args)
        except BrokenEngineError:
            raise
        except VeilError as error:
            log.info("ended", task=task.__qualname__, reason=error.message)
        except Exception:
            log.exception("failed by a bug", task=task.__qualname__)

    # --- handshakes ------------------------------------------------------------------------------

    def primitives(self, suite: int, network: Realm | None = None) -> vnh1.Primitives:
        """Return what handshake work of *suite* needs; the peer must be a member of *network*.

        Without a network its credential is only read: a joiner has no genesis yet to judge it by.
        """
        signatures = self.backend.signatures(suite)

        def check(data: bytes) -> Credential | None:
            if isinstance(network, Commons):
                if data:
                    raise RemoteProtocolError("a credential was shown in the commons")
                return None
            if network is None:
                return credentials.decode(data)
            return credentials.verify(data, network.genesis, signatures)

        return vnh1.Primitives(
            kem=self.backend.kem(suite),
            signatures=signatures,
            signer=network.identity if isinstance(network, Commons) else self.identity,
            check_credential=check,
        )

    def answer(self, init: InitReceived) -> None:
        """Begin to answer a stranger's INIT."""
        try:
            self._answer(init)
        except BaseException:
            self.engine.dismiss(init)
            raise

    def _answer(self, init: InitReceived) -> None:
        door = self.doors.get(init.door)
        if door is not None and not isinstance(door.network, Commons):
            # Only these doors keep a set of the INITs that they saw.
            self._inits_dirty = True
        if door is None or self.stopping.is_set():
            # It closed just now, or we do.  Its place in the gate is for somebody whom we answer.
            self.engine.dismiss(init)
            return
        network, invite = door.network, door.invite
        mode = vnh1.Mode.FULL if invite is None else vnh1.Mode.JOIN
        if isinstance(network, Commons) and init.mode == vnh1.Mode.LOOKUP:
            mode = vnh1.Mode.LOOKUP
        if not isinstance(network, Commons):
            kind = Kind.OWN
        else:
            kind = Kind.LOOKUP if mode is vnh1.Mode.LOOKUP else Kind.STRANGER
        machine = vnh1.Acceptance(
            init=init,
            terms=vnh1.Terms(
                suite=network.suite,
                mode=mode,
                network_id=network.id,
                secret=network.k_net if invite is None else invite.join_secret,
            ),
            identity=self.local_identity(network),
            schedules=KeySchedule,
            psks=SharedKeys(self.sessions),
        )
        birth = Birth(self, network, mode=mode, initiator=False, door=init.door)
        primitives = self.primitives(network.suite, network)
        self.spawn(self.handshakes.accept, machine, primitives, birth, kind)

    def local_identity(self, network: Realm) -> vnh1.LocalIdentity:
        """Return who we are in *network*."""
        if isinstance(network, Commons):
            return vnh1.LocalIdentity(
                peer_id=network.peer_id, public_key=network.identity.public_key, credential=b""
            )
        return vnh1.LocalIdentity(
            peer_id=self.identity.peer_id,
            public_key=self.identity.public_key,
            credential=network.own.encoding,
        )

    # --- sessions --------------------------------------------------------------------------------

    def route(self, session: Session) -> None:
        """Let the session that carries a valid member's packets have the member's addresses."""
        carrier = self.sessions.carrier(*session.key)
        if carrier is not None and carrier.ready:
            self._assign(carrier)

    def take_early(self, session: Session) -> None:
        """Take what came on *session* before its peer could know that another carries."""
        self._assign(session)
        self.route(session)

    def _assign(self, session: Session) -> None:
        network = self.networks.get(session.network_id)
        if network is None:
            return
        member = network.members.get(session.peer_id)
        if member is None or not network.is_valid(member.credential, unix_now()):
            # A session of one whose time has run out is for its renewal alone.
            self.engine.assign(session.sid, [])
            return
        self.engine.assign(
            session.sid,
            [f"{item}/{item.max_prefixlen}" for item in self.addresses.usable(network, member)],
        )

    def ready(self, session: Session) -> None:
        """Note that the peer takes our packets on *session*."""
        if not session.ready:
            session.ready = True
            self.route(session)

    def control(self, session: Session, data: bytes) -> None:
        """Take one control datagram of *session*; a peer that breaks the rules loses it.

        What fails here for our own sake costs that message alone: those behind it have been
        acknowledged with it, and come only once.
        """
        session.heard.set()
        session.spoke_s = trio.current_time()
        self.ready(session)
        try:
            envelopes = session.link.receive(data, trio.current_time())
        except RemoteProtocolError as error:
            self._misbehaved(session, error)
            return
        for envelope in envelopes:
            kind = type(envelope.message).__name__
            try:
                self._serve(session, envelope)
            except RemoteProtocolError as error:
                self._misbehaved(session, error)
                return
            except BrokenEngineError:
                raise
            except VeilError as error:
                log.info("message not served", kind=kind, reason=error.message)
            except Exception:
                log.exception("message failed by a bug", kind=kind)
            if session.link.closed.is_set():
                return

    def _serve(self, session: Session, envelope: Envelope) -> None:
        """Give a message to whom it is for.   Raises: RemoteProtocolError: it must not be sent."""
        if isinstance(envelope.message, RelayMessage):
            self.relaying.handle(session, envelope)
        elif isinstance(envelope.message, PathMessage):
            self.paths.handle(session, envelope)
        elif isinstance(envelope.message, DhtQuestion):
            if self.discovery is not None:
                self.discovery.asked(session, envelope)
        else:
            self.gossip.handle(session, envelope)

    def _misbehaved(self, session: Session, error: RemoteProtocolError) -> None:
        log.warning("peer misbehaved", peer=session.peer_id.hex()[:12], reason=error.message)
        self.end(session, reason=error.message)

    def end(self, session: Session, *, reason: str) -> None:
        """Close *session* at once, without a word to the peer."""
        if self.sessions.get(session.sid) is None:
            return
        self._note_heard(session)
        self.sessions.remove(session)
        session.link.close()
        try:
            self.part(session)
        finally:
            # Whatever fails above, the engine must not keep what nobody here will ever close.
            self.engine.close_session(session.sid)
        tell = log.debug if session.mode is vnh1.Mode.LOOKUP else log.info
        tell("session down", peer=session.peer_id.hex()[:12], reason=reason)

    def part(self, session: Session) -> None:
        """Let go of *session*, which the table has no more and the engine has still.

        What it carried goes over to the session that carries now, if there is one.
        """
        if session.mode is not vnh1.Mode.FULL:
            # It carried nothing, and strangers' lookups end many times a second.
            self.channels.ended(session)
            return
        for lets_go in (
            self.relaying.session_down,
            self.paths.ended,
            self.homes.lost,
            *((self.strangers.lost,) if self.strangers else ()),
            self.route,
            self.channels.ended,
            self.gossip.forget,
        ):
            # Each for itself: one that fails must not take the others' share with it.
            try:
                lets_go(session)
            except BrokenEngineError:
                raise
            except VeilError as error:
                log.warning("not let go", part=lets_go.__qualname__, reason=error.message)
            except Exception:
                log.exception("not let go, by a bug", part=lets_go.__qualname__)

    def _note_heard(self, session: Session) -> None:
        known = self.networks.get(session.network_id) is not None
        if session.mode is not vnh1.Mode.FULL or not known:
            return  # strangers' comings and goings must cost little, and are nobody's business
        counters = self.statistics().get(session.sid)
        if counters is None or counters.heard_s is None:
            return
        self.heard.pop(session.key, None)
        self.heard[session.key] = unix_now() - round(counters.heard_s)
        if len(self.heard) > HEARD_MAX:
            del self.heard[next(iter(self.heard))]

    async def retire(self, session: Session, close: Close) -> None:
        """Tell the peer that *session* closes, and close it once it knows, or after a second."""
        session.retiring = True
        with contextlib.suppress(LocalProtocolError):
            session.link.send(close)
            await session.link.flush(timeout_s=GOODBYE_S)
        self.end(session, reason=close.reason or "closed here")

    async def say_goodbye(self) -> None:
        """Close every session, so that no peer sends into the void."""
        self.remember_recent()
        async with trio.open_nursery() as nursery:
            for session in self.sessions:
                if session.mode is vnh1.Mode.LOOKUP:
                    continue  # in a minute it is forgotten anyway
                nursery.start_soon(self.retire, session, Close(code=GOING, reason="the node stops"))

    def statistics(self) -> dict[int, SessionStats]:
        """Return the engine's counters of every session."""
        return {item.sid: item for item in self.engine.sessions()}

    # --- disk ------------------------------------------------------------------------------------

    def changed(self, network: Network, *, whole: bool = False) -> None:
        """Note that *network*'s member table changed: it is saved soon, and names follow.

        *whole*: so did our own membership.
        """
        if whole:
            self._dirty_whole.add(network.id)
        self._dirty.add(network.id)
        self.addresses.names_changed()

    def remember_recent(self) -> None:
        """Note which members to call after a restart; in the commons nobody will know us again."""
        self.remembered.recent = [
            (session.network_id.hex(), session.peer_id.hex())
            for session in self.sessions.carriers()
            if self.networks.get(session.network_id) is not None
        ][:RECENT_MAX]

    async def save_changes(self) -> None:
        """Write what has changed since the last round; what cannot be written stays to be.

        Raises: ConfigError, PrivilegeError: the old files are still there.
        """
        before = list(self.remembered.recent)
        self.remember_recent()
        if before != self.remembered.recent:
            await trio.to_thread.run_sync(self.remembered.save, self.store, limiter=self.disk)
        await self._save()

    async def _save(self) -> None:
        for network_id in list(self._dirty):
            network = self.networks.get(network_id)
            whole = network_id in self._dirty_whole
            # Before the write: what changes while the disk works has to be written next time.
            self._dirty.discard(network_id)
            self._dirty_whole.discard(network_id)
            if network is None:
                continue
            try:
                save = network.saving(self.store, whole=whole)
                await trio.to_thread.run_sync(save, limiter=self.disk)
            except BaseException:
                self._dirty.add(network_id)
                if whole:
                    self._dirty_whole.add(network_id)
                raise
        if self._inits_dirty:
            self._inits_dirty = False
            try:
                seen = self.engine.seen_inits()
                await trio.to_thread.run_sync(self.store.write, SEEN_INITS, seen, limiter=self.disk)
            except BaseException:
                self._inits_dirty = True
                raise


def _pause(period_s: Callable[[], float]) -> Callable[[], Awaitable[None]]:
    async def pause() -> None:
        await trio.sleep(period_s())

    return pause


def open_engine(config: Config, remembered: Remembered) -> Engine:
    """Open the engine with the configured port, else the port of the last time, else a random one.

    Raises: PrivilegeError, ConfigError.
    """
    from veilnet.daemon.tun import free_name

    tun_name = free_name(config.tun_name) if config.tun else None

    def opened(port: int) -> Engine:
        return Engine.open(
            listen_port=port,
            tun_name=tun_name,
            mtu_bytes=config.mtu_bytes,
            vnet_hdr=config.tun_offload,
            udp_gso=config.udp_gso,
            udp_gro=config.udp_gro,
            step_datagrams=config.step_datagrams,
            step_age_s=config.step_s,
        )

    if config.listen_port:
        try:
            return opened(config.listen_port)
        except ConfigError as error:
            raise ConfigError(
                f"this node cannot listen on UDP port {config.listen_port}: {error.message}",
                hint="Stop what listens there, or choose another port: veilnet up --listen-port N",
            ) from error
    try:
        return opened(remembered.listen_port)
    except ConfigError:
        if not remembered.listen_port:
            raise
        # Somebody else has last time's port.  Peers learn the new one when we call them.
        log.warning("port taken", port=remembered.listen_port)
        return opened(0)
