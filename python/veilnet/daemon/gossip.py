"""Control messages between members: who is where, who is new, keys to be found again by.

```
session up      Features, ReturnKey, Endpoints, MembersKnown -> Members (what the other lacks)
table changed   Members to every session of that network
credential old  Renew -> RenewGrant | RenewRefuse
```
"""

from __future__ import annotations

import contextlib
import math
import secrets
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Final

import structlog
import trio

from veilnet import __version__
from veilnet.daemon.host import unix_now
from veilnet.daemon.sessions import DISCONNECTED, GOING
from veilnet.errors import (
    ClosedError,
    LocalProtocolError,
    PeerRefused,
    RemoteProtocolError,
    VeilError,
)
from veilnet.nat.classify import classify
from veilnet.nat.place import version_of
from veilnet.nat.reflexive import Reflexive
from veilnet.networks.endpoint import Endpoint
from veilnet.networks.members import MAX_LACKING, batches, part_of
from veilnet.networks.refusal import Refused
from veilnet.protocol import handshake as vnh1
from veilnet.protocol import messages, nat_messages
from veilnet.protocol.circuit import is_carrier, is_circuit, is_stand_in

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from veilnet.daemon.node import Node
    from veilnet.daemon.sessions import Session
    from veilnet.nat.classify import Verdict
    from veilnet.networks.member import Member
    from veilnet.networks.network import Network
    from veilnet.protocol.messages import Envelope, MemberEntry
    from veilnet.units import PeerId

RENEW_LOOK_S: Final = 3_600.0
RENEW_TIMEOUT_S: Final = 30.0
ASK_S: Final = 5.0
TELLING_MAX: Final = 4
"""Long answers under way on one session; a peer that asks for more at once gets none."""
MERGING_MAX: Final = 16
"""Portions of gossip of one session being verified; what is beyond comes with the next compare."""
MUCH: Final = MAX_LACKING // 2
"""Who tells of so many in one answer has more to tell."""
CATCH_UP_S: Final = 2.0
SEEN_S: Final = 5.0
"""A peer that moves more often than this is passed on late, where it is by then."""
RETURN_KEY_S: Final = 86_400.0
"""How long a return key is handed out; it opens for as long again."""
RETURN_KEYS: Final = 2
STRANGERS_WORD_S: Final = 600.0
"""So long it counts where somebody of the commons saw us, whose session has long ended."""

log = structlog.get_logger("veilnet.gossip")


