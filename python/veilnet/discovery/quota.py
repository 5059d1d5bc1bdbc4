"""What one session, and one prefix of addresses, may ask of a node that answers strangers.

Sessions cost a stranger one key encapsulation and ids nothing, so what lasts (stores) is counted
by prefix as well, and so is the pace of all questions: an answer takes some 150 us of this node.
The tables forget the oldest first and are bounded.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, TypeVar

Key = TypeVar("Key", bound=Hashable)

ASKS_PER_SESSION: Final = 128
"""In `WINDOW_S`; a lookup session lives for 60 s."""
BYTES_PER_SESSION: Final = 524_288
"""Of answers, in `WINDOW_S`."""
STORES_PER_SESSION: Final = 32
STORES_PER_PREFIX: Final = 128
ASKS_PER_PREFIX_S: Final = 32.0
BURST_PER_PREFIX: Final = 128.0
ASKS_PER_S: Final = 500.0
"""Of all prefixes together: less than a tenth of one core."""
BURST: Final = 1_000.0
WINDOW_S: Final = 3_600.0
MAX_ENTRIES: Final = 2_048


class _Window:
    __slots__ = ("asks", "began", "bytes", "stores")

    def __init__(self, now: float) -> None:
        self.began = now
        self.asks = self.bytes = self.stores = 0


class _Bucket:
    """So many questions at once, and *per_s* a second on and on."""

    __slots__ = ("_at", "_left", "_most", "_per_s")

    def __init__(self, per_s: float, most: float) -> None:
        self._per_s = per_s
        self._most = self._left = most
        self._at = float("-inf")

    def take(self, now: float) -> bool:
        self._left = min(self._most, self._left + (now - self._at) * self._per_s)
        self._at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


class Quota:
    """Counts by key over windows of `WINDOW_S`; at most *most* keys of each kind."""

    __slots__ = ("_all", "_most", "_paces", "_prefixes", "_sessions")

    def __init__(self, most: int = MAX_ENTRIES) -> None:
        self._most = most
        self._sessions: dict[Hashable, _Window] = {}
        self._prefixes: dict[bytes, _Window] = {}
        self._paces: dict[bytes, _Bucket] = {}
        self._all = _Bucket(ASKS_PER_S, BURST)

    def __len__(self) -> int:
        return len(self._sessions) + len(self._prefixes) + len(self._paces)

    def pace(self, prefix: bytes, now: float) -> bool:
        """Tell whether there is time for a question from *prefix*.

        What one prefix asks beyond its own pace takes nothing of what is there for all.
        """
        bucket = self._paces.pop(prefix, None) or _Bucket(ASKS_PER_PREFIX_S, BURST_PER_PREFIX)
        self._paces[prefix] = bucket
        if len(self._paces) > self._most:
            del self._paces[next(iter(self._paces))]
        return bucket.take(now) and self._all.take(now)

    def ask(self, session: Hashable, now: float) -> bool:
        """Count a question; tell whether it may be answered."""
        window = self._window(self._sessions, session, now)
        window.asks += 1
        return window.asks <= ASKS_PER_SESSION and window.bytes <= BYTES_PER_SESSION

    def answer(self, session: Hashable, size: int, now: float) -> None:
        """Count an answer of *size* bytes."""
        self._window(self._sessions, session, now).bytes += size

    def store(self, session: Hashable, prefix: bytes, now: float) -> bool:
        """Count a store; tell whether it may be."""
        by_session = self._window(self._sessions, session, now)
        by_prefix = self._window(self._prefixes, prefix, now)
        by_session.stores += 1
        by_prefix.stores += 1
        return by_session.stores <= STORES_PER_SESSION and by_prefix.stores <= STORES_PER_PREFIX

    def _window(self, table: dict[Key, _Window], key: Key, now: float) -> _Window:
        window = table.pop(key, None)
        if window is None or now - window.began >= WINDOW_S:
            window = _Window(now)
        # Put back at the end: the first is the one not asked after for longest.
        table[key] = window
        if len(table) > self._most:
            del table[next(iter(table))]
        return window
