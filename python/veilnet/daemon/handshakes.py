"""Runs handshake machines: engine calls at once, KEM and signatures too while few are under way.

```
engine event --deliver--> inbox of its sid --> machine --> engine call | work | the end
```
Where many are, KEM and signatures go to bounded threads (ADR 23).
Invariant: everything that may refuse a session, and all that takes time, happens in *prepare*,
before the engine accepts it (or responds to a lookup); *begin* follows in the same step.  What the
peer sends at once then finds the session ready; control datagrams that were faster still wait for
it here.
"""

from __future__ import annotations

import contextlib
import enum
import math
from collections import deque
from operator import attrgetter
from typing import TYPE_CHECKING, Final, Protocol

import attrs
import structlog
import trio

from veilnet.discovery.contact import endpoint_prefix
from veilnet.errors import (
    BrokenEngineError,
    InternalError,
    LocalProtocolError,
    PeerUnreachable,
    RemoteProtocolError,
    VeilError,
)
from veilnet.protocol import handshake as vnh1
from veilnet.protocol import work
from veilnet.protocol.relay import displaced

if TYPE_CHECKING:
    from collections.abc import Callable

    from veilnet._engine import ControlReceived, Engine
    from veilnet.daemon.sessions import Session
    from veilnet.protocol.work import Primitives

ACCEPTANCES_MAX: Final = 64
"""Handshakes of members and joiners at one time; each has shown a cookie for its address."""
STRANGERS_MAX: Final = 32
"""... of those who came through the open door of the commons ..."""
LOOKUPS_MAX: Final = 32
"""... and of those who want to look something up there, which takes one step."""

AT_ONCE_MAX: Final = 4
"""Up to so many handshakes under way compute at once: a thread wakes slower than it works."""

EARLY_MAX: Final = 64
_INBOX: Final = 64


class Birth(Protocol):
    """What becomes of a handshake that held."""

    def may_begin(self, ended: vnh1.Begun) -> bool:
        """Tell whether the session may be used before the peer has confirmed it."""

    def prepare(self, ended: Ended) -> Session:
        """Make the session, in the tables but not yet in use.   Raises: VeilError: refused."""

    def begin(self, session: Session) -> None:
        """Put it to use: the engine has it."""

    def withdraw(self, session: Session) -> None:
        """Take it out of the tables again: the engine did not want it."""

    def end(self, session: Session) -> None:
        """Close what had begun: the peer never confirmed it."""


Machine = vnh1.Initiation | vnh1.Acceptance
Ended = vnh1.Begun | vnh1.Confirmed | vnh1.Accepted

log = structlog.get_logger("veilnet.handshakes")


@attrs.define(eq=False)
class _Run:
    """One machine and what it works with."""

    machine: Machine
    primitives: Primitives
    birth: Birth
    nursery: trio.Nursery
    inbox: trio.MemorySendChannel[vnh1.Event]
    begun: Callable[[Session], None] | None
    keyed: trio.Event
    session: Session | None = None
    """What has begun already: it is confirmed or it ends."""

    def begin(self, session: Session) -> None:
        """Take note of the session, and tell whoever waits to use it."""
        self.session = session
        if self.begun is not None:
            self.begun(session)

    def confirm(self) -> Session | None:
        """Take note that the peer has what has begun."""
        if self.session is not None:
            self.session.confirmed = True
        return self.session

    def end(self) -> None:
        """Close what has begun, unless the peer confirmed it: before the engine forgets it."""
        session, self.session = self.session, None
        if session is not None and not session.confirmed:
            self.birth.end(session)

    def reason(self, error: VeilError) -> VeilError:
        """Return why the engine refused a call, which said *error*."""
        if self.session is not None and self.session.link.closed.is_set():
            # Another has taken its place, or the peer closed it.
            return PeerUnreachable("the session ended before the peer had confirmed it")
        return error


class Kind(enum.Enum):
    """Who is being answered; each kind has places of its own."""

    OWN = enum.auto()
    STRANGER = enum.auto()
    LOOKUP = enum.auto()


_PLACES: Final = {
    Kind.OWN: ACCEPTANCES_MAX,
    Kind.STRANGER: STRANGERS_MAX,
    Kind.LOOKUP: LOOKUPS_MAX,
}


@attrs.define(eq=False)
class _Guest:
    """An answer under way, and where it goes."""

    machine: vnh1.Acceptance
    place: bytes
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)


