"""From settings to a running node, and back to nothing.

```
config -> state folder locked -> log -> control socket bound -> crypto self-test -> identity
       -> engine (UDP, TUN) -> networks -> doors -> addresses -> "started" -> serve until told
```
What can fail for the operator's sake fails before "started", and says so to whoever started us.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import attrs
import structlog
import trio

from veilnet import config as configs
from veilnet import crypto
from veilnet.control.peercred import Access, group_id, socket_group
from veilnet.control.server import ControlServer, bind
from veilnet.control.unwrap import unwrap
from veilnet.daemon import logs
from veilnet.daemon.remembered import Remembered
from veilnet.errors import ConfigError, VeilError
from veilnet.networks.invite import Invite
from veilnet.store import Store

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from veilnet.config import Config

IDENTITY = "identity"

log = structlog.get_logger("veilnet.daemon")


@attrs.frozen
class Settings:
    """What the command line decided."""

    state: Path
    socket: Path
    overrides: Mapping[str, Any] = attrs.field(factory=dict)
    foreground: bool = False
    found_network: bool = True
    """Whether a first start makes a network of the node's own; not if it starts only to join."""
    invite: str | None = None
    """An invite to join by, unattended, for as long as it takes."""


def run(settings: Settings, *, started: Callable[[], None] | None = None) -> None:
    """Run a node until SIGTERM, SIGINT or the command `down`; *started* is called once it is up.

    Raises: VeilError: it could not start, or its engine broke.
    """
    config = configs.load(settings.state).override(settings.overrides)
    with Store.open(settings.state) as store:
        store.sweep()
        logs.set_up(
            settings.state,
            level=config.log_level,
            as_json=config.log_json,
            foreground=settings.foreground,
        )
        remembered = Remembered.load(store)
        remembered.note_operator(os.environ)
        listener = bind(
            settings.socket,
            group=socket_group(
                operator_uid=remembered.operator_uid,
                operator_gid=remembered.operator_gid,
                group=_commanders(),
            ),
        )
        try:
            wanted: crypto.BackendName = (
                "cryptography" if config.kem_backend == "cryptography" else "liboqs"
            )
            backend = crypto.load(wanted)
            if config.kem_backend == "liboqs" and backend.name != "liboqs":
                raise ConfigError(
                    f"the backend liboqs cannot be used: {backend.why}",
                    hint="Start with --kem-backend auto, or see: veilnet doctor",
                )
            identity = crypto.Identity.load_or_create(store.path / IDENTITY, backend)
            trio.run(
                _main,
                _Parts(settings, config, store, remembered, backend, identity, listener, started),
            )
        except BaseExceptionGroup as group:
            error = unwrap(group)
            if isinstance(error, Exception):
                # A node in the background has only its log to say why it ended.
                reason = error.message if isinstance(error, VeilError) else repr(error)
                log.error("the node ends", reason=reason)  # noqa: TRY400 - the reason is enough
            raise error from group
        finally:
            listener.close()
            settings.socket.unlink(missing_ok=True)


def _commanders() -> int | None:
    """Return the group that may command this node; a user's own node is that user's alone."""
    return group_id() if os.geteuid() == 0 else None


@attrs.frozen
class _Parts:
    settings: Settings
    config: Config
    store: Store
    remembered: Remembered
    backend: crypto.Backend
    identity: crypto.Identity
    listener: socket.socket
    started: Callable[[], None] | None


async def _main(parts: _Parts) -> None:
    from veilnet.daemon.commands import commands
    from veilnet.daemon.node import Node

    node = await Node.open(
        config=parts.config,
        store=parts.store,
        remembered=parts.remembered,
        backend=parts.backend,
        identity=parts.identity,
        found_network=parts.settings.found_network,
    )
    try:
        access = Access(os.geteuid(), parts.remembered.operator_uid, _commanders())
        server = ControlServer(parts.listener, access, commands(node))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stop_on_signal, node)
            nursery.start_soon(server.serve)
            await nursery.start(node.run)
            if parts.settings.invite is not None:
                node.spawn(node.joining.join_unattended, Invite.parse(parts.settings.invite))
            log.info("up", peer_id=node.identity.peer_id.hex(), port=node.engine.port)
            if parts.settings.foreground:
                sys.stdout.write("up\n")
                sys.stdout.flush()
            if parts.started is not None:
                parts.started()
            await node.stopping.wait()
            await node.say_goodbye()
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await node.close()
        log.info("down")


async def _stop_on_signal(node: Any) -> None:  # noqa: ANN401 - a Node, whose module is heavy
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async for number in signals:
            log.info("stopping", signal=signal.Signals(number).name)
            node.stopping.set()
