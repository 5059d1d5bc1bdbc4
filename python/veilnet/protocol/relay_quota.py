"""How much a relay has carried today, for whom, and what is left.

Invariant: the sum that is left for all peers is never more than what is left in all, and no peer
has more than half of a day.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from attrs import define, field

if TYPE_CHECKING:
    from veilnet.protocol.relay import Key, Terms

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
