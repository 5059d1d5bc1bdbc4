"""What a path policy is: arms and samples go in, a decision comes out.

```
set_arms(destination, arms)   which ways there are now: direct, over a relay, over two
update(destination, samples)  what one second of each active path or probe showed
decide(destination)        -> shares over at most 3 arms, one probe or none, one standby or none
explain(destination)       -> the same in plain words
```
A policy proposes and never acts: `Guard` bounds what it says, the daemon opens paths and sets
shares.  Clock and random source are arguments; one policy object serves all destinations.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Final, Protocol, TypeAlias

from attrs import field, frozen

from veilnet.units import PeerId

ArmId: TypeAlias = tuple[PeerId, ...]
"""() is the direct path, (r,) one relay, (r1, r2) a chain of two in the order of travel."""

Destination: TypeAlias = Hashable
"""Who is to be reached: a peer id in the daemon, any key elsewhere (bytes outlive a restart)."""

DIRECT: Final[ArmId] = ()
MAX_SHARES: Final = 3
MAX_ARMS: Final = 64
"""Arms of one destination that are looked at; `set_arms` drops what comes after."""
MAX_SAMPLES: Final = 256
"""Samples that one `update` looks at."""
MAX_DESTINATIONS: Final = 1_024
"""Destinations remembered at once; the one unused for longest is forgotten first."""


@frozen
class Arm:
    """One way to a destination, with what is known of it before it was ever used."""

    id: ArmId
    own_leg_s: float
    """Round trip to the (first) relay; for the direct arm its own round trip. NaN: not known."""

    far_leg_s: float
    """Round trip from there to the destination, as the destination says; direct: 0. NaN: not
    known.
    """

    prefixes: frozenset[str] = frozenset()
    """Places that it shares with others (``198.51.100.0/24``, ``AS64500``): of arms that share a
    relay or one of these only one carries traffic.
    """

    @property
    def is_direct(self) -> bool:
        """Whether no relay is in between."""
        return not self.id

    def overlaps(self, other: Arm) -> bool:
        """Whether both stand or fall together: the same relay, or one prefix."""
        return (
            self.id == other.id
            or not set(self.id).isdisjoint(other.id)
            or not self.prefixes.isdisjoint(other.prefixes)
        )


@frozen
class Sample:
    """What about one second of use, or one probe, showed of an arm.

    All of it rests on what the destination itself acknowledged, never on a relay's word; the one
    exception, *busy*, can only make the arm less attractive.
    """

    arm: ArmId
    rtt_s: float | None
    """Mean round trip; None: nothing came back."""

    loss: float
    """0..1 of what was sent."""

    jitter_s: float
    rtt_min_s: float
    """The least round trip of recent minutes; what is above it is queueing."""

    demand_bps: float
    """What was to be sent; 0 for a probe."""

    goodput_bps: float
    """What arrived."""

    probe: bool
    busy: bool = False
    """A relay of the arm says that it drops for lack of room."""


@frozen
class Decision:
    """What to do in the second to come."""

    shares: tuple[tuple[ArmId, float], ...]
    """At most `MAX_SHARES` arms, largest share first, summing to 1; empty: there is no arm."""

    probe: ArmId | None = None
    standby: ArmId | None = None
    """To be kept warm: takes over in the engine when an active path fails."""

    reason: str = ""


@frozen
class ArmView:
    """One arm in `explain`."""

    id: ArmId
    forecast_ms: float
    """Expected cost in equivalent milliseconds; 2000 is dead."""

    confidence: float
    """0 (only ever computed) .. 1 (measured often and lately)."""

    share: float
    bias_ms: float
    """What it is charged for having been better to probes than to data."""

    age_s: float
    """Since the last sample; infinite: none yet."""

    reason: str = field(default="")


class Policy(Protocol):
    """Decides by which ways traffic to a destination goes."""

    @property
    def name(self) -> str:
        """The name that `make_policy` knows it by."""

    def set_arms(self, destination: Destination, arms: Sequence[Arm], now_s: float) -> None:
        """Say which arms there are now; what is known of those that stay is kept.

        Units: *now_s* seconds, monotonic, the same clock in every call.
        """

    def update(self, destination: Destination, samples: Sequence[Sample], now_s: float) -> None:
        """Learn from *samples*; those of arms that are not there are ignored."""

    def decide(self, destination: Destination, now_s: float, *, quiet: bool = False) -> Decision:
        """Return what to do next; called about once a second for each active destination.

        *quiet*: hardly any data flows, so probe less.
        """

    def explain(self, destination: Destination, now_s: float) -> tuple[ArmView, ...]:
        """Return every arm as the policy sees it, cheapest first; changes nothing."""

    def forget(self, destination: Destination) -> None:
        """Drop all that is known of *destination* alone."""

    def state(self) -> bytes:
        """Return what deserves to outlive a restart."""

    def load_state(self, data: bytes) -> None:
        """Take back what `state` returned; anything else is logged once and changes nothing."""
