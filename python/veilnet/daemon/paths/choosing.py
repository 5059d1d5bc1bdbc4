"""Which ways the sessions take: looks, asks the policy, and does what it says.

```
look, once a second    a session with data, or on a relay, gets a driver
driver, 1 s +- 20 %    engine counters -> samples -> policy -> shares, standby, probe, openings
PathChanged            a dead way is told to the policy at once
no data for 10 s       no more decisions; after 60 s the further paths are closed
```
The engine moves traffic off a way that fails, before anybody here knows; what happens here is what
it may move to, and back.

Invariant: the policy is asked and never trusted: it is a `Guard`, ways open within the budget of
their `Course`, and a session whose policy says nothing useful goes on as it is.
"""

from __future__ import annotations

import contextlib
import secrets
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import structlog
import trio

from veilnet.config import PATH_POLICIES
from veilnet.daemon.nat.direct import DirectTries
from veilnet.daemon.paths import course as courses
from veilnet.daemon.paths.course import Course, Leg
from veilnet.daemon.paths.openings import NO_PATH, Openings, refusal
from veilnet.daemon.paths.ways import DEAD, MOST, SETTLE_S, PathIds, Way, arm_words
from veilnet.errors import BrokenEngineError, ClosedError, LocalProtocolError, VeilError
from veilnet.networks.endpoint import Endpoint
from veilnet.paths import DIRECT, Sample, make_policy
from veilnet.paths.guard import Guard
from veilnet.paths.record import Recorder, open_trace
from veilnet.protocol import handshake as vnh1
from veilnet.protocol import relay_messages as messages
from veilnet.protocol.circuit import is_circuit, link_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from veilnet._engine import PathChanged, PathStats, SessionStats
    from veilnet.daemon.node import Node
    from veilnet.daemon.relays.relaying import Circuit
    from veilnet.daemon.sessions import Session
    from veilnet.networks.network import Network
    from veilnet.paths import ArmId, Decision, Policy
    from veilnet.protocol.messages import Envelope
    from veilnet.units import NetworkId, PeerId

LOOK_S: Final = 1.0
SAVE_S: Final = 300.0
ROUND_S: Final = 1.0
JITTER: Final = 0.2
RESTING_S: Final = 5.0
"""Between two rounds of a session without data."""
ACTIVE_S: Final = 10.0
QUIET_BPS: Final = 20_000.0
"""Below this hardly any data flows, and probing costs more than it can win."""
TRIAL_S: Final = 4.0
"""So long a try for a direct path may be without an answer."""
SECOND_TRY_S: Final = 2.0
"""The session's responder waits so much longer before it tries a direct path itself."""
CANDIDATES_MAX: Final = 8
FRESH_S: Final = 0.2
"""Counters of the engine younger than this are not read again."""
COURSES_MAX: Final = 4_096

log = structlog.get_logger("veilnet.paths")

Key = tuple["NetworkId", "PeerId"]


