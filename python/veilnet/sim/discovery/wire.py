"""What everything costs on the wire, headers of UDP and IPv4 included, and who paid it.

```
exchange         question in chunks, answer in chunks (which acknowledge it), one acknowledgement
lookup session   HELLO, RETRY, INIT x 2, RESP x 2                  what two who never met need
full session     that, and identities, credentials and signatures of both, and the ACK
```
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from attrs import define, field

from veilnet.protocol import messages
from veilnet.protocol.arq import MAX_PAYLOAD_BYTES

if TYPE_CHECKING:
    from collections.abc import Hashable

UDP_BYTES: Final = 28
SEAL_BYTES: Final = 32
CHUNK_BYTES: Final = 17
ACK_BYTES: Final = UDP_BYTES + SEAL_BYTES + CHUNK_BYTES

ASKED_S: Final = 55.0
"""So long after it began a session is asked; asking again within it costs no new one."""
LOOKUP_SENT_BYTES: Final = 230 + 2 * 780 + 3 * UDP_BYTES
LOOKUP_RECEIVED_BYTES: Final = 160 + 2 * 640 + 3 * UDP_BYTES
FULL_BYTES: Final = 10_500
"""Each way, when neither knows the other's key: 21 KB in all."""


def datagrams(size: int) -> int:
    """Return how many chunks a message of *size* bytes takes."""
    return max(1, -(-size // MAX_PAYLOAD_BYTES))


def sent_bytes(size: int) -> int:
    """Return what a message of *size* bytes costs on the wire."""
    return size + datagrams(size) * ACK_BYTES


class Sizes:
    """Sizes of encoded messages; those that differ in ids alone are encoded once."""

    def __init__(self) -> None:
        self._known: dict[Hashable, int] = {}

    def of(self, message: Any) -> int:  # noqa: ANN401 - any message of the registry
        """Return the size of *message*."""
        lengths = tuple(
            len(value) if isinstance(value, bytes) else tuple(map(len, value))
            for name in ("contacts", "blobs", "blob", "announce")
            if (value := getattr(message, name, None)) is not None
        )
        key = (type(message), lengths)
        size = self._known.get(key)
        if size is None:
            size = self._known[key] = len(messages.encode(message, 0xFFFF))
        return size


@define
class Meter:
    """Bytes and messages of one node by what they were for."""

    sent: Counter[str] = field(factory=Counter)
    received: Counter[str] = field(factory=Counter)
    asked: int = 0
    answered: int = 0

    def total(self) -> int:
        """Return all bytes, both ways."""
        return self.sent.total() + self.received.total()

    def clear(self) -> None:
        """Begin anew."""
        self.sent.clear()
        self.received.clear()
        self.asked = self.answered = 0
