"""One attempt to meet, at one end: who sends what where and when.  Made when both ends are known.

```
T              both        openers: a probe with a small TTL to each address behind a translator;
                           probes without limit to addresses on the spot and in IPv6
T + gap        first       probes to all, then again and again
T + 2 gap      second      likewise
attempt 1      the caller is first         attempt 2: the other one
attempt 3      hard end    T: 256 sockets, each a probe to the address that the relay vouches for
               easy end    T + gap: probes to many ports of such an address, those foretold first
attempt 4                  the other way round: for an easy end whose translator is leaky
```
`gap` is longer than the two moments T can be apart, so that both translators are open before
anything that is not an opener arrives.  A packet that arrives too early at a plain Linux
masquerade leaves an entry there that moves the mapping it was meant for.
Source: ADR 12; Ford, Srisuresh and Kegel, "Peer-to-Peer Communication Across Network Address
Translators" (2005); RFC 5780.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from itertools import count, islice
from typing import TYPE_CHECKING, Final

from attrs import frozen

from veilnet.nat.classify import Mapping
from veilnet.nat.place import is_private, version_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from random import Random

    from veilnet.nat.budget import ProbeBudget
    from veilnet.protocol.fields import Endpoint

CANDIDATES_MAX: Final = 8
TTL: Final = 5
"""Of an opener, if nothing is known of the hops to the other end."""
MARGIN_S: Final = 0.06
"""What two machines may be late in doing what they meant to do at one moment."""
GAP_MAX_S: Final = 0.6
AGAIN_S: Final = (0.0, 0.12, 0.3, 0.6, 1.0, 1.5)
"""After the first, further rounds of probes."""
HAIRPIN_S: Final = 0.4
"""So much later than those on the spot come the public addresses of one household."""
SOCKETS: Final = 256
BURST: Final = 1_024
"""Ports tried in one attempt: with 256 sockets open 98 % of all meet."""
FORETOLD: Final = 384
SLICE: Final = 24
SLICE_S: Final = 0.15
"""So many ports at once: of more than 16 the engine does not pad the probes."""
BURST_S: Final = 8.0
LATE_S: Final = 3.0
"""So long a late spread may take to be answered."""
SPREAD_S: Final = 9.5
"""So long the hard end waits; its sockets close after 12 s."""
FIRST_PORT: Final = 1_024


@frozen(kw_only=True)
class Side:
    """What one end says of itself."""

    local: tuple[Endpoint, ...] = ()
    """On its own interfaces."""
    public: tuple[Endpoint, ...] = ()
    """Mapped by a gateway that was asked, then as seen by others."""
    mapping: Mapping = Mapping.UNKNOWN
    stride: int = 0

    @property
    def candidates(self) -> tuple[Endpoint, ...]:
        """All addresses, those on the spot first."""
        return tuple(dict.fromkeys((*self.local, *self.public)))[:CANDIDATES_MAX]

    def shares_public_with(self, other: Side) -> bool:
        """Whether both are seen at one IPv4 address: one household."""
        own = {host for host, _ in self.public if version_of(host) == 4}
        return any(host in own for host, _ in other.public)


@frozen
class Punch:
    """`engine.punch`: one probe to each."""

    endpoints: tuple[Endpoint, ...]
    ttl: int | None = None


@frozen
class Spread:
    """`engine.spread`: that many sockets, one probe of each."""

    endpoint: Endpoint
    sockets: int


Step = Punch | Spread


def is_hopeless(own: Side, peer: Side) -> bool:
    """Whether nobody can know where to send, or nothing gets by."""
    blocked = Mapping.BLOCKED in (own.mapping, peer.mapping)
    return blocked or (own.mapping.hard and peer.mapping.hard)


def wants_many(own: Side, peer: Side) -> bool:
    """Whether exactly one end's port has to be found by trying many."""
    return own.mapping.hard != peer.mapping.hard and not is_hopeless(own, peer)


