"""This host's ways out, and what follows when its links, addresses or routes change.

```
the kernel's word, or once a round --> engine.underlay_changed
a path leaves from elsewhere       --> the engine shows itself to the peer: the session goes on
its peer has no return key of ours --> a handshake anew, at once, if the first was ours
another way out                    --> what others saw of us is void, and carriers over TCP are
any of these, or other addresses   --> members hear where we listen, and are called again
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

import structlog
import trio

from veilnet.daemon import underlay
from veilnet.daemon.ladder.interfaces import Changes
from veilnet.daemon.rounds import rounds

if TYPE_CHECKING:
    from veilnet.daemon.node import Node
    from veilnet.daemon.sessions import Session
    from veilnet.networks.endpoint import Endpoint

SETTLE_S: Final = 0.05
"""An address comes before its route."""
CALLS_MAX: Final = 8
"""Handshakes at once with those who cannot know us."""
LOOK_LEAST_S: Final = 0.5
"""Between two looks: a router's routes never rest."""

WaysOut: TypeAlias = tuple[str | None, str | None]

log = structlog.get_logger("veilnet.uplink")


class Uplink:
    """Sees to it that sessions go on where this host has other addresses than before."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._ways_out: WaysOut | None = None
        """From where this host called when it looked last."""
        self._listening: tuple[Endpoint, ...] | None = None
        """Where it listened then."""
        self._looking = trio.Lock()
        self._calls = trio.CapacityLimiter(CALLS_MAX)
        self._again = False
        """The last look failed: the next does not wait for the kernel."""
        self._routes_only = False

    async def run(self) -> None:
        """Follow the kernel's word until cancelled.

        Raises: BrokenEngineError.
        """
        try:
            changes = Changes(routes=True)
        except OSError as error:
            log.info("changes of links are seen late", reason=error.strerror)
            return
        with changes:
            self._again = True  # what is here now, is what later looks are compared with

            async def changed() -> None:
                if not self._again:
                    self._routes_only = not await changes.wait()
                    await trio.sleep(SETTLE_S)
                self._again = True

            async def look() -> None:
                await self._look(routes_only=self._routes_only)
                self._again = False
                await trio.sleep(LOOK_LEAST_S)

            await rounds(changed, look, trouble_s=LOOK_LEAST_S)

    async def look(self) -> bool:
        """Look from where this host calls, and where it listens; return whether that changed."""
        return await self._look(routes_only=False)

    async def _look(self, *, routes_only: bool) -> bool:
        async with self._looking:
            ways_out = await trio.to_thread.run_sync(underlay.ways_out)
            moved = await self._move(ways_out)
        if routes_only and self._listening is not None:
            listening = self._listening
        else:
            # Names of the operator's are looked up for this: it may take long just now.
            listening = tuple(await self._node.addresses.local_endpoints())
        before, self._listening = self._listening, listening
        if not moved and before in {None, listening}:
            return False
        self._node.paths.direct.punching.moved()
        self._node.gossip.tell_listening(listening)
        return True

    async def _move(self, ways_out: WaysOut) -> bool:
        """Let sessions go on from where this host calls now; return whether that is elsewhere."""
        node, before = self._node, self._ways_out
        elsewhere = before not in {None, ways_out}

        def tell() -> list[tuple[int, bool]]:
            keep = underlay.leading_out(node.engine.sources())
            return node.engine.underlay_changed(elsewhere=elsewhere, keep=keep)

        moved = await trio.to_thread.run_sync(tell)
        # Nothing below may fail: the engine tells of a move once.
        self._ways_out = ways_out
        for sid, known in moved:
            session = node.sessions.get(sid)
            if session is None:
                continue
            node.gossip.reflexive.forget(session.key)  # it sees us move, and tells us where
            if not known and session.initiator:
                node.spawn(self._call_again, session)
        if elsewhere and before is not None:
            for version, now, then in zip((4, 6), ways_out, before, strict=True):
                if now != then:
                    node.gossip.reflexive.clear(version)
            node.blocked.moved()
            if node.discovery is not None:
                node.discovery.moved()
            node.bootstrap.moved()
        if moved or elsewhere:
            log.info("this host has moved", sessions=len(moved))
        return bool(moved) or elsewhere

    async def _call_again(self, session: Session) -> None:
        """Handshake anew with who cannot know that it is us; a few at a time."""
        async with self._calls:
            await self._node.channels.recover(session)
