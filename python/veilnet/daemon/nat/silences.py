"""Keeps direct links alive behind a translator, and finds out how seldom that may be.

```
translated, link direct   in use lately        a probe after 3-5 s without a datagram of ours
                          idle, short patience a probe sooner than the translator forgets
                          idle                 the engine's own, 8-28 s
idle link, now and then   SilenceTest(S), S seconds of silence, the peer's probe: did it come?
```
| who | link kept | tested with | answered |
|---|---|---|---|
| member | yes | yes; of several two must agree before silences get shorter | yes |
| our haven | yes | if no member is there: two in different places must agree | |
| relay that we called, in use | yes | no | |
| who reserved at us | no | no | yes, in places of its own |
| anybody else | no | no | no |

Invariant: one test at a time, on a link that nobody uses; a test in which anything was sent or came
proves nothing.
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Final

import structlog
import trio

from veilnet.errors import BrokenEngineError, ClosedError, LocalProtocolError
from veilnet.nat.classify import Mapping
from veilnet.nat.keepalive import Keepalive
from veilnet.nat.place import is_private, place_of
from veilnet.protocol import handshake as vnh1
from veilnet.protocol import nat_messages
from veilnet.protocol.circuit import is_stand_in

if TYPE_CHECKING:
    from collections.abc import Hashable

    from veilnet._engine import SessionStats
    from veilnet.daemon.node import Node
    from veilnet.daemon.sessions import Session

LOOK_S: Final = 1.0
SHORT_LOOK_S: Final = 0.3
USED_S: Final = 60.0
"""A link that carried data within this time is in use."""
FLOWS_S: Final = 2.0
QUIET_S: Final = 20.0
FIRST_TEST_S: Final = 10.0
TEST_PAUSE_S: Final = 20.0
AGAIN_S: Final = 1.0
"""After a silence that was too long: until a shorter one is known to be safe, links are at risk."""
LONG_PAUSE_S: Final = 300.0
LONGEST_TEST_S: Final = 28.0
"""The engine's own keepalives let no silence last longer."""
SLACK_S: Final = 1.2
"""What asking for a silence takes of it."""
ANSWERS_MAX: Final = 256
STRANGERS_ANSWERS_MAX: Final = 64
AGREEING: Final = 2
"""So many have to agree that a silence was too long, where there are so many."""
_GONE: Final = (LocalProtocolError, ClosedError)
_TRANSLATED: Final = (Mapping.INDEPENDENT, Mapping.SEQUENTIAL, Mapping.RANDOM)

log = structlog.get_logger("veilnet.silences")