class Handshakes:
    """All handshakes under way.

    Cancellation: a cancelled `run` abandons its handshake in the engine.
    """

    def __init__(self, engine: Engine, workers: trio.CapacityLimiter) -> None:
        self._engine = engine
        self._workers = workers
        self._inboxes: dict[int, trio.MemorySendChannel[vnh1.Event]] = {}
        self._early: dict[int, list[ControlReceived]] = {}
        self._guests: dict[Kind, list[_Guest]] = {kind: [] for kind in Kind}
        self._under_way = 0

    def __len__(self) -> int:
        return len(self._inboxes)

    def deliver(self, sid: int, event: vnh1.Event) -> None:
        """Give an engine's event to the machine it belongs to; late ones go nowhere."""
        inbox = self._inboxes.get(sid)
        if inbox is not None:
            # A full inbox means somebody floods us with candidates: repeats will come.
            with contextlib.suppress(trio.WouldBlock, trio.BrokenResourceError):
                inbox.send_nowait(event)

    def keep_early(self, event: ControlReceived) -> None:
        """Keep a control datagram of a session that is not there yet, if one is on its way."""
        if event.sid in self._inboxes:
            waiting = self._early.setdefault(event.sid, [])
            if len(waiting) < EARLY_MAX:
                waiting.append(event)

    def expects(self, sid: int) -> bool:
        """Whether a handshake under way may still make the session of that id."""
        return sid in self._inboxes

    def take_early(self, sid: int) -> list[ControlReceived]:
        """Return what `keep_early` kept for *sid*."""
        return self._early.pop(sid, [])

    async def accept(
        self, machine: vnh1.Acceptance, primitives: Primitives, birth: Birth, kind: Kind = Kind.OWN
    ) -> None:
        """Answer a stranger; nothing is told to it, or raised, if it does not hold.

        Of a kind that has no place left one who keeps us waiting makes room.
        Raises: nothing but cancellation: whatever a stranger does is at most a line in the log.
        """
        guests = self._guests[kind]
        guest = _Guest(machine, endpoint_prefix(machine.init.source))
        if len(guests) >= _PLACES[kind]:
            # What is being computed for is not thrown away: that would make floods dearer to us.
            waiting = [each for each in guests if each.machine.state is vnh1.Answering.WAITING]
            oldest = displaced(waiting, attrgetter("place"), guest.place, in_all=1)
            if oldest is None:
                self._engine.dismiss(machine.init)
                return
            guests.remove(oldest)
            oldest.scope.cancel()
        guests.append(guest)
        try:
            with guest.scope:
                await self.run(machine, primitives, birth)
        except BrokenEngineError:
            raise
        except VeilError as error:
            tell = log.info if kind is Kind.OWN else log.debug
            tell("handshake refused", reason=error.message, source=machine.init.source)
        finally:
            if guest in guests:
                guests.remove(guest)

    async def run(
        self,
        machine: Machine,
        primitives: Primitives,
        birth: Birth,
        *,
        late: trio.MemoryReceiveChannel[vnh1.EndpointFound] | None = None,
        begun: Callable[[Session], None] | None = None,
        keyed: trio.Event | None = None,
    ) -> Session:
        """Run *machine* to its end, and return the session that *birth* made of it.

        *late*: further endpoints to call, as they are found; *begun*: told of the session as soon
        as it may be used, before the peer has confirmed it; *keyed*: set once the machine has keys.
        Raises: what the machine failed with, or what `Birth.prepare` raises.
        """
        ended: Session | VeilError | None = None
        run: _Run | None = None
        put, take = trio.open_memory_channel[vnh1.Event](_INBOX)
        self._under_way += 1
        try:
            async with trio.open_nursery() as nursery:
                keyed = trio.Event() if keyed is None else keyed
                run = _Run(machine, primitives, birth, nursery, put, begun, keyed)
                if late is not None:
                    nursery.start_soon(self._found, machine, late, put)
                actions = deque(machine.start(trio.current_time()))
                while True:
                    ended = self._act(run, actions)
                    if ended is not None:
                        break
                    deadline = machine.deadline()
                    with trio.move_on_at(math.inf if deadline is None else deadline):
                        event = await take.receive()
                        actions.extend(machine.handle(event, trio.current_time()))
                        continue
                    actions.extend(machine.tick(trio.current_time()))
                nursery.cancel_scope.cancel()
        finally:
            self._under_way -= 1
            if run is not None:
                run.end()
            for action in machine.cancel():
                self._call(action)
            if machine.sid is not None:
                self._inboxes.pop(machine.sid, None)
                self._early.pop(machine.sid, None)
            put.close()
        if isinstance(ended, Exception):
            raise ended
        return ended

    async def _found(
        self,
        machine: Machine,
        late: trio.MemoryReceiveChannel[vnh1.EndpointFound],
        inbox: trio.MemorySendChannel[vnh1.Event],
    ) -> None:
        called = bool(isinstance(machine, vnh1.Initiation) and machine.endpoints)
        async for found in late:
            called = True
            await inbox.send(found)
        if not called:
            await inbox.send(work.WorkFailed(PeerUnreachable("no address of the peer is known")))

    def _act(self, run: _Run, actions: deque[vnh1.Action]) -> Session | VeilError | None:
        """Carry out *actions*; return the end if one of them is it."""
        machine = run.machine
        self._enter(run)
        accepting: vnh1.Accept | vnh1.Respond | None = None
        while actions:
            action = actions.popleft()
            if isinstance(action, vnh1.Failed):
                return action.error
            if isinstance(action, vnh1.Begun):
                if (error := self._begin(run, action)) is not None:
                    return error
                continue
            if isinstance(action, vnh1.Confirmed | vnh1.Accepted):
                return run.confirm() or self._born(action, run.birth, accepting)
            ends = bool(actions) and isinstance(actions[0], vnh1.Accepted)
            if ends and isinstance(action, vnh1.Accept | vnh1.Respond):
                accepting = action
                continue
            if isinstance(action, work.Work):
                if self._under_way <= AT_ONCE_MAX:
                    done = work.perform(action, run.primitives)
                    actions.extend(machine.handle(done, trio.current_time()))
                    self._enter(run)
                else:
                    run.nursery.start_soon(self._work, action, run.primitives, run.inbox)
                continue
            actions.extend(self._carry_out(run, action))
        return None

    def _enter(self, run: _Run) -> None:
        """Have the engine's events come to *run*, once there are keys: they carry its sid."""
        if run.machine.sid is not None:
            self._inboxes.setdefault(run.machine.sid, run.inbox)
            run.keyed.set()

    def _begin(self, run: _Run, action: vnh1.Begun) -> VeilError | None:
        """Use the session from now on, unless something else carries to its peer."""
        if not run.birth.may_begin(action):
            return None
        born = self._born(action, run.birth, None)
        if isinstance(born, Exception):
            return born
        run.begin(born)
        return None

    def _carry_out(self, run: _Run, action: vnh1.Action) -> list[vnh1.Action]:
        """Make an engine's call; return what is to be done if it fails."""
        if isinstance(action, vnh1.Abandon):
            run.end()
        try:
            self._call(action)
        except VeilError as error:
            failed = work.WorkFailed(run.reason(error))
            return run.machine.handle(failed, trio.current_time())
        return []

    def _born(
        self, ended: Ended, birth: Birth, accepting: vnh1.Accept | vnh1.Respond | None
    ) -> Session | VeilError:
        """Make the session of an ended handshake; at the responder the engine accepts it here."""
        session: Session | None = None
        try:
            session = birth.prepare(ended)
            if isinstance(accepting, vnh1.Accept):
                self._engine.accept(accepting.sid, psk=accepting.psk)
            elif accepting is not None:
                self._call(accepting)
            birth.begin(session)
        except Exception as error:
            # Whoever failed, the engine must not keep what nobody here will ever close.
            if session is not None:
                birth.withdraw(session)
            self._engine.abandon(ended.sid)
            if isinstance(accepting, vnh1.Respond):
                self._engine.dismiss(accepting.init)
            if isinstance(error, VeilError):
                return error
            raise
        return session

    async def _work(
        self,
        action: work.Work,
        primitives: Primitives,
        inbox: trio.MemorySendChannel[vnh1.Event],
    ) -> None:
        # abandon_on_cancel: a thread that signs for 0.1 ms is not worth waiting for.
        result = await trio.to_thread.run_sync(
            work.perform, action, primitives, limiter=self._workers, abandon_on_cancel=True
        )
        await inbox.send(result)

    def _call(self, action: vnh1.Action) -> None:
        engine = self._engine
        match action:
            case vnh1.SendHello(schedule, door_key, endpoint, ticket, cookie):
                try:
                    engine.hello(
                        schedule,
                        door_key=door_key,
                        endpoint=endpoint,
                        ticket=ticket,
                        cookie=cookie,
                    )
                except (OSError, LocalProtocolError) as error:
                    # An endpoint without a route, or with too many handshakes at it, must not end
                    # the race of the others; if all are so, the deadline says that none answered.
                    log.info("hello not sent", endpoint=endpoint, reason=str(error))
            case vnh1.Try(sid, candidate, ss):
                # A false candidate is its sender's fault, who may be anybody with the door key.
                with contextlib.suppress(RemoteProtocolError):
                    engine.candidate(sid, candidate, ss)
            case vnh1.Reject(sid):
                engine.reject(sid)
            case vnh1.Dismiss(init):
                engine.dismiss(init)
            case vnh1.Authenticate(sid, message, psk):
                engine.authenticate(sid, message, psk=psk)
            case vnh1.Resend(sid):
                engine.resend(sid)
            case vnh1.Respond(schedule, init, message):
                engine.respond(schedule, init, message)
            case vnh1.Abandon(sid):
                engine.abandon(sid)
            case _:
                raise InternalError(f"no engine call belongs to {action!r}")
