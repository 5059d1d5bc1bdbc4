"""This node's own address, as others see it: hearsay, so several have to agree.

```
session, direct     Endpoints(observed) -> heard(observer, at, said)
session ended       forget(observer)
who asks            own(version)        -> host, ports in the order in which flows began, votes
```
One vote for each place (/24, /48) that observers are in: who owns a prefix says one thing.  Three
of at least four make an answer sure; fewer observers give an answer too, that says it is not.  As
long as it is not, what members say counts before what strangers say, however many those are.

Invariant: at most `OBSERVERS_MAX` are remembered; the place that most of them are in loses one, a
stranger before a member, so that no prefix pushes out the others.  What came over a relay must
never be told here.
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
    member: bool
    since_s: float
    """When it first said so: about when its flow began."""
    at_s: float
    until_s: float


@frozen
class Own:
    """Where this node is seen in one IP version."""

    host: str
    port: int
    """The one that most see, the newest of several; a member's, while the answer is not sure."""
    ports: tuple[int, ...]
    """One of each place that sees the host, in the order in which the flows began."""
    places: int
    """From how many places anything was heard."""
    votes: int
    sure: bool

    @property
    def endpoint(self) -> Endpoint:
        """Where to be called."""
        return self.host, self.port


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
        member: bool = True,
    ) -> None:
        """Take the word of an *observer*, reached directly *at* its address; it counts *life_s*.

        *member*: whether it belongs to a network of ours, and is not just anybody whom we asked.
        """
        said = (said[0], said[1])
        before = self._words.pop(observer, None)
        since_s = before.since_s if before is not None and before.endpoint == said else now
        self._words[observer] = _Word(place_of(at[0]), said, member, since_s, now, now + life_s)
        if len(self._words) > OBSERVERS_MAX:
            self._make_room()

    def _make_room(self) -> None:
        """Forget one of the place that most are in: a stranger's word, and the oldest."""
        crowd = Counter(word.place for word in self._words.values())
        del self._words[
            min(
                self._words,
                key=lambda each: (-crowd[self._words[each].place], self._words[each].member),
            )
        ]

    def forget(self, observer: Hashable) -> None:
        """Forget what an observer said: its flow has ended."""
        self._words.pop(observer, None)

    def clear(self, version: int) -> None:
        """Forget all of one IP version: this node calls from elsewhere in it."""
        self._words = {
            observer: word
            for observer, word in self._words.items()
            if version_of(word.endpoint[0]) != version
        }

    def own(
        self, version: int, *, local: Collection[str] = (), now: float = -math.inf
    ) -> Own | None:
        """Return where this node is seen; None: nobody has said so.

        *local*: its own addresses.  Of two answers with as many votes a foreign one counts: who is
        in front of the translator sees our own address, whoever is behind it never does.
        """
        answers = self._answers(version, local, now)
        return answers[0] if answers else None

    def endpoints(self, *, local: Collection[str] = (), now: float = -math.inf) -> list[Endpoint]:
        """Return where to be called in each IP version, the version that more see first.

        Where members say another host than most do both are told.
        """
        both = [self._answers(version, local, now) for version in (4, 6)]
        both.sort(key=lambda answers: -answers[0].votes if answers else 0)
        return [own.endpoint for answers in both for own in answers]

    def _answers(self, version: int, local: Collection[str], now: float) -> list[Own]:
        """Return what to believe, then what else may be true: what most say, what members say."""
        words = self._by_place(version, now)
        if not words:
            return []
        hosts = Counter(word.endpoint[0] for word in words)
        newest = {word.endpoint[0]: word.since_s for word in words}
        host = max(hosts, key=lambda each: (hosts[each], each not in local, newest[each]))
        sure = len(words) >= PLACES and hosts[host] >= QUORUM and 2 * hosts[host] > len(words)
        # A member on our side of the translator does not know where we are seen from beyond.
        told = Counter(w.endpoint[0] for w in words if w.member and w.endpoint[0] not in local)
        theirs = max(told, key=lambda each: (told[each], newest[each]), default=host)
        ranked = (host, theirs) if sure else (theirs, host)
        return [_own(each, words, sure=sure and each == host) for each in dict.fromkeys(ranked)]

    def _by_place(self, version: int, now: float) -> list[_Word]:
        """Return one word of each place, the flow that began first at the front.

        It is the newest, of members if there are any.
        """
        words: Iterable[_Word] = (
            word
            for word in self._words.values()
            if version_of(word.endpoint[0]) == version and word.until_s > now
        )
        newest: dict[str, _Word] = {}
        for word in sorted(words, key=lambda word: (word.member, word.at_s)):
            newest[word.place] = word
        return sorted(newest.values(), key=lambda word: word.since_s)


def _own(host: str, words: Collection[_Word], *, sure: bool) -> Own:
    """Return the answer *host* with what *words*, in order, say of it."""
    seen = [word for word in words if word.endpoint[0] == host]
    ports = tuple(word.endpoint[1] for word in seen)
    counted = Counter(ports)
    last = {port: order for order, port in enumerate(ports)}
    told = set() if sure else {word.endpoint[1] for word in seen if word.member}
    port = max(counted, key=lambda each: (each in told, counted[each], last[each]))
    return Own(host, port, ports, len(words), len(seen), sure)
