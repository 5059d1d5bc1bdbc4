"""Home relays: links that stay, so that who cannot be reached directly can still be found.

```
order of M    the other members of the network, by SHA-256(label || peer id of M || peer id)
homes of M    the first three in M's order that M can reach directly and that relay
```
Everybody who knows the members knows everybody's order, so nobody has to be told whose relay
somebody is: whoever wants B looks for B's homes.  A link to a home is never closed for idleness.

Invariant: per network at most `Config.home_relays` links are held, `OPENINGS_MAX` tried at once;
a member that does not answer is tried again after a pause that doubles.
"""

from __future__ import annotations

import enum
import hashlib
import heapq
from typing import TYPE_CHECKING, Final

import attrs
import structlog
import trio

from veilnet.errors import VeilError
from veilnet.protocol import handshake as vnh1
from veilnet.protocol.circuit import is_circuit

if TYPE_CHECKING:
    from collections.abc import Iterable

    from veilnet.daemon.node import Node
    from veilnet.daemon.sessions import Session
    from veilnet.networks.network import Network
    from veilnet.units import NetworkId, PeerId

LABEL: Final = b"veilnet/home-relay/1"
LOOK_S: Final = 5.0
OPENINGS_MAX: Final = 2
OPENING_S: Final = 3.0
FIRST_PAUSE_S: Final = 5.0
MAX_PAUSE_S: Final = 600.0
LEFT_S: Final = 60.0
"""So long a home is left alone whose channel somebody closed by a command."""
TRIED_MAX: Final = 24
"""How far down the order homes are looked for."""
YIELD_S: Final = 1.0
"""Of two who are each other's homes one waits so long for the other, or both would call at once."""
OFFER_S: Final = 5.0
"""So long a new link's peer may take to say whether it relays."""
PAUSES_MAX: Final = 1_024

log = structlog.get_logger("veilnet.homes")

Key = tuple["NetworkId", "PeerId"]


def order(member: PeerId, relays: Iterable[PeerId], *, most: int = TRIED_MAX) -> list[PeerId]:
    """Return the first *most* of *relays* in the order of *member*, its home relays first.

    Source: Thaler and Ravishankar, "Using name-based mappings to increase hit rates" (1998):
    highest random weight, here the lowest.
    """

    def weight(relay: PeerId) -> bytes:
        return hashlib.sha256(LABEL + member + relay).digest()

    return heapq.nsmallest(most, (relay for relay in relays if relay != member), key=weight)


@attrs.define
class _Pause:
    """How long a member that did not answer is left alone."""

    until_s: float
    pause_s: float
    left: bool = False
    """Whether somebody closed its channel by a command."""


class Standing(enum.Enum):
    """What a member in our order is to us."""

    HELD = enum.auto()
    HOPED = enum.auto()
    """Being called, or connected and about to say whether it relays."""
    CALLED = enum.auto()
    """To be called now."""
    NONE = enum.auto()


