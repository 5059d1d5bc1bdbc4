"""Discovery: how this node is found by others in the commons, and finds them.

```
bootstrap  addresses where somebody may answer --> dht (as an entry of the commons)
members    a member of ours is in the same commons, most likely: its address is an entry too
locate     a peer's descriptor: where it is, and its havens
```
"""

from __future__ import annotations

import contextlib
import ipaddress
import math
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import attrs
import structlog
import trio

from veilnet.daemon.commons.dht import Dht
from veilnet.daemon.commons.havens import Haven
from veilnet.daemon.commons.publishing import Publishing
from veilnet.daemon.host import unix_now
from veilnet.daemon.ladder.ladder import MAX_PAUSE_S
from veilnet.daemon.underlay import is_reachable
from veilnet.discovery.cache import ContactCache
from veilnet.discovery.contact import RELAYS, STORES, VERSIONS, Horizon, pack_endpoint
from veilnet.discovery.descriptor import Descriptor, open_, open_name
from veilnet.discovery.locator import days, locator, name_locator, secret_of
from veilnet.errors import PeerUnreachable, VeilError
from veilnet.nat.place import version_of
from veilnet.protocol.circuit import is_stand_in
from veilnet.units import NetworkId, PeerId

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence
    from ipaddress import IPv4Network, IPv6Network

    from veilnet.daemon.node import Node
    from veilnet.daemon.sessions import Session
    from veilnet.discovery.contact import Contact
    from veilnet.networks.commons import Commons
    from veilnet.networks.endpoint import Endpoint
    from veilnet.networks.member import Member
    from veilnet.networks.network import Network
    from veilnet.protocol.messages import Envelope

LOOK_S: Final = 5.0
SAVE_S: Final = 60.0
CACHE_FILE: Final = "contacts.bin"
LOOK_UP_S: Final = 8.0
KNOWN_S: Final = 30.0
"""So long a descriptor that was found is believed without looking again."""
NEWER_S: Final = 1.0
"""So long something newer is waited for once what is known already was found again."""
PUBLISHED_MAX: Final = 1_024

log = structlog.get_logger("veilnet.discovery")

Key = tuple[NetworkId, PeerId]


@attrs.frozen
class _Published:
    """What a peer published, and when it was found."""

    descriptor: Descriptor
    found_s: float


class _Saved:
    """The cache of contacts, as the ladder asks it."""

    def __init__(self, cache: Callable[[], ContactCache], rng: random.Random) -> None:
        self._cache, self._rng = cache, rng

    def sample(self, count: int) -> list[Contact]:
        """Return up to *count* contacts of different prefixes."""
        return self._cache().contacts(count, self._rng)


