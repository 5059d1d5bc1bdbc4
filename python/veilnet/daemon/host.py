"""What the host itself says: its wall clock and its name.

The wall clock is for credentials and observations only; timers use trio's monotonic one.
"""

from __future__ import annotations

import socket
import time

from veilnet.networks.names import name_from_host


def unix_now() -> int:
    """Return the wall clock in unix seconds."""
    return int(time.time())


def own_name() -> str:
    """Return the name that this host would have in a network."""
    return name_from_host(socket.gethostname())
