"""Opening and closing further paths of a session, with the peer's consent.

```
here                              there
circuit to the peer, or none      circuit that came in, or none
PathOpen(id, circuit)    --->     engine.open_path      (the one id at both ends)
engine.open_path         <---     PathOpened | PathRefused
probes until one is answered
PathClose(id)            <-->
PathWish(relay)          --->     a link to it, if there is none
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

from veilnet.daemon.ways import OPEN_MAX, Way, arm_words
from veilnet.errors import (
    ClosedError,
    LocalProtocolError,
    PeerRefused,
    PeerUnreachable,
    RemoteProtocolError,
    VeilError,
)
from veilnet.paths import DIRECT
from veilnet.protocol import relay_messages as messages

if TYPE_CHECKING:
    from veilnet.daemon.course import Course
    from veilnet.daemon.node import Node
    from veilnet.daemon.relaying import Circuit
    from veilnet.daemon.sessions import Session
    from veilnet.networks.network import Network
    from veilnet.paths import ArmId
    from veilnet.protocol.fields import Endpoint
    from veilnet.protocol.messages import Envelope
    from veilnet.units import PeerId

ANSWER_S: Final = 3.0
ARRIVAL_S: Final = 2.0
"""So long a circuit that a PathOpen names may still be on its way."""
WISH_S: Final = 6.0
THEIRS_MAX: Final = 6
"""Paths that one peer may open in a session."""
WISHES_MAX: Final = 4
"""Links opened at once because peers wish for them."""
NO_PATH: Final = 1
NO_CIRCUIT: Final = 2
NO_LINK: Final = 3
BUSY: Final = 4

log = structlog.get_logger("veilnet.paths")


class Openings:
    """The paths of all sessions: opened here, opened there, closed."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._wishes = 0

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
            answer = messages.PathRefused(path=asked.path, code=no.code, reason=no.message)
        except (LocalProtocolError, ClosedError) as error:
            reason = error.message[:256]
            answer = messages.PathRefused(path=asked.path, code=NO_PATH, reason=reason)
        with contextlib.suppress(LocalProtocolError):
            session.link.send(answer, answers=question)

    async def _take_path(self, course: Course, session: Session, asked: messages.PathOpen) -> None:
        circuit: Circuit | None = None
        endpoint: Endpoint | None
        if asked.circuit is not None:
            circuit = await self._node.relaying.expect(
                asked.circuit, of=session.key, timeout_s=ARRIVAL_S
            )
            if circuit is None or (circuit.network_id, circuit.target) != session.key:
                raise _Refused(NO_CIRCUIT, "that circuit did not come here from there")
            endpoint = circuit.endpoint
        else:
            endpoint = self._node.paths.whereabouts(course, turn=asked.path // 2)
        if endpoint is None:
            raise _Refused(NO_PATH, "no address of the other end is known here")
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
        course.wake.set()

    def closed(self, course: Course, path: int) -> None:
        """Take the peer's PathClose."""
        way = course.ways.get(path)
        if way is not None:
            self.close(course, way, tell=False)
            course.wake.set()

    # --- far legs --------------------------------------------------------------------------------

    async def wish(self, course: Course, relay: PeerId) -> None:
        """Ask the peer how far *relay* is for it, so that it gets a link there."""
        session = course.session
        course.asking.add(relay)
        rtt_s: float | None = None
        try:
            answer = await session.link.ask(messages.PathWish(relay=relay), timeout_s=WISH_S)
            if isinstance(answer, messages.PathHint):
                rtt_s = answer.rtt_us / 1e6
        except VeilError as error:
            log.debug("no far leg", relay=relay.hex()[:12], reason=error.message)
        finally:
            course.asking.discard(relay)
        course.hinted(relay, rtt_s, trio.current_time())

    def wished(self, session: Session, envelope: Envelope) -> None:
        """Take the peer's PathWish."""
        message = envelope.message
        network = self._node.networks.get(session.network_id)
        if not isinstance(message, messages.PathWish) or network is None:
            return
        if self._wishes >= WISHES_MAX:
            refused = messages.PathRefused(code=BUSY, reason="too many wishes at once")
            session.link.send(refused, answers=envelope.id)
            return
        self._wishes += 1
        self._node.spawn(self._grant, session, network, envelope.id, message)

    async def _grant(
        self, session: Session, network: Network, question: int, wish: messages.PathWish
    ) -> None:
        answer: messages.PathHint | messages.PathRefused
        try:
            relay = next((m.peer_id for m in network.members if m.peer_id == wish.relay), None)
            if relay is None or relay in (network.peer_id, session.peer_id):
                raise PeerUnreachable("no such member, or one of the two ends")
            if relay not in self._node.relaying.offers(network):
                raise PeerUnreachable("it does not relay")
            link = await self._node.detours.link_to(network, relay, timeout_s=ANSWER_S)
            rtt_s = self._node.paths.rtt_of(link)
            if rtt_s is None:
                rtt_s = await self._node.channels.probe(link, timeout_s=ANSWER_S / 2)
            answer = messages.PathHint(relay=wish.relay, rtt_us=min(round(rtt_s * 1e6), 2**32 - 1))
        except VeilError as error:
            answer = messages.PathRefused(code=NO_LINK, reason=error.message[:256])
        finally:
            self._wishes -= 1
        with contextlib.suppress(LocalProtocolError):
            session.link.send(answer, answers=question)


def _check(answer: object) -> None:
    """Raise what the peer said if it was no."""
    if not isinstance(answer, messages.PathOpened):
        reason = answer.reason if isinstance(answer, messages.PathRefused) else ""
        raise PeerRefused(f"the peer takes no such path: {reason or 'no reason given'}")


class _Refused(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
