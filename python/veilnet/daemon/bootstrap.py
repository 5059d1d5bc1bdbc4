"""Bootstrap: every way to somebody who answers, and what is done with whom it finds.

```
commons               whoever is at an address is asked for the way --> an entry of the table
network of ours, LAN  a member, or somebody who has its secret: noted, and called if we are alone
```
A node that keeps to its own networks has the link and its gateway; the rest is of the commons.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

import attrs
import structlog
import trio

from veilnet.daemon.host import unix_now
from veilnet.daemon.ladder import Found, Scope
from veilnet.daemon.ladder.build import Climb, Surroundings, build
from veilnet.daemon.underlay import resolve
from veilnet.errors import ConfigError, VeilError
from veilnet.networks.member import Hearsay

if TYPE_CHECKING:
    from collections.abc import Iterator

    from veilnet.daemon.commons.discovery import Discovery
    from veilnet.daemon.ladder.ladder import Ladder
    from veilnet.daemon.node import Node
    from veilnet.networks.endpoint import Endpoint
    from veilnet.networks.member import Member
    from veilnet.networks.network import Network
    from veilnet.units import PeerId

LAN: Final = "lan"
"""The step that hears members on the link, and the teller of what it heard."""
CALL_S: Final = 5.0
CALLS_MAX: Final = 4
"""At once, of neighbours that no table tells of: whom they know, they tell of."""
KNOCKS_MAX: Final = 8
"""At once, of those that the ladder comes upon: most of `asking.OPENINGS_MAX` is for questions."""

log = structlog.get_logger("veilnet.bootstrap")


class Bootstrap:
    """The node's ladder; `run` in a nursery."""

    def __init__(self, node: Node, discovery: Discovery | None) -> None:
        self._node, self._discovery = node, discovery
        self._named: list[Endpoint] = []
        """First contacts that the operator named."""
        self._calls = trio.CapacityLimiter(CALLS_MAX)
        self._knocks = trio.Semaphore(KNOCKS_MAX)
        self._climb: Climb = build(
            node.config,
            Surroundings(
                port=node.engine.port,
                scopes=self._scopes,
                rng=node.rng,
                tun=node.engine.tun_name,
                overlay=lambda: node.networks.overlay,
                commons=None if node.commons is None else node.commons.id,
                cache=None if discovery is None else discovery.saved,
                known=self._known,
            ),
        )

    def __repr__(self) -> str:
        return f"<Bootstrap {self.ladder!r}>"

    @property
    def ladder(self) -> Ladder:
        """The steps, and what became of each."""
        return self._climb.ladder

    @property
    def mapped(self) -> Endpoint | None:
        """The gateway's port that leads here, if it gave one."""
        return self._climb.mapped

    def to_json(self) -> dict[str, Any]:
        """Return what `status` and `doctor` show."""
        return self.ladder.to_json()

    def moved(self) -> None:
        """This host is in another network: nothing that failed need wait, nobody is known there."""
        if self._discovery is None:
            self.ladder.lost()
        else:
            self.ladder.nudge()

    async def run(self) -> None:
        """Climb, and meet whom it finds, until cancelled.

        Raises: BrokenEngineError.
        """
        if self._discovery is not None:
            await self._resolve_named()
            await self._discovery.restored.wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.ladder.run)
            nursery.start_soon(self._meet)

    async def _resolve_named(self) -> None:
        """Look up the operator's first contacts; a name that means nothing now is left out."""
        for text in self._node.config.contacts:
            try:
                self._named += await trio.to_thread.run_sync(resolve, (text,))
            except ConfigError as error:
                log.warning("contact not resolved", reason=error.message)

    def _scopes(self) -> list[Scope]:
        commons, networks = self._node.commons, self._node.networks
        own = [Scope(network.id, network.peer_id, network.k_net) for network in networks]
        if commons is None:
            return own
        return [Scope(commons.id, commons.peer_id, commons.k_net, public=True), *own]

    def _known(self) -> Iterator[Found]:
        """Yield what the operator named, then where members of our networks were seen last."""
        for endpoint in self._named:
            network_id = None if self._node.commons is None else self._node.commons.id
            yield Found(endpoint, "known", network_id)
        for network in self._node.networks:
            for member in network.members:
                if member.peer_id != network.peer_id:
                    for endpoint in self._node.channels.endpoints(network, member):
                        yield Found(endpoint, "known", network.id, member.peer_id)

    # --- meeting ---------------------------------------------------------------------------------

    async def _meet(self) -> None:
        """Ask whoever the ladder comes upon, a few at a time: a flood of them waits its turn."""
        async for found in self.ladder.contacts:
            if self._node.channels.outside((found.endpoint,)):
                self._neighbour(found)
                if self._discovery is not None:
                    await self._knocks.acquire()
                    self._node.spawn(self._knock, self._discovery, found)

    async def _knock(self, discovery: Discovery, found: Found) -> None:
        """Learn who is at an address, if it is a node of the commons."""
        try:
            await discovery.dht.knock(found.endpoint)
        except VeilError as error:
            log.debug("no contact", at=str(found.endpoint), step=found.step, reason=error.message)
            return
        finally:
            self._knocks.release()
        self.ladder.worked(found)

    def _neighbour(self, found: Found) -> None:
        """Note where a member of ours is that was heard on the link; call it if we are alone.

        Whoever shares a link may have nobody else to be found by.
        """
        network = None if found.network_id is None else self._node.networks.get(found.network_id)
        peer_id, now = found.peer, unix_now()
        if found.step != LAN or network is None or peer_id in (None, network.peer_id):
            return
        member = network.members.get(peer_id)
        if member is None:
            # Who shares the network's secret shows its credential when it is called.
            is_new = self._node.sessions.carrier(network.id, peer_id) is None
            if is_new and self._calls.borrowed_tokens < CALLS_MAX:
                self._node.spawn(self._call_new, network, peer_id, found)
            else:
                self.ladder.forget(found)
            return
        if self._discovery is None:
            self.ladder.worked(found)  # whom a node of its own networks looks for
        if found.endpoint in member.endpoints:
            return
        heard = attrs.evolve(member, seen=(), seen_s=0, hearsay=(Hearsay(now, (found.endpoint,)),))
        network.members.merge((heard,), now, teller=LAN.encode())
        self._node.changed(network)
        if all(session.network_id != network.id for session in self._node.sessions.carriers()):
            self._node.spawn(self._call, network, member)

    async def _call_new(self, network: Network, peer_id: PeerId, found: Found) -> None:
        async with self._calls:
            try:
                await self._node.channels.call(
                    network, peer_id, (found.endpoint,), timeout_s=CALL_S
                )
            except VeilError as error:
                log.debug("not called", at=str(found.endpoint), reason=error.message)
                self.ladder.forget(found)

    async def _call(self, network: Network, member: Member) -> None:
        with contextlib.suppress(VeilError):
            await self._node.channels.open(network, member, timeout_s=CALL_S, direct=True)
