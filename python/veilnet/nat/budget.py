"""How many probes may go to an address that never answered: a call must not aim a flood.

Invariant: at most `PER_HOST` an hour to one address and `PER_PLACE` to its neighbourhood, whoever
asks; a table of `HOSTS_MAX` addresses that is full of what is still counted gives nothing more.
"""

from __future__ import annotations

from typing import Final

from attrs import define

from veilnet.nat.place import place_of

PER_HOST: Final = 2_048
PER_PLACE: Final = 8_192
HOUR_S: Final = 3_600.0
HOSTS_MAX: Final = 1_024


@define
class _Spent:
    """What went to one address or neighbourhood in the hour that began then."""

    began_s: float
    count: int = 0


class ProbeBudget:
    """The budget of this node.   Units: *now* seconds, monotonic."""

    def __init__(self) -> None:
        self._spent: dict[str, _Spent] = {}

    def __len__(self) -> int:
        return len(self._spent)

    def left(self, host: str, now: float) -> int:
        """Return how many probes may go to *host* now."""
        left = PER_HOST - self._count(host, now)
        return max(0, min(left, PER_PLACE - self._count(place_of(host), now)))

    def take(self, host: str, wanted: int, now: float) -> int:
        """Take up to *wanted* probes to *host* out of the budget; return how many there were."""
        granted = min(wanted, self.left(host, now))
        if granted <= 0 or not self._room(now):
            return 0
        for name in (host, place_of(host)):
            spent = self._spent.get(name)
            if spent is None or now >= spent.began_s + HOUR_S:
                spent = self._spent[name] = _Spent(now)
            spent.count += granted
        return granted

    def give(self, host: str, count: int) -> None:
        """Give back probes that were not sent."""
        for name in (host, place_of(host)):
            if (spent := self._spent.get(name)) is not None:
                spent.count = max(0, spent.count - count)

    def _count(self, name: str, now: float) -> int:
        spent = self._spent.get(name)
        return 0 if spent is None or now >= spent.began_s + HOUR_S else spent.count

    def _room(self, now: float) -> bool:
        if len(self._spent) + 2 > HOSTS_MAX:
            self._spent = {k: s for k, s in self._spent.items() if now < s.began_s + HOUR_S}
        return len(self._spent) + 2 <= HOSTS_MAX
