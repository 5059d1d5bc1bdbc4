"""Runs handshake machines: engine calls at once, KEM and signatures in bounded threads.

```
engine event --deliver--> inbox of its sid --> machine --> engine call | work in a thread | the end
```
Invariant: a machine's session is handed to *established* in the same step that accepted it, and
control datagrams that were faster wait for it here, so that none is lost in between.
"""

from __future__ import annotations

import contextlib
import math
from collections import deque
from typing import TYPE_CHECKING, Final

import structlog
import trio

from veilnet.errors import InternalError, RemoteProtocolError, VeilError
from veilnet.protocol import handshake as vnh1
from veilnet.protocol import work

if TYPE_CHECKING:
    from collections.abc import Callable

    from veilnet._engine import ControlReceived, Engine
    from veilnet.protocol.work import Primitives

ACCEPTANCES_MAX: Final = 64
"""Handshakes of strangers at one time; each has shown a cookie for its address."""

EARLY_MAX: Final = 64
_INBOX: Final = 64

Machine = vnh1.Initiation | vnh1.Acceptance
Ended = vnh1.Confirmed | vnh1.Accepted

log = structlog.get_logger("veilnet.handshakes")


class Handshakes:
    """All handshakes under way.

    Cancellation: a cancelled `run` abandons its handshake in the engine.
    """

    def __init__(self, engine: Engine, workers: trio.CapacityLimiter) -> None:
        self._engine = engine
        self._workers = workers
        self._inboxes: dict[int, trio.MemorySendChannel[vnh1.Event]] = {}
        self._early: dict[int, list[ControlReceived]] = {}
        self._acceptances = 0

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

    def take_early(self, sid: int) -> list[ControlReceived]:
        """Return what `keep_early` kept for *sid*."""
        return self._early.pop(sid, [])

    async def accept(
        self, machine: vnh1.Acceptance, primitives: Primitives, established: Callable[[Ended], None]
    ) -> None:
        """Answer a stranger; nothing is told to it, or raised, if it does not hold.

        Raises: nothing but cancellation: whatever a stranger does is at most a line in the log.
        """
        if self._acceptances >= ACCEPTANCES_MAX:
            return
        self._acceptances += 1
        try:
            await self.run(machine, primitives, established)
        except VeilError as error:
            log.info("handshake refused", reason=error.message, source=machine.init.source)
        finally:
            self._acceptances -= 1

    async def run(
        self, machine: Machine, primitives: Primitives, established: Callable[[Ended], None]
    ) -> None:
        """Run *machine* to its end; *established* gets the session.

        Raises: what the machine failed with; PeerRefused: what *established* raises.
        """
        failure: VeilError | None = None
        put, take = trio.open_memory_channel[vnh1.Event](_INBOX)
        try:
            async with trio.open_nursery() as nursery:
                actions = deque(machine.start(trio.current_time()))
                while True:
                    ended = self._act(machine, primitives, actions, nursery, put)
                    if ended is not None:
                        break
                    deadline = machine.deadline()
                    with trio.move_on_at(math.inf if deadline is None else deadline):
                        event = await take.receive()
                        actions.extend(machine.handle(event, trio.current_time()))
                        continue
                    actions.extend(machine.tick(trio.current_time()))
                if isinstance(ended, vnh1.Failed):
                    failure = ended.error
                else:
                    try:
                        established(ended)
                    except VeilError as error:
                        self._engine.close_session(ended.sid)
                        failure = error
                nursery.cancel_scope.cancel()
        finally:
            for action in machine.cancel():
                if isinstance(action, vnh1.Abandon):
                    self._engine.abandon(action.sid)
            if machine.sid is not None:
                self._inboxes.pop(machine.sid, None)
                self._early.pop(machine.sid, None)
            put.close()
        if failure is not None:
            raise failure

    def _act(
        self,
        machine: Machine,
        primitives: Primitives,
        actions: deque[vnh1.Action],
        nursery: trio.Nursery,
        inbox: trio.MemorySendChannel[vnh1.Event],
    ) -> Ended | vnh1.Failed | None:
        """Carry out *actions*; return the end if one of them is it."""
        if machine.sid is not None:
            self._inboxes.setdefault(machine.sid, inbox)
        while actions:
            action = actions.popleft()
            if isinstance(action, vnh1.Confirmed | vnh1.Accepted | vnh1.Failed):
                return action
            if isinstance(
                action,
                work.GenerateKem
                | work.Encapsulate
                | work.Decapsulate
                | work.Sign
                | work.VerifyPeer,
            ):
                nursery.start_soon(self._work, action, primitives, inbox)
                continue
            try:
                self._call(action)
            except VeilError as error:
                actions.extend(machine.handle(work.WorkFailed(error), trio.current_time()))
        return None

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
            case vnh1.SendHello(schedule, door_key, endpoint):
                try:
                    engine.hello(schedule, door_key=door_key, endpoint=endpoint)
                except OSError as error:
                    # One endpoint without a route must not end the race of the others.
                    log.debug("hello not sent", endpoint=endpoint, reason=str(error))
            case vnh1.Try(sid, candidate, ss):
                # A false candidate is its sender's fault, who may be anybody with the door key.
                with contextlib.suppress(RemoteProtocolError):
                    engine.candidate(sid, candidate, ss)
            case vnh1.Authenticate(sid, message, psk):
                engine.authenticate(sid, message, psk=psk)
            case vnh1.Resend(sid):
                engine.resend(sid)
            case vnh1.Respond(schedule, init, message):
                engine.respond(schedule, init, message)
            case vnh1.Accept(sid, psk):
                engine.accept(sid, psk=psk)
            case vnh1.Abandon(sid):
                engine.abandon(sid)
            case _:
                raise InternalError(f"no engine call belongs to {action!r}")
