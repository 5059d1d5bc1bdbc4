"""What one session, and one prefix of addresses, may ask of a node that answers strangers.

Sessions cost a stranger one key encapsulation and ids nothing, so what lasts (stores) is counted
by prefix as well.  Both tables forget the oldest first and are bounded.
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
WINDOW_S: Final = 3_600.0
MAX_ENTRIES: Final = 2_048


class _Window:
    __slots__ = ("asks", "began", "bytes", "stores")

    def __init__(self, now: float) -> None:
        self.began = now
        self.asks = self.bytes = self.stores = 0


class Quota:
    """Counts by key over windows of `WINDOW_S`; at most *most* keys of each kind."""

    __slots__ = ("_most", "_prefixes", "_sessions")

    def __init__(self, most: int = MAX_ENTRIES) -> None:
        self._most = most
        self._sessions: dict[Hashable, _Window] = {}
        self._prefixes: dict[bytes, _Window] = {}

    def __len__(self) -> int:
        return len(self._sessions) + len(self._prefixes)

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