class Silences:
    """The silences of this node's direct links."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.keepalive = Keepalive(node.rng)
        self._pauses: dict[int, float] = {}
        """How long each link may be silent this time."""
        self._testing: int | None = None
        self._test_due_s = -math.inf
        self._answering: set[int] = set()
        self._answering_strangers: set[int] = set()
        self._running = False

    def begin(self) -> None:
        """Look after the links from now on, if something translates."""
        if not self._running and self._is_translated():
            self._running = True
            self._test_due_s = trio.current_time() + FIRST_TEST_S
            self._node.spawn(self._run)

    def moved(self) -> None:
        """This node has moved: there is another translator, or none."""
        self.keepalive = Keepalive(self._node.rng)
        self._test_due_s = trio.current_time() + FIRST_TEST_S

    def _is_translated(self) -> bool:
        return self._node.gossip.nat(4).mapping in _TRANSLATED

    async def _run(self) -> None:
        try:
            while self._is_translated():
                await trio.sleep(SHORT_LOOK_S if self.keepalive.is_short else LOOK_S)
                self.look(trio.current_time())
        finally:
            self._running = False

    def look(self, now_s: float) -> None:
        """Send what is due: one round."""
        counters = self._node.statistics()
        links = [
            (session, counters[session.sid])
            for session in self._node.sessions.carriers()
            if session.sid in counters and self._is_ours(session)
        ]
        self._pauses = {session.sid: self._pauses.get(session.sid, 0.0) for session, _ in links}
        for session, stats in links:
            if session.sid != self._testing:
                self._keep(session, stats)
        if self._testing is None and now_s >= self._test_due_s:
            self._test_one(links, now_s)

    def _is_ours(self, session: Session) -> bool:
        """Whether it is up to us to keep a link alive: strangers' own are theirs."""
        if session.mode is not vnh1.Mode.FULL or is_stand_in(session.endpoint):
            return False
        if self._is_member(session) or self._is_haven(session):
            return True
        return session.initiator and self._node.relaying.uses(session)

    def _is_member(self, session: Session) -> bool:
        known = self._node.networks.get(session.network_id) is not None
        return known and session.mode is vnh1.Mode.FULL

    def _is_haven(self, session: Session) -> bool:
        return self._node.strangers is not None and self._node.strangers.holds(session)

    def _keep(self, session: Session, stats: SessionStats) -> None:
        used_s = math.inf if stats.data_s is None else stats.data_s
        active = used_s <= USED_S
        if used_s <= FLOWS_S or not (active or self.keepalive.is_short):
            return
        pause_s = self._pauses[session.sid]
        if not pause_s or (active and pause_s > self.keepalive.longest_s):
            pause_s = self._pauses[session.sid] = self.keepalive.pause_s(active=active)
        if stats.sent_s is None or stats.sent_s >= pause_s:
            self._pauses[session.sid] = 0.0
            self._probe(session)

    def _probe(self, session: Session) -> None:
        with contextlib.suppress(*_GONE):
            self._node.engine.probe(session.sid)

    # --- tests -----------------------------------------------------------------------------------

    def _test_one(self, links: list[tuple[Session, SessionStats]], now_s: float) -> None:
        silent_s = self.keepalive.test_s()
        if silent_s is None or silent_s > LONGEST_TEST_S:
            self._test_due_s = now_s + LONG_PAUSE_S
            if silent_s is None:
                self.keepalive.relax()
            return
        self._test_due_s = now_s + TEST_PAUSE_S * (1 + 0.5 * self._node.rng.random())
        witnesses, needed = self._witnesses([session for session, _ in links])
        done = self.keepalive.doubters if needed > 1 else frozenset()
        quiet = [
            session
            for session, stats in links
            if witnesses.get(session.sid, None) not in {None, *done}
            and (stats.data_s is None or stats.data_s > QUIET_S)
            and not session.retiring
        ]
        if quiet:
            session = self._node.rng.choice(quiet)
            self._testing = session.sid
            by = witnesses[session.sid]
            self._node.spawn(self._test, session, silent_s, by, needed)

    def _witnesses(self, links: list[Session]) -> tuple[dict[int, Hashable], int]:
        """Return whose word counts, by session, and how many must agree: members', else havens'."""
        members: dict[int, Hashable] = {
            each.sid: each.peer_id for each in links if self._is_member(each)
        }
        # To one on our own LAN no translator is in the way: it would hide what the others find.
        near = {each.sid for each in links if is_private(each.endpoint.host)}
        members = {sid: who for sid, who in members.items() if sid not in near} or members
        if members:
            return members, min(AGREEING, len(set(members.values())))
        # Ids in the commons are free.
        havens: dict[int, Hashable] = {
            each.sid: place_of(each.endpoint.host) for each in links if self._is_haven(each)
        }
        return (havens if len(set(havens.values())) >= AGREEING else {}), AGREEING

    async def _test(self, session: Session, silent_s: float, by: Hashable, needed: int) -> None:
        try:
            came = await self._came(session, silent_s)
        except BrokenEngineError:
            raise
        except _GONE:
            return
        finally:
            self._testing = None
        if came is None:
            return
        log.debug("silence tested", silent_s=round(silent_s, 1), came=came)
        if came:
            self.keepalive.survived(silent_s)
        else:
            self.keepalive.died(silent_s, by=by, needed=needed)
            self._probe(session)  # whoever sends to us meanwhile reaches us again
            self._test_due_s = trio.current_time() + AGAIN_S

    async def _came(self, session: Session, silent_s: float) -> bool | None:
        """Return whether the peer's probe came after a silence; None: there was no silence."""
        rtt_s = session.rtt_s or 0.1
        began_s = trio.current_time()
        session.link.send(nat_messages.SilenceTest(after_ms=round(silent_s * 1000)))
        await trio.sleep_until(began_s + silent_s - 0.1)
        before = self._node.statistics().get(session.sid)
        await trio.sleep_until(began_s + silent_s + SLACK_S + rtt_s)
        after = self._node.statistics().get(session.sid)
        if before is None or after is None:
            return None
        last_s = min(math.inf if at is None else at for at in (before.sent_s, before.heard_s))
        if last_s < silent_s - SLACK_S:
            return None
        return after.heard_s is not None and after.heard_s <= SLACK_S + 2 * rtt_s + 0.2

    def asked(self, session: Session, after_s: float) -> None:
        """Probe a peer after a silence that it wants; one at a time for each.

        Whoever else asks gets nothing: it is nothing to us how long its translator waits.
        """
        if self._is_member(session):
            answering, most = self._answering, ANSWERS_MAX
        elif self._has_reserved(session):
            answering, most = self._answering_strangers, STRANGERS_ANSWERS_MAX
        else:
            return
        if session.sid not in answering and len(answering) < most:
            answering.add(session.sid)
            self._node.spawn(self._answer, session, after_s, answering)

    def _has_reserved(self, session: Session) -> bool:
        """Whether we are a haven of a stranger."""
        full = session.mode is vnh1.Mode.FULL
        return full and self._node.relaying.service.needs(session.key)

    async def _answer(self, session: Session, after_s: float, answering: set[int]) -> None:
        try:
            with trio.move_on_after(after_s):
                await session.link.closed.wait()
                return
            self._probe(session)
        finally:
            answering.discard(session.sid)
