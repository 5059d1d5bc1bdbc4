"""What both sides of a circuit share: words, limits, reasons, reservations.

```
 origin            relay                    target          states at the relay
 RelayReserve --->
 CircuitOpen  --->  CircuitIncoming   --->                  ASKING
                    <---  CircuitAccepted | RelayRefused
              <---  CircuitOpened | RelayRefused            LIMITED: 64 KB
 the pair's own handshake, in relay frames
 CircuitConfirm --> ---> CircuitConfirm                     CONFIRMED: the granted limit
                    <---  CircuitConfirm (either may be first)
 CircuitClosed      either way, from anybody                gone
```
A chain has a second relay in the target's place: the first asks it as an end would
(EXTENDING instead of ASKING), and the second has the first in the origin's place.

Machines: `relay_service.RelayService` at a relay, `relay_client.CircuitClient` at an end; both
`handle(event, now) -> actions`, `tick(now) -> actions`, `deadline()`.  They name a link by whose
it is and not by a session, which another replaces every hour: the shell knows which it is now.
"""

from __future__ import annotations

import math
from collections import Counter
from enum import IntEnum
from typing import TYPE_CHECKING, Final, TypeVar

from attrs import define, field, frozen

from veilnet.errors import PeerRefused, PeerUnreachable, VeilError
from veilnet.protocol.relay_messages import RelayMessage

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

Key = tuple[bytes, bytes]
"""Network id and peer id: whose link it is."""

_T = TypeVar("_T")

UNCONFIRMED_BYTES: Final = 65_536
"""What a circuit carries until both ends know by their own handshake whom they talk to."""
ASK_S: Final = 3.0
"""So long a target, or the next relay, may think about a circuit."""
CONFIRM_S: Final = 30.0
"""A circuit that both ends have not confirmed by then is closed."""
RESERVATION_S: Final = 600
"""What a relay grants at once; who has circuits asks again at half of it."""


class Refusal(IntEnum):
    """Why there is no reservation or no circuit: the `code` of RelayRefused, for ever."""

    OTHER = 0
    OFF = 1
    NO_RESERVATION = 2
    FULL = 3
    PEER_FULL = 4
    NO_LINK = 5
    HOPS = 6
    TAKEN = 7
    DECLINED = 8
    TIMEOUT = 9
    VOLUME = 10
    NO_SENSE = 11
    TOO_OFTEN = 12


class Closing(IntEnum):
    """Why a circuit ended: the `code` of CircuitClosed, for ever."""

    DONE = 0
    LINK_LOST = 1
    EXPIRED = 2
    OFF = 3
    VOLUME = 4
    UNCONFIRMED = 5
    UNKNOWN = 6
    FAILED = 7
    FULL = 8


_REFUSED: Final[dict[Refusal, tuple[str, str]]] = {
    Refusal.OFF: ("does not relay for this node", "On that node: veilnet relay status"),
    Refusal.FULL: (
        "carries as many circuits as it may",
        "Try again later; on that node: veilnet relay limit --circuits N",
    ),
    Refusal.PEER_FULL: (
        "carries as many circuits of this node as it may",
        "Close channels that are not needed, or raise its limit: veilnet relay limit",
    ),
    Refusal.VOLUME: (
        "has relayed as much as it may for today",
        "Try again tomorrow; on that node: veilnet relay limit --volume",
    ),
    Refusal.HOPS: ("would be one relay too many", "A circuit passes two relays at most."),
    Refusal.DECLINED: (
        "was told by the peer that it does not want the circuit",
        "Is this node still a member there? On the peer: veilnet peer list",
    ),
}
_UNREACHED: Final[dict[Refusal, str]] = {
    Refusal.NO_LINK: "has no link to the peer",
    Refusal.TIMEOUT: "had no answer from the peer",
}


class CircuitRefused(PeerRefused):
    """A relay made no circuit; `refusal` says why in a form for programs."""

    def __init__(
        self, message: str, *, hint: str = "", refusal: Refusal | int = Refusal.OTHER
    ) -> None:
        super().__init__(message, hint=hint)
        self.refusal = refusal


def refused(code: int, relay: str) -> VeilError:
    """Return the error for what a relay called *relay* answered; never raises."""
    try:
        refusal = Refusal(code)
    except ValueError:
        # A newer relay's reason.  What it says of it is its own text, and not for our users.
        return CircuitRefused(f"the relay {relay} refused, for a reason {code}", refusal=code)
    if refusal in _UNREACHED:
        return PeerUnreachable(f"the relay {relay} {_UNREACHED[refusal]}")
    message, hint = _REFUSED.get(refusal, (f"refused: {refusal.name.lower()}", ""))
    return CircuitRefused(f"the relay {relay} {message}", hint=hint, refusal=refusal)


