"""Joining a network by an invite, and letting in whoever holds one of ours.

```
joiner                                              issuer
VNH1 in join mode, door and secret of the invite
JoinRequest(name, endpoints)        ------------->  admit (disk, signature), new member in the table
network saved                       <-------------  JoinGrant | JoinRefuse
VNH1 in full mode, Close of the join session
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog
import trio

from veilnet._engine import KeySchedule
from veilnet.daemon import doors as _doors
from veilnet.daemon.birth import JOIN_SUITE, Birth
from veilnet.daemon.host import own_name, unix_now
from veilnet.daemon.sessions import DISCONNECTED
from veilnet.errors import LocalProtocolError, PeerUnreachable, RemoteProtocolError, VeilError
from veilnet.networks import join
from veilnet.networks.commons import Commons
from veilnet.networks.endpoint import Endpoint
from veilnet.networks.names import parse_node_name
from veilnet.networks.network import remove_all
from veilnet.networks.refusal import Refused
from veilnet.protocol import handshake as vnh1
from veilnet.protocol import messages
from veilnet.protocol.messages import Close

if TYPE_CHECKING:
    from veilnet.daemon.node import Node
    from veilnet.daemon.sessions import Session
    from veilnet.networks.invite import Invite
    from veilnet.networks.issuer import Admission
    from veilnet.networks.network import Network
    from veilnet.protocol.messages import Envelope

UNATTENDED_S: Final = 15.0
LATE_S: Final = 0.2
"""So long a call that has just failed has to say why."""
FIRST_PAUSE_S: Final = 2.0
MAX_PAUSE_S: Final = 60.0

log = structlog.get_logger("veilnet.joining")


class Joining:
    """Both sides of an invite."""

    def __init__(self, node: Node) -> None:
        self._node = node

    # --- the joiner ------------------------------------------------------------------------------

    async def join(
        self, invite: Invite, *, name: str, timeout_s: float
    ) -> tuple[Network, tuple[Endpoint, ...]]:
        """Join the network of *invite*; return it and where the inviter is reached.

        Units: *timeout_s* seconds.
        Cancellation: nothing is kept.
        Raises: PeerUnreachable; Refused: the issuer says no, and why.
        """
        node = self._node
        deadline = trio.current_time() + timeout_s

        async def call(endpoints: tuple[Endpoint, ...]) -> Session:
            left_s = max(deadline - trio.current_time(), 0.1)
            return await self._call(invite, endpoints, left_s)

        try:
            with trio.fail_at(deadline + LATE_S):
                session = await node.blocked.reach(invite.endpoints, call, only=True)
        except (PeerUnreachable, trio.TooSlowError) as error:
            late = "the inviter does not answer"
            raise PeerUnreachable(
                error.message if isinstance(error, PeerUnreachable) else late,
                hint="Is the inviter's node up and its port open? The invite may also be too "
                "old or not from there: ask for a new one.",
            ) from error
        try:
            request = messages.JoinRequest(
                name=name, endpoints=tuple((await node.addresses.local_endpoints())[:8])
            )
            left_s = max(deadline - trio.current_time(), 0.1)
            answer = await session.link.ask(request, timeout_s=left_s)
            if isinstance(answer, messages.JoinRefuse):
                raise Refused.heard(answer.code, answer.reason)
            if not isinstance(answer, messages.JoinGrant):
                raise RemoteProtocolError("the inviter answered with something else")
            network = await self._take(answer, invite)
        finally:
            node.spawn(node.retire, session, Close(reason="joined"))
        place = node.blocked.place(session.endpoint)
        return network, invite.endpoints if place is None else (place,)

    async def join_unattended(self, invite: Invite) -> None:
        """Join by *invite* however long the inviter is away; only a refusal ends it.

        Raises: Refused: the issuer says no, and why.
        """
        pause_s = FIRST_PAUSE_S
        while self._node.networks.get(invite.network_id) is None:
            name = parse_node_name(self._node.config.name or own_name())
            try:
                await self.join(invite, name=name, timeout_s=UNATTENDED_S)
            except Refused:
                raise
            except VeilError as error:
                log.info("not joined yet", reason=error.message, again_s=pause_s)
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, MAX_PAUSE_S)

    async def _call(
        self, invite: Invite, endpoints: tuple[Endpoint, ...], timeout_s: float
    ) -> Session:
        machine = vnh1.Initiation(
            terms=vnh1.Terms(
                suite=JOIN_SUITE,
                mode=vnh1.Mode.JOIN,
                network_id=invite.network_id,
                secret=invite.join_secret,
            ),
            identity=vnh1.LocalIdentity(
                peer_id=self._node.identity.peer_id, public_key=self._node.identity.public_key
            ),
            responder=invite.inviter,
            door_key=invite.door_key,
            endpoints=endpoints,
            schedules=KeySchedule,
            rng=self._node.rng,
            timeout_s=timeout_s,
        )
        birth = Birth(
            self._node, None, mode=vnh1.Mode.JOIN, initiator=True, network_id=invite.network_id
        )
        # The invite names the inviter; what it is a member of is judged with the grant.
        primitives = self._node.primitives(JOIN_SUITE)
        return await self._node.handshakes.run(machine, primitives, birth)

    async def _take(self, grant: messages.JoinGrant, invite: Invite) -> Network:
        node = self._node

        def believe() -> Network:
            return join.accept(grant, invite, node.identity, node.backend, now=unix_now())

        network = await trio.to_thread.run_sync(believe, limiter=node.workers)
        try:
            # Saved before anybody else gets to know it.
            node.networks.fit(network)
            await trio.to_thread.run_sync(network.saving(node.store), limiter=node.disk)
            node.networks.add(network)
        except BaseException:
            network.close()
            raise
        await node.addresses.add(network)
        node.doors.refresh()
        node.changed(network)
        log.info("joined", network=network.name, members=len(network.members))
        return network

    async def leave(self, network: Network) -> None:
        """Leave *network*: close its channels, give its addresses back, remove what is kept of it.

        Raises: ConfigError, PrivilegeError: its files are still there; it is left until a restart.
        """
        node = self._node
        # First, so that nothing begins in it any more.
        node.networks.remove(network.id)
        node.doors.refresh()
        async with trio.open_nursery() as nursery:
            for session in node.sessions:
                if session.network_id == network.id:
                    close = Close(code=DISCONNECTED, reason="left the network")
                    nursery.start_soon(node.retire, session, close)
        await node.addresses.remove(network)
        node.addresses.names_changed()
        network.close()
        await trio.to_thread.run_sync(remove_all, node.store, network.id, limiter=node.disk)
        log.info("left", network=network.name)

    # --- the issuer ------------------------------------------------------------------------------

    def asked(self, session: Session, envelope: Envelope) -> None:
        """Answer a JoinRequest.

        Raises: RemoteProtocolError: it comes outside a join session.
        """
        door = None if session.door is None else self._node.doors.get(session.door)
        if session.mode is not vnh1.Mode.JOIN or session.initiator:
            raise RemoteProtocolError("a JoinRequest outside a joining session")
        if door is None or door.invite is None:
            # The door has just gone: its day of saying no is over.
            session.link.send(join.refuse(Refused.of(join.Refusal.EXPIRED)), answers=envelope.id)
            return
        if session.admission is not None:
            # It lost the answer, or is greedy: what was signed once is said once more.
            session.link.send(session.admission, answers=envelope.id)
        elif session.join_question is not None:
            session.join_question = envelope.id
        elif isinstance(envelope.message, messages.JoinRequest):
            session.join_question = envelope.id
            self._node.spawn(self._admit, session, envelope.message, door)

    async def _admit(
        self, session: Session, request: messages.JoinRequest, door: _doors.Door
    ) -> None:
        try:
            answer = await self._judge(session, request, door)
            if isinstance(answer, messages.JoinGrant):
                session.admission = answer
            session.link.send(answer, answers=session.join_question)
        finally:
            session.join_question = None

    async def _judge(
        self, session: Session, request: messages.JoinRequest, door: _doors.Door
    ) -> messages.JoinGrant | messages.JoinRefuse:
        if door.invite is None or isinstance(door.network, Commons):
            raise LocalProtocolError("no invite to join by")
        network, invite_id = door.network, door.invite.invite_id

        def admit() -> Admission:
            return network.require_issuer().admit(
                invite_id=invite_id, peer_id=session.peer_id, name=request.name, now=unix_now()
            )

        try:
            admission = await trio.to_thread.run_sync(admit, limiter=self._node.disk)
        except Refused as error:
            log.info("join refused", peer=session.peer_id.hex()[:12], reason=error.message)
            return join.refuse(error)
        grant = join.grant(
            network,
            admission,
            public_key=session.public_key,
            endpoints=(session.endpoint, *request.endpoints),
            now=unix_now(),
        )
        log.info("joined", peer=session.peer_id.hex()[:12], name=admission.credential.name)
        self._node.changed(network)
        self._node.doors.refresh()
        self._node.gossip.tell(network, (session.peer_id,))
        return grant
