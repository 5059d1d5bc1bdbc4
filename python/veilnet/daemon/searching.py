"""What one call does to find its peer: relays and newer addresses, while the known ones ring.

```
at once        the endpoints that are known
after 0.8 s    circuits, as relays open them       (at once if no endpoint is known)
after 0.25 s   what the peer published of itself   (likewise): endpoints, and havens for circuits
after 3 s      endpoints that others know          (likewise)
```
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

import structlog
import trio

from veilnet.errors import PeerUnreachable, VeilError
from veilnet.protocol import handshake as vnh1

if TYPE_CHECKING:
    from veilnet.daemon.commons.discovery import Discovery
    from veilnet.daemon.commons.havens import CommonsLinks, Haven
    from veilnet.daemon.node import Node
    from veilnet.daemon.relays.relaying import Circuit
    from veilnet.networks.endpoint import Endpoint
    from veilnet.networks.member import Member
    from veilnet.networks.network import Network
    from veilnet.units import PeerId

ENDPOINTS_MAX: Final = 8
FOUND_MAX: Final = ENDPOINTS_MAX - 1
"""The last place is a carrier's: where UDP is blocked nothing else leads there."""
DIRECT_MAX: Final = 5
"""Endpoints that are called at once; a handshake calls no more than 8, circuits included."""
DIRECT_S: Final = 0.8
"""So long the endpoints that we know have to answer before relays are tried as well."""
KNOWN_S: Final = 3.0
"""... and before others are asked for newer ones."""
CIRCUITS_MAX: Final = 2
PUBLISHED_S: Final = 0.25
"""... before the commons are asked where else it is: much sooner than a relay is needed."""
CARRIERS_S: Final = 2.5
"""So long nobody may answer over UDP before it counts as a miss."""
PUBLISHED_AGAIN_S: Final = 2.0
AGAIN_S: Final = 1.0
"""Between two rounds of asking relays."""

log = structlog.get_logger("veilnet.channels")


