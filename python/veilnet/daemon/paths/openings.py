"""Opening and closing further paths of a session, with the peer's consent.

```
here                              there
circuit to the peer, or none      circuit that came in, or none
PathOpen(id, circuit)    --->     engine.open_path      (the one id at both ends)
engine.open_path         <---     PathOpened | PathRefused
probes until one is answered
PathClose(id)            <-->
PathWish(relay)          --->     a link to it, if there is none (one wish at a time)
                         <---     PathHint(relay, round trip) | PathRefused
```
A session's initiator gives even ids and its peer odd ones.  Who opened a path opens it again when
another session replaces that one.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

import structlog
import trio

from veilnet.daemon.paths.ways import OPEN_MAX, Way, arm_words
from veilnet.errors import (
    BrokenEngineError,
    ClosedError,
    LocalProtocolError,
    PeerRefused,
    PeerUnreachable,
    RemoteProtocolError,
    VeilError,
)
from veilnet.paths import DIRECT
from veilnet.protocol import relay_messages as messages
from veilnet.units import PeerId

if TYPE_CHECKING:
    from collections.abc import Sequence

    from veilnet.daemon.node import Node
    from veilnet.daemon.paths.course import Course
    from veilnet.daemon.relays.relaying import Circuit
    from veilnet.daemon.sessions import Session
    from veilnet.networks.network import Network
    from veilnet.paths import ArmId
    from veilnet.protocol.fields import Endpoint
    from veilnet.protocol.messages import Envelope

ANSWER_S: Final = 3.0
ARRIVAL_S: Final = 2.0
"""So long a circuit that a PathOpen names may still be on its way."""
WISH_S: Final = 6.0
THEIRS_MAX: Final = 6
"""Paths that one peer may open in a session."""
WISHES_MAX: Final = 32
"""Links opened at once because peers wish for them, one for each session."""
NO_PATH: Final = 1
NO_CIRCUIT: Final = 2
NO_LINK: Final = 3
BUSY: Final = 4
REASONS: Final = {
    NO_PATH: "no such path is possible here",
    NO_CIRCUIT: "that circuit did not come here from there",
    NO_LINK: "there is no link to that relay",
    BUSY: "too many at once",
}
"""All that a peer is told: our own errors may name other members' addresses."""

log = structlog.get_logger("veilnet.paths")


