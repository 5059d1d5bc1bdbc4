"""Lookup sessions: what this node asks strangers, anonymously, and what it answers them.

A lookup session is opened to an address and lives for a minute; neither end learns who the other
is.  What comes back authenticates itself, or is a hint.

Invariants: at most `SESSIONS_MAX` are kept and `OPENINGS_MAX` opened at once; the one that was not
used for longest makes room.  A session that is left takes no further question, and is closed once
those on it have ended: one that is not answered does not fail the others.
"""

from __future__ import annotations

import contextlib
import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import attrs
import structlog
import trio

from veilnet._engine import KeySchedule
from veilnet.daemon.birth import Birth
from veilnet.errors import LocalProtocolError, VeilError
from veilnet.protocol import handshake as vnh1
from veilnet.protocol.messages import Close
from veilnet.units import PEER_ID_BYTES, PeerId

if TYPE_CHECKING:
    from veilnet.daemon.node import Node
    from veilnet.daemon.sessions import Session
    from veilnet.networks.commons import Commons
    from veilnet.networks.endpoint import Endpoint
    from veilnet.protocol.messages import Message

ASKED_S: Final = 55.0
"""So long after it began a session is asked: both ends close it after 60 s."""
SESSIONS_MAX: Final = 256
OPENINGS_MAX: Final = 32
OPEN_S: Final = 2.0
ANSWER_S: Final = 2.0
NOBODY: Final = PeerId(bytes(PEER_ID_BYTES))

log = structlog.get_logger("veilnet.asking")


@attrs.define(eq=False)
class _Line:
    """A session, and how many questions wait on it for an answer."""

    session: Session
    open: int = 0
    heard_s: float = -math.inf
    left: bool = False

    @property
    def is_usable(self) -> bool:
        """Whether a question asked now will be answered before the session ends."""
        is_young = trio.current_time() < self.session.established_s + ASKED_S
        return is_young and not self.left and not self.session.link.closed.is_set()


class Asking:
    """The lookup sessions that this node has opened, by the address asked."""

    def __init__(self, node: Node, commons: Commons) -> None:
        self._node = node
        self._commons = commons
        self._lines: OrderedDict[Endpoint, _Line] = OrderedDict()
        self._opening: dict[Endpoint, trio.Event] = {}
        self._places = trio.CapacityLimiter(OPENINGS_MAX)

    def __len__(self) -> int:
        return len(self._lines)

    async def ask(
        self, endpoint: Endpoint, message: Message, *, timeout_s: float = ANSWER_S
    ) -> Message:
        """Ask whoever is at *endpoint*, opening a lookup session there if there is none.

        Units: *timeout_s* seconds for the answer alone.
        Raises: PeerUnreachable, TimedOut, LocalProtocolError: there is no answer.
        """
        line = await self._line(endpoint)
        began_s = trio.current_time()
        line.open += 1
        try:
            answer = await line.session.link.ask(message, timeout_s=timeout_s)
        except VeilError:
            # A node that restarted knows nothing of it: the next question opens another.
            if line.heard_s < began_s:
                self._leave(endpoint, line)
            raise
        else:
            line.heard_s = trio.current_time()
            return answer
        finally:
            line.open -= 1
            self._close_unused(line)

    async def _line(self, endpoint: Endpoint) -> _Line:
        while (line := self._lines.get(endpoint)) is None or not line.is_usable:
            under_way = self._opening.get(endpoint)
            if under_way is None:
                return await self._open(endpoint)
            await under_way.wait()
            if endpoint not in self._lines:
                raise LocalProtocolError(f"nobody answers at {endpoint}")
        self._lines.move_to_end(endpoint)
        return line

    async def _open(self, endpoint: Endpoint) -> _Line:
        if (old := self._lines.get(endpoint)) is not None:
            self._leave(endpoint, old)
        done = self._opening[endpoint] = trio.Event()
        try:
            async with self._places:
                session = await self._node.blocked.reach((endpoint,), self._call)
            line = self._lines[endpoint] = _Line(session)
            while len(self._lines) > SESSIONS_MAX:
                self._leave(*next(iter(self._lines.items())))
            return line
        finally:
            del self._opening[endpoint]
            done.set()

    async def _call(self, endpoints: tuple[Endpoint, ...]) -> Session:
        commons = self._commons
        machine = vnh1.Initiation(
            terms=vnh1.Terms(
                suite=commons.suite,
                mode=vnh1.Mode.LOOKUP,
                network_id=commons.id,
                secret=commons.k_net,
            ),
            identity=None,
            responder=NOBODY,
            door_key=commons.door_key(),
            endpoints=endpoints,
            schedules=KeySchedule,
            rng=self._node.rng,
            timeout_s=OPEN_S,
        )
        birth = Birth(self._node, commons, mode=vnh1.Mode.LOOKUP, initiator=True)
        primitives = self._node.primitives(commons.suite, commons)
        return await self._node.handshakes.run(machine, primitives, birth)

    def _leave(self, endpoint: Endpoint, line: _Line) -> None:
        """Ask nothing more on a session."""
        line.left = True
        if self._lines.get(endpoint) is line:
            del self._lines[endpoint]
        self._close_unused(line)

    def _close_unused(self, line: _Line) -> None:
        session = line.session
        if line.left and not line.open and not session.link.closed.is_set():
            with contextlib.suppress(LocalProtocolError):
                session.link.send(Close(reason="asked"))
            self._node.end(session, reason="asked")

    def moved(self) -> None:
        """Leave all of them: this host calls from elsewhere, where nobody knows them."""
        for endpoint, line in list(self._lines.items()):
            self._leave(endpoint, line)

    async def look(self) -> None:
        """Leave the sessions that end soon: one round."""
        for endpoint, line in list(self._lines.items()):
            if not line.is_usable:
                self._leave(endpoint, line)
