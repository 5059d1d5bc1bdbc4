"""What the demo plays, inside namespaces; started by `veilnet.demo.run`."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

import attrs

from veilnet.demo.icmp import ping
from veilnet.demo.result import Direct, Look, Relayed, Result, Step
from veilnet.demo.traffic import PINGS, look, speed, transfer_mbps
from veilnet.errors import InternalError, TimedOut
from veilnet.testing import Backbone, Delays, Flow, Host, Lab, Node

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_LEG_S = 0.002
"""The relay is further away than the server: so it is a second choice, as relays are."""

_STREAM_BPS = 20e6
_WARM_BYTES = 1 << 20
_LOOK_S = 0.05
_READY_S = 20.0
_BACK_S = 30.0


@attrs.frozen
class Stage:
    """Three hosts around a router."""

    backbone: Backbone
    laptop: Node
    server: Node
    relay: Node

    @classmethod
    def build(cls, lab: Lab, delays: Delays, folder: Path) -> Stage:
        """Wire the hosts; no node runs yet."""
        backbone = Backbone(lab, delays=delays)
        nodes = []
        for name, delay_s in (("laptop", 0.0), ("server", 0.0), ("relay", _LEG_S)):
            host = lab.host(name)
            backbone.attach(host, delay_s=delay_s, super_packets=True)
            nodes.append(Node(host, folder))
        return cls(backbone, *nodes)

    def places(self) -> str:
        """Say who is where."""
        nodes = (self.laptop, self.server, self.relay)
        return ", ".join(f"{node.name} {self.backbone.address(node.host)}" for node in nodes)


@attrs.frozen
class Tunnel:
    """The server's address inside, the laptop's TUN link, and what `connect` said."""

    inside: str
    link: str
    said: dict[str, Any]


def play(folder: Path, tell: Callable[[Step], None], *, seconds: float = 2.0) -> Result:
    """Build the lab, play both acts; everything is gone afterwards."""
    started = time.monotonic()
    with Lab() as lab, Delays() as delays:
        tell(Step("three namespaces around a router"))
        stage = Stage.build(lab, delays, folder)
        tell(Step("three namespaces around a router", stage.places()))
        tunnel = connect(stage, tell)
        direct = first_act(stage, tunnel, tell, seconds)
        relayed = second_act(stage, tunnel, tell, seconds)
    return Result(
        nodes=3, direct=direct, relayed=relayed, took_s=round(time.monotonic() - started, 1)
    )


# -- the first act: directly ----------------------------------------------------------------------


def connect(stage: Stage, tell: Callable[[Step], None]) -> Tunnel:
    """Let the laptop found a network and the server join it."""
    laptop, server = stage.laptop, stage.server
    tell(Step("veilnet up"))
    status = laptop.up("--name", laptop.name)
    network = status["networks"][0]
    tell(Step("veilnet up", f"peer id {status['peer_id'][:12]}, {network['addresses'][0]}"))
    tell(Step("veilnet invite"))
    invite = laptop.invite()
    tell(Step("veilnet invite", f"{invite[:24]}... ({len(invite)} characters)"))
    tell(Step("veilnet connect veil:..."))
    said = server.connect(invite, "--name", server.name)
    path = said["path"]
    tell(Step("veilnet connect veil:...", f"{path['kind']}, {said['handshake_ms']:.1f} ms"))
    inside = server.address(network["id"])
    status = laptop.look()
    said["suite"] = next(p["suite"] for p in status["peers"] if inside in p["addresses"])
    return Tunnel(inside, status["tun"], said)


def first_act(stage: Stage, tunnel: Tunnel, tell: Callable[[Step], None], seconds: float) -> Direct:
    """Ping, look for clear text on the laptop's wire, measure the speed."""
    laptop = stage.laptop.host
    tell(Step("ping through the tunnel"))
    times = ping(laptop, tunnel.inside, count=PINGS)
    if not times:
        raise InternalError("the tunnel is up, but no ping through it was answered")
    rtt_ms = statistics.median(times)
    tell(Step("ping through the tunnel", f"{len(times)} of {PINGS}, {rtt_ms:.2f} ms"))
    return Direct(
        handshake_ms=round(float(tunnel.said["handshake_ms"]), 2),
        suite=str(tunnel.said["suite"]),
        ping_ms=round(rtt_ms, 3),
        pings_answered=len(times),
        pings_sent=PINGS,
        look=_look("looking for clear text on the wire", stage, tunnel, laptop, tell),
        mbps=_speed("one TCP stream, direct", stage, tunnel, tell, seconds),
    )