class Gossip:
    """What this node tells its peers, and believes of what they tell."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._return_keys: dict[bytes, tuple[bytes, ...]] = {}
        self._listening: list[Endpoint] = []
        self._renewing = trio.Lock()
        self.reflexive = Reflexive()
        """Where peers say that they see us."""

    # --- telling ---------------------------------------------------------------------------------

    def greet(self, session: Session) -> None:
        """Say what a new session's peer should know."""
        session.link.send(messages.Features(release=__version__))
        asked = session.mode is vnh1.Mode.LOOKUP and not session.initiator
        if asked and not is_stand_in(session.endpoint):
            # Whoever asks strangers learns from each where it is seen.
            session.link.send(messages.Endpoints(observed=session.endpoint))
        if session.mode is not vnh1.Mode.FULL:
            return
        network = self._node.networks.get(session.network_id)
        if network is None:
            return
        session.link.send(messages.ReturnKey(key=self._return_key(network)))
        session.link.send(network.members.known())
        self._node.spawn(self._tell_endpoints, session)

    def observed(self, session: Session) -> None:
        """Tell the peer where it is seen now, and remember it; through a relay nothing is seen.

        A stranger hears that and no more: our own addresses are for members.
        """
        if is_stand_in(session.endpoint):
            return
        if self._network(session) is None:
            if not session.placing:
                session.placing = True
                self._node.spawn(self._tell_stranger, session)
            return
        if not session.placing:
            session.placing = True
            self._node.spawn(self._tell_endpoints, session)
        self._seen(session, (session.endpoint,))

    def _seen(self, session: Session, where: tuple[tuple[str, int], ...]) -> None:
        """Remember where a peer is, and tell the others; what comes too fast is told later."""
        waits, session.seen = session.seen is not None, where
        wait_s = session.seen_s + SEEN_S - trio.current_time()
        if wait_s <= 0:
            self._place(session)
        elif not waits:
            self._node.spawn(self._place_later, session, wait_s)

    async def _place_later(self, session: Session, wait_s: float) -> None:
        with trio.move_on_after(wait_s):
            await session.link.closed.wait()
        self._place(session)

    def _place(self, session: Session) -> None:
        where, session.seen = session.seen, None
        network = self._network(session)
        if where is None or network is None:
            return
        session.seen_s = trio.current_time()
        if network.members.observe(session.peer_id, where, unix_now()):
            self._node.changed(network)
            self.tell(network, (session.peer_id,), but=session)

    async def _tell_endpoints(self, session: Session) -> None:
        """Tell a member where we see it, and where we listen ourselves."""
        try:
            listening = self._listening = await self._node.addresses.local_endpoints()
        finally:
            session.placing = False
        self._node.paths.direct.punching.silences.begin()
        if not session.link.closed.is_set():
            self._say_endpoints(session, listening)

    @staticmethod
    def _say_endpoints(session: Session, listening: Sequence[Endpoint]) -> None:
        seen = None if is_stand_in(session.endpoint) else session.endpoint
        session.link.send(messages.Endpoints(observed=seen, listening=tuple(listening[:8])))

    async def _tell_stranger(self, session: Session) -> None:
        try:
            with trio.move_on_at(session.seen_s + SEEN_S):
                await session.link.closed.wait()
        finally:
            session.placing = False
        if not session.link.closed.is_set() and not is_stand_in(session.endpoint):
            session.seen_s = trio.current_time()
            session.link.send(messages.Endpoints(observed=session.endpoint))

    def _return_key(self, network: Network) -> bytes:
        if network.id not in self._return_keys:
            self._new_return_key(network)
        return self._return_keys[network.id][0]

    def _new_return_key(self, network: Network) -> None:
        older = self._return_keys.get(network.id, ())
        keys = (secrets.token_bytes(32), *older)[:RETURN_KEYS]
        self._return_keys[network.id] = keys
        # Newest first, over all networks.
        ranks = zip_longest(*self._return_keys.values())
        self._node.engine.set_return_keys([key for rank in ranks for key in rank if key])

    async def rotate_return_keys(self) -> None:
        """Hand out new return keys; those of the round before still open, older ones no more."""
        for network in self._node.networks:
            if network.id in self._return_keys:
                self._new_return_key(network)
        for session in self._node.sessions.carriers():
            network_ = self._network(session)
            if network_ is not None:
                with contextlib.suppress(LocalProtocolError):
                    session.link.send(messages.ReturnKey(key=self._return_key(network_)))

    def tell(
        self, network: Network, peer_ids: Iterable[PeerId], *, but: Session | None = None
    ) -> None:
        """Send the entries of *peer_ids* to every session of *network* but one."""
        members = (network.members.get(peer_id) for peer_id in peer_ids)
        news = [(member.peer_id, member.entry()) for member in members if member is not None]
        for session in self._node.sessions.carriers():
            if session is but or session.network_id != network.id:
                continue
            for portion in batches(entry for who, entry in news if who != session.peer_id):
                try:
                    session.link.send(messages.Members(entries=portion))
                except LocalProtocolError:
                    break  # a slow or closed link: it catches up with MembersKnown

    def own_observed(self) -> list[Endpoint]:
        """Return the port that a gateway maps here, then where others see this node."""
        now = trio.current_time()
        local = {endpoint.host for endpoint in self._listening}
        seen = self.reflexive.endpoints(local=local, now=now)
        return list(dict.fromkeys([*self.mapped(), *(Endpoint(*each) for each in seen)]))

    def mapped(self) -> list[Endpoint]:
        """Return the port that a gateway forwards here, if one was asked and does."""
        endpoint = self._node.bootstrap.mapped
        return [] if endpoint is None else [endpoint]

    def nat(self, version: int, local: Collection[Endpoint] | None = None) -> Verdict:
        """Return what is in front of this node in one IP version."""
        local = self._listening if local is None else local
        here = [each for each in local if version_of(each.host) == version]
        hosts = {endpoint.host for endpoint in here}
        own = self.reflexive.own(version, local=hosts, now=trio.current_time())
        return classify(own, local=here, blocked=bool(here) and self._is_blocked())

    def _is_blocked(self) -> bool:
        """Whether all that works goes over TCP; what goes over a relay goes as the link to that."""
        carriers = self._node.sessions.carriers()
        links = [each.endpoint for each in carriers if not is_circuit(each.endpoint)]
        return bool(links) and all(map(is_carrier, links))

    def forget(self, session: Session) -> None:
        """Forget what the peer of an ended session said of us; strangers' word lasts a while."""
        if session.mode is vnh1.Mode.FULL and self._node.sessions.carrier(*session.key) is None:
            self.reflexive.forget(session.key)

    async def refresh(self, *networks: Network, about: PeerId | None = None) -> None:
        """Ask every member we are connected with, or else the owners, what we lack.

        *about*: and where that one is, whatever we believe.
        """
        for network in networks or self._node.networks:
            peers = [s for s in self._node.sessions.carriers() if s.network_id == network.id]
            if not peers:
                for owner_id in network.genesis.owner_ids:
                    owner = network.members.get(owner_id)
                    if owner is not None and owner_id != self._node.identity.peer_id:
                        with contextlib.suppress(VeilError):
                            opened = self._node.channels.open(network, owner, timeout_s=ASK_S)
                            peers.append(await opened)
            for session in peers:
                parts = 1 if about is None else network.members.parts
                part = 0 if about is None else part_of(about, parts)
                known = network.members.known(part, parts, doubted=about)
                try:
                    answer = await session.link.ask(known, timeout_s=ASK_S)
                except VeilError:
                    continue  # somebody else may know
                if isinstance(answer, messages.Members) and answer.entries:
                    await self._merge(session, network, answer.entries)

    # --- hearing ---------------------------------------------------------------------------------

    def handle(self, session: Session, envelope: Envelope) -> None:
        """Act on one message that answers no question of ours.

        Raises: RemoteProtocolError: the peer must not send it.
        """
        act = _ACTS.get(type(envelope.message))
        if act is not None:
            act(self, session, envelope)

    def _features(self, session: Session, envelope: Envelope) -> None:
        log.debug("features", peer=session.peer_id.hex()[:12], said=repr(envelope.message)[:200])

    def _ping(self, session: Session, envelope: Envelope) -> None:
        payload = envelope.message.payload  # type: ignore[union-attr]
        session.link.send(messages.Pong(payload=payload), answers=envelope.id)

    def _endpoints(self, session: Session, envelope: Envelope) -> None:
        network = self._network(session)
        said = envelope.message
        if not isinstance(said, messages.Endpoints):
            return
        # Who reaches us through a relay has not seen us, whatever it says.
        if said.observed is not None and not is_stand_in(session.endpoint):
            self._observed(session, Endpoint.of(*said.observed, blame=RemoteProtocolError))
        if network is None:
            return
        # Where we see it comes first; what it says of itself may be behind a NAT.
        seen = () if is_stand_in(session.endpoint) else (session.endpoint,)
        if seen or said.listening:
            self._seen(session, (*seen, *said.listening))

    def _observed(self, session: Session, said: Endpoint) -> None:
        stranger = self._network(session) is None
        if session.mode is vnh1.Mode.JOIN or (stranger and not session.initiator):
            return  # whom we do not know, and did not ask: whoever wants to calls us
        lookup = session.mode is vnh1.Mode.LOOKUP
        before = self.nat(4).public
        self.reflexive.heard(
            tuple(session.endpoint) if lookup else session.key,
            at=session.endpoint,
            said=said,
            now=trio.current_time(),
            life_s=STRANGERS_WORD_S if lookup else math.inf,
            member=not stranger,
        )
        verdict, punching = self.nat(4), self._node.paths.direct.punching
        after = verdict.public
        flipped = before is not None and after is not None and before[0] != after[0]
        if flipped and (verdict.sure or not stranger):
            punching.moved()  # another uplink: who was out of reach may be in reach
        punching.silences.begin()

    def _call(self, session: Session, envelope: Envelope) -> None:
        self._node.paths.direct.punching.handle(session, envelope)

    def _return(self, session: Session, envelope: Envelope) -> None:
        key = envelope.message.key  # type: ignore[union-attr]
        self._node.engine.set_peer_return_key(session.sid, key)

    def _ticket(self, session: Session, envelope: Envelope) -> None:
        message = envelope.message
        if isinstance(message, messages.Ticket) and session.mode is vnh1.Mode.FULL:
            self._node.tickets.take(session, message)

    def _close(self, session: Session, envelope: Envelope) -> None:
        said = envelope.message
        if not isinstance(said, messages.Close):
            return
        if self._network(session) is None:
            pass  # a stranger was nobody's home, and there is no end of their ids
        elif said.code == DISCONNECTED:
            self._node.homes.leave(session.key)
        elif said.code == GOING:
            self._node.homes.gone(session.key)
        reason = said.reason
        self._node.end(session, reason=f"closed by the peer: {reason!r}")

    def _known(self, session: Session, envelope: Envelope) -> None:
        network, said = self._network(session), envelope.message
        if network is None or not isinstance(said, messages.MembersKnown):
            return
        if session.telling >= TELLING_MAX:
            return
        lacking = network.members.lacking(said)
        if not lacking:
            # An answer is owed even when nothing is lacking: somebody may wait for it.
            session.link.send(messages.Members(), answers=envelope.id)
            return
        session.telling += 1
        self._node.spawn(self._tell_lacking, session, network, lacking, envelope.id)

    async def _tell_lacking(
        self, session: Session, network: Network, lacking: list[PeerId], question: int
    ) -> None:
        """Send a long answer in step with what the peer takes in."""
        try:
            for portion in batches(network.members.entries(lacking)):
                session.link.send(messages.Members(entries=portion), answers=question)
                await session.link.flush(timeout_s=RENEW_TIMEOUT_S)
        finally:
            session.telling -= 1

    def _members(self, session: Session, envelope: Envelope) -> None:
        network, said = self._network(session), envelope.message
        if network is None or not isinstance(said, messages.Members) or not said.entries:
            return
        if session.merging >= MERGING_MAX:
            log.info("gossip left for later", peer=session.peer_id.hex()[:12])
            return
        session.merging += 1
        self._node.spawn(self._merge_told, session, network, said.entries)

    async def _merge_told(
        self, session: Session, network: Network, entries: tuple[MemberEntry, ...]
    ) -> None:
        try:
            await self._merge(session, network, entries)
        finally:
            session.merging -= 1

    async def _merge(
        self, session: Session, network: Network, entries: tuple[MemberEntry, ...]
    ) -> None:
        signatures = self._node.backend.signatures(network.genesis.suite)
        try:
            members = await trio.to_thread.run_sync(
                network.members.verify,
                entries,
                network.genesis,
                signatures,
                limiter=self._node.workers,
            )
        except RemoteProtocolError as error:
            log.warning("false gossip", peer=session.peer_id.hex()[:12], reason=error.message)
            self._node.end(session, reason="false gossip")
            return
        merged = network.members.merge(members, unix_now(), teller=session.peer_id)
        for refusal in merged.refused:
            log.warning("member refused", reason=refusal.message)
        news = merged.changed - {self._node.identity.peer_id}
        session.learnt += len(news)
        if session.learnt >= MUCH and not session.catching_up:
            # Its answer was cut off, or nearly: the rest need not wait for the next round.
            session.catching_up = True
            self._node.spawn(self._catch_up, session, network)
        if news:
            self._node.changed(network)
            self.tell(network, news, but=session)

    def _compare_part(self, session: Session, network: Network) -> None:
        """Ask what we lack of the next part of our table: all of it, unless it is long."""
        parts = network.members.parts
        session.part = (session.part + 1) % parts
        session.learnt = 0
        with contextlib.suppress(LocalProtocolError):
            session.link.send(network.members.known(session.part, parts))

    async def _catch_up(self, session: Session, network: Network) -> None:
        """Ask part after part, until a whole round of them told little."""
        left = network.members.parts
        while left and not session.link.closed.is_set():
            if session.learnt >= MUCH:
                left = network.members.parts
            self._compare_part(session, network)
            left -= 1
            before = -1
            while session.merging or before != session.learnt:
                before = session.learnt
                await trio.sleep(CATCH_UP_S)
        session.catching_up = False

    def _join(self, session: Session, envelope: Envelope) -> None:
        self._node.joining.asked(session, envelope)

    def _renew(self, session: Session, envelope: Envelope) -> None:
        network, said = self._network(session), envelope.message
        member = None if network is None else network.members.get(session.peer_id)
        if network is None or member is None or not isinstance(said, messages.Renew):
            return
        if network.issuer is not None and member.credential.serial > said.serial:
            now = unix_now()
            if not member.credential.renewal_due(network.time(now)):
                # It lost the answer, or is greedy: what was signed once is said once more.
                grant = messages.RenewGrant(credential=member.encoding)
                session.link.send(grant, answers=envelope.id)
                return
        busy, session.renew_question = session.renew_question is not None, envelope.id
        if not busy:
            self._node.spawn(self._answer_renew, session, network, member)

    async def _answer_renew(self, session: Session, network: Network, member: Member) -> None:
        try:
            answer = await self._renew_member(session, network, member)
            session.link.send(answer, answers=session.renew_question)
        finally:
            session.renew_question = None

    async def _renew_member(
        self, session: Session, network: Network, member: Member
    ) -> messages.RenewGrant | messages.RenewRefuse:
        try:
            issuer = network.require_issuer()
            admission = await trio.to_thread.run_sync(
                issuer.renew, member.credential, unix_now(), limiter=self._node.workers
            )
        except Refused as error:
            return messages.RenewRefuse(code=int(error.refusal), reason=error.message[:256])
        network.welcome(admission, session.public_key, (session.endpoint,), unix_now())
        self._node.changed(network)
        self._node.route(session)
        self.tell(network, (session.peer_id,), but=session)
        return messages.RenewGrant(credential=admission.encoding)

    def _generation(self, session: Session, envelope: Envelope) -> None:
        self._node.rekeying.message(session, envelope.message)  # type: ignore[arg-type]

    def _network(self, session: Session) -> Network | None:
        """Return the network whose members may gossip on *session*: none in join mode."""
        if session.mode is not vnh1.Mode.FULL:
            return None
        return self._node.networks.get(session.network_id)

    # --- timers ----------------------------------------------------------------------------------

    async def compare(self) -> None:
        """Compare tables with every peer: one round."""
        for session in self._node.sessions.carriers():
            network = self._network(session)
            if network is not None:
                self._compare_part(session, network)
        self._end_expired()

    def tell_listening(self, listening: Sequence[Endpoint]) -> None:
        """Tell every member that we have a session with where we listen now."""
        self._listening = list(listening)
        self._node.paths.direct.punching.silences.begin()
        for session in self._node.sessions.carriers():
            if self._network(session) is not None:
                with contextlib.suppress(LocalProtocolError, ClosedError):
                    self._say_endpoints(session, listening)

    def _end_expired(self) -> None:
        """Close the sessions of members whose credential has run out since the handshake.

        The issuer keeps them, for renewal alone.
        """
        for session in self._node.sessions.carriers():
            network = self._network(session)
            member = None if network is None else network.members.get(session.peer_id)
            if network is None or member is None:
                continue
            if network.is_valid(member.credential, unix_now()):
                continue
            if network.issuer is not None:
                self._node.route(session)
            else:
                self._node.end(session, reason="the peer's membership has expired")

    async def renew_due(self) -> None:
        """Renew this node's credentials that are a third through their lives: one round."""
        async with self._renewing:  # asked for twice at once, an issuer answers the later question
            await self._renew_due()

    async def _renew_due(self) -> None:
        for network in self._node.networks:
            if not network.renewal_due(unix_now()):
                continue
            try:
                if network.issuer is not None:
                    # Signs and writes for a millisecond, every tenth day.
                    network.renew_own(unix_now())
                else:
                    await self._ask_renewal(network)
            except VeilError as error:
                log.warning("not renewed", network=network.name, reason=error.message)
                continue
            # Saved with all else, and tried again for as long as the disk is full.
            self._node.changed(network, whole=True)
            self.tell(network, (network.peer_id,))

    async def _ask_renewal(self, network: Network) -> None:
        error: VeilError = PeerRefused("no owner of the network is known here")
        for owner_id in network.genesis.owner_ids:
            owner = network.members.get(owner_id)
            if owner is None:
                continue
            try:
                session = await self._node.channels.open(network, owner, timeout_s=RENEW_TIMEOUT_S)
                answer = await session.link.ask(
                    messages.Renew(serial=network.own.credential.serial), timeout_s=RENEW_TIMEOUT_S
                )
            except VeilError as failed:
                error = failed
                continue
            if isinstance(answer, messages.RenewGrant):
                signatures = self._node.backend.signatures(network.genesis.suite)
                network.adopt(answer.credential, self._node.identity, signatures, unix_now())
                return
            if isinstance(answer, messages.RenewRefuse):
                error = Refused.heard(answer.code, answer.reason)
        raise error


