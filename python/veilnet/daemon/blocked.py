"""Where UDP leads nowhere: whether it does, and the way over TCP to the same node instead.

```
unknown    nobody was called, or one node that is silent: that one is called over TCP too
open       somebody of the Internet proved itself over UDP, in a call of ours or of its own
dead       nobody did, at `MISSES` nodes of different prefixes: calls go to the same port over
           TCP, for a minute
doubtful   the minute is over: calls go over UDP and, a little later, over TCP; UDP that wins is
           open, UDP that loses a miss as before
moved      the host's addresses changed: not known again
joining    whatever is known, the inviter is called over UDP, and over TCP too unless that is open
```
Invariant: silent strangers cost other calls a minute over TCP at most, and nothing that lasts.
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Final, TypeVar

import structlog
import trio

from veilnet import _engine
from veilnet.daemon.carriers import Carriers
from veilnet.discovery.contact import UNKNOWN_ID, block_of, is_global, pack_endpoint
from veilnet.errors import ConfigError, PeerUnreachable, PrivilegeError, VeilError
from veilnet.protocol.circuit import is_stand_in

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from veilnet.daemon.node import Node
    from veilnet.networks.endpoint import Endpoint

MISSES: Final = 2
MISSED_MAX: Final = 64
VERDICT_S: Final = 60.0
HEAD_START_S: Final = 0.3
"""What UDP has before TCP when both are tried: enough for most of the Internet ..."""
UNKNOWN_START_S: Final = 1.0
"""... and where nothing is amiss yet, enough for all of it."""
WAYS_MAX: Final = 3
"""Addresses of one node that are called over TCP."""

T = TypeVar("T")

log = structlog.get_logger("veilnet.blocked")


class Blocked:
    """What is known of UDP from here, and the carriers that stand in for it."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._answered = False
        self._missed: dict[bytes, float] = {}
        """When nobody answered in a prefix."""
        self._dead_until_s = -math.inf
        self.carriers = Carriers(node.engine, _engine.Carriers.open())
        self.listening: int | None = None
        """The TCP port on which carriers are taken."""

    def __repr__(self) -> str:
        state = "dead" if self.udp_is_dead else "doubtful" if self.udp_is_doubtful else "open"
        return f"<Blocked, UDP is {state}, {self.carriers!r}>"

    @property
    def udp_is_dead(self) -> bool:
        """Whether nobody has answered over UDP just now, though several were called."""
        return trio.current_time() < self._dead_until_s

    @property
    def udp_is_doubtful(self) -> bool:
        """Whether UDP led nowhere some time ago, and nobody knows about now."""
        return -math.inf < self._dead_until_s <= trio.current_time()

    def answered(self, endpoint: Endpoint) -> None:
        """Note that somebody proved itself at an address."""
        if _block(endpoint) is not None:
            self._answered = True
            self._forget()

    def missed(self, endpoints: Iterable[Endpoint]) -> bool:
        """Note that a node answered at none of its addresses; return whether UDP is dead now.

        However many it has, it is one node.
        """
        now = trio.current_time()
        blocks = [block for each in endpoints if (block := _block(each)) is not None]
        for block in [block for block in blocks if block in self._missed] or blocks[:1]:
            self._missed.pop(block, None)
            self._missed[block] = now
        while self._missed and (
            len(self._missed) > MISSED_MAX or now >= self._missed[self._oldest] + VERDICT_S
        ):
            del self._missed[self._oldest]
        if not self._answered and not self.udp_is_dead and len(self._missed) >= MISSES:
            self._missed.clear()
            self._dead_until_s = now + VERDICT_S
            log.info("UDP leads nowhere", again_s=VERDICT_S)
        return self.udp_is_dead

    def worth_tcp(self, silent: Iterable[Endpoint]) -> bool:
        """Note that a node answered at none of its addresses; return whether to call it over TCP.

        Where nobody ever answered, one node that is silent may be all there is to call.
        """
        silent = tuple(silent)
        return self.missed(silent) or self._may_be_all(silent)

    def _may_be_all(self, where: Iterable[Endpoint]) -> bool:
        return not self._answered and any(map(_block, where))

    @property
    def _oldest(self) -> bytes:
        return next(iter(self._missed))

    def _forget(self) -> None:
        self._missed.clear()
        self._dead_until_s = -math.inf

    def moved(self) -> None:
        """Begin to judge anew: this host is in another network."""
        self._answered = False
        self._forget()
        self.carriers.moved()

    # --- calls -----------------------------------------------------------------------------------

    async def reach(
        self,
        where: tuple[Endpoint, ...],
        call: Callable[[tuple[Endpoint, ...]], Awaitable[T]],
        *,
        only: bool = False,
    ) -> T:
        """Return what *call* does at *where* over UDP, or at what stands for it over TCP.

        *only*: nobody else can be called, so neither waits for the other's failure.
        Cancellation: what *call* does, both ways.
        Raises: PeerUnreachable: neither leads there; whatever else *call* raises.
        """
        if self.udp_is_dead and not only:
            return await self._over_tcp(where, call)
        if self.udp_is_dead or self.udp_is_doubtful:
            return await self._race(where, call, HEAD_START_S)
        if only and self._may_be_all(where):
            return await self._race(where, call, UNKNOWN_START_S)
        try:
            return await call(where)
        except PeerUnreachable as error:
            if not self.worth_tcp(where):
                raise
            with contextlib.suppress(PeerUnreachable):
                return await self._over_tcp(where, call)
            raise error from None

    async def _over_tcp(
        self, where: tuple[Endpoint, ...], call: Callable[[tuple[Endpoint, ...]], Awaitable[T]]
    ) -> T:
        return await call(tuple(await self.ways(where)))

    async def _race(
        self,
        where: tuple[Endpoint, ...],
        call: Callable[[tuple[Endpoint, ...]], Awaitable[T]],
        head_start_s: float,
    ) -> T:
        """Call over UDP, and over TCP soon after; whoever answers first is taken."""
        won: list[T] = []
        failed: list[VeilError] = []
        silent = trio.Event()

        async def udp(scope: trio.CancelScope) -> None:
            try:
                won.append(await call(where))
                scope.cancel()
            except VeilError as error:
                if isinstance(error, PeerUnreachable):
                    self.missed(where)
                failed.insert(0, error)
                silent.set()

        async def tcp(scope: trio.CancelScope) -> None:
            with trio.move_on_after(head_start_s):
                await silent.wait()
            try:
                won.append(await self._over_tcp(where, call))
            except VeilError as error:
                failed.append(error)
                return
            if not silent.is_set():
                # It needs two ways more than UDP, and began later.
                self.missed(where)
            scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(udp, nursery.cancel_scope)
            nursery.start_soon(tcp, nursery.cancel_scope)
        if not won:
            raise failed[0]
        return won[0]

    async def ways(self, endpoints: Iterable[Endpoint]) -> list[Endpoint]:
        """Return what stands for *endpoints* over TCP, as far as anybody listens there.

        One soon after the other, those of the Internet first.
        Cancellation: a connection that came to be is closed once it has been idle for a while.
        Raises: PeerUnreachable: nobody listens.
        """
        places = [each for each in endpoints if not is_stand_in(each)]
        places.sort(key=lambda each: _block(each) is None)
        found: list[Endpoint] = []
        failed: list[VeilError] = []

        async def dial(endpoint: Endpoint, scope: trio.CancelScope) -> None:
            try:
                found.append(await self.carriers.connect(endpoint))
            except VeilError as error:
                failed.append(error)
            else:
                scope.cancel()

        async with trio.open_nursery() as nursery:
            for turn, endpoint in enumerate(places[:WAYS_MAX]):
                if turn:
                    await trio.sleep(HEAD_START_S)
                nursery.start_soon(dial, endpoint, nursery.cancel_scope)
        if found:
            return found
        raise failed[0] if failed else PeerUnreachable("there is no address to call over TCP")

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


def _block(endpoint: Endpoint) -> bytes | None:
    """Return the prefix of an address of the Internet; no other says whether UDP leads there."""
    if is_stand_in(endpoint):
        return None
    packed = UNKNOWN_ID + pack_endpoint(endpoint)
    return block_of(packed) if is_global(packed[32:48]) else None
