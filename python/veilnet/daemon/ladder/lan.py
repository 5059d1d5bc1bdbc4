"""LAN discovery: ask the link who is here, and answer those who may know.

```
newcomer                                   everybody with the scope's secret on the link
ASK to the group, on every link  ------>   offers the endpoint to its own ladder
                                 <------   ANSWER to the asker alone, of the same length
```
It asks at 0, 1, 2, 4, 8, 15, 15, ... s while first contacts are wanted, then every QUIET_S, and at
once when a link or an address changes.  It always answers, within budgets: of a network of ours
all, of the commons about ANSWERS of however many there are.

Of an announcement only those endpoints are believed that lie in a prefix of the link it came by:
nobody can point us at a stranger elsewhere.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import structlog
import trio
from attrs import frozen

from veilnet.daemon.host import unix_now
from veilnet.daemon.ladder.announcement import ANSWER, ASK, Announcement, Opener, seal
from veilnet.daemon.ladder.interfaces import Changes, Interface, find
from veilnet.daemon.ladder.multicast import Heard, Inlet, Sockets, listen
from veilnet.errors import VeilError
from veilnet.networks.endpoint import Endpoint

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Sequence
    from ipaddress import IPv4Network, IPv6Network

    from veilnet.daemon.ladder.ladder import Rung
    from veilnet.daemon.ladder.scope import Scope
    from veilnet.networks.keys import Rng

ASK_PAUSES_S: Final = (1.0, 2.0, 4.0, 8.0, 15.0)
QUIET_S: Final = 300.0
SETTLE_S: Final = 0.1
"""So long after a change the kernel's other words about it are awaited."""
LOOK_LEAST_S: Final = 1.0
READS_PER_S: Final = 10.0
READS_BURST: Final = 64.0
"""Datagrams that may cost an authentication; fewer in MAX_AGE_S than the nonces remembered."""
SOURCE_PER_S: Final = 2.0
SOURCE_BURST: Final = 24.0
SOURCES_MAX: Final = 256
ANSWERS: Final = 8
ANSWER_DELAY_S: Final = 0.2
NEIGHBOURS_MAX: Final = 512
NEIGHBOUR_S: Final = 600.0
OWN_MAX: Final = 256

log = structlog.get_logger("veilnet.ladder.lan")


class Budget:
    """A token bucket: *rate* a second, *burst* at once."""

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate, self._burst, self._left, self._at = rate, burst, burst, now

    def take(self, now: float) -> bool:
        """Take one if there is one."""
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Listener:
    """What is made of datagrams: which to read, whom to believe, whom to answer.  No I/O."""

    def __init__(self, rng: random.Random, now: float) -> None:
        self._rng = rng
        self._opener = Opener()
        self._reads = Budget(READS_PER_S, READS_BURST, now)
        self._sources: OrderedDict[str, Budget] = OrderedDict()
        self._neighbours: OrderedDict[tuple[bytes, bytes], float] = OrderedDict()
        """(scope, peer) -> when it was last heard."""
        self._own: OrderedDict[bytes, None] = OrderedDict()

    def sent(self, data: bytes) -> bytes:
        """Note that *data* is our own, which the group brings back to us; return it."""
        self._own[data] = None
        if len(self._own) > OWN_MAX:
            self._own.popitem(last=False)
        return data

    def hear(
        self, heard: Heard, scopes: Sequence[Scope], interface: Interface, *, now: float, unix: int
    ) -> tuple[Scope, Announcement, bool] | None:
        """Return scope, announcement with the endpoints that are believed, and whether to answer.

        Units: *now* monotonic seconds, *unix* wall clock seconds.
        """
        if heard.data in self._own or not interface.is_on_link(heard.host):
            return None
        if not self._may_read(heard.host, now):
            return None
        opened = self._opener.open(heard.data, scopes, now=unix)
        if opened is None:
            return None
        scope, said = opened
        if said.peer == scope.peer_id:
            return None
        here = tuple(item for item in said.endpoints if interface.is_on_link(item.host))
        self._met(scope, said, now)
        answer = said.kind == ASK and self._answers(scope)
        return scope, Announcement(said.kind, said.peer, here), answer

    def _may_read(self, host: str, now: float) -> bool:
        budget = self._sources.pop(host, None) or Budget(SOURCE_PER_S, SOURCE_BURST, now)
        self._sources[host] = budget
        if len(self._sources) > SOURCES_MAX:
            self._sources.popitem(last=False)
        return budget.take(now) and self._reads.take(now)

    def _met(self, scope: Scope, said: Announcement, now: float) -> None:
        key = (scope.network_id, said.peer)
        self._neighbours.pop(key, None)
        self._neighbours[key] = now
        while len(self._neighbours) > NEIGHBOURS_MAX or (
            now - next(iter(self._neighbours.values())) > NEIGHBOUR_S
        ):
            self._neighbours.popitem(last=False)

    def _answers(self, scope: Scope) -> bool:
        # A link full of strangers must not answer every newcomer with a storm.
        if not scope.public:
            return True
        here = sum(network == scope.network_id for network, _ in self._neighbours)
        return self._rng.random() * here < ANSWERS


@frozen
class _Talk:
    """What one climb opened."""

    sockets: Sockets
    listener: Listener
    rung: Rung
    nursery: trio.Nursery


