"""This node's own address, as others see it: hearsay, so several have to agree.

```
session, direct     Endpoints(observed) -> heard(observer, at, said)
session ended       forget(observer)
who asks            own(version)        -> host, ports in the order in which flows began, votes
```
One vote for each place (/24, /48) that observers are in: who owns a prefix says one thing.  Three
of at least four make an answer sure; fewer observers give an answer too, that says it is not.

Invariant: at most `OBSERVERS_MAX` are remembered, the one silent for longest goes; what came over a
relay must never be told here.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Final

from attrs import define, frozen

from veilnet.nat.place import place_of, version_of

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Iterable

    from veilnet.protocol.fields import Endpoint

OBSERVERS_MAX: Final = 128
QUORUM: Final = 3
PLACES: Final = 4
"""Places that must have been heard of before an answer is sure."""


@define
class _Word:
    """What one observer says now."""

    place: str
    endpoint: Endpoint
    since_s: float
    """When it first said so: about when its flow began."""
    at_s: float
    until_s: float


@frozen
class Own:
    """Where this node is seen in one IP version."""

    host: str
    ports: tuple[int, ...]
    """One of each place that sees the host, in the order in which the flows began."""
    places: int
    """From how many places anything was heard."""
    votes: int
    sure: bool

    @property
    def endpoint(self) -> Endpoint:
        """The port that most see, the newest of several."""
        counted = Counter(self.ports)
        last = {port: order for order, port in enumerate(self.ports)}
        return self.host, max(counted, key=lambda port: (counted[port], last[port]))


class Reflexive:
    """All that was said of this node's address.   Units: *now* seconds, monotonic."""

    def __init__(self) -> None:
        self._words: dict[Hashable, _Word] = {}

    def __len__(self) -> int:
        return len(self._words)

    def heard(
        self,
        observer: Hashable,
        *,
        at: Endpoint,
        said: Endpoint,
        now: float,
        life_s: float = math.inf,
    ) -> None:
        """Take the word of an *observer*, reached directly *at* its address; it counts *life_s*."""
        said = (said[0], said[1])
        before = self._words.pop(observer, None)
        since_s = before.since_s if before is not None and before.endpoint == said else now
        self._words[observer] = _Word(place_of(at[0]), said, since_s, now, now + life_s)
        if len(self._words) > OBSERVERS_MAX:
            del self._words[next(iter(self._words))]

    def forget(self, observer: Hashable) -> None:
        """Forget what an observer said: its flow has ended."""
        self._words.pop(observer, None)

    def clear(self) -> None:
        """Forget everything: this node has moved."""
        self._words.clear()

    def own(
        self, version: int, *, local: Collection[str] = (), now: float = -math.inf
    ) -> Own | None:
        """Return where this node is seen; None: nobody has said so.

        *local*: its own addresses.  Of two answers with as many votes a foreign one counts: who is
        in front of the translator sees our own address, whoever is behind it never does.
        """
        words = self._by_place(version, now)
        if not words:
            return None
        hosts = Counter(word.endpoint[0] for word in words)
        newest = {word.endpoint[0]: word.since_s for word in words}
        host = max(hosts, key=lambda each: (hosts[each], each not in local, newest[each]))
        votes = hosts[host]
        return Own(
            host=host,
            ports=tuple(word.endpoint[1] for word in words if word.endpoint[0] == host),
            places=len(words),
            votes=votes,
            sure=len(words) >= PLACES and votes >= QUORUM and 2 * votes > len(words),
        )

    def endpoints(self, *, local: Collection[str] = (), now: float = -math.inf) -> list[Endpoint]:
        """Return the answer of each IP version, the version that more see first."""
        both = (self.own(version, local=local, now=now) for version in (4, 6))
        found = [own for own in both if own is not None]
        found.sort(key=lambda own: -own.votes)
        return [own.endpoint for own in found]

    def _by_place(self, version: int, now: float) -> list[_Word]:
        """Return the newest word of each place, the flow that began first at the front."""
        words: Iterable[_Word] = (
            word
            for word in self._words.values()
            if version_of(word.endpoint[0]) == version and word.until_s > now
        )
        newest: dict[str, _Word] = {}
        for word in sorted(words, key=lambda word: word.at_s):
            newest[word.place] = word
        return sorted(newest.values(), key=lambda word: word.since_s)
