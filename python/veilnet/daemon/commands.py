"""What the control socket can ask of a node: one coroutine per command, a table at the end.

Shapes are those of product.md; a field whose part does not exist yet is absent.
"""

from __future__ import annotations

import contextlib
import secrets
from typing import TYPE_CHECKING, Any, Final

import trio

from veilnet import __version__
from veilnet.crypto import suite
from veilnet.daemon import underlay
from veilnet.daemon.host import own_name, unix_now
from veilnet.daemon.nat import views as nat_views
from veilnet.daemon.paths.views import PathViews
from veilnet.daemon.relays import lending
from veilnet.daemon.sessions import DISCONNECTED
from veilnet.errors import PeerUnreachable, UnknownPeer, UsageError, VeilError
from veilnet.networks.invite import Invite, looks_like_invite
from veilnet.networks.names import is_name, parse_node_name
from veilnet.networks.network import Network
from veilnet.networks.refusal import Refusal, Refused
from veilnet.protocol.messages import Close

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    from veilnet._engine import EngineStats, SessionStats
    from veilnet.control.server import Command, Tell
    from veilnet.daemon.node import Node
    from veilnet.daemon.sessions import Session
    from veilnet.networks.member import Member
    from veilnet.units import NetworkId, PeerId

Json = dict[str, Any]
BREATH: Final = 64
"""Members that are looked at before other tasks get a turn."""


def _text(args: Mapping[str, Any], name: str) -> str:
    value = args.get(name)
    if not isinstance(value, str) or not value:
        raise UsageError(f"the request lacks {name}")
    return value


def _number(args: Mapping[str, Any], name: str, default: float, most: float) -> float:
    value = args.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= most:
        raise UsageError(f"{name} must be a number above 0, up to {most:g}")
    return value


async def _members(networks: Iterable[Network]) -> AsyncIterator[tuple[Network, Member]]:
    """Yield all members of *networks*; others get a turn meanwhile, for there may be thousands."""
    for network in networks:
        for number, member in enumerate(network.members):
            if number % BREATH == BREATH - 1:
                await trio.lowlevel.checkpoint()
            yield network, member