class Openings:
    """The paths of all sessions: opened here, opened there, closed."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._wishing: set[int] = set()
        """Sessions for whose peer a link to a relay is being opened."""

    # --- ours ------------------------------------------------------------------------------------

    async def relayed(self, network: Network, course: Course, arm: ArmId) -> Way:
        """Open a path over the relays of *arm*, and the circuit if there is none yet.

        Cancellation: a circuit that was opened for it is closed.
        Raises: PeerUnreachable, PeerRefused, LocalProtocolError: why there is none.
        """
        peer_id = course.session.peer_id
        circuit = course.circuits.get(arm)
        if circuit is None or circuit.closed.is_set():
            circuit = await self._node.detours.open(network, peer_id, arm)
            self.keep(course, circuit)
        try:
            return await self._agree(course, arm, circuit, circuit.endpoint)
        except BaseException:
            self.drop(course, circuit)
            raise

    async def direct(self, course: Course, endpoint: Endpoint) -> Way:
        """Open a path straight to *endpoint*, where the peer may be; probes tell whether it is.

        Raises: as `relayed`.
        """
        return await self._agree(course, DIRECT, None, endpoint)

    def keep(self, course: Course, circuit: Circuit) -> None:
        """Have *circuit* for this course, and notice its end; another over the same relays goes."""
        old = course.circuits.get(circuit.relays)
        course.circuits[circuit.relays] = circuit
        if old is not None and old is not circuit:
            self._node.relaying.close_circuit(old)
        self._node.spawn(self._watch, course, circuit)

    def drop(self, course: Course, circuit: Circuit) -> None:
        """Close *circuit*."""
        if course.circuits.get(circuit.relays) is circuit:
            del course.circuits[circuit.relays]
        self._node.relaying.close_circuit(circuit)

    async def _watch(self, course: Course, circuit: Circuit) -> None:
        await circuit.closed.wait()
        if course.circuits.get(circuit.relays) is circuit:
            del course.circuits[circuit.relays]
        for way in list(course.ways.values()):
            if way.circuit is circuit:
                self.close(course, way)
        course.wake.set()

    async def _agree(
        self, course: Course, arm: ArmId, circuit: Circuit | None, endpoint: Endpoint
    ) -> Way:
        session = course.session
        if len(course.ways) >= OPEN_MAX - 1 and (spare := course.least_used()) is not None:
            self.close(course, spare)
        path = course.ids.next(session.schedule.generation, course.ways)
        if path is None:
            self._node.rekeying.stale(session)
            raise LocalProtocolError("no path id is left until there are new keys")
        self._node.engine.open_path(session.sid, path, endpoint)
        now = trio.current_time()
        way = Way(
            path=path,
            arm=arm,
            endpoint=endpoint,
            ours=True,
            opened_s=now,
            used_s=now,
            circuit=circuit,
        )
        course.ways[path] = way
        question = messages.PathOpen(path=path, circuit=None if circuit is None else circuit.id)
        try:
            _check(await session.link.ask(question, timeout_s=ANSWER_S))
            self._node.engine.probe(session.sid, path)
        except BaseException:
            self.close(course, way)
            raise
        way.probe_sent(now)
        log.info("path opened", peer=session.peer_id.hex()[:12], path=path, by=arm_words(arm))
        return way

    def close(self, course: Course, way: Way, *, tell: bool = True) -> None:
        """Close a path here, and tell the peer unless it knows; a last path stays."""
        if course.ways.get(way.path) is not way:
            return
        session = course.session
        if self._node.sessions.get(session.sid) is session:
            try:
                self._node.engine.close_path(session.sid, way.path)
            except LocalProtocolError:
                return  # the last one goes with its session
            except ClosedError:
                tell = False  # and so do all
            if tell and way.path:
                with contextlib.suppress(LocalProtocolError):
                    session.link.send(messages.PathClose(path=way.path))
        del course.ways[way.path]
        if way.ours and way.circuit is not None:
            self.drop(course, way.circuit)

    # --- the peer's ------------------------------------------------------------------------------

    def asked(self, course: Course, envelope: Envelope) -> None:
        """Take the peer's PathOpen.   Raises: RemoteProtocolError: the id is not its to give."""
        message = envelope.message
        if not isinstance(message, messages.PathOpen):
            return
        theirs_are_even = not course.session.initiator
        if (message.path % 2 == 0) != theirs_are_even:
            raise RemoteProtocolError("a path with an id that is not the peer's to give")
        self._node.spawn(self._take, course, course.session, envelope.id, message)

    async def _take(
        self, course: Course, session: Session, question: int, asked: messages.PathOpen
    ) -> None:
        answer: messages.PathOpened | messages.PathRefused
        try:
            await self._take_path(course, session, asked)
            answer = messages.PathOpened(path=asked.path)
        except _Refused as no:
            log.debug("path refused", peer=session.peer_id.hex()[:12], reason=str(no))
            answer = refusal(no.code, path=asked.path)
        except (LocalProtocolError, ClosedError) as error:
            log.debug("path refused", peer=session.peer_id.hex()[:12], reason=error.message)
            answer = refusal(NO_PATH, path=asked.path)
        with contextlib.suppress(LocalProtocolError):
            session.link.send(answer, answers=question)

    async def _take_path(self, course: Course, session: Session, asked: messages.PathOpen) -> None:
        circuit: Circuit | None = None
        endpoint: Endpoint | None
        if asked.circuit is not None:
            circuit = await self._node.relaying.expect(
                asked.circuit, of=session.key, timeout_s=ARRIVAL_S
            )
            if circuit is None or not self._is_from(circuit, session):
                raise _Refused(NO_CIRCUIT, "that circuit did not come here from there")
            endpoint = circuit.endpoint
        else:
            if not course.may_be_tried(trio.current_time()):
                raise _Refused(BUSY, "the peer tries direct paths too often")
            endpoint = self._node.paths.direct.for_peer(course, turn=asked.path // 2)
        if endpoint is None:
            raise _Refused(NO_PATH, "no address of the other end is left to try")
        if course.session is not session:
            raise _Refused(NO_PATH, "another session has replaced this one")
        if sum(not way.ours and way.path != 0 for way in course.ways.values()) >= THEIRS_MAX:
            raise _Refused(BUSY, "the peer has opened as many paths as it may")
        if len(course.ways) >= OPEN_MAX and (spare := course.least_used()) is not None:
            self.close(course, spare)
        self._node.engine.open_path(session.sid, asked.path, endpoint)
        now = trio.current_time()
        course.ways[asked.path] = Way(
            path=asked.path,
            arm=DIRECT if circuit is None else circuit.relays,
            endpoint=endpoint,
            ours=False,
            opened_s=now,
            used_s=now,
            circuit=circuit,
        )
        # Without data too: what nothing comes back on has to be given up.
        self._node.paths.drive(course)
        course.wake.set()

    def _is_from(self, circuit: Circuit, session: Session) -> bool:
        """Whether a circuit may be the peer's of *session*: who came by a haven is nobody yet."""
        commons = self._node.commons
        if commons is not None and circuit.network_id == commons.id:
            return not self._node.paths.is_used(circuit)
        return (circuit.network_id, circuit.target) == session.key

    def closed(self, course: Course, path: int) -> None:
        """Take the peer's PathClose."""
        way = course.ways.get(path)
        if way is not None:
            self.close(course, way, tell=False)
            course.wake.set()

    # --- far legs --------------------------------------------------------------------------------

    async def wish(self, course: Course, relays: Sequence[PeerId]) -> None:
        """Ask the peer how far each of *relays* is for it, so that it gets links there.

        One after the other: a peer serves one wish at a time.
        """
        course.asking.update(relays)
        try:
            for relay in relays:
                await self._ask_leg(course, relay)
        finally:
            course.asking.clear()

    async def _ask_leg(self, course: Course, relay: PeerId) -> None:
        try:
            wish = messages.PathWish(relay=relay)
            answer = await course.session.link.ask(wish, timeout_s=WISH_S)
        except BrokenEngineError:
            raise
        except (LocalProtocolError, ClosedError):
            return  # the session has ended, and nothing was said of the relay
        except VeilError as error:
            log.debug("no far leg", relay=relay.hex()[:12], reason=error.message)
            course.unreached(relay, trio.current_time())
            return
        if isinstance(answer, messages.PathHint):
            course.hinted(relay, answer.rtt_us / 1e6, trio.current_time())
        elif not (isinstance(answer, messages.PathRefused) and answer.code == BUSY):
            course.unreached(relay, trio.current_time())

    def wished(self, session: Session, envelope: Envelope) -> None:
        """Take the peer's PathWish."""
        message = envelope.message
        network = self._node.networks.get(session.network_id)
        if not isinstance(message, messages.PathWish) or network is None:
            return
        if session.sid in self._wishing or len(self._wishing) >= WISHES_MAX:
            session.link.send(refusal(BUSY), answers=envelope.id)
            return
        self._wishing.add(session.sid)
        self._node.spawn(self._grant, session, network, envelope.id, message)

    async def _grant(
        self, session: Session, network: Network, question: int, wish: messages.PathWish
    ) -> None:
        answer: messages.PathHint | messages.PathRefused
        try:
            relay = PeerId(wish.relay)
            if relay not in network.members or relay in (network.peer_id, session.peer_id):
                raise PeerUnreachable("no such member, or one of the two ends")
            if self._node.relaying.offered(network, relay) is None:
                raise PeerUnreachable("it does not relay")
            link = await self._node.detours.link_to(network, relay, timeout_s=ANSWER_S)
            rtt_s = self._node.paths.rtt_of(link)
            if rtt_s is None:
                rtt_s = await self._node.channels.probe(link, timeout_s=ANSWER_S / 2)
            answer = messages.PathHint(relay=wish.relay, rtt_us=min(round(rtt_s * 1e6), 2**32 - 1))
        except VeilError as error:
            log.debug("wish not granted", relay=wish.relay.hex()[:12], reason=error.message)
            answer = refusal(NO_LINK)
        finally:
            self._wishing.discard(session.sid)
        with contextlib.suppress(LocalProtocolError):
            session.link.send(answer, answers=question)


def _check(answer: object) -> None:
    """Raise what the peer said if it was no."""
    if not isinstance(answer, messages.PathOpened):
        reason = answer.reason if isinstance(answer, messages.PathRefused) else ""
        raise PeerRefused(f"the peer takes no such path: {reason or 'no reason given'}")


def refusal(code: int, *, path: int | None = None) -> messages.PathRefused:
    """Return what a peer is told when it gets no path, or no link."""
    return messages.PathRefused(path=path, code=code, reason=REASONS[code])


class _Refused(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
