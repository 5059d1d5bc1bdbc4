"""What a peer may still have of a relay: volume of the day, a rate, and openings.

Strangers together have half of everything, and what a peer may have is half of its kind's.

Invariant: no peer has more than half of a day, and all strangers together have no more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from attrs import define, evolve, field

from veilnet.protocol.relay import UNCONFIRMED_BYTES
from veilnet.protocol.relay_steps import Limit, Phase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from veilnet.protocol.relay import Key, Terms
    from veilnet.protocol.relay_steps import Relayed

FREE_RATE_BPS: Final = 1_000_000_000_000
"""What stands for no limit in the engine's bucket."""
FREE_BYTES: Final = 1 << 62
BURST_S: Final = 0.05
MIN_BURST_BYTES: Final = 131_072
"""Two super-packets, or a bucket would cut what the kernel gives us whole."""
MAX_BURST_BYTES: Final = 16_777_216
DAY_S: Final = 86_400.0
PEERS_MAX: Final = 4_096
"""Peers whose volume of the day is known; of more, those that used least are forgotten."""


@define
class Quota:
    """Bytes relayed since the day began; a day of its own, for no wall clock is read."""

    began_s: float
    total_bytes: int = 0
    """Since the start, over all days."""
    day_bytes: int = 0
    _of_peer: dict[Key, int] = field(factory=dict)

    def spend(self, key: Key, count: int, now: float) -> None:
        """Note that *count* bytes were carried for the peer of *key*."""
        self._turn(now)
        self.total_bytes += count
        self.day_bytes += count
        self._of_peer[key] = self._of_peer.get(key, 0) + count
        if len(self._of_peer) > PEERS_MAX:
            del self._of_peer[min(self._of_peer, key=self._of_peer.__getitem__)]

    def left(self, key: Key, terms: Terms, now: float) -> int | None:
        """Return the bytes that a peer may still have today; None if there is no limit."""
        if not terms.volume_bytes:
            return None
        self._turn(now)
        in_all = terms.volume_bytes - self.day_bytes
        return max(0, min(in_all, terms.peer_volume_bytes - self._of_peer.get(key, 0)))

    def spent(self, terms: Terms, now: float) -> bool:
        """Whether nothing is left for anybody."""
        self._turn(now)
        return bool(terms.volume_bytes) and self.day_bytes >= terms.volume_bytes

    def _turn(self, now: float) -> None:
        if now >= self.began_s + DAY_S:
            self.began_s += (now - self.began_s) // DAY_S * DAY_S
            self.day_bytes = 0
            self._of_peer.clear()


def part(terms: Terms, *, own: bool) -> Terms:
    """Return the terms for a kind of peers: half of all for strangers, members may have all."""
    if own:
        return terms
    return evolve(
        terms,
        circuits=max(1, terms.circuits // 2),
        rate_bps=terms.rate_bps and max(1, terms.rate_bps // 2),
        volume_bytes=terms.volume_bytes and max(1, terms.volume_bytes // 2),
    )


def rate(circuits: Sequence[Relayed], terms: Terms, peers: int = 2) -> int:
    """Return the part of a peer's rate that each of its open *circuits* has.

    *peers*: how many share the rate of *terms*; none has more than half of it.
    """
    if not terms.rate_bps:
        return FREE_RATE_BPS
    return max(1, terms.rate_bps // max(2, peers) // max(1, len(circuits)))


def burst(rate_bps: int) -> int:
    """Return the bytes that a circuit's bucket holds; the 64 KB until it is confirmed are less."""
    return min(max(int(rate_bps / 8 * BURST_S), MIN_BURST_BYTES), MAX_BURST_BYTES)


def share(
    circuits: Sequence[Relayed], terms: Terms, left: int | None, peers: int = 2
) -> list[Limit]:
    """Share a peer's rate and what is *left* of its volume among its open *circuits*.

    Returns what changes thereby; the circuits know it already.
    """
    rate_bps = rate(circuits, terms, peers)
    changed: list[Limit] = []
    for circuit in circuits:
        limit = FREE_BYTES if left is None else circuit.bytes + left // len(circuits)
        if circuit.phase is Phase.LIMITED:
            limit = min(limit, UNCONFIRMED_BYTES)
        if (rate_bps, limit) != (circuit.rate_bps, circuit.limit_bytes):
            circuit.rate_bps, circuit.limit_bytes = rate_bps, limit
            changed.append(Limit((circuit.near, circuit.near_label), rate_bps, limit))
    return changed


OPENINGS_MAX: Final = 32
"""Circuits that a peer may ask for at once ..."""
OPENING_S: Final = 2.0
"""... and then one in so many seconds.

Each new circuit brings a bucket of its own, filled; at this pace that adds little to a peer's rate.
"""


@define
class Pace:
    """How often peers ask for circuits; it outlives their links, which a new handshake replaces.

    Invariant: kept is only what still holds somebody back, and of at most `PEERS_MAX` peers.
    """

    _free_s: dict[Key, float] = field(factory=dict)
    """When the whole allowance of a peer is there again."""

    def take(self, key: Key, now: float) -> bool:
        """Whether the peer of *key* may have one more now; notes that it has."""
        free_s = max(self._free_s.get(key, now), now) + OPENING_S
        if free_s > now + OPENINGS_MAX * OPENING_S:
            return False
        self._free_s.pop(key, None)
        if len(self._free_s) >= PEERS_MAX:
            self._free_s = {each: at for each, at in self._free_s.items() if at > now}
        if len(self._free_s) >= PEERS_MAX:
            del self._free_s[next(iter(self._free_s))]
        self._free_s[key] = free_s
        return True
