"""Which relay carries a stream that runs: seen from what the relays send, not from what is said."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from veilnet.testing.node import Node

_LISTEN_S = 0.3
_PER_S = 100.0
"""A stream of some Mbit/s is more datagrams than that; probes and control are fewer."""


def carrier(relays: Sequence[Node], *, listen_s: float = _LISTEN_S) -> Node | None:
    """Return the one of *relays* that forwards a stream now; None if none does.

    Shares say where a new flow would go; one that is under way keeps its path.
    """
    before = [_sent(relay) for relay in relays]
    time.sleep(listen_s)
    counts = [_sent(relay) - count for relay, count in zip(relays, before, strict=True)]
    most = max(counts, default=0)
    return relays[counts.index(most)] if most > _PER_S * listen_s else None


def _sent(node: Node) -> int:
    return int(node.look()["engine"]["tx_datagrams"])
