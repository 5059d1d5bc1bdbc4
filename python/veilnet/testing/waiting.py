"""Waiting for a fact about programs that do not tell when it comes true."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from veilnet.errors import TimedOut

if TYPE_CHECKING:
    from collections.abc import Callable

_LOOK_S: Final = 0.05


def wait_until(fact: Callable[[], object], what: str, *, timeout_s: float) -> None:
    """Wait until *fact* is true.  Raises: TimedOut, which says *what* was not."""
    deadline = time.monotonic() + timeout_s
    while not fact():
        if time.monotonic() >= deadline:
            raise TimedOut(f"{what}: not so within {timeout_s:g} s")
        time.sleep(_LOOK_S)
