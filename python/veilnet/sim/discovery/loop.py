"""Virtual time: a heap of what is to happen.

Invariant: `now` never goes back, and two things due at the same time happen in the order in which
they were asked for, so a seed decides everything.
"""

from __future__ import annotations

import heapq
import itertools
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

Due = tuple[float, int, "Callable[..., None]", tuple[Any, ...]]


class Loop:
    """Calls what is due, in order of time."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now
        self.happened = 0
        self._due: list[Due] = []
        self._number = itertools.count()

    def __repr__(self) -> str:
        return f"<Loop at {self.now:.3f} s, {len(self._due)} due>"

    def at(self, when: float, call: Callable[..., None], *args: Any) -> None:  # noqa: ANN401 - passed on
        """Have *call* called with *args* at *when*, or now if that is past."""
        heapq.heappush(self._due, (max(when, self.now), next(self._number), call, args))

    def run(self, until: float = math.inf, *, done: Callable[[], bool] | None = None) -> bool:
        """Call what is due up to *until*, or until *done*; return whether *done* said so.

        Without *done*, `now` is *until* afterwards, if that is a time.
        """
        if done is not None and done():
            return True
        while self._due and self._due[0][0] <= until:
            self.now, _, call, args = heapq.heappop(self._due)
            self.happened += 1
            call(*args)
            if done is not None and done():
                return True
        if done is None and math.isfinite(until):
            self.now = max(self.now, until)
        return False