_ACTS: Final[Mapping[type, Callable[..., Any]]] = {
    messages.Features: Gossip._features,  # noqa: SLF001
    messages.Ping: Gossip._ping,  # noqa: SLF001
    messages.Endpoints: Gossip._endpoints,  # noqa: SLF001
    messages.ReturnKey: Gossip._return,  # noqa: SLF001
    messages.Ticket: Gossip._ticket,  # noqa: SLF001
    messages.Close: Gossip._close,  # noqa: SLF001
    messages.MembersKnown: Gossip._known,  # noqa: SLF001
    messages.Members: Gossip._members,  # noqa: SLF001
    messages.JoinRequest: Gossip._join,  # noqa: SLF001
    messages.Renew: Gossip._renew,  # noqa: SLF001
    messages.GenerationOffer: Gossip._generation,  # noqa: SLF001
    messages.GenerationAnswer: Gossip._generation,  # noqa: SLF001
    messages.GenerationConfirm: Gossip._generation,  # noqa: SLF001
    nat_messages.Call: Gossip._call,  # noqa: SLF001
    nat_messages.CallAnswer: Gossip._call,  # noqa: SLF001
    nat_messages.CallGo: Gossip._call,  # noqa: SLF001
    nat_messages.CallRefused: Gossip._call,  # noqa: SLF001
    nat_messages.SilenceTest: Gossip._call,  # noqa: SLF001
}