class Discovery:
    """The node's part in finding and being found; `run` in a nursery."""

    def __init__(self, node: Node, commons: Commons) -> None:
        self._node = node
        self._commons = commons
        self.dht = Dht(node, commons)
        self.publishing = Publishing(node, self.dht)
        self._published: OrderedDict[Key, _Published] = OrderedDict()
        self._cache = ContactCache()
        self.saved = _Saved(lambda: self._cache, node.rng)
        """Contacts of the last run, for the ladder, once they are `restored`."""
        self.restored = trio.Event()
        self._again_s = -math.inf
        """When to climb again at the earliest ..."""
        self._again_pause_s = LOOK_S
        """... and how long after that."""

    def __repr__(self) -> str:
        return f"<Discovery {self.dht!r}>"

    # --- what others ask -------------------------------------------------------------------------

    @property
    def contacts(self) -> int:
        """How many nodes of the commons this one knows to answer."""
        return len(self.dht.machine.table)

    def to_json(self) -> dict[str, Any]:
        """Return what `status` and `doctor` say of it."""
        strangers = self._node.strangers
        havens = () if strangers is None else strangers.havens()
        return {
            "commons": self._commons.name,
            "contacts": self.contacts,
            "havens": [haven.relay.hex() for haven in havens],
            "published": [
                {"network": network.name, "storers": self.publishing.storers(network)}
                for network in self._node.networks
            ],
            "announced": self.dht.machine.announce,
        }

    async def run(self) -> None:
        """Ask and answer, until cancelled.

        Raises: BrokenEngineError.
        """
        await self._look_around()
        await self._restore()
        self.restored.set()
        await self.dht.run()

    async def _restore(self) -> None:
        """Read the contacts of the last run."""
        try:
            data = await trio.to_thread.run_sync(self._node.store.read, CACHE_FILE)
            if data is not None:
                # Whatever version of IP this host lacks just now: it may have it tomorrow.
                horizon = attrs.evolve(self.dht.machine.horizon, versions=VERSIONS)
                self._cache = ContactCache.decode(data, horizon)
        except VeilError as error:
            log.warning("no saved contacts", reason=error.message)

    async def save(self) -> None:
        """Write the contacts down for the next start: one round.

        Raises: ConfigError, PrivilegeError: they cannot be written.
        """
        contacts = self.dht.machine.contacts()
        if contacts:
            self._cache.note(contacts, unix_now())
            data, store = self._cache.encode(), self._node.store
            await trio.to_thread.run_sync(store.write, CACHE_FILE, data, limiter=self._node.disk)

    async def look(self) -> None:
        """See where we are, what we do for others, and whether there is anybody: one round."""
        await self._look_around()
        self._climb_if_lost(trio.current_time())
        await self.dht.asking.look()
        self._node.blocked.look()

    def _climb_if_lost(self, now_s: float) -> None:
        """Begin anew where no contact is left; ever more seldom where nobody becomes one.

        So it is among members who are all behind translators, and know nobody else.
        """
        ladder = self._node.bootstrap.ladder
        if self.dht.machine.table.answering:
            self._be_quick()
        elif ladder.has_won and now_s >= self._again_s:
            self._again_s = now_s + self._again_pause_s
            self._again_pause_s = min(2 * self._again_pause_s, MAX_PAUSE_S)
            ladder.lost()

    def moved(self) -> None:
        """This host calls from elsewhere: sessions of before lead nowhere."""
        self.dht.asking.moved()
        self._be_quick()

    def _be_quick(self) -> None:
        """Climb at once the next time that no contact is left."""
        self._again_s, self._again_pause_s = -math.inf, LOOK_S

    async def _look_around(self) -> None:
        local = await self._node.addresses.local_endpoints()
        machine = self.dht.machine
        near = [_net(endpoint) for endpoint in local if not is_reachable(endpoint)]
        # Behind a private IPv4 address there is a translator; behind a private IPv6 one, nothing.
        versions = frozenset(
            version_of(each.host)
            for each in local
            if is_reachable(each)
            or (version_of(each.host) == 4 and not ipaddress.ip_address(each.host).is_loopback)
        )
        overlay = tuple(self._node.networks.overlay)
        machine.look_around(Horizon(tuple(near), overlay, versions or VERSIONS))
        open_ = any(is_reachable(endpoint) for endpoint in local)
        machine.announce = open_
        strangers = self._node.relaying.service.offer(trio.current_time()).for_strangers
        machine.flags = STORES * open_ | RELAYS * (open_ and strangers)

    def met(self, session: Session) -> None:
        """Take the address of a peer that we called as an entry to the commons."""
        if session.initiator and not is_stand_in(session.endpoint):
            self.dht.learned((session.endpoint,))
        self._node.blocked.answered(session.endpoint)

    def asked(self, session: Session, envelope: Envelope) -> None:
        """Answer a question of a stranger."""
        if session.network_id == self._commons.id:
            self.dht.asked(session, envelope)

    # --- finding ---------------------------------------------------------------------------------

    async def locate(self, network: Network, peer_id: PeerId, *, anew: bool = False) -> Descriptor:
        """Return what a peer last published in *network*.

        *anew*: what was found before did not lead to it, so only something newer ends the search:
        storers that the peer cannot reach any more keep what it said before.
        Raises: PeerUnreachable: it is not found.
        """
        key: Key = (network.id, peer_id)
        known = self._known_of(key)
        now = trio.current_time()
        if known is not None and not anew and now < known.found_s + KNOWN_S:
            return known.descriptor
        secret = secret_of(network.k_net)
        least_seq = 0 if known is None else known.descriptor.seq
        signatures = self._node.backend.signatures(network.suite)
        found: list[Descriptor] = []

        def check(blob: bytes, day: int) -> bool:
            opened = open_(
                blob,
                peer_id=peer_id,
                network_secret=secret,
                epoch_day=day,
                signatures=signatures,
                unix_s=unix_now(),
                least_seq=least_seq,
            )
            if anew and known is not None and opened.descriptor.seq == least_seq:
                scope.deadline = min(scope.deadline, trio.current_time() + NEWER_S)
                return False
            found.append(opened.descriptor)
            return True

        with trio.CancelScope() as scope:
            await self._look_up(secret, partial(locator, secret, peer_id), check, found)
        best = max(found, key=lambda item: item.seq, default=None)
        # Meanwhile somebody else may have looked, too.
        latest = self._known_of(key)
        if best is not None and (latest is None or latest.descriptor.seq <= best.seq):
            self._published.pop(key, None)
            self._published[key] = _Published(best, now)
            if len(self._published) > PUBLISHED_MAX:
                self._published.popitem(last=False)
            return best
        if latest is None or not (anew or found):
            raise PeerUnreachable("it has published nothing that could be found")
        return latest.descriptor

    def _known_of(self, key: Key) -> _Published | None:
        """Return what was found of a peer, unless it says itself that it holds no more."""
        known = self._published.get(key)
        if known is not None and known.descriptor.expires_s <= unix_now():
            del self._published[key]
            return None
        return known

    async def _look_up(
        self,
        secret: bytes,
        where: Callable[[int], bytes],
        check: Callable[[bytes, int], bool],
        found: Sequence[object],
    ) -> None:
        """Look under today's locator; near its turn, and if nothing is *found*, the other day's."""

        def holds(day: int, blob: bytes) -> bool:
            try:
                return check(blob, day)
            except VeilError as error:
                log.debug("nothing of a member", reason=error.message)
                return False

        with trio.move_on_after(LOOK_UP_S):
            for day in days(secret, unix_now()):
                with contextlib.suppress(PeerUnreachable):
                    await self.dht.get(where(day), partial(holds, day))
                if found:
                    return

    def havens(self, network: Network, peer_id: PeerId) -> tuple[Haven, ...]:
        """Return where in the commons a peer could be found when it was last looked up."""
        known = self._published.get((network.id, peer_id))
        if known is None:
            return ()
        said = known.descriptor
        target = PeerId(said.commons_id)
        return tuple(Haven(relay, where, target) for relay, where in said.relays if target)

    async def resolve(self, network: Network, name: str) -> Member:
        """Return the member that has *name* in the network, which no member told us of.

        Raises: PeerUnreachable: nobody has published the name.
        """
        secret = secret_of(network.k_net)
        signatures = self._node.backend.signatures(network.suite)
        found: list[tuple[int, Member]] = []

        def check(blob: bytes, day: int) -> bool:
            opened = open_name(
                blob,
                name=name,
                network_secret=secret,
                epoch_day=day,
                signatures=signatures,
                unix_s=unix_now(),
            )
            said = opened.record
            member = network.recognise(opened.public_key, said.credential, signatures)
            if member.peer_id != said.peer_id or member.name != name:
                return False
            found.append((said.seq, member))
            return True

        await self._look_up(secret, partial(name_locator, name, secret), check, found)
        if not found:
            raise PeerUnreachable(f"nobody has published the name {name}")
        return max(found, key=lambda item: item[0])[1]

    def is_near(self, endpoint: Endpoint) -> bool:
        """Whether an address is of a network that this host is in itself."""
        return self.dht.machine.horizon.is_near(pack_endpoint(endpoint)[:16])

    def relays(self) -> list[tuple[PeerId, Endpoint]]:
        """Return the contacts that say that they relay for strangers."""
        contacts = self.dht.machine.contacts()
        found = [(PeerId(c.id), c.endpoint) for c in contacts if c.flags & RELAYS]
        self._node.rng.shuffle(found)
        return found


def _net(endpoint: Endpoint) -> IPv4Network | IPv6Network:
    # The host's own prefix length is not asked for: a home network is a /16 or a /48 at most.
    bits = 48 if ":" in endpoint.host else 16
    return ipaddress.ip_network(f"{endpoint.host}/{bits}", strict=False)
