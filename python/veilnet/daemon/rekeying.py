"""Runs every session's generation machine: its timers, its work, its messages.

Work goes to a thread and comes back as an event, as in `handshakes`; the rest is done at once.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import structlog
import trio

from veilnet.errors import BrokenEngineError, VeilError
from veilnet.protocol import rekey, work

if TYPE_CHECKING:
    from veilnet.daemon.node import Node
    from veilnet.daemon.sessions import Session

TRAFFIC_S: Final = 15.0
"""How often a session's counters are read; a generation may begin so much later than due."""

COUNT_S: Final = 1.0

log = structlog.get_logger("veilnet.rekeying")


class Rekeying:
    """The generations of all sessions."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._counted: dict[int, int] = {}
        self._counted_s = -COUNT_S

    def begin(self, session: Session) -> None:
        """Give a new session its machine."""
        session.rekey = rekey.Rekey(
            initiator=session.initiator,
            schedule=session.schedule,
            rng=self._node.rng,
            started_s=trio.current_time(),
            generation_s=self._node.config.rekey_s,
        )
        self._node.spawn(self._run, session)

    def message(self, session: Session, message: rekey.Message) -> None:
        """Take a generation message of the peer."""
        if session.rekey is not None:
            self._act(session, session.rekey.handle(message, trio.current_time()))

    def stale(self, session: Session) -> None:
        """Begin a generation now: the engine says that keys are near their limit."""
        if session.rekey is not None:
            self._act(session, session.rekey.stale(trio.current_time()))

    async def _run(self, session: Session) -> None:
        """Read the traffic and run what is due until the session ends."""
        machine = session.rekey
        while not session.link.closed.is_set():
            deadline = machine.deadline()
            look_s = min(TRAFFIC_S, self._node.config.rekey_s)
            wake = min(math.inf if deadline is None else deadline, trio.current_time() + look_s)
            with trio.move_on_at(wake):
                await session.link.closed.wait()
                return
            now = trio.current_time()
            packets, busy = self._packets(session, now), self._node.relaying.carries(session)
            needed = self._node.channels.needs(session)
            self._act(session, machine.traffic(packets, now, busy=busy, needed=needed))

    def _packets(self, session: Session, now: float) -> int:
        """Return how many packets *session* has carried; a second of age does not matter here."""
        if now - self._counted_s > COUNT_S:
            # One look serves all sessions: many of them ask in the same moment.
            self._counted_s = now
            self._counted = {
                sid: item.tx_packets + item.rx_packets
                for sid, item in self._node.statistics().items()
            }
        return self._counted.get(session.sid, 0)

    def _act(self, session: Session, actions: list[rekey.Action]) -> None:
        for action in actions:
            match action:
                case rekey.SendMessage() | rekey.Install():
                    try:
                        self._step(session, action)
                    except BrokenEngineError:
                        raise
                    except VeilError as error:
                        # Half an exchange cannot be taken back: the peer may have its other half.
                        self._node.end(session, reason=f"no new keys: {error.message}")
                        return
                case rekey.FullHandshake():
                    self._node.channels.renew(session)
                case rekey.CloseSession(error):
                    log.warning("keys", peer=session.peer_id.hex()[:12], reason=error.message)
                    self._node.end(session, reason=error.message)
                case _:
                    self._node.spawn(self._work, session, action)

    def _step(self, session: Session, action: rekey.SendMessage | rekey.Install) -> None:
        if isinstance(action, rekey.SendMessage):
            session.link.send(action.message)
        else:
            self._node.engine.install_generation(session.sid, action.schedule, send=action.send)

    async def _work(self, session: Session, action: work.Work) -> None:
        primitives = self._node.primitives(session.suite)
        result = await trio.to_thread.run_sync(
            work.perform, action, primitives, limiter=self._node.workers, abandon_on_cancel=True
        )
        if session.link.closed.is_set():
            return
        try:
            self._act(session, session.rekey.handle(result, trio.current_time()))
        except VeilError as error:
            log.warning("rekey failed", peer=session.peer_id.hex()[:12], reason=error.message)