class Attempt:
    """The steps of one attempt.

    Units: seconds, monotonic; *rtt_s* of the way over which both agreed.
    Invariant: what goes to many ports goes to the *vouched* address alone, out of the *budget*, and
    never to a private one, or a relay could have us search a LAN.
    """

    def __init__(
        self,
        *,
        number: int,
        caller: bool,
        own: Side,
        peer: Side,
        vouched: Endpoint | None,
        ttl: int,
        rtt_s: float,
        rng: Random,
        budget: ProbeBudget,
        at_s: float,
    ) -> None:
        self._own, self._peer = own, peer
        self._vouched = None if vouched is None or is_private(vouched[0]) else vouched
        self._rng, self._budget = rng, budget
        self._order = count()
        self._steps: list[tuple[float, int, Step]] = []
        self._ports: deque[int] = deque()
        """Ports to try at the vouched address, the next first."""
        self._next_s = math.inf
        gap_s = min(rtt_s / 2 + MARGIN_S, GAP_MAX_S)
        self.end_s = at_s + 2 * gap_s + AGAIN_S[-1] + min(rtt_s, 1.0) + MARGIN_S
        if number >= 3 and wants_many(own, peer):
            self._plan_many(at_s, gap_s, early=number == 3)
        else:
            first = caller == (number % 2 == 1)
            self._plan(at_s, gap_s, ttl, first=first)

    def deadline(self) -> float:
        """Return when the next step, or the end, is due."""
        due = [self.end_s]
        if self._steps:
            due.append(self._steps[0][0])
        if self._ports:
            due.append(self._next_s)
        return min(due)

    def over(self, now: float) -> bool:
        """Whether there is nothing left to wait for."""
        return now >= self.end_s

    def tick(self, now: float) -> list[Step]:
        """Return the steps that are due."""
        due: list[Step] = []
        while self._steps and self._steps[0][0] <= now:
            due.append(heapq.heappop(self._steps)[2])
        if self._ports and self._next_s <= now and self._vouched is not None:
            self._next_s = now + SLICE_S
            host = self._vouched[0]
            granted = self._budget.take(host, min(SLICE, len(self._ports)), now)
            if granted:
                ports = [self._ports.popleft() for _ in range(granted)]
                due.append(Punch(tuple((host, port) for port in ports)))
            else:
                self._ports.clear()
        return due

    def unsent(self, endpoints: Sequence[Endpoint]) -> None:
        """Try those of many ports again, for which the engine had no budget just now."""
        if self._vouched is not None and self._next_s < math.inf:
            self._budget.give(self._vouched[0], len(endpoints))
            self._ports.extendleft(port for _, port in reversed(endpoints))

    # --- planning --------------------------------------------------------------------------------

    def _at(self, at_s: float, step: Step) -> None:
        if not isinstance(step, Punch) or step.endpoints:
            heapq.heappush(self._steps, (at_s, next(self._order), step))

    def _plan(self, at_s: float, gap_s: float, ttl: int, *, first: bool) -> None:
        near, far = self._places()
        self._at(at_s, Punch(far, ttl))
        self._at(at_s, Punch(near))
        began_s = at_s + (gap_s if first else 2 * gap_s)
        for again_s in AGAIN_S:
            self._at(began_s + again_s, Punch(near))
            if not self._own.shares_public_with(self._peer) or again_s >= HAIRPIN_S:
                self._at(began_s + again_s, Punch(far))

    def _places(self) -> tuple[tuple[Endpoint, ...], tuple[Endpoint, ...]]:
        """Return the peer's addresses without a translator in front, and the others.

        Where nothing translates an opener has nothing to open.
        """
        known = self._peer.candidates
        behind = set(self._peer.public) - set(self._peer.local)
        far = tuple(each for each in known if each in behind and version_of(each[0]) == 4)
        return tuple(each for each in known if each not in far), far

    def _plan_many(self, at_s: float, gap_s: float, *, early: bool) -> None:
        if self._vouched is None:
            return
        self.end_s = at_s + 2 * gap_s + (SPREAD_S if early else BURST_S + LATE_S)
        if self._own.mapping.hard:
            self._at(at_s if early else at_s + gap_s + BURST_S, Spread(self._vouched, SOCKETS))
            return
        self._ports.extend(self._guesses())
        self._next_s = at_s + gap_s

    def _guesses(self) -> Iterator[int]:
        """Yield ports of the peer that may be open, each once: `BURST` of them."""
        vouched = self._vouched
        if vouched is None:
            return iter(())
        told: dict[int, None] = {}
        if self._peer.mapping is Mapping.SEQUENTIAL:
            # The newest flow that anybody told of; the relay's word is of an old one.
            seen = [port for host, port in self._peer.public if host == vouched[0]]
            base, stride = (seen or [vouched[1]])[-1], self._peer.stride
            row = (base + step * stride for step in range(1, FORETOLD + 1))
            told = dict.fromkeys(port for port in row if FIRST_PORT <= port < 2**16)
        for port in self._rng.sample(range(FIRST_PORT, 2**16), BURST):
            told.setdefault(port)
        return islice(told, BURST)
