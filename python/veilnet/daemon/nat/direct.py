"""Tries for a direct path, beside a relay that carries meanwhile.

```
no direct way lives     a call: both ends send at one moment, to wherever the other may be
between two calls       two known addresses at a time, after 5 s, 10 s, ... 60 s
the peer tries one      an address that we would try too, if one is left
```
Calls are `punching`'s.  Where nothing translates addresses at either end, a packet that comes too
early does no harm, and addresses are tried between calls as well: what was out of reach a moment
ago may be in reach now.
A try that nothing comes back on is given up by whoever notices (`Course.to_give_up`).
"""

from __future__ import annotations

from itertools import cycle, islice
from typing import TYPE_CHECKING, Final

import structlog

from veilnet.daemon.nat.punching import Punchings
from veilnet.daemon.paths import course as courses
from veilnet.daemon.paths.ways import PROBING
from veilnet.errors import BrokenEngineError, VeilError
from veilnet.paths import DIRECT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from veilnet.daemon.node import Node
    from veilnet.daemon.paths.course import Course
    from veilnet.daemon.paths.openings import Openings
    from veilnet.protocol.fields import Endpoint

AT_A_TIME: Final = 2

log = structlog.get_logger("veilnet.paths")


class DirectTries:
    """Which addresses are tried for a direct path, when, and for whom."""

    def __init__(self, node: Node, openings: Openings) -> None:
        self._node = node
        self._openings = openings
        self.punching = Punchings(node, openings)

    def vouched(self, circuit_id: bytes, endpoint: Endpoint) -> None:
        """Take a relay's word where it sees the other end of a circuit."""
        self.punching.vouched(circuit_id, endpoint)

    def look(self, course: Course, now_s: float) -> None:
        """Call the peer if it is time; else try what is known, a few at a time."""
        if self.punching.look(course, now_s) or self.punching.is_translated(course):
            return
        tries = [way for way in course.ways.values() if way.is_direct and way.path]
        trying = any(way.state == PROBING and not way.was_alive for way in tries)
        if now_s < course.direct_due_s or trying or DIRECT in course.opening:
            return
        course.direct_due_s = now_s + course.direct_pause_s
        course.direct_pause_s = min(2 * course.direct_pause_s, courses.MAX_DIRECT_S)
        had = {way.endpoint for way in course.ways.values()}
        known = [endpoint for endpoint in self._known(course) if endpoint not in had]
        if not known:
            return
        first, count = course.direct_turn % len(known), min(AT_A_TIME, len(known))
        course.direct_turn += count
        course.opening.add(DIRECT)
        targets = list(islice(cycle(known), first, first + count))
        self._node.spawn(self._open, course, targets)

    def for_peer(self, course: Course, *, turn: int) -> Endpoint | None:
        """Return an address for a path that the peer opens, another each turn; None: none is left.

        It is one that we would try ourselves: no peer has us send where we would not.
        """
        known = course.tryable(self._known(course))
        return known[turn % len(known)] if known else None

    def _known(self, course: Course) -> Sequence[Endpoint]:
        session = course.session
        network = self._node.networks.get(session.network_id)
        member = None if network is None else network.members.get(session.peer_id)
        if network is None or member is None:
            return ()
        return self._node.channels.endpoints(network, member)

    async def _open(self, course: Course, endpoints: list[Endpoint]) -> None:
        try:
            for endpoint in endpoints:
                try:
                    await self._openings.direct(course, endpoint)
                except BrokenEngineError:
                    raise
                except VeilError as error:
                    log.debug("no direct path", at=str(endpoint), reason=error.message)
        finally:
            course.opening.discard(DIRECT)
            course.wake.set()
