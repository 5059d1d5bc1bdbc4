"""Lookup sessions: what this node asks strangers, anonymously, and what it answers them.

A lookup session is opened to an address and kept for a minute after its last use; neither end
learns who the other is.  What comes back authenticates itself, or is a hint.

Invariant: at most `SESSIONS_MAX` are kept and `OPENINGS_MAX` opened at once; the one that was not
used for longest makes room.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

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

KEPT_S: Final = 60.0
SESSIONS_MAX: Final = 256
OPENINGS_MAX: Final = 32
OPEN_S: Final = 2.0
ANSWER_S: Final = 2.0
NOBODY: Final = PeerId(bytes(PEER_ID_BYTES))

log = structlog.get_logger("veilnet.asking")


class Asking:
    """The lookup sessions that this node has opened, by the address asked."""

    def __init__(self, node: Node, commons: Commons) -> None:
        self._node = node
        self._commons = commons
        self._sessions: OrderedDict[Endpoint, Session] = OrderedDict()
        self._used_s: dict[Endpoint, float] = {}
        self._opening: dict[Endpoint, trio.Event] = {}
        self._places = trio.CapacityLimiter(OPENINGS_MAX)

    def __len__(self) -> int:
        return len(self._sessions)

    async def ask(
        self, endpoint: Endpoint, message: Message, *, timeout_s: float = ANSWER_S
    ) -> Message:
        """Ask whoever is at *endpoint*, opening a lookup session there if there is none.

        Units: *timeout_s* seconds for the answer alone.
        Raises: PeerUnreachable, TimedOut, LocalProtocolError: there is no answer.
        """
        session = await self._session(endpoint)
        self._used_s[endpoint] = trio.current_time()
        self._sessions.move_to_end(endpoint)
        try:
            return await session.link.ask(message, timeout_s=timeout_s)
        except VeilError:
            # A node that restarted knows nothing of it: the next question opens another.
            self._drop(endpoint)
            raise

    async def _session(self, endpoint: Endpoint) -> Session:
        while (session := self._sessions.get(endpoint)) is None or session.link.closed.is_set():
            under_way = self._opening.get(endpoint)
            if under_way is None:
                return await self._open(endpoint)
            await under_way.wait()
            if endpoint not in self._sessions:
                raise LocalProtocolError(f"nobody answers at {endpoint}")
        return session

    async def _open(self, endpoint: Endpoint) -> Session:
        done = self._opening[endpoint] = trio.Event()
        try:
            async with self._places:
                session = await self._node.blocked.reach((endpoint,), self._call)
            self._sessions[endpoint] = session
            self._used_s[endpoint] = trio.current_time()
            while len(self._sessions) > SESSIONS_MAX:
                self._drop(next(iter(self._sessions)))
            return session
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

    def _drop(self, endpoint: Endpoint) -> None:
        session = self._sessions.pop(endpoint, None)
        self._used_s.pop(endpoint, None)
        if session is not None and not session.link.closed.is_set():
            with contextlib.suppress(LocalProtocolError):
                session.link.send(Close(reason="asked"))
            self._node.end(session, reason="asked")

    async def look(self) -> None:
        """Close the sessions that were not used for a minute: one round."""
        now = trio.current_time()
        for endpoint, used_s in list(self._used_s.items()):
            if now > used_s + KEPT_S:
                self._drop(endpoint)