@frozen(kw_only=True)
class Terms:
    """For whom this node relays, and how much; 0 of rate and volume is no limit.

    *circuits* are confirmed ones: what is not has small caps of its own, so that nobody fills a
    relay with circuits that lead nowhere.
    Units: *rate_bps* bits per second over all circuits; *volume_bytes* per day, likewise.
    """

    for_own: bool = True
    for_strangers: bool = False
    circuits: int = 64
    rate_bps: int = 0
    volume_bytes: int = 0

    @property
    def peer_circuits(self) -> int:
        """Circuits of one peer: half of all, so that none takes a relay from the others."""
        return max(1, self.circuits // 2)

    @property
    def peer_rate_bps(self) -> int:
        """The rate of one peer's circuits together, likewise."""
        return self.rate_bps and max(1, self.rate_bps // 2)

    @property
    def peer_volume_bytes(self) -> int:
        """The volume of one peer's circuits together, likewise."""
        return self.volume_bytes and max(1, self.volume_bytes // 2)

    def serves(self, *, own: bool) -> bool:
        """Whether a peer of this kind may have circuits."""
        return self.for_own if own else self.for_strangers


# --- events of both machines ------------------------------------------------------------------


@frozen
class LinkUp:
    """A link is there, or another session is its session now."""

    key: Key
    initiator: bool
    """Whether this node began the session's handshake: decides the labels it gives."""
    own: bool = True
    """Whether the peer is a valid member of a private network of ours."""
    place: bytes = b""
    """The prefix of its address, or nothing if that is not known."""


@frozen
class LinkDown:
    """A link is gone, and no other session with that peer is left."""

    key: Key


@frozen
class Heard:
    """A message of the peer of a link."""

    key: Key
    message: RelayMessage
    welcome: bool = True
    """Of CircuitIncoming: whether its origin is somebody we would talk to."""


# --- actions of both machines -----------------------------------------------------------------


@frozen
class Send:
    """Send *message* on the link of *key*."""

    key: Key
    message: RelayMessage


def displaced(
    waiting: Sequence[_T],
    whose: Callable[[_T], Hashable],
    newcomer: Hashable,
    *,
    each: float = math.inf,
    in_all: float = math.inf,
) -> _T | None:
    """Return which of *waiting*, the oldest first, goes for one more; None: there is room.

    It is the oldest of the *newcomer's* own kind if that has *each* already, and else, of *in_all*,
    the oldest of the kind that has most: who asks much takes no place from who asks little.
    """
    own = [item for item in waiting if whose(item) == newcomer]
    if len(own) >= each:
        return own[0]
    if len(waiting) < in_all:
        return None
    counts = Counter(whose(item) for item in waiting)
    most = max(counts.values())
    return next(item for item in waiting if counts[whose(item)] == most)


@define
class Reservations:
    """What this node has reserved at relays; at most one of each link.

    Invariant: only relays in use are asked again, so that what nobody needs runs out by itself.
    """

    _until_s: dict[Key, float] = field(factory=dict)
    _ask_s: dict[Key, float] = field(factory=dict)

    def need(self, key: Key, now: float) -> bool:
        """Whether a reservation must be asked for before a circuit; notes that it is."""
        if self._until_s.get(key, -math.inf) > now + ASK_S:
            return False
        self._ask_s[key] = now + ASK_S
        return True

    def granted(self, key: Key, expires_s: int, now: float) -> None:
        """Note what the relay grants, if it was asked."""
        if key in self._ask_s:
            self._until_s[key] = now + expires_s
            self._ask_s[key] = now + max(expires_s / 2, ASK_S)

    def lost(self, key: Key) -> None:
        """Note that there is none."""
        self._until_s.pop(key, None)

    def forget(self, key: Key) -> None:
        """Forget a relay that is not used any more."""
        self._until_s.pop(key, None)
        self._ask_s.pop(key, None)

    def due(self, in_use: Iterable[Key], now: float) -> list[Key]:
        """Return which relays in use must be asked again, and forget the others."""
        used = set(in_use)
        for key in self._ask_s.keys() - used:
            self.forget(key)
        late = [key for key, ask_s in self._ask_s.items() if ask_s <= now]
        for key in late:
            self._ask_s[key] = now + ASK_S
        return late

    def deadline(self) -> float:
        """Return when `due` has something to say; infinity: never."""
        return min(self._ask_s.values(), default=math.inf)
