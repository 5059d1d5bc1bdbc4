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
class Look:
    """How many captured packets held a text that nobody else has, and how many were looked at."""

    on_wire: int
    inside: int
    frames: int

    @property
    def proves(self) -> bool:
        """True if the text was seen inside of the tunnel, and on no wire."""
        return self.on_wire == 0 and self.inside > 0 and self.frames > 0


@attrs.frozen
class Direct:
    """The first act: two nodes, one wire.

    Units: *handshake_ms* and *ping_ms* milliseconds (median); *mbps* Mbit/s of one TCP stream.
    """

    handshake_ms: float
    suite: str
    ping_ms: float
    pings_answered: int
    pings_sent: int
    mbps: float
    look: Look

    @property
    def ok(self) -> bool:
        """True if traffic flowed, and the tap that can see clear text saw none on the wire."""
        return self.pings_answered > 0 and self.mbps > 0 and self.look.proves


@attrs.frozen
class Relayed:
    """The second act: the direct way is cut under a running stream, and mended later.

    Units: *failover_ms* from the last byte before to the first byte after, at the receiver;
    *back_s* from the mending until the direct path was chosen again; *mbps* of one more TCP stream
    over the relay; *look* is that of a tap at the relay.
    """

    failover_ms: float
    mbps: float
    look: Look
    back_s: float
    stream_bytes: int
    stream_intact: bool

    @property
    def ok(self) -> bool:
        """True if the stream survived whole, and the relay saw none of what it carried."""
        return self.failover_ms > 0 and self.mbps > 0 and self.stream_intact and self.look.proves


@attrs.frozen
class Result:
    """What was measured, act by act."""

    nodes: int
    direct: Direct
    relayed: Relayed
    took_s: float = 0.0

    @property
    def ok(self) -> bool:
        """True if both acts showed what a tunnel must show."""
        return self.direct.ok and self.relayed.ok

    def to_json(self) -> dict[str, Any]:
        """Return the members that scripts may rely on."""
        return {
            "nodes": self.nodes,
            "handshake_ms": self.direct.handshake_ms,
            "direct_mbps": self.direct.mbps,
            "relayed_mbps": self.relayed.mbps,
            "failover_ms": self.relayed.failover_ms,
            "plaintext_on_wire": self.direct.look.on_wire + self.relayed.look.on_wire,
            "ok": self.ok,
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Result:
        """Return what `attrs.asdict` made *value* of."""
        looks = [Look(**value[act]["look"]) for act in ("direct", "relayed")]
        return cls(
            nodes=value["nodes"],
            direct=Direct(**value["direct"] | {"look": looks[0]}),
            relayed=Relayed(**value["relayed"] | {"look": looks[1]}),
            took_s=value["took_s"],
        )