class Homes:
    """The home relays of this node in each of its networks."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._held: dict[NetworkId, tuple[PeerId, ...]] = {}
        self._pauses: dict[Key, _Pause] = {}
        self._opening: set[Key] = set()
        self._looking = trio.Lock()

    # --- what others ask -------------------------------------------------------------------------

    def order_of(self, network: Network, member: PeerId, *, most: int = TRIED_MAX) -> list[PeerId]:
        """Return who may be a home relay of *member*, likeliest first; this node is left out."""
        return order(member, self._node.relaying.offers(network), most=most)

    def links(self, network: Network) -> list[Session]:
        """Return the links to this node's home relays that are up."""
        sessions = (self.link(network, peer) for peer in self._held.get(network.id, ()))
        return [session for session in sessions if session is not None]

    def link(self, network: Network, peer_id: PeerId) -> Session | None:
        """Return the session with a member if it can carry circuits: it is direct."""
        session = self._node.sessions.carrier(network.id, peer_id)
        if session is None or session.retiring or is_circuit(session.endpoint):
            return None
        return session if session.mode is vnh1.Mode.FULL else None

    def holds(self, session: Session) -> bool:
        """Whether *session* is the link to a home relay of this node."""
        return session.peer_id in self._held.get(session.network_id, ())

    # --- what happens ----------------------------------------------------------------------------

    def lost(self, session: Session) -> None:
        """Look at once for another home, or the same again, when the link to one has ended."""
        if self.holds(session):
            self._node.spawn(self.look)

    def leave(self, key: Key) -> None:
        """Let go of a home whose channel was closed by a command, here or there, for a while."""
        network_id, peer_id = key
        held = self._held.get(network_id, ())
        self._held[network_id] = tuple(item for item in held if item != peer_id)
        self._pause(key, LEFT_S, left=True)

    def gone(self, key: Key) -> None:
        """Give a home that said that it stops the time to come back."""
        self._pause(key, FIRST_PAUSE_S)

    async def look(self) -> None:
        """Choose the homes of every network and begin to open what lacks: one round."""
        async with self._looking:
            for network in self._node.networks:
                self._choose(network)

    def _choose(self, network: Network) -> None:
        wanted = self._node.config.home_relays
        if len(network.members) < 3:
            wanted = 0  # nobody is there to be found by
        held: list[PeerId] = []
        hoped = 0
        for peer_id in self.order_of(network, network.peer_id) if wanted else ():
            if len(held) + hoped >= wanted:
                break
            match self._standing(network, peer_id):
                case Standing.HELD:
                    held.append(peer_id)
                case Standing.HOPED:
                    hoped += 1
                case Standing.CALLED if len(self._opening) < OPENINGS_MAX:
                    hoped += 1
                    self._opening.add((network.id, peer_id))
                    self._node.spawn(self._open, network, peer_id)
        before = self.links(network)
        self._held[network.id] = tuple(held)
        for session in before:
            if session.peer_id not in held:
                self._node.relaying.release(session)
        for session in self.links(network):
            # The relay keeps the link, too, for as long as there is a reservation.
            self._node.relaying.reserve(session)

    def _standing(self, network: Network, peer_id: PeerId) -> Standing:
        key, now = (network.id, peer_id), trio.current_time()
        pause = self._pauses.get(key)
        paused = pause is not None and now < pause.until_s
        if pause is not None and pause.left and paused:
            return Standing.NONE
        session = self.link(network, peer_id)
        if session is not None:
            if session.confirmed:
                self._pauses.pop(key, None)
            if self._node.relaying.relays(session):
                return Standing.HELD
            fresh = now < session.established_s + OFFER_S
            return Standing.HOPED if fresh else Standing.NONE
        if key in self._opening:
            return Standing.HOPED
        return Standing.NONE if paused else Standing.CALLED

    async def _open(self, network: Network, peer_id: PeerId) -> None:
        key = (network.id, peer_id)
        try:
            member = network.members.get(peer_id)
            if member is None:
                return
            if self._is_about_to_call(network, peer_id):
                await trio.sleep(YIELD_S)
                if self.link(network, peer_id) is not None:
                    return
            await self._node.channels.open(network, member, timeout_s=OPENING_S, direct=True)
        except VeilError as error:
            before = self._pauses.get(key)
            pause_s = FIRST_PAUSE_S if before is None else min(2 * before.pause_s, MAX_PAUSE_S)
            self._pause(key, pause_s)
            log.debug("no home", peer=peer_id.hex()[:12], reason=error.message, again_s=pause_s)
        finally:
            self._opening.discard(key)
        await self.look()

    def _is_about_to_call(self, network: Network, peer_id: PeerId) -> bool:
        """Whether a member wants the same link, and is the one of the two to call first."""
        own, relays = network.peer_id, self._node.relaying.offers(network)
        most = self._node.config.home_relays
        return peer_id < own and own in order(peer_id, [*relays, own], most=most)

    def _pause(self, key: Key, pause_s: float, *, left: bool = False) -> None:
        until_s = trio.current_time() + pause_s * (1 + 0.2 * self._node.rng.random())
        self._pauses.pop(key, None)
        self._pauses[key] = _Pause(until_s, pause_s, left)
        if len(self._pauses) > PAUSES_MAX:
            del self._pauses[next(iter(self._pauses))]
