"""This host's ways out, and what follows when its links, addresses or routes change.

```
the kernel's word, or once a round --> engine.underlay_changed
a path leaves from elsewhere       --> the engine shows itself to the peer: the session goes on
its peer has no return key of ours --> a handshake anew, at once
any of these, or another way out   --> what was learnt of NATs is void
any of these, or other addresses   --> members hear where we listen, and are called again
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog
import trio

from veilnet.daemon import underlay
from veilnet.daemon.ladder.interfaces import Changes
from veilnet.daemon.rounds import rounds

if TYPE_CHECKING:
    from veilnet.daemon.node import Node
    from veilnet.networks.endpoint import Endpoint

SETTLE_S: Final = 0.05
"""An address comes before its route."""
LOOK_LEAST_S: Final = 0.5
"""Between two looks: a router's routes never rest."""

log = structlog.get_logger("veilnet.uplink")


class Uplink:
    """Sees to it that sessions go on where this host has other addresses than before."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._known: tuple[tuple[str | None, ...], tuple[Endpoint, ...]] | None = None
        """From where this host called, and where it listened, when it looked last."""
        self._looking = trio.Lock()
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

            async def changed() -> None:
                self._routes_only = not await changes.wait()
                await trio.sleep(SETTLE_S)

            async def look() -> None:
                await self._look(routes_only=self._routes_only)
                await trio.sleep(LOOK_LEAST_S)

            await rounds(changed, look, trouble_s=LOOK_LEAST_S)

    async def look(self) -> bool:
        """Look from where this host calls, and where it listens; return whether that changed."""
        return await self._look(routes_only=False)

    async def _look(self, *, routes_only: bool) -> bool:
        async with self._looking:
            node, before = self._node, self._known
            moved = await trio.to_thread.run_sync(node.engine.underlay_changed)
            ways_out = await trio.to_thread.run_sync(underlay.ways_out)
            if before is not None and routes_only:
                listening = before[1]
            else:
                listening = tuple(await node.addresses.local_endpoints())
            self._known = (ways_out, listening)
            if not moved and before in {None, self._known}:
                return False
            if moved or (before is not None and before[0] != ways_out):
                log.info("this host has moved", sessions=len(moved))
                node.gossip.reflexive.clear()  # who sees us move tells us where we are
                node.blocked.moved()
                if node.discovery is not None:
                    node.discovery.moved()
                node.bootstrap.ladder.nudge()
            for sid in moved:
                self._show(sid)
            node.paths.direct.punching.moved()
            node.gossip.tell_listening(listening)
            return True

    def _show(self, sid: int) -> None:
        """Call anew who cannot know that it is us: a stranger has no return key."""
        session = self._node.sessions.get(sid)
        if session is not None and self._node.networks.get(session.network_id) is None:
            self._node.channels.silent(sid, 0.0)