class Search:
    """What one call knows of the ways to its peer, and what it finds meanwhile."""

    def __init__(
        self,
        node: Node,
        network: Network,
        member: Member,
        known: tuple[Endpoint, ...],
        *,
        may_detour: trio.Event,
        timeout_s: float,
    ) -> None:
        self._node = node
        self.network = network
        self.member = member
        self.known = known[: DIRECT_MAX if len(network.members) > 2 else FOUND_MAX]
        """Called at once; where there may be relays, places are left for their circuits."""
        self.may_detour = may_detour
        self.began_s = trio.current_time()
        self.deadline = self.began_s + timeout_s
        self.circuits: list[Circuit] = []
        self._offered: set[Endpoint] = set()
        self._havens: set[Haven] = set()
        self._machine: vnh1.Initiation | None = None
        self.keyed = trio.Event()
        """Set once that handshake has keys."""
        self.put, self.take = trio.open_memory_channel[vnh1.EndpointFound](ENDPOINTS_MAX)

    def calls(self, machine: vnh1.Initiation) -> None:
        """Take note of the handshake that is to go where this search finds the peer."""
        self._machine = machine

    async def _com(self) -> bytes | None:
        """Return the commitment of the handshake: circuits bring a cookie for it."""
        await self.keyed.wait()
        return None if self._machine is None else self._machine.com

    def through(self, circuit: Circuit) -> None:
        """Call the peer over *circuit* too."""
        self.circuits.append(circuit)
        self.offer(circuit.endpoint, circuit.cookie)

    def offer(self, endpoint: Endpoint, cookie: bytes | None = None) -> None:
        """Call the peer at *endpoint* too."""
        if endpoint in self.known:
            return
        has_room = len(self.known) + len(self._offered) < FOUND_MAX
        if has_room or endpoint in self._offered:
            self._offered.add(endpoint)
            self._offer(endpoint, cookie)

    def _offer(self, endpoint: Endpoint, cookie: bytes | None = None) -> None:
        # A handshake that takes no more has enough to call.
        with contextlib.suppress(trio.WouldBlock, trio.BrokenResourceError):
            self.put.send_nowait(vnh1.EndpointFound(endpoint, cookie))

    async def run(self) -> None:
        """Look for relays and for newer endpoints, for as long as the call goes on."""
        async with self.put, trio.open_nursery() as nursery:
            nursery.start_soon(self._search_relays)
            nursery.start_soon(self._search_carriers)
            async with trio.open_nursery() as places:
                places.start_soon(self._search_published, nursery)
                places.start_soon(self._search_endpoints)
            if not self.known and not self.may_detour.is_set():
                nursery.cancel_scope.cancel()

    async def _search_relays(self) -> None:
        await self.may_detour.wait()
        if self.known:
            await trio.sleep_until(self.began_s + DIRECT_S)
        target, com = self.member.peer_id, await self._com()
        while len(self.circuits) < CIRCUITS_MAX:
            if not self._node.detours.candidates(self.network, target):
                return
            try:
                await self._node.detours.find(
                    self.network,
                    target,
                    self.through,
                    most=CIRCUITS_MAX - len(self.circuits),
                    but=self._avoided(),
                    com=com,
                )
            except VeilError as error:
                log.debug("no way round", reason=error.message)
            await trio.sleep(AGAIN_S)

    def _avoided(self) -> set[PeerId]:
        """Return whom not to ask for a circuit: over them the peer is being called already."""
        relays = {circuit.relay for circuit in self.circuits}
        if trio.current_time() < self.began_s + KNOWN_S:
            key = (self.network.id, self.member.peer_id)
            relays |= self._node.paths.relays(key)
        return relays

    async def _search_carriers(self) -> None:
        """Where UDP leads nowhere, call the known addresses over TCP too."""
        blocked = self._node.blocked
        held = [way for each in self.known if (way := blocked.carriers.held(each)) is not None]
        if held:
            self._offer(held[0])
            return
        if self.known and not blocked.udp_is_dead and not blocked.udp_is_doubtful:
            await trio.sleep_until(self.began_s + CARRIERS_S)
            if not blocked.worth_tcp(self.known):
                return
        with contextlib.suppress(PeerUnreachable):
            for way in await blocked.ways(self.known):
                self._offer(way)

    async def _search_published(self, nursery: trio.Nursery) -> None:
        """Look up where the peer says that it is, and call it there and at its havens."""
        discovery, strangers = self._node.discovery, self._node.strangers
        if discovery is None or strangers is None:
            return
        if self.known:
            await trio.sleep_until(self.began_s + PUBLISHED_S)
        await self._ask_published(discovery, strangers, nursery)
        nursery.start_soon(self._search_published_again, discovery, strangers, nursery)

    async def _search_published_again(
        self, discovery: Discovery, strangers: CommonsLinks, nursery: trio.Nursery
    ) -> None:
        """Ask again and again: it may be moving or starting, or we may have few contacts yet."""
        pause_s = PUBLISHED_AGAIN_S
        while True:
            await trio.sleep(pause_s)
            pause_s *= 2
            await self._ask_published(discovery, strangers, nursery, anew=True)

    async def _ask_published(
        self,
        discovery: Discovery,
        strangers: CommonsLinks,
        nursery: trio.Nursery,
        *,
        anew: bool = False,
    ) -> None:
        """Look once, and call the peer wherever it says that it is."""
        if anew:
            # Its relays may have a link to it by now; looking takes a while.
            self._try_havens(discovery, strangers, nursery)
        try:
            found = await discovery.locate(self.network, self.member.peer_id, anew=anew)
        except VeilError as error:
            log.debug("not found in the commons", reason=error.message)
            return
        for endpoint in self._node.channels.outside(found.endpoints):
            self.offer(endpoint)
        self._try_havens(discovery, strangers, nursery)

    def _try_havens(
        self, discovery: Discovery, strangers: CommonsLinks, nursery: trio.Nursery
    ) -> None:
        """Ask for circuits at the peer's havens, where that is not under way or done."""
        for haven in discovery.havens(self.network, self.member.peer_id):
            if haven not in self._havens:
                self._havens.add(haven)
                nursery.start_soon(self._try_haven, strangers, haven)

    async def _try_haven(self, strangers: CommonsLinks, haven: Haven) -> None:
        if (place := strangers.guest(haven)) is not None:
            self.offer(place)
            return
        await self.may_detour.wait()
        try:
            self.through(await strangers.circuit(haven, com=await self._com()))
        except VeilError as error:
            log.debug("no way over a haven", reason=error.message)
            self._havens.discard(haven)

    async def _search_endpoints(self) -> None:
        network, peer_id = self.network, self.member.peer_id
        # The owners are those who would be asked, so about them there is nobody to ask.
        if peer_id in network.genesis.owner_ids:
            return
        if self.known:
            await trio.sleep_until(self.began_s + KNOWN_S)
        with contextlib.suppress(VeilError):
            await self._node.gossip.refresh(network, about=peer_id)
        for endpoint in self._node.channels.endpoints(network, self.member):
            self.offer(endpoint)
