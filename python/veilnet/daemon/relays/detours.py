"""Ways round: circuits to a peer through relays that both can reach, found without being told.

```
one relay    the peer's likeliest homes, and whom we have links with, at most four at a time
two relays   one of our links -> one of the peer's homes, when no single relay was found
```
Links to relays are opened directly or not at all, so that looking for a way never recurses.
"""

from __future__ import annotations

from collections import deque
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Final

import structlog
import trio

from veilnet.errors import PeerUnreachable, VeilError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from veilnet.daemon.commons.havens import Haven
    from veilnet.daemon.node import Node
    from veilnet.daemon.relays.relaying import Circuit
    from veilnet.daemon.sessions import Session
    from veilnet.networks.network import Network
    from veilnet.paths import ArmId
    from veilnet.units import PeerId

AT_A_TIME: Final = 4
OURS_MAX: Final = 6
THEIRS_MAX: Final = 6
CHAINS_MAX: Final = 9
LINK_S: Final = 3.0
CIRCUIT_S: Final = 3.0

log = structlog.get_logger("veilnet.detours")


class Detours:
    """Finds relays towards members and opens circuits through them."""

    def __init__(self, node: Node) -> None:
        self._node = node

    # --- who -------------------------------------------------------------------------------------

    def candidates(self, network: Network, target: PeerId) -> list[PeerId]:
        """Return the relays to try, likeliest first: those that need no new link come first."""
        homes = self._node.homes
        theirs = homes.order_of(network, target, most=THEIRS_MAX)
        linked = [peer for peer in theirs if homes.link(network, peer) is not None]
        ours = [peer for peer in self._linked(network) if peer != target and peer not in linked]
        others = [peer for peer in theirs if peer not in linked]
        # A turn for each: a stranger's home costs a handshake, our own links may lack the peer.
        turns = chain.from_iterable(zip_longest(others, ours[:OURS_MAX]))
        found = dict.fromkeys(peer for peer in (*linked, *turns) if peer is not None)
        offers = [(peer, self._node.relaying.offered(network, peer)) for peer in found]
        willing = [(peer, offer.busy) for peer, offer in offers if offer is not None]
        # One that says it is busy is asked after the others.
        return [peer for peer, _ in sorted(willing, key=lambda item: item[1])]

    def _linked(self, network: Network) -> list[PeerId]:
        """Return whom this node has direct links with: its homes, then the others."""
        homes = self._node.homes
        held = [session.peer_id for session in homes.links(network)]
        others = (
            session.peer_id
            for session in self._node.sessions.carriers()
            if session.network_id == network.id and homes.link(network, session.peer_id)
        )
        return list(dict.fromkeys(chain(held, others)))

    def havens(self, network: Network, target: PeerId) -> tuple[Haven, ...]:
        """Return where in the commons *target* was last known to be found."""
        discovery = self._node.discovery
        return () if discovery is None else discovery.havens(network, target)

    # --- how -------------------------------------------------------------------------------------

    async def find(
        self,
        network: Network,
        target: PeerId,
        found: Callable[[Circuit], None],
        *,
        most: int,
        but: Iterable[PeerId] = (),
        com: bytes | None = None,
    ) -> int:
        """Open circuits to *target* through relays other than *but*; return how many.

        *found* is called with each as soon as it is open, and has to close what it does not use;
        *com*: the commitment of the handshake that is to go through.
        Cancellation: openings under way are given up.
        """
        avoided = set(but)
        single = [(p,) for p in self.candidates(network, target) if p not in avoided]
        count = await self._race(network, target, single, found, most=most, com=com)
        if not count:
            chains = self._chains(network, target)
            count = await self._race(network, target, chains, found, most=1, com=com)
        return count

    def _chains(self, network: Network, target: PeerId) -> list[ArmId]:
        offered = self._node.relaying.offered
        ours = [peer for peer in self._linked(network) if offered(network, peer) is not None]
        theirs = self._node.homes.order_of(network, target, most=THEIRS_MAX)
        chains: list[ArmId] = [
            (mine, its) for its in theirs for mine in ours if len({mine, its, target}) == 3
        ]
        return chains[:CHAINS_MAX]

    async def _race(
        self,
        network: Network,
        target: PeerId,
        arms: Sequence[ArmId],
        found: Callable[[Circuit], None],
        *,
        most: int,
        com: bytes | None,
    ) -> int:
        waiting, count = deque(arms), 0

        async def work() -> None:
            nonlocal count
            while waiting and count < most:
                arm = waiting.popleft()
                try:
                    circuit = await self.open(network, target, arm, com=com)
                except VeilError as error:
                    words = "-".join(peer.hex()[:12] for peer in arm)
                    log.debug("no way round", by=words, reason=error.message)
                    continue
                count += 1
                found(circuit)
            if count >= most:
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for _ in range(min(AT_A_TIME, len(arms))):
                nursery.start_soon(work)
        return count

    async def open(
        self, network: Network, target: PeerId, arm: ArmId, *, com: bytes | None = None
    ) -> Circuit:
        """Open the circuit of *arm* (one relay or two), and a link to its first relay if need be.

        Raises: PeerUnreachable, PeerRefused, LocalProtocolError: no such circuit, and why.
        """
        first, *through = arm
        strangers = self._node.strangers
        for haven in self.havens(network, target):
            if strangers is not None and arm == (haven.relay,):
                return await strangers.circuit(haven, com=com)
        await self.link_to(network, first, timeout_s=LINK_S)
        return await self._node.relaying.open_circuit(
            network,
            first,
            target,
            through=through[0] if through else None,
            com=com,
            timeout_s=CIRCUIT_S,
        )

    async def link_to(self, network: Network, peer: PeerId, *, timeout_s: float) -> Session:
        """Return a direct session with a member.   Raises: PeerUnreachable and what it refused."""
        session = self._node.homes.link(network, peer)
        if session is not None:
            return session
        member = network.members.get(peer)
        if member is None:
            raise PeerUnreachable("the relay is no member of the network any more")
        return await self._node.channels.open(network, member, timeout_s=timeout_s, direct=True)
