"""Publishing: where this node is, in each of its networks, for whoever knows how to look.

What is said settles for two seconds before it is signed, so a haven that comes and goes costs
nothing.  A sequence number is on the disk before anybody sees it.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

import structlog
import trio

from veilnet.daemon.host import unix_now
from veilnet.discovery.events import Failed, Reason
from veilnet.discovery.locator import secret_of
from veilnet.discovery.publisher import Content, Publisher
from veilnet.errors import BrokenEngineError, ConfigError, VeilError

if TYPE_CHECKING:
    from veilnet.daemon.commons.dht import Dht
    from veilnet.daemon.node import Node
    from veilnet.discovery.events import Put, Stored
    from veilnet.networks.endpoint import Endpoint
    from veilnet.networks.network import Network
    from veilnet.units import NetworkId

LOOK_S: Final = 1.0
HAVENS_S: Final = 8.0
"""So long after the first contacts havens are waited for before anything is published."""
ENDPOINTS_MAX: Final = 8
RELAYS_MAX: Final = 4

log = structlog.get_logger("veilnet.publishing")


class Publishing:
    """A publisher for each network of this node."""

    def __init__(self, node: Node, dht: Dht) -> None:
        self._node = node
        self._dht = dht
        self._publishers: dict[NetworkId, Publisher] = {}
        self._since_s = trio.current_time()
        """When there was nobody to ask yet."""
        self._seen: tuple[Endpoint, ...] = ()
        """Where others saw us last, with the addresses ..."""
        self._local: tuple[Endpoint, ...] = ()
        """... that we had then."""

    def __repr__(self) -> str:
        return f"<Publishing {list(self._publishers.values())}>"

    def storers(self, network: Network) -> int:
        """Return how many nodes keep what this one published in *network*, as far as is known."""
        publisher = self._publishers.get(network.id)
        return 0 if publisher is None else publisher.storers

    async def look(self) -> None:
        """Say what has changed, and keep up what was said: one round.

        Raises: ConfigError, PrivilegeError: a sequence number cannot be written, so nothing is
        published.
        """
        for network_id in self._publishers.keys() - {item.id for item in self._node.networks}:
            self._publishers.pop(network_id).stop()
        now = trio.current_time()
        if not self._dht.has_contacts:
            self._since_s = now
            return
        if self._is_about_to_have_havens(now):
            return
        where = await self._where()
        for network in self._node.networks:
            publisher = self._publisher(network)
            publisher.update(self._content(network, where), now)
            puts = publisher.tick(now, unix_now())
            if publisher.unsaved:
                name, state = _file(network), publisher.state
                store, disk = self._node.store, self._node.disk
                await trio.to_thread.run_sync(store.write, name, state, limiter=disk)
                publisher.unsaved = False
            for put in puts:
                self._node.spawn(self._put, publisher, put)

    def _is_about_to_have_havens(self, now_s: float) -> bool:
        """Whether to wait a little: without its havens a node behind a NAT is not found."""
        strangers, discovery = self._node.strangers, self._node.discovery
        if self._publishers or strangers is None or discovery is None or strangers.havens():
            return False
        return bool(discovery.relays()) and now_s < self._since_s + HAVENS_S

    def _publisher(self, network: Network) -> Publisher:
        publisher = self._publishers.get(network.id)
        if publisher is None:
            publisher = self._publishers[network.id] = self._new(network)
        return publisher

    def _new(self, network: Network) -> Publisher:
        def made(state: bytes | None) -> Publisher:
            return Publisher(
                self._node.identity,
                secret_of(network.k_net),
                rng=self._node.rng,
                octets=secrets.token_bytes,
                next_id=self._dht.next_id,
                state=state,
            )

        try:
            return made(self._node.store.read(_file(network)))
        except ConfigError as error:
            # Its numbers follow the clock: they still rise.
            log.warning("published anew", network=network.name, reason=error.message)
            return made(None)

    async def _where(self) -> tuple[Endpoint, ...]:
        """Return where others may call us: as they see us, then as we see ourselves.

        Strangers' words lapse when nobody was asked for a while. That is no news: as long as our
        own addresses stay and nobody says otherwise, we are where we were seen last.
        """
        local = tuple(await self._node.addresses.local_endpoints())
        seen = tuple(self._node.gossip.own_observed())
        if seen or local != self._local:
            self._seen, self._local = seen, local
        return tuple(dict.fromkeys((*self._seen, *local)))[:ENDPOINTS_MAX]

    def _content(self, network: Network, where: tuple[Endpoint, ...]) -> Content:
        strangers = self._node.strangers
        havens = () if strangers is None else strangers.havens()[:RELAYS_MAX]
        return Content(
            endpoints=where,
            relays=tuple((haven.relay, haven.endpoint) for haven in havens),
            commons_id=havens[0].target if havens else b"",
            name=network.own.name,
            credential=network.own.encoding,
        )

    async def _put(self, publisher: Publisher, put: Put) -> None:
        ended: Stored | Failed = Failed(put.id, Reason.NOT_STORED)
        try:
            ended = await self._dht.run_put(put)
        except BrokenEngineError:
            raise
        except VeilError as error:
            log.debug("not published", reason=error.message)
        finally:
            # However it ended: what the publisher believes to be under way it never tries again.
            if publisher.done(ended, trio.current_time()):
                log.debug("published", storers=publisher.storers)


def _file(network: Network) -> str:
    return f"published-{network.id.hex()[:16]}.bin"
