"""The trio shell of calls: gathers our addresses, opens paths, lets the engine punch.

```
no direct way     -> `look` -> Call over the session, which a relay carries meanwhile
peer's Call       -> `handle` -> CallAnswer
both              -> engine.punch / engine.spread, as the machine says and when it says
the way lives     -> it is the policy's, as any other; the engine moves the traffic, losing nothing
it does not       -> closed, and called again later
```
Invariant: nothing is sent to where a peer says that it is before that was checked like every
address of a member; ways under way are silent but for what the machine sends.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

import attrs
import structlog
import trio

from veilnet.daemon.nat.hops import Hops
from veilnet.daemon.nat.silences import Silences
from veilnet.daemon.paths.ways import OPEN_MAX, Way
from veilnet.errors import ClosedError, LocalProtocolError, RemoteProtocolError
from veilnet.nat.attempt import Punch, Side, Spread
from veilnet.nat.budget import ProbeBudget
from veilnet.nat.classify import Mapping
from veilnet.nat.punching import Gather, Open, Punching, Range, Refusal, Say, Shut, State, Vouch
from veilnet.networks.endpoint import Endpoint
from veilnet.paths import DIRECT
from veilnet.protocol import nat_messages as messages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from veilnet.daemon.node import Node
    from veilnet.daemon.paths.course import Course
    from veilnet.daemon.paths.openings import Openings
    from veilnet.daemon.sessions import Session
    from veilnet.nat.punching import Action
    from veilnet.protocol import fields
    from veilnet.protocol.messages import Envelope

LOCAL_MAX: Final = 5
LOOK_S: Final = 0.1
"""While an attempt runs, the engine is asked so often whether its path lives."""
SOON_S: Final = 2.0
"""A next attempt within this is waited for here, and not left to the next round."""
SECOND_S: Final = 2.0
"""The session's responder waits so much longer before it calls itself."""
THEIRS_MAX: Final = 6
OLDER_MAX: Final = 2
"""Addresses that others told of a peer, beside those that it tells itself."""
_GONE: Final = (LocalProtocolError, ClosedError)

log = structlog.get_logger("veilnet.punching")


@attrs.define(eq=False)
class _Caller:
    """The machine of one course, and the task that drives it."""

    machine: Punching
    sid: int
    driven: bool = False
    wake: trio.Event = attrs.field(factory=trio.Event)
    own: Side | None = None
    """What we last said of ourselves."""