def _look(
    text: str, stage: Stage, tunnel: Tunnel, tapped: Host, tell: Callable[[Step], None]
) -> Look:
    tell(Step(text))
    found = look(stage.laptop.host, stage.server.host, tunnel.link, tunnel.inside, tapped)
    where = f"{found.on_wire} of {found.frames} packets on the wire, {found.inside} inside"
    tell(Step(text, f"{where} the tunnel"))
    return found


def _speed(
    text: str, stage: Stage, tunnel: Tunnel, tell: Callable[[Step], None], seconds: float
) -> float:
    tell(Step(text))
    mbps = transfer_mbps(stage.laptop.host, stage.server.host, tunnel.inside, seconds)
    tell(Step(text, speed(mbps)))
    return round(mbps, 1)


# -- the second act: over the relay ---------------------------------------------------------------


def second_act(
    stage: Stage, tunnel: Tunnel, tell: Callable[[Step], None], seconds: float
) -> Relayed:
    """Cut the direct way under a running stream, use the relay, mend the way.

    Raises: TimedOut: the relay did not take over, or the direct path was not chosen again.
    """
    laptop, server = stage.laptop.host, stage.server.host
    tell(Step("a relay joins"))
    stage.relay.connect(stage.laptop.invite(), "--name", stage.relay.name)
    with Flow(laptop, server, tunnel.inside, rate_bps=_STREAM_BPS) as stream:
        _wait_until(lambda: _stands_by(stage), "no relay stood by", _READY_S)
        tell(Step("a relay joins", f"and stands by; a stream of {_STREAM_BPS / 1e6:g} Mbit/s runs"))
        stream.wait_for(_WARM_BYTES)
        failover_s = _cut(stage, stream, tell)
        mbps = _speed("one more TCP stream, relayed", stage, tunnel, tell, seconds)
        found = _look("looking for clear text at the relay", stage, tunnel, stage.relay.host, tell)
        back_s = _mend(stage, stream, tell)
        tell(Step("the stream ends"))
        ended = stream.finish()
        whole = "every byte as it was sent" if ended.intact else "CHANGED"
        tell(Step("the stream ends", f"{ended.received_bytes / 1e6:.1f} MB, {whole}"))
    return Relayed(
        failover_ms=round(failover_s * 1000, 1),
        mbps=mbps,
        look=found,
        back_s=round(back_s, 1),
        stream_bytes=ended.received_bytes,
        stream_intact=ended.intact,
    )


def _cut(stage: Stage, stream: Flow, tell: Callable[[Step], None]) -> float:
    """Cut the direct way and return for how long nothing arrived.  Units: seconds."""
    tell(Step("the direct way is cut"))
    stage.backbone.part(stage.laptop.host, stage.server.host)
    at = time.monotonic()
    silence_s = stream.outage(at, timeout_s=_READY_S).silence_s
    tell(Step("the direct way is cut", f"the relay took over after {silence_s * 1000:.0f} ms"))
    return silence_s


def _mend(stage: Stage, stream: Flow, tell: Callable[[Step], None]) -> float:
    """Mend the direct way and return after what time it is the path of choice.  Units: seconds.

    A stream that never pauses keeps the path that it has: moved, its packets would overtake others.
    """
    tell(Step("the direct way is mended"))
    stage.backbone.join(stage.laptop.host, stage.server.host)
    at = time.monotonic()
    _wait_until(lambda: _chooses_direct(stage), "the direct path was not chosen again", _BACK_S)
    back_s = time.monotonic() - at
    stream.wait_for(_WARM_BYTES)
    tell(Step("the direct way is mended", f"it is the path of choice after {back_s:.1f} s"))
    return back_s


def _stands_by(stage: Stage) -> bool:
    """Say whether both ends have another way than the one that carries."""
    ends = ((stage.laptop, stage.server), (stage.server, stage.laptop))
    return all(
        any(path["state"] == "standby" or path["share"] < 1 for path in one.paths(other.name))
        for one, other in ends
    )


def _chooses_direct(stage: Stage) -> bool:
    paths = stage.laptop.paths(stage.server.name)
    return bool(paths) and paths[0]["kind"] == "direct" and paths[0]["state"] == "active"


def _wait_until(fact: Callable[[], bool], otherwise: str, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not fact():
        if time.monotonic() > deadline:
            raise TimedOut(f"{otherwise} within {timeout_s:g} s")
        time.sleep(_LOOK_S)
