"""How long the first byte to a stranger takes, when nothing of what it needs is warm.

```
find      Get(locator): the shipped lookup with its lookup sessions      simulated, round by round
link      asker - relay: HELLO/RETRY, INIT/RESP                          2 round trips
circuit   AUTH with CircuitOpen behind it .. CircuitOpened with a cookie 1 of both legs
channel   asker - target over the circuit: INIT/RESP                     1 of both legs
byte      AUTH with data behind it                                       1/2 of both legs
```
The descriptor names up to four relays, each near to the target: of *drawn* that it once tried it
kept those with the least round trip.  The asker says HELLO to all of them, and goes on with the
first that answers; one of them may have left since.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from attrs import frozen

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

NAMED: Final = 4
DRAWN: Final = 16
LINK_TRIPS: Final = 2.0
CHANNEL_TRIPS: Final = 1.0


@frozen
class FirstByte:
    """Where the time went.   Units: seconds."""

    find_s: float
    link_s: float
    circuit_s: float
    channel_s: float
    byte_s: float

    @property
    def whole_s(self) -> float:
        """Return the time from the first packet to its arrival at the target."""
        return self.find_s + self.link_s + self.circuit_s + self.channel_s + self.byte_s


def first_byte(
    find_s: float,
    asker: int,
    target: int,
    relays: Sequence[int],
    rtt_s: Callable[[int, int], float],
    *,
    link_trips: float = LINK_TRIPS,
    channel_trips: float = CHANNEL_TRIPS,
) -> FirstByte:
    """Return the stages of a first byte after a lookup of *find_s*."""
    relay = min(relays, key=lambda r: rtt_s(asker, r))
    near = rtt_s(asker, relay)
    whole = near + rtt_s(relay, target)
    return FirstByte(
        find_s=find_s,
        link_s=link_trips * near,
        circuit_s=whole,
        channel_s=channel_trips * whole,
        byte_s=whole / 2,
    )


def relays_of(
    target: int,
    candidates: Sequence[int],
    rtt_s: Callable[[int, int], float],
    rng: random.Random,
    *,
    gone: float,
) -> list[int]:
    """Return the relays in the descriptor of *target* that are still there.

    One at least is: who loses all of them publishes anew.
    """
    drawn = rng.sample(candidates, min(DRAWN, len(candidates)))
    named = sorted(drawn, key=lambda r: rtt_s(target, r))[:NAMED]
    return [r for r in named if rng.random() >= gone] or named[:1]
