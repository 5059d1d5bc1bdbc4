"""The wall clock, for credentials and observations only; timers use trio's monotonic one."""

from __future__ import annotations

import time


def unix_now() -> int:
    """Return the wall clock in unix seconds."""
    return int(time.time())