class Punchings:
    """The calls of this node with all its peers."""

    def __init__(self, node: Node, openings: Openings) -> None:
        self._node = node
        self._openings = openings
        self._budget = ProbeBudget()
        self._hops = Hops()
        self.silences = Silences(node)
        self._callers: WeakKeyDictionary[Course, _Caller] = WeakKeyDictionary()

    # --- what others ask -------------------------------------------------------------------------

    def look(self, course: Course, now_s: float) -> bool:
        """There is no direct way to a peer: call it if it is time.  Whether a call is under way."""
        caller = self._caller(course, now_s)
        if caller.machine.state is State.REST and now_s >= caller.machine.due_s:
            self._act(course, caller, caller.machine.want(now_s))
        return caller.machine.state is not State.REST

    def is_translated(self, course: Course) -> bool:
        """Whether something is known to translate addresses at either end."""
        caller = self._callers.get(course)
        if caller is None:
            return False
        sides = (caller.own, caller.machine.peer)
        behind = (Mapping.INDEPENDENT, Mapping.SEQUENTIAL, Mapping.RANDOM)
        return any(side is not None and side.mapping in behind for side in sides)

    def vouched(self, circuit_id: bytes, endpoint: fields.Endpoint) -> None:
        """Take a relay's word where it sees the other end of a circuit.

        A member's is believed, a stranger's if the peer says the same; none inside an overlay.
        """
        if not self._node.channels.outside((Endpoint(*endpoint),)):
            return
        for course, caller in list(self._callers.items()):
            for way in course.ways.values():
                if way.circuit is not None and way.circuit.id == circuit_id:
                    now_s = trio.current_time()
                    member = self._node.networks.get(way.circuit.network_id) is not None
                    self._act(course, caller, caller.machine.told(endpoint, now_s, member=member))

    def moved(self) -> None:
        """This node has other addresses: whoever was out of reach may be in reach now."""
        for caller in self._callers.values():
            caller.machine.moved(trio.current_time())
        self.silences.moved()

    def view(self, course: Course | None, now_s: float) -> dict[str, Any]:
        """Return what there is to say of the calls with a peer."""
        caller = None if course is None else self._callers.get(course)
        if caller is None:
            return {"state": "none", "attempt": 0, "failed": 0}
        machine = caller.machine
        value: dict[str, Any] = {
            "state": "resting" if machine.state is State.REST else "calling",
            "attempt": machine.number,
            "failed": machine.tried,
        }
        if machine.state is State.REST:
            value["again_s"] = round(max(machine.due_s - now_s, 0.0), 1)
        for name, side in (("own", caller.own), ("peer", machine.peer)):
            if side is not None:
                value[name] = {
                    "nat": side.mapping.word,
                    "candidates": [str(Endpoint(*each)) for each in side.candidates],
                }
        return value

    # --- messages --------------------------------------------------------------------------------

    def handle(self, session: Session, envelope: Envelope) -> None:
        """Take one message.   Raises: RemoteProtocolError: it must not be sent."""
        message = envelope.message
        if isinstance(message, messages.SilenceTest):
            self.silences.asked(session, message.after_ms / 1000)
            return
        if not isinstance(message, messages.NatMessage):
            return
        course, now_s = self._node.paths.course(session), trio.current_time()
        if course is None:
            if isinstance(message, messages.Call):
                self._refuse(session, message, Refusal.NO)
            return
        caller = self._caller(course, now_s)
        if isinstance(message, messages.Call):
            if (message.path % 2 == 0) != (not session.initiator):
                raise RemoteProtocolError("a path with an id that is not the peer's to give")
            if not course.may_be_tried(now_s) or not self._may_open(course):
                self._refuse(session, message, Refusal.TOO_OFTEN)
                return
        if isinstance(message, messages.Call | messages.CallAnswer):
            message = self._checked(session, message)
        self._act(course, caller, caller.machine.heard(message, now_s))

    def _may_open(self, course: Course) -> bool:
        return sum(not way.ours and way.path != 0 for way in course.ways.values()) < THEIRS_MAX

    @staticmethod
    def _refuse(session: Session, call: messages.Call, code: Refusal) -> None:
        with contextlib.suppress(LocalProtocolError):
            session.link.send(messages.CallRefused(path=call.path, code=code))

    def _checked(
        self, session: Session, said: messages.Call | messages.CallAnswer
    ) -> messages.Call | messages.CallAnswer:
        """Return *said* with those of its addresses, and others of the peer's, that may be called.

        Raises: RemoteProtocolError: an address that is none.
        """
        network = self._node.networks.get(session.network_id)
        member = None if network is None else network.members.get(session.peer_id)
        if network is None or member is None:
            return attrs.evolve(said, local=(), public=())
        local, public = (
            [Endpoint.of(*each, blame=RemoteProtocolError) for each in row]
            for row in (said.local, said.public)
        )
        known = self._node.channels.endpoints(network, member, *public, *local)
        # Of an address that it names itself, another port is an old one.
        hosts = {endpoint.host for endpoint in public}
        older = [each for each in known if each not in local and each.host not in hosts]
        return attrs.evolve(
            said,
            local=tuple(each for each in local if each in known),
            public=tuple([each for each in public if each in known] + older[:OLDER_MAX]),
        )

    # --- driving ---------------------------------------------------------------------------------

    def _caller(self, course: Course, now_s: float) -> _Caller:
        caller = self._callers.get(course)
        if caller is None or caller.sid != course.session.sid:
            initiator = course.session.initiator
            wait_s = 0.0 if initiator else SECOND_S
            machine = Punching(
                prior=initiator, rng=self._node.rng, budget=self._budget, now=now_s, wait_s=wait_s
            )
            if caller is not None:
                caller.wake.set()  # its task sees that another has taken its place
                machine.inherit(caller.machine)
            caller = self._callers[course] = _Caller(machine, course.session.sid)
        return caller

    def _act(self, course: Course, caller: _Caller, actions: Iterable[Action]) -> None:
        for action in actions:
            self._do(course, caller, action)
        caller.wake.set()
        if not caller.driven and caller.machine.state is not State.REST:
            caller.driven = True
            self._node.spawn(self._drive, course, caller)

    async def _drive(self, course: Course, caller: _Caller) -> None:
        """Do what is due until the calls with a peer rest for a while."""
        machine = caller.machine
        try:
            while self._callers.get(course) is caller and self._goes_on(course, caller):
                caller.wake = trio.Event()
                due_s = machine.deadline()
                now_s = trio.current_time()
                with trio.move_on_at(
                    machine.due_s if due_s is None else min(due_s, now_s + LOOK_S)
                ):
                    await caller.wake.wait()
                await trio.lowlevel.checkpoint()
                self._step(course, caller, trio.current_time())
        finally:
            caller.driven = False
            course.wake.set()

    def _goes_on(self, course: Course, caller: _Caller) -> bool:
        session = course.session
        if session.sid != caller.sid or self._node.sessions.get(session.sid) is not session:
            return False
        machine = caller.machine
        if machine.state is not State.REST:
            return True
        soon = machine.due_s <= trio.current_time() + SOON_S
        return soon and not course.usable_direct()

    def _step(self, course: Course, caller: _Caller, now_s: float) -> None:
        machine = caller.machine
        if machine.state is State.REST:
            if now_s >= machine.due_s and not course.usable_direct():
                self._act(course, caller, machine.want(now_s))
            return
        if machine.state in (State.TRYING, State.READY):
            self._node.paths.look_at(course.session)
            way = course.ways.get(machine.path)
            if way is None:
                self._act(course, caller, machine.gone(now_s))
                return
            if way.was_alive:
                self._met(course, caller, way, now_s)
                return
        deadline = machine.deadline()
        if deadline is not None and now_s >= deadline:
            self._act(course, caller, machine.tick(now_s))

    def _met(self, course: Course, caller: _Caller, way: Way, now_s: float) -> None:
        way.held = False
        log.info(
            "direct way found",
            peer=course.session.peer_id.hex()[:12],
            at=str(Endpoint(*way.endpoint)),
            tries_before=caller.machine.tried,
        )
        caller.machine.met(now_s)
        self._node.paths.drive(course)
        course.wake.set()

    # --- actions ---------------------------------------------------------------------------------

    def _do(self, course: Course, caller: _Caller, action: Action) -> None:
        act: Callable[[Any, Course, _Caller, Any], None] = _ACTS[type(action)]
        try:
            act(self, course, caller, action)
        except _GONE as error:
            log.debug("not done", action=type(action).__name__, reason=error.message)
            if isinstance(action, Open):
                now_s = trio.current_time()
                self._act(course, caller, caller.machine.unopened(now_s))

    def _gather(self, course: Course, caller: _Caller, action: Gather) -> None:
        self._node.spawn(self._gather_soon, course, caller, action.path)

    async def _gather_soon(self, course: Course, caller: _Caller, ours: bool) -> None:  # noqa: FBT001
        side = await self._side()
        if self._callers.get(course) is not caller:
            return
        path: int | None = None
        if ours:
            session = course.session
            path = course.ids.next(session.schedule.generation, course.ways)
            if path is None:
                self._node.rekeying.stale(session)
                return
        caller.own = side
        self._act(course, caller, caller.machine.gathered(side, path, trio.current_time()))

    async def _side(self) -> Side:
        """Return where this node is, and what is in front of it."""
        local = await self._node.addresses.local_endpoints()
        verdict = self._node.gossip.nat(4, local)
        here = tuple(local[:LOCAL_MAX])
        public = self._node.gossip.own_observed()
        return Side(
            local=here,
            public=tuple(dict.fromkeys(each for each in public if each not in here)),
            mapping=verdict.mapping,
            stride=verdict.stride,
        )

    def _range(self, course: Course, caller: _Caller, action: Range) -> None:
        self._node.spawn(self._range_soon, course, caller, action)

    async def _range_soon(self, course: Course, caller: _Caller, action: Range) -> None:
        hops = await self._hops.count(action.endpoint)
        if self._callers.get(course) is caller:
            self._act(course, caller, caller.machine.ranged(hops, trio.current_time()))

    def _vouch(self, course: Course, caller: _Caller, action: Vouch) -> None:
        del caller, action
        ways = sorted(course.ways.values(), key=lambda way: way.rank)
        circuit = next((way.circuit for way in ways if way.circuit and way.usable), None)
        if circuit is not None:
            self._node.relaying.vouch(circuit)

    def _open(self, course: Course, caller: _Caller, action: Open) -> None:
        del caller
        room = OPEN_MAX - action.ours
        if len(course.ways) >= room and (spare := course.least_used()) is not None:
            self._openings.close(course, spare)
        self._node.engine.open_path(course.session.sid, action.path, action.endpoint)
        now_s = trio.current_time()
        course.ways[action.path] = Way(
            path=action.path,
            arm=DIRECT,
            endpoint=action.endpoint,
            ours=action.ours,
            opened_s=now_s,
            used_s=now_s,
            held=True,
        )

    def _say(self, course: Course, caller: _Caller, action: Say) -> None:
        del caller
        course.session.link.send(action.message)

    def _punch(self, course: Course, caller: _Caller, action: Punch) -> None:
        path = caller.machine.path
        sent = self._node.engine.punch(
            course.session.sid, path, list(action.endpoints), ttl=action.ttl
        )
        if sent < len(action.endpoints):
            caller.machine.unsent(action.endpoints[sent:])

    def _spread(self, course: Course, caller: _Caller, action: Spread) -> None:
        log.info("many sockets", peer=course.session.peer_id.hex()[:12], count=action.sockets)
        sid, path = course.session.sid, caller.machine.path
        self._node.engine.spread(sid, path, action.endpoint, sockets=action.sockets)

    def _shut(self, course: Course, caller: _Caller, action: Shut) -> None:
        del caller
        way = course.ways.get(action.path)
        if way is None:
            return
        if way.was_alive:
            way.held = False  # it lives after all
            return
        log.info("no direct way", peer=course.session.peer_id.hex()[:12], path=action.path)
        self._openings.close(course, way)


_ACTS: Final[dict[type, Callable[[Any, Course, _Caller, Any], None]]] = {
    Gather: Punchings._gather,  # noqa: SLF001
    Range: Punchings._range,  # noqa: SLF001
    Vouch: Punchings._vouch,  # noqa: SLF001
    Open: Punchings._open,  # noqa: SLF001
    Say: Punchings._say,  # noqa: SLF001
    Punch: Punchings._punch,  # noqa: SLF001
    Spread: Punchings._spread,  # noqa: SLF001
    Shut: Punchings._shut,  # noqa: SLF001
}
