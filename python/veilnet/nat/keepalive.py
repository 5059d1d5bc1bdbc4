"""How long a direct link may be silent before the translator in front of us forgets it.

```
silent for S, then the peer sends   came through -> survived(S): longer ones are tried
                                    did not      -> died(S), twice in a row and, where there are
                                                    several peers, with two: shorter ones are tried
nothing known                       3-5 s while in use, 8-28 s idle, log-uniform
S died                              never longer than what survived, or half of S
28 s survived                       idle silences grow with what survived, to 2 minutes
nothing left to try, now and then   relax: a little more than what died, in case that was not true
```
One answer for all links: they share the translator.
Source: RFC 4787 REQ-5 (two minutes), which not every translator keeps.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Hashable
    from random import Random

ACTIVE_S: Final = (3.0, 5.0)
IDLE_S: Final = (8.0, 28.0)
LEAST_S: Final = 0.8
MOST_S: Final = 120.0
FIRST_TEST_S: Final = 5.0
LEAST_TEST_S: Final = 1.2
PART: Final = 0.8
"""Of what survived is used: the next silence may be longer than it was meant to be."""
ENOUGH: Final = 1.3
"""Between what survives and what does not, nothing is looked for any more."""
HOPE: Final = 1.5
"""So much beyond what was looked for is looked for after `relax`."""


class Keepalive:
    """What is known of the translator's patience.   Units: seconds."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self.survived_s = 0.0
        """The longest silence after which something still came."""
        self.died_s = math.inf
        """The shortest after which nothing did."""
        self.doubters: frozenset[Hashable] = frozenset()
        """With whom the silence that is tested just now was not survived."""
        self._limit_s = math.inf
        """What is tested next is shorter."""
        self._doubt_s: float | None = None

    @property
    def is_short(self) -> bool:
        """Whether the translator forgets sooner than the engine's own keepalives come."""
        return self.died_s <= IDLE_S[1] / PART

    @property
    def longest_s(self) -> float:
        """The longest silence that is allowed."""
        if self.is_short:
            known_s = PART * self.survived_s if self.survived_s else self.died_s / 2
            return max(LEAST_S, known_s)
        return min(MOST_S, max(IDLE_S[1], PART * self.survived_s))

    def pause_s(self, *, active: bool) -> float:
        """Return how long to be silent now."""
        low, high = ACTIVE_S if active else IDLE_S
        longest_s = self.longest_s
        if not active and not self.is_short:
            high = max(high, longest_s)
        pause_s = low * math.exp(math.log(high / low) * self._rng.random())
        if pause_s > longest_s:
            pause_s = longest_s * (0.8 + 0.2 * self._rng.random())
        return max(LEAST_S, pause_s)

    def test_s(self) -> float | None:
        """Return the silence to try next; None: enough is known."""
        if self._doubt_s is not None:
            return self._doubt_s
        if math.isinf(self._limit_s):
            longer_s = 2 * self.survived_s or FIRST_TEST_S
            return longer_s if longer_s <= MOST_S else None
        if not self.survived_s:
            shorter_s = self._limit_s / 2
            return shorter_s if shorter_s >= LEAST_TEST_S else None
        if self._limit_s / self.survived_s <= ENOUGH:
            return None
        return math.sqrt(self._limit_s * self.survived_s)

    def survived(self, silent_s: float) -> None:
        """Something came after that silence."""
        self._doubt_s, self.doubters = None, frozenset()
        self.survived_s = max(self.survived_s, silent_s)
        if self.died_s <= self.survived_s:
            # It was something else, or is another translator: step by step, links depend on it.
            self.died_s = self._limit_s = 2 * self.survived_s

    def died(self, silent_s: float, *, by: Hashable = None, needed: int = 1) -> None:
        """Nothing came.  One datagram may be lost anywhere: a second time is needed.

        *by*: with whom it was tested; *needed*: how many different ones have to say so.
        """
        again = self._doubt_s is not None
        self._doubt_s, self.doubters = silent_s, self.doubters | {by}
        if not again or len(self.doubters) < needed:
            return
        self._doubt_s, self.doubters = None, frozenset()
        self.died_s = self._limit_s = min(self.died_s, silent_s)
        if self.survived_s >= self.died_s:
            self.survived_s = 0.0

    def relax(self) -> None:
        """Have longer silences tested again than those that once died; links keep what is safe."""
        self._limit_s *= HOPE
