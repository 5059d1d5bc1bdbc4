"""What a demo reports: one line per step while it runs, and figures at its end."""

from __future__ import annotations

from typing import Any

import attrs


@attrs.frozen
class Step:
    """One thing that the demo does; with a *detail* it is done."""

    text: str
    detail: str = ""


@attrs.frozen
class Result:
    """What was measured.

    Units: *handshake_ms* and *ping_ms* milliseconds (median); *direct_mbps* Mbit/s of one TCP
    stream; *plaintext_on_wire*, *plaintext_inside*, *wire_frames* counts of captured packets.
    """

    nodes: int
    handshake_ms: float
    direct_mbps: float
    plaintext_on_wire: int
    plaintext_inside: int
    wire_frames: int
    ping_ms: float
    pings_answered: int
    pings_sent: int
    suite: str
    took_s: float = 0.0

    @property
    def ok(self) -> bool:
        """True if traffic flowed, and the tap that can see clear text saw none on the wire."""
        return (
            self.pings_answered > 0
            and self.direct_mbps > 0
            and self.plaintext_on_wire == 0
            and self.plaintext_inside > 0
            and self.wire_frames > 0
        )

    def to_json(self) -> dict[str, Any]:
        """Return the members that scripts may rely on; relays add theirs when they exist."""
        return {
            "nodes": self.nodes,
            "handshake_ms": self.handshake_ms,
            "direct_mbps": self.direct_mbps,
            "plaintext_on_wire": self.plaintext_on_wire,
            "ok": self.ok,
        }