class Paths:
    """The ways of every session with a member."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._courses: dict[Key, Course] = {}
        self.openings = Openings(node)
        self.direct = DirectTries(node, self.openings)
        self._read_s = -FRESH_S
        self._stats: dict[int, list[PathStats]] = {}
        self._sessions: dict[int, SessionStats] = {}
        self._record: Any = None
        self.policy = self._make_policy()

    @property
    def file_name(self) -> str:
        """Where in the state folder the policy keeps what it learnt: another has another file."""
        name = self._node.config.path_policy
        return "paths.bin" if name == PATH_POLICIES[0] else f"paths-{name}.bin"

    def _make_policy(self) -> Policy:
        """Return the policy: the guarded one that the experiments run, recorded if asked for.

        Raises: ConfigError: the record cannot be written.
        """
        state: bytes | None = None
        with contextlib.suppress(VeilError):
            state = self._node.store.read(self.file_name)
        seed = secrets.randbits(64)
        policy: Policy = Guard(
            make_policy(self._node.config.path_policy, rng=np.random.default_rng(seed))
        )
        if self._node.config.path_trace:
            self._record = open_trace(self._node.config.path_trace)
            return Recorder(policy, self._record.write, seed=seed, state=state)
        if state is not None:
            policy.load_state(state)
        return policy

    # --- sessions --------------------------------------------------------------------------------

    def begin(self, session: Session, *, anew: bool) -> None:
        """Take over a new session's ways; what was open to its peer is opened on it again.

        *anew*: there was none.  If the peer is a relay, most likely it had only been down.
        """
        if session.mode is vnh1.Mode.FULL:
            for course in self._courses.values() if anew else ():
                course.returned(session.peer_id)
            self._sync(session.key)

    def ended(self, session: Session) -> None:
        """Forget a session that has ended, or go on with the one that carries now."""
        self._sync(session.key)

    def _sync(self, key: Key) -> Course | None:
        """Return the course of *key*, on the session that carries; None: there is none."""
        carrier = self._node.sessions.carrier(*key)
        course = self._courses.get(key)
        commons = self._node.commons
        if commons is not None and key[0] == commons.id:
            return None  # its links carry no packets
        if carrier is None or carrier.mode is not vnh1.Mode.FULL:
            if course is not None:
                del self._courses[key]
                for circuit in list(course.circuits.values()):
                    self.openings.drop(course, circuit)
                course.wake.set()
            return None
        if course is None:
            if len(self._courses) >= COURSES_MAX:
                return None
            course = Course(session=carrier, ids=PathIds(initiator=carrier.initiator))
            self._courses[key] = course
            self._start(course)
        elif course.session is not carrier:
            again = [way for way in course.ways.values() if way.ours and way.circuit is not None]
            course.session, course.ids = carrier, PathIds(initiator=carrier.initiator)
            course.ways = {}
            self._start(course)
            taken = {way.arm for way in course.ways.values()}
            for arm in {way.arm for way in again} | set(course.circuits):
                if arm in course.circuits and arm not in taken:
                    self._open(course, arm)
        return course

    def _start(self, course: Course) -> None:
        """Enter the handshake's own path."""
        session, now = course.session, trio.current_time()
        self._read_s = -FRESH_S
        circuit = self._node.relaying.circuits.at(session.endpoint)
        if circuit is not None and not circuit.incoming:
            self.openings.keep(course, circuit)
        course.ways[0] = Way(
            path=0,
            arm=self._arm_at(session.endpoint, circuit),
            endpoint=session.endpoint,
            ours=circuit is not None and not circuit.incoming,
            opened_s=now,
            used_s=now,
            circuit=circuit,
        )
        course.direct_pause_s = courses.FIRST_DIRECT_S
        course.direct_due_s = now + (0.0 if session.initiator else SECOND_TRY_S)
        if is_circuit(session.endpoint):
            self.drive(course)

    def _arm_at(self, endpoint: Endpoint, circuit: Circuit | None) -> ArmId:
        if circuit is not None:
            return circuit.relays
        if not is_circuit(endpoint):
            return DIRECT
        link = self._node.sessions.get(link_of(endpoint))
        return DIRECT if link is None else (link.peer_id,)

    def found(self, circuits: Sequence[Circuit], session: Session | None) -> None:
        """Keep the circuits that a call opened if its session needs relays, else close them."""
        course = None if session is None else self._sync(session.key)
        for circuit in circuits:
            if course is not None and circuit is course.circuits.get(circuit.relays):
                continue
            relayed = session is not None and is_circuit(session.endpoint)
            if course is None or not relayed or circuit.relays in course.circuits:
                self._node.relaying.close_circuit(circuit)
                continue
            self.openings.keep(course, circuit)
            self._open(course, circuit.relays)

    # --- what others ask -------------------------------------------------------------------------

    def course(self, session: Session) -> Course | None:
        """Return the course that *session* is in, if it carries."""
        course = self._courses.get(session.key)
        return course if course is not None and course.session is session else None

    def look_at(self, session: Session) -> Course | None:
        """Return the course that *session* is in, with the newest counters; None: there is none."""
        course = self.course(session)
        if course is not None:
            self._read()
            self._look_at_ways(course, trio.current_time())
        return course

    @staticmethod
    def is_active(course: Course, now_s: float) -> bool:
        """Whether data has flowed lately."""
        return now_s - course.active_s <= ACTIVE_S

    def relays(self, key: Key) -> set[PeerId]:
        """Return over whom there are circuits of ours to a peer."""
        course = self._courses.get(key)
        return set() if course is None else {c.relay for c in course.circuits.values()}

    def is_used(self, circuit: Circuit) -> bool:
        """Whether a way of any session goes over *circuit*."""
        return any(
            way.circuit is circuit
            for course in self._courses.values()
            for way in course.ways.values()
        )

    def endpoints(self, session: Session) -> tuple[Endpoint, ...]:
        """Return where the peer of *session* is reached, the best first, circuits included."""
        course = self.course(session)
        if course is None:
            return (session.endpoint,)
        ways = sorted(course.ways.values(), key=lambda way: way.rank)
        return tuple(dict.fromkeys(Endpoint(*way.endpoint) for way in ways))

    def endpoint(self, session: Session, stats: SessionStats) -> Endpoint:
        """Return where the peer is: an address if it is reached at one, whatever carries most."""
        course = self.course(session)
        if course is not None and is_circuit(stats.endpoint):
            for way in sorted(course.ways.values(), key=lambda way: way.rank):
                if way.is_direct and way.usable:
                    return Endpoint(*way.endpoint)
        return Endpoint(*stats.endpoint)

    def rtt_of(self, session: Session) -> float | None:
        """Return the round trip to the peer of *session*, None if it was never measured.

        The least of the last minute: an idle link is asked so seldom that its mean keeps what a
        busy moment did to one answer, a handshake's above all.
        """
        self._read()
        stats = self._sessions.get(session.sid)
        least = [
            way.rtt_min_s
            for way in self._stats.get(session.sid, ())
            if way.rtt_min_s is not None and (stats is None or way.endpoint == stats.endpoint)
        ]
        if least:
            return min(least)
        return session.rtt_s if stats is None or stats.rtt_s is None else stats.rtt_s

    # --- events ----------------------------------------------------------------------------------

    def probe_answered(self, sid: int, path: int, rtt_s: float) -> None:
        """Take the engine's word that a probe of ours came back."""
        session = self._node.sessions.get(sid)
        course = None if session is None else self.course(session)
        way = None if course is None else course.ways.get(path)
        if way is not None:
            way.probe_answered(rtt_s)

    def changed(self, event: PathChanged) -> None:
        """Take the engine's word that a path is dead, browned out or alive: decide now."""
        session = self._node.sessions.get(event.sid)
        course = None if session is None else self.course(session)
        way = None if course is None else course.ways.get(event.path)
        if course is None or way is None:
            return
        log.info(
            "path changed",
            peer=course.session.peer_id.hex()[:12],
            by=arm_words(way.arm),
            state=event.state,
            cause=event.cause,
            moved_to=event.moved_to,
        )
        self._read_s = -FRESH_S
        if event.cause == "slow":
            way.slowed(trio.current_time())
        if event.state == DEAD and course.arms_told is not None:
            # What its twins answered before is no sign that they live.
            for each in course.ways.values():
                if each is way or each.is_twin(way):
                    each.forget_told()
            lost = Sample(way.arm, None, 1.0, 0.0, 0.0, 0.0, 0.0, probe=False)
            self.policy.update(course.name, [lost], trio.current_time())
        self.drive(course)
        course.wake.set()

    def handle(self, session: Session, envelope: Envelope) -> None:
        """Act on one message about paths.   Raises: RemoteProtocolError: it must not be sent."""
        course = self.course(session)
        message = envelope.message
        if session.mode is not vnh1.Mode.FULL:
            return
        if isinstance(message, messages.PathWish):
            self.openings.wished(session, envelope)
        elif course is None:
            if isinstance(message, messages.PathOpen):
                refused = refusal(NO_PATH, path=message.path)
                session.link.send(refused, answers=envelope.id)
        elif isinstance(message, messages.PathOpen):
            self.openings.asked(course, envelope)
        elif isinstance(message, messages.PathClose):
            self.openings.closed(course, message.path)

    # --- driving ---------------------------------------------------------------------------------

    async def look(self) -> None:
        """Give a driver to every session that needs one: one round."""
        self._read()
        for sid, stats in self._sessions.items():
            session = self._node.sessions.get(sid)
            busy = stats.data_s is not None and stats.data_s <= ACTIVE_S
            if session is None or not (busy or is_circuit(stats.endpoint)):
                continue
            course = self._sync(session.key)
            if course is not None and course.session is session:
                self.drive(course)

    def drive(self, course: Course) -> None:
        """Have a course looked after until nothing is left to look after."""
        if not course.driving:
            course.driving = True
            self._node.spawn(self._run, course)

    async def _run(self, course: Course) -> None:
        """Do rounds until the course is over, or has nothing left to look after."""
        try:
            while self._courses.get(course.key) is course:
                course.wake = trio.Event()
                goes_on, pause_s = self._round(course, trio.current_time())
                if not goes_on:
                    return
                pause_s *= 1 + JITTER * (2 * self._node.rng.random() - 1)
                with trio.move_on_after(pause_s):
                    await course.wake.wait()
                await trio.lowlevel.checkpoint()
        finally:
            course.driving = False

    def _round(self, course: Course, now_s: float) -> tuple[bool, float]:
        """Look and decide once; return whether to go on, and after how long."""
        session = course.session
        network = self._node.networks.get(session.network_id)
        self._read()
        counters = self._sessions.get(session.sid)
        if network is None or session.retiring:
            return False, RESTING_S
        if counters is None:
            return True, ROUND_S
        self._look_at_ways(course, now_s)
        if counters.data_s is not None and counters.data_s <= ACTIVE_S:
            course.active_s = now_s
        active = self.is_active(course, now_s)
        on_relay = is_circuit(counters.endpoint)
        self._revive(course, now_s)
        if any(way.settling for way in course.ways.values()):
            return True, SETTLE_S  # too soon to judge anybody
        if not course.usable_direct():
            self.direct.look(course, now_s)
        if active or (on_relay and course.usable_direct()):
            self._decide(network, course, now_s)
        idle_s = self._node.config.relayed_idle_close_s
        for way in course.to_give_up(now_s, idle_s=idle_s, trial_s=TRIAL_S):
            self.openings.close(course, way)
        goes_on = active or on_relay or len(course.ways) > 1
        return goes_on, ROUND_S if active or len(course.ways) > 1 else RESTING_S

    def _look_at_ways(self, course: Course, now_s: float) -> None:
        session = course.session
        seen = {stats.path: stats for stats in self._stats.get(session.sid, ())}
        for path, way in list(course.ways.items()):
            stats = seen.get(path)
            if stats is None:
                if way.stats is not None:
                    # The engine has closed it; whoever asked it to has told the peer.
                    self.openings.close(course, way, tell=False)
                continue
            was_alive = way.was_alive
            way.look(stats, now_s)
            if way.was_alive and not was_alive:
                self._proven(course, way)

    def _proven(self, course: Course, way: Way) -> None:
        """A way answered for the first time: its circuit may carry more, its address is true."""
        session = course.session
        course.welcome(way.arm)
        if way.circuit is not None:
            self._node.relaying.confirm(way.circuit)
        elif way.is_direct and way.path != 0:
            course.direct_pause_s = courses.FIRST_DIRECT_S
            way.settle(trio.current_time())
            self._node.channels.moved(session, Endpoint(*way.endpoint))

    def _revive(self, course: Course, now_s: float) -> None:
        """Ask ways that are dead, not yet proven or without an answer whether they live."""
        hurry = self.is_active(course, now_s)
        for way in course.ways.values():
            if way.doubted(now_s, hurry=hurry) or way.to_settle():
                way.probe_sent(now_s)
                self._probe(course, way.path)

    def _probe(self, course: Course, path: int) -> None:
        with contextlib.suppress(LocalProtocolError, ClosedError):
            self._node.engine.probe(course.session.sid, path)

    # --- deciding --------------------------------------------------------------------------------

    def _decide(self, network: Network, course: Course, now_s: float) -> None:
        arms = course.arms(
            self._candidates(network, course),
            lambda relay: self.leg(network, relay),
            now_s,
        )
        told = courses.told(arms)
        if told != course.arms_told:
            course.arms_told = told
            self.policy.set_arms(course.name, arms, now_s)
        sent_bps, samples = self._samples(network, course, now_s)
        self.policy.update(course.name, samples, now_s)
        decision = self.policy.decide(course.name, now_s, quiet=sent_bps < QUIET_BPS)
        course.decision = decision
        self._apply(course, decision, now_s)
        self._wish(network, course, [arm.id for arm in arms], now_s)

    def _candidates(self, network: Network, course: Course) -> list[PeerId]:
        """Return the relays that may be tried: members, and where no direct way lives, havens."""
        peer_id = course.session.peer_id
        members = self._node.detours.candidates(network, peer_id)
        havens: list[PeerId] = []
        if not course.usable_direct():
            havens += [haven.relay for haven in self._node.detours.havens(network, peer_id)]
        return list(dict.fromkeys((*members, *havens)))[:CANDIDATES_MAX]

    def _samples(
        self, network: Network, course: Course, now_s: float
    ) -> tuple[float, list[Sample]]:
        best = course.best()
        samples: list[Sample] = []
        sent = {way.path: way.sent_bytes() for way in course.ways.values()}
        most_bytes = MOST * sum(sent.values())
        for way in course.ways.values():
            # Of two ways of one arm the better one speaks for it.
            found = way.samples(
                now_s,
                busy=any(self._node.relaying.is_busy(network, relay) for relay in way.arm),
                most=0 < most_bytes <= sent[way.path],
            )
            if best.get(way.arm) is way:
                samples += found
        return sum(sample.demand_bps for sample in samples), samples

    def leg(self, network: Network, relay: PeerId) -> Leg | None:
        """Return this node's link to a relay, None if there is none."""
        link = self._node.homes.link(network, relay)
        if link is None and self._node.strangers is not None:
            link = self._node.strangers.link(relay)
        return None if link is None else Leg(self.rtt_of(link), link.endpoint)

    def _apply(self, course: Course, decision: Decision, now_s: float) -> None:
        steering = course.steer(decision)
        sid = course.session.sid
        if course.news(steering):
            try:
                self._node.engine.set_shares(sid, steering.shares, standby=steering.standby)
            except (LocalProtocolError, ClosedError) as error:
                log.debug("shares not set", reason=error.message)
            self._read_s = -FRESH_S
        wanted = list(steering.missing)
        if decision.probe is not None:
            way = course.best().get(decision.probe)
            if way is not None:
                way.probe_sent(now_s)
                self._probe(course, way.path)
            elif decision.probe != DIRECT:
                wanted.append(decision.probe)
        for arm in dict.fromkeys(wanted):
            busy = arm in course.opening or course.shuns(arm, now_s)
            if not busy and len(course.opening) < 2 and course.may_open(now_s):
                self._open(course, arm)

    def _wish(self, network: Network, course: Course, arms: list[ArmId], now_s: float) -> None:
        """Ask the peer for the far legs of members that it has not told of lately.

        Of strangers it knows nothing: a haven has an id of its own in the commons.
        """
        if course.asking:
            return
        stale = dict.fromkeys(arm[-1] for arm in arms if arm and arm[-1] in network.members)
        for relay, hint in ((relay, course.hints.get(relay)) for relay in stale):
            known = hint is not None and now_s <= hint.at_s + courses.HINT_S
            if not known and not course.shuns((relay,), now_s):
                course.asking.add(relay)
        if course.asking:
            relays = [relay for relay in stale if relay in course.asking]
            self._node.spawn(self.openings.wish, course, relays)

    def _open(self, course: Course, arm: ArmId) -> None:
        if arm not in course.opening:
            course.opening.add(arm)
            self._node.spawn(self._open_relayed, course, arm)

    async def _open_relayed(self, course: Course, arm: ArmId) -> None:
        network = self._node.networks.get(course.session.network_id)
        try:
            if network is not None:
                await self.openings.relayed(network, course, arm)
        except BrokenEngineError:
            raise
        except VeilError as error:
            log.info("path not opened", by=arm_words(arm), reason=error.message)
            course.shun(arm, trio.current_time())
        finally:
            course.opening.discard(arm)
            self.drive(course)
            course.wake.set()

    # --- counters, disk --------------------------------------------------------------------------

    def _read(self) -> None:
        """Read the engine's counters, once for all who look at the same moment."""
        now = trio.current_time()
        if now < self._read_s + FRESH_S:
            return
        self._read_s = now
        self._sessions = self._node.statistics()
        self._stats = {}
        for stats in self._node.engine.paths():
            self._stats.setdefault(stats.sid, []).append(stats)

    async def save(self) -> None:
        """Write what the policy has learnt: one round.   Raises: ConfigError, PrivilegeError."""
        state = self.policy.state()
        await trio.to_thread.run_sync(
            self._node.store.write, self.file_name, state, limiter=self._node.disk
        )

    async def close(self) -> None:
        """Save what the policy has learnt, and end the trace if one is written."""
        try:
            await self.save()
        finally:
            if self._record is not None:
                self._record.close()