class Commands:
    """The commands of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._paths = PathViews(node)

    # --- looking ---------------------------------------------------------------------------------

    async def status(self, args: Mapping[str, Any], tell: Tell) -> Json:
        """Return all that `status` prints; without the peers if *args* says ``peers`` false."""
        del tell
        node = self._node
        wanted = node.networks if args.get("peers", True) else ()
        stats = node.statistics()
        peers = [
            self._peer(network, member, stats)
            async for network, member in _members(wanted)
            if member.peer_id != node.identity.peer_id
        ]
        return {
            "version": __version__,
            "peer_id": node.identity.peer_id.hex(),
            "state": "stopping" if node.stopping.is_set() else "up",
            "port": node.engine.port,
            "tun": node.engine.tun_name,
            "engine": _engine(node.engine.stats()),
            "state_folder": str(node.store.path.resolve()),
            "crypto": {"backend": node.backend.name, "version": node.backend.version},
            "hosts_file": node.config.hosts_file or None,
            "networks": [self._network(network) for network in node.networks],
            "relay": lending.status(node),
            "discovery": nat_views.discovery(node),
            "peers": peers,
        }

    async def peer(self, args: Mapping[str, Any], tell: Tell) -> Json:
        """Return all about one peer."""
        del tell
        network, member = self._find(_text(args, "peer"))
        value = self._peer(network, member, self._node.statistics())
        value["endpoints"] = [str(endpoint) for endpoint in member.endpoints]
        value["not_after"] = member.credential.not_after
        value["direct"] = nat_views.direct(self._node, network, member)
        return value

    async def members(self, args: Mapping[str, Any], tell: Tell) -> Json:
        """Return the members of one network or of all."""
        del tell
        wanted = args.get("network")
        networks = [self._network_named(wanted)] if wanted else list(self._node.networks)
        return {
            "members": [
                {
                    "id": member.peer_id.hex(),
                    "name": member.name,
                    "network": network.name,
                    "addresses": [str(item) for item in member.addresses],
                    "not_after": member.credential.not_after,
                    "self": member.peer_id == self._node.identity.peer_id,
                }
                async for network, member in _members(networks)
            ]
        }

    async def network(self, args: Mapping[str, Any], tell: Tell) -> Json:
        """Return all about one network."""
        del tell
        network = self._network_named(_text(args, "network"))
        value = self._network(network)
        value["suite"] = suite(network.genesis.suite).name
        if network.issuer is not None:
            value["invites"] = [
                {"id": item.invite_id.hex(), "uses_left": item.uses_left, "expires": item.expires}
                for item in network.issuer.invites(unix_now())
            ]
        return value

    async def keys(self, args: Mapping[str, Any], tell: Tell) -> Json:
        """Return suite, epoch and last rekey of every connected peer."""
        del args, tell
        stats = self._node.statistics()
        found = []
        for session in self._node.sessions.carriers():
            counters = stats.get(session.sid)
            network = self._node.networks.get(session.network_id)
            if counters is not None and network is not None:
                found.append(
                    {
                        "id": session.peer_id.hex(),
                        "name": network.members.name_of(session.peer_id),
                        "network": network.name,
                        "suite": suite(session.suite).name,
                        "epoch": counters.generation,
                        "step_tx": counters.step_tx,
                        "step_rx": counters.step_rx,
                        "last_rekey_s": round(counters.rekeyed_s, 1),
                    }
                )
        return {"keys": found}

    async def path(self, args: Mapping[str, Any], tell: Tell) -> Json:
        """Return why traffic to a peer goes the way it goes."""
        del tell
        return self._paths.explain(*self._find(_text(args, "peer")))

    def _network(self, network: Network) -> Json:
        value: Json = {
            "id": network.id.hex(),
            "name": network.name,
            "prefix": str(network.prefix),
            "addresses": [str(item) for item in self._node.addresses.usable(network, network.own)],
            "members": len(network.members),
            "own_name": network.own.name,
            "founder": network.issuer is not None,
        }
        warnings = self._node.addresses.warnings(network)
        warnings += [
            f"several members are called {name}: the name answers nothing"
            for name in network.members.conflicts()
        ]
        if not network.is_valid(network.own.credential, unix_now()):
            warnings.append("our membership has expired: it renews when the founder is reachable")
        return value | ({"warnings": warnings} if warnings else {})

    def _peer(self, network: Network, member: Member, stats: Mapping[int, SessionStats]) -> Json:
        session = self._node.sessions.carrier(network.id, member.peer_id)
        counters = None if session is None else stats.get(session.sid)
        value: Json = {
            "id": member.peer_id.hex(),
            "name": network.members.name_of(member.peer_id),
            "network": network.name,
            "addresses": [str(item) for item in member.addresses],
            "state": "idle",
            "paths": [],
            "tx_bytes": 0,
            "rx_bytes": 0,
            "tx_packets": 0,
            "rx_packets": 0,
        }
        heard_s = None if counters is None else counters.heard_s
        heard = max(member.seen_s, self._node.heard.get((network.id, member.peer_id), 0))
        if heard_s is not None or heard:
            value["heard_s"] = round(max(unix_now() - heard, 0) if heard_s is None else heard_s, 1)
        if session is None or counters is None:
            return value | self._absence((network.id, member.peer_id))
        return value | {
            "state": "connected",
            "suite": suite(session.suite).name,
            "epoch": counters.generation,
            "last_rekey_s": round(counters.rekeyed_s, 1),
            "paths": self._paths.of(session, counters),
            "tx_bytes": counters.tx_bytes,
            "rx_bytes": counters.rx_bytes,
            "tx_packets": counters.tx_packets,
            "rx_packets": counters.rx_packets,
            "rejected": counters.rejected,
        }

    def _absence(self, key: tuple[NetworkId, PeerId]) -> Json:
        """Return what is to be said of a peer that there is no session with."""
        if self._node.channels.connecting(key):
            return {"state": "connecting"}
        missed = self._node.channels.missed(key)
        if missed is None:
            return {}
        tried_s = round(trio.current_time() - missed.at_s, 1)
        return {"state": "unreachable", "tried_s": tried_s, "reason": missed.reason}

    def _network_named(self, name: object) -> Network:
        for network in self._node.networks:
            if name in (network.name, network.id.hex()):
                return network
        known = ", ".join(network.name for network in self._node.networks) or "none"
        raise UsageError(f"this node is in no network {name!r}", hint=f"It is in: {known}.")

    def _find(self, target: str) -> tuple[Network, Member]:
        network, member = self._node.networks.find(target)
        if member.peer_id == self._node.identity.peer_id:
            raise UsageError(
                f"{target} is this node itself", hint="Name another: veilnet peer list"
            )
        return network, member

    # --- inviting, connecting --------------------------------------------------------------------

    async def invite(self, args: Mapping[str, Any], tell: Tell) -> Json:
        """Make an invite."""
        del tell
        network = self._network_to_invite_to(args.get("network"))
        if network.issuer is None:
            raise self._not_founder(network)
        uses = int(_number(args, "uses", 1, 1000))
        life_s = int(_number(args, "expires_s", 86_400, 30 * 86_400))
        endpoints = await self._node.addresses.local_endpoints(strict=True)
        endpoints = list(dict.fromkeys([*endpoints, *self._node.gossip.own_observed()]))

        def make() -> Invite:
            return network.invite(
                endpoints=endpoints,
                now=unix_now(),
                rng=secrets.token_bytes,
                uses=uses,
                life_s=life_s,
            )

        made = await trio.to_thread.run_sync(make, limiter=self._node.disk)
        self._node.doors.refresh()
        warnings = []
        reachable = any(map(underlay.is_reachable, made.endpoints)) or bool(
            self._node.config.endpoints
        )
        if not reachable:
            port = self._node.engine.port
            warnings.append(
                "none of this node's addresses can be reached from the Internet, so the invite "
                "works only inside this local network. Forward a UDP port of your router to "
                f"port {port} of this host and start with --endpoint YOUR-PUBLIC-ADDRESS:PORT"
            )
        return {
            "invite": made.format(),
            "network": network.name,
            "expires": unix_now() + life_s,
            "uses": uses,
            "endpoints": [str(endpoint) for endpoint in made.endpoints],
            "reachable": reachable,
            "warnings": warnings,
        }

    def _network_to_invite_to(self, name: object) -> Network:
        if name:
            return self._network_named(name)
        networks = list(self._node.networks)
        founded = [network for network in networks if network.issuer is not None]
        if not networks:
            raise UsageError(
                "this node is in no network", hint="Join one, or found one: veilnet up"
            )
        if len(founded) > 1:
            names = ", ".join(network.name for network in founded)
            raise UsageError(
                f"this node founded several networks: {names}",
                hint="Say which one the invite is for: veilnet invite --network NAME",
            )
        return (founded or networks)[0]

    @staticmethod
    def _not_founder(network: Network) -> Refused:
        refused = Refused.of(Refusal.NOT_ISSUER)
        founders = [
            network.members.name_of(item)
            for item in sorted(network.genesis.owner_ids)
            if item in network.members
        ]
        if not founders:
            return refused
        who = ", ".join(founders)
        return Refused(
            f"only the founder of the network {network.name}, {who}, invites to it",
            hint=f"Ask for an invite from {who}; there: veilnet invite",
            refusal=Refusal.NOT_ISSUER,
        )

    async def connect(self, args: Mapping[str, Any], tell: Tell) -> Json:
        """Join if it is an invite, open a channel, make a round trip."""
        target = _text(args, "peer")
        timeout_s = _number(args, "timeout_s", self._node.config.connect_timeout_s, 600)
        began_s = trio.current_time()
        deadline = began_s + timeout_s
        if looks_like_invite(target):
            invite = Invite.parse(target)
            network, member = await self._join(invite, args.get("name"), timeout_s, tell)
        else:
            network, member = await self._find_or_ask(target, timeout_s)
        await tell({"stage": f"connecting to {member.name}"})
        session, rtt_s = await self._node.channels.reach(
            network, member, timeout_s=max(deadline - trio.current_time(), 0.2)
        )
        value = self._reached(session, rtt_s)
        value["name"] = network.members.name_of(member.peer_id)
        value["network"] = network.name
        addresses = self._node.addresses.usable(network, member)
        if addresses:
            # What people type; the others are in `status`.
            value["address"] = str(min(addresses, key=lambda item: item.version))
        value["handshake_ms"] = round(session.handshake_ms, 1)
        value["first_byte_ms"] = round((trio.current_time() - began_s) * 1000, 1)
        return value

    async def _join(
        self, invite: Invite, wanted: object, timeout_s: float, tell: Tell
    ) -> tuple[Network, Member]:
        node = self._node
        network = node.networks.get(invite.network_id)
        if invite.inviter == node.identity.peer_id:
            raise UsageError(
                "this invite was made by this very node", hint="Use it on another device."
            )
        if network is None:
            await tell({"stage": "joining"})
            name = str(wanted or node.config.name or own_name())
            network, where = await node.joining.join(
                invite, name=parse_node_name(name), timeout_s=timeout_s
            )
            network.members.observe(invite.inviter, where, unix_now())
            # Names must work by the time that `connect` says so.
            await node.addresses.write_names()
            usable = ", ".join(str(item) for item in node.addresses.usable(network, network.own))
            addresses = usable or "no address of it can be used on this host"
            await tell({"stage": f"joined {network.name} as {network.own.name}: {addresses}"})
        else:
            await tell({"stage": f"already a member of {network.name}"})
            network.members.observe(invite.inviter, invite.endpoints, unix_now())
        member = network.members.get(invite.inviter)
        if member is None:
            raise UnknownPeer("the inviter is no member of its network any more")
        return network, member

    async def _find_or_ask(self, target: str, timeout_s: float) -> tuple[Network, Member]:
        """Return whom *target* means; if nobody, ask the members we can reach first."""
        try:
            return self._find(target)
        except UnknownPeer:
            with trio.move_on_after(timeout_s / 3):
                await self._node.gossip.refresh()
        try:
            return self._find(target)
        except UnknownPeer:
            await self._look_for(target)
        return self._find(target)

    async def _look_for(self, target: str) -> None:
        """Look in the commons for a member that nobody here has heard of, and take it in."""
        discovery = self._node.discovery
        name, _, suffix = target.strip().lower().removesuffix(".veil").partition(".")
        if discovery is None or not is_name(name):
            return
        for network in self._node.networks:
            if suffix in ("", network.name):
                with contextlib.suppress(VeilError):
                    member = await discovery.resolve(network, name)
                    network.members.merge((member,), unix_now())
                    self._node.changed(network)

    async def ping(self, args: Mapping[str, Any], tell: Tell) -> Json:
        """Make one authenticated round trip."""
        del tell
        timeout_s = _number(args, "timeout_s", 5, 600)
        network, member = await self._find_or_ask(_text(args, "peer"), timeout_s)
        session, rtt_s = await self._node.channels.reach(network, member, timeout_s=timeout_s)
        return self._reached(session, rtt_s) | {"rtt_ms": round(rtt_s * 1000, 3)}

    async def disconnect(self, args: Mapping[str, Any], tell: Tell) -> Json:
        """Close the channel to a peer."""
        del tell
        network, member = self._find(_text(args, "peer"))
        self._node.homes.leave((network.id, member.peer_id))
        for session in self._node.sessions:
            if session.key == (network.id, member.peer_id):
                close = Close(code=DISCONNECTED, reason="disconnected")
                await self._node.retire(session, close)
        return {"peer_id": member.peer_id.hex(), "state": "idle"}

    async def network_leave(self, args: Mapping[str, Any], tell: Tell) -> Json:
        """Leave a network; its only founder must say *force* while others are in it."""
        del tell
        network = self._network_named(args.get("network"))
        others = len(network.members) - 1
        if network.issuer is not None and others and not args.get("force"):
            raise UsageError(
                f"this node founded {network.name}, and {others} others are in it: without it "
                "nobody is invited or renewed any more",
                hint=f"To leave all the same: veilnet network leave {network.name} --force",
            )
        await self._node.joining.leave(network)
        return {"network": network.name, "network_id": network.id.hex(), "state": "left"}

    async def relay(self, args: Mapping[str, Any], tell: Tell) -> Json:
        """Return what this node relays, for whom, and how much it may."""
        del args, tell
        return lending.report(self._node)

    async def relay_set(self, args: Mapping[str, Any], tell: Tell) -> Json:
        """Change for whom and how much this node relays, and return what holds now."""
        del tell
        await self._node.relaying.decide(**args)
        return lending.report(self._node)

    async def down(self, args: Mapping[str, Any], tell: Tell) -> Json:
        """Stop the node."""
        del args, tell
        self._node.spawn(self._stop_soon)
        return {"state": "down"}

    async def _stop_soon(self) -> None:
        # The answer must be out before the socket goes.
        await trio.sleep(0.05)
        self._node.stopping.set()

    def _reached(self, session: Session, rtt_s: float) -> Json:
        # Another may have taken its place since the answer.
        session = self._node.sessions.carrier(*session.key) or session
        counters = self._node.statistics().get(session.sid)
        if counters is None:
            raise PeerUnreachable("the channel closed just now")
        path = self._paths.best(session, counters)
        path["rtt_ms"] = round(rtt_s * 1000, 3)
        return {"peer_id": session.peer_id.hex(), "path": path}


def _engine(stats: EngineStats) -> Json:
    """Return which offloads are in use (all of them, unless forced or missing) and what passed."""
    return {
        "vnet_hdr": stats.vnet_hdr,
        "udp_gso": stats.udp_gso,
        "udp_gro": stats.udp_gro,
        "rx_datagrams": stats.rx_datagrams,
        "tx_datagrams": stats.tx_datagrams,
        "rx_calls": stats.rx_calls,
        "tx_calls": stats.tx_calls,
        "rx_unknown": stats.rx_unknown,
    }


def commands(node: Node) -> dict[str, Command]:
    """Return the table that the control server answers from."""
    made = Commands(node)
    return {
        "status": made.status,
        "peer": made.peer,
        "members": made.members,
        "network": made.network,
        "network_leave": made.network_leave,
        "keys": made.keys,
        "invite": made.invite,
        "connect": made.connect,
        "ping": made.ping,
        "disconnect": made.disconnect,
        "path": made.path,
        "relay": made.relay,
        "relay_set": made.relay_set,
        "down": made.down,
    }
