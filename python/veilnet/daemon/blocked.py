"""Where UDP leads nowhere: whether it does, and the way over TCP to the same node instead.

```
somebody answered over UDP         -> UDP leads somewhere
nobody, and `MISSES` addresses     -> blocked: the next call goes to the same port over TCP
the host's addresses changed       -> not known again
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from veilnet import _engine
from veilnet.daemon.carriers import Carriers
from veilnet.errors import ConfigError, PeerUnreachable, PrivilegeError
from veilnet.protocol.circuit import is_stand_in

if TYPE_CHECKING:
    from collections.abc import Iterable

    from veilnet.daemon.node import Node
    from veilnet.networks.endpoint import Endpoint

MISSES: Final = 2
MISSED_MAX: Final = 64
WAYS_MAX: Final = 3
"""Addresses of one node that are called over TCP."""

log = structlog.get_logger("veilnet.blocked")


class Blocked:
    """What is known of UDP from here, and the carriers that stand in for it."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._answered = False
        self._missed: dict[Endpoint, None] = {}
        self.carriers = Carriers(node.engine, _engine.Carriers.open())
        self.listening: int | None = None
        """The TCP port on which carriers are taken."""

    def __repr__(self) -> str:
        return f"<Blocked {self.udp_is_dead} {self.carriers!r}>"

    @property
    def udp_is_dead(self) -> bool:
        """Whether nobody has answered over UDP, though several were called."""
        return not self._answered and len(self._missed) >= MISSES

    def answered(self, endpoint: Endpoint) -> None:
        """Note that somebody proved itself at an address."""
        if not is_stand_in(endpoint):
            self._answered = True
            self._missed.clear()

    def missed(self, endpoints: Iterable[Endpoint]) -> bool:
        """Note that nobody answered there; return whether UDP counts as dead now."""
        for endpoint in endpoints:
            if not is_stand_in(endpoint) and len(self._missed) < MISSED_MAX:
                self._missed[endpoint] = None
        return self.udp_is_dead

    def moved(self) -> None:
        """Begin to judge anew: this host is in another network."""
        self._answered = False
        self._missed.clear()

    async def ways(self, endpoints: Iterable[Endpoint]) -> list[Endpoint]:
        """Return what stands for *endpoints* over TCP, as far as anybody listens there.

        Raises: PeerUnreachable: nobody does.
        """
        found: list[Endpoint] = []
        error: PeerUnreachable | None = None
        for endpoint in [each for each in endpoints if not is_stand_in(each)][:WAYS_MAX]:
            try:
                found.append(await self.carriers.connect(endpoint))
            except PeerUnreachable as failed:
                error = failed
            else:
                return found
        raise error or PeerUnreachable("there is no address to call over TCP")

    def place(self, endpoint: Endpoint) -> Endpoint | None:
        """Return the real address that *endpoint* is or stands for; None: it has none."""
        if not is_stand_in(endpoint):
            return endpoint
        return self.carriers.remote(endpoint)

    def look(self) -> None:
        """Take carriers on TCP if this node should."""
        if self.listening is not None:
            return
        wanted = self._node.config.tcp_listen
        terms = self._node.relaying.lending.terms
        if wanted == "off" or (wanted == "auto" and not terms.for_strangers):
            return
        port = self._node.engine.port
        try:
            self.listening = self.carriers.listen(port)
        except (ConfigError, PrivilegeError) as error:
            self.listening = 0
            log.warning("no carriers are taken", port=port, reason=error.message)