class Lan:
    """The step: asks, listens and answers on every link, until cancelled."""

    name: Final = "lan"
    standing: Final = True
    limit_s: Final = float("inf")
    remedy: Final = "Nobody of ours is on this link, or the switch keeps multicast from us."

    def __init__(
        self,
        *,
        scopes: Callable[[], Sequence[Scope]],
        port: int,
        tun: str | None,
        overlay: Callable[[], Iterable[IPv4Network | IPv6Network]],
        rng: random.Random,
        random_bytes: Rng = secrets.token_bytes,
        wall: Callable[[], int] = unix_now,
        limiter: trio.CapacityLimiter | None = None,
    ) -> None:
        self._scopes, self._port, self._tun, self._overlay = scopes, port, tun, overlay
        self._rng, self._random_bytes, self._wall, self._limiter = rng, random_bytes, wall, limiter
        self._interfaces: tuple[Interface, ...] = ()

    async def climb(self, rung: Rung) -> None:
        """Ask and answer until cancelled.

        Cancellation: the groups are left.   Raises: OSError: this host has no multicast at all.
        """
        sockets = Sockets()
        listener = Listener(self._rng, trio.current_time())
        try:
            with Changes() as changes:
                await self._look(sockets, rung)
                async with trio.open_nursery() as nursery:
                    talk = _Talk(sockets, listener, rung, nursery)
                    for inlet in sockets.inlets:
                        nursery.start_soon(self._listen, talk, inlet)
                    nursery.start_soon(self._follow, changes, sockets, rung)
                    await self._ask_again(talk)
        finally:
            sockets.close()

    # --- links -----------------------------------------------------------------------------------

    async def _follow(self, changes: Changes, sockets: Sockets, rung: Rung) -> None:
        while True:
            await changes.wait()
            await trio.sleep(SETTLE_S)
            before = self._interfaces
            await self._look(sockets, rung)
            if self._interfaces != before:
                # What failed for want of a link need not wait its turn either.
                rung.nudge()
            await trio.sleep(LOOK_LEAST_S)

    async def _look(self, sockets: Sockets, rung: Rung) -> None:
        overlay = list(self._overlay())
        self._interfaces = await trio.to_thread.run_sync(
            lambda: find(tun=self._tun, overlay=overlay), limiter=self._limiter
        )
        faults = sockets.join(self._interfaces)
        names = ", ".join(item.name for item in self._interfaces)
        if faults:
            rung.fail("; ".join(faults))
        elif not self._interfaces:
            rung.fail("this host has no link that carries multicast")
        else:
            rung.well(f"listens on {names}")

    # --- asking ----------------------------------------------------------------------------------

    async def _ask_again(self, talk: _Talk) -> None:
        await trio.sleep(self._rng.uniform(0, 0.1))
        asked = 0
        while True:
            await self._ask(talk)
            wanted = ASK_PAUSES_S[min(asked, len(ASK_PAUSES_S) - 1)]
            quiet = asked >= len(ASK_PAUSES_S) and not talk.rung.wanted
            pause_s = (QUIET_S if quiet else wanted) * self._rng.uniform(0.9, 1.1)
            asked = 0 if await talk.rung.rest(pause_s) else asked + 1

    async def _ask(self, talk: _Talk) -> None:
        for scope in self._scopes():
            for interface in self._interfaces:
                for version in (4, 6):
                    if interface.has(version):
                        data = talk.listener.sent(self._sealed(ASK, scope, interface))
                        try:
                            await talk.sockets.shout(version, interface.index, data)
                        except OSError as error:
                            log.debug("not asked", link=interface.name, reason=str(error))

    def _sealed(self, kind: int, scope: Scope, interface: Interface) -> bytes:
        endpoints = [Endpoint.of(host, self._port) for host in interface.shown()]
        said = Announcement(kind, scope.peer_id, tuple(endpoints))
        return seal(said, scope, now=self._wall(), rng=self._random_bytes)

    # --- listening -------------------------------------------------------------------------------

    async def _listen(self, talk: _Talk, inlet: Inlet) -> None:
        while True:
            try:
                heard = await listen(inlet)
            except OSError as error:  # an ICMP error of what was sent before
                log.debug("not heard", reason=str(error))
                continue
            if heard is not None:
                self._hear(talk, heard)

    def _hear(self, talk: _Talk, heard: Heard) -> None:
        interface = next((it for it in self._interfaces if it.index == heard.interface), None)
        if interface is None:
            return
        told = talk.listener.hear(
            heard, self._scopes(), interface, now=trio.current_time(), unix=self._wall()
        )
        if told is None:
            return
        scope, said, answer = told
        for endpoint in said.endpoints:
            talk.rung.offer(endpoint, network_id=scope.network_id, peer=said.peer)
        if answer:
            talk.nursery.start_soon(self._answer, talk.sockets, heard, scope, interface)

    async def _answer(
        self, sockets: Sockets, heard: Heard, scope: Scope, interface: Interface
    ) -> None:
        if scope.public:
            await trio.sleep(self._rng.uniform(0, ANSWER_DELAY_S))
        try:
            await sockets.tell(heard, self._sealed(ANSWER, scope, interface))
        except (OSError, VeilError) as error:
            log.debug("not answered", to=heard.host, reason=str(error))
