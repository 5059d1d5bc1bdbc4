"""What the engine reports, and who in the node acts on it.

Invariant: one event never keeps the next from being seen: whatever goes wrong with one, a peer's
fault or a bug, is logged and ends there; only a broken engine ends the node.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import structlog
import trio

from veilnet import _engine
from veilnet.errors import BrokenEngineError, VeilError
from veilnet.networks.endpoint import Endpoint
from veilnet.protocol import handshake as vnh1

if TYPE_CHECKING:
    from veilnet.daemon.node import Node

TUN_GONE = "the TUN device is gone"
"""How the engine begins its report when it still runs, but has nothing left to run for."""

log = structlog.get_logger("veilnet.events")


async def pump(node: Node) -> None:
    """Dispatch the engine's events until cancelled.

    Raises: BrokenEngineError: the engine's thread died.
    """
    while True:
        await trio.lowlevel.wait_readable(node.engine.fileno())
        for event in node.engine.drain():
            try:
                _ACTS[type(event)](node, event)
            except BrokenEngineError:
                raise
            except VeilError as error:
                log.warning("event", kind=type(event).__name__, reason=error.message)
            except Exception:
                log.exception("event failed by a bug", kind=type(event).__name__)


def _init(node: Node, event: _engine.InitReceived) -> None:
    node.answer(event)


def _candidate(node: Node, event: _engine.CandidateReceived) -> None:
    source = Endpoint(*event.source)
    node.handshakes.deliver(event.sid, vnh1.CandidateArrived(event.candidate, event.ct, source))


def _handshake(node: Node, event: _engine.HandshakeReceived) -> None:
    node.handshakes.deliver(event.sid, vnh1.MessageOpened(event.message, Endpoint(*event.source)))


def _confirmed(node: Node, event: _engine.SessionConfirmed) -> None:
    node.handshakes.deliver(event.sid, vnh1.SessionConfirmed())


def _control(node: Node, event: _engine.ControlReceived) -> None:
    session = node.sessions.get(event.sid)
    if session is None:
        node.handshakes.keep_early(event)
    else:
        node.control(session, event.data)


def _wanted(node: Node, event: _engine.PacketWanted) -> None:
    node.channels.wanted(event.destination)


def _probe(node: Node, event: _engine.ProbeAnswered) -> None:
    node.channels.probe_answered(event.sid, event.rtt_s)
    node.paths.probe_answered(event.sid, event.path, event.rtt_s)


def _path(node: Node, event: _engine.PathChanged) -> None:
    node.paths.changed(event)


def _spent(node: Node, event: _engine.CircuitSpent) -> None:
    node.relaying.spent(event.link, event.label)


def _carrier(node: Node, event: _engine.CarrierClosed) -> None:
    node.blocked.carriers.closed(Endpoint(*event.endpoint))


def _silent(node: Node, event: _engine.PeerSilent) -> None:
    node.channels.silent(event.sid, event.silent_s)


def _moved(node: Node, event: _engine.SourceMoved) -> None:
    session = node.sessions.get(event.sid)
    if session is not None:
        node.channels.moved(session, Endpoint(*event.endpoint))


def _stale(node: Node, event: _engine.KeysStale) -> None:
    session = node.sessions.get(event.sid)
    if session is not None:
        node.rekeying.stale(session)


def _lost(_: Node, event: _engine.EventsLost) -> None:
    # Control repeats itself and probes are asked again: nothing but time is lost.
    log.warning("engine events lost", count=event.count)


def _failed(_: Node, event: _engine.EngineFailed) -> None:
    if event.reason.startswith(TUN_GONE):
        raise BrokenEngineError(
            event.reason,
            hint="Somebody removed it under the node. Start the node again: sudo veilnet up",
        )
    raise BrokenEngineError(f"the engine's thread died: {event.reason}")


_ACTS: Mapping[type, Callable[[Any, Any], None]] = {
    _engine.InitReceived: _init,
    _engine.CandidateReceived: _candidate,
    _engine.HandshakeReceived: _handshake,
    _engine.SessionConfirmed: _confirmed,
    _engine.ControlReceived: _control,
    _engine.PacketWanted: _wanted,
    _engine.ProbeAnswered: _probe,
    _engine.PathChanged: _path,
    _engine.CircuitSpent: _spent,
    _engine.CarrierClosed: _carrier,
    _engine.PeerSilent: _silent,
    _engine.SourceMoved: _moved,
    _engine.KeysStale: _stale,
    _engine.EventsLost: _lost,
    _engine.EngineFailed: _failed,
}
