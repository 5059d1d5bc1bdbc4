"""The daemon's end of the control socket.

Invariant: no request reaches a command before the kernel named a caller that may ask; no caller
can make the daemon hold more than one bounded line, or more than CLIENTS_MAX connections; and
nothing that a connection does, or that goes wrong in it, ends `serve`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import structlog
import trio

from veilnet.control import peercred
from veilnet.control.lines import (
    REQUEST_BYTES_MAX,
    Event,
    Failure,
    Reply,
    Request,
    Result,
    encode_reply,
    parse_request,
)
from veilnet.control.location import short_address
from veilnet.control.unwrap import unwrap
from veilnet.errors import (
    ConfigError,
    InternalError,
    PrivilegeError,
    RemoteProtocolError,
    UsageError,
    VeilError,
)

if TYPE_CHECKING:
    from pathlib import Path

CLIENTS_MAX = 32
REQUEST_TIMEOUT_S = 10.0
SEND_TIMEOUT_S = 30.0
"""So long a client may leave an answer unread, which holds one of CLIENTS_MAX places."""

_HANGUPS = (trio.BrokenResourceError, trio.ClosedResourceError)
"""What a client that has gone looks like from here."""

log = structlog.get_logger("veilnet.control")

Tell = Callable[[Mapping[str, Any]], Awaitable[None]]
"""Sends one event to the client that waits for the answer."""


class Command(Protocol):
    """Carries out one command; returns the result or raises a VeilError."""

    async def __call__(self, args: Mapping[str, Any], tell: Tell) -> Mapping[str, Any]:
        """Carry out the command with *args*; *tell* sends events on the way."""


def bind(path: Path, *, group: int | None) -> socket.socket:
    """Listen on *path*: mode 0660, owned by *group* if given; a dead daemon's socket is replaced.

    Raises: PrivilegeError, ConfigError: the folder is not ours, or a live daemon listens there.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _remove_dead(path)
        # The mode must be right from the first moment on, hence umask and not chmod.
        previous = os.umask(0o117)
        try:
            with short_address(path) as address:
                listener.bind(address)
        finally:
            os.umask(previous)
        if group is not None:
            with contextlib.suppress(PermissionError):
                os.chown(path, -1, group)
        listener.listen(CLIENTS_MAX)
    except OSError as error:
        listener.close()
        if isinstance(error, PermissionError):
            raise PrivilegeError(
                f"cannot create the control socket {path}: {error.strerror}",
                hint="Use sudo, or name a place of your own with --socket PATH.",
            ) from error
        raise ConfigError(
            f"cannot create the control socket {path}: {error.strerror}",
            hint="Name another place with --socket PATH.",
        ) from error
    except BaseException:
        listener.close()
        raise
    return listener


def _remove_dead(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ConfigError(
                f"{path} is there and is not a socket", hint="Name another with --socket PATH."
            )
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, short_address(path) as address:
        code = probe.connect_ex(address)
    if code == 0:
        raise ConfigError(
            f"another node already listens on {path}",
            hint="Stop it with `veilnet down`, or give each node its own --state and --socket.",
        )
    if code == errno.ECONNREFUSED:
        path.unlink(missing_ok=True)


class ControlServer:
    """Answers on a listening control socket with a table of commands."""

    def __init__(
        self, listener: socket.socket, access: peercred.Access, commands: Mapping[str, Command]
    ) -> None:
        self._listener = listener
        self._access = access
        self._commands = commands
        self._clients = trio.CapacityLimiter(CLIENTS_MAX)

    async def serve(self) -> None:
        """Answer until cancelled.

        Cancellation: every connection is closed; commands under way are cancelled with it.
        """
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(self._prepared()))
        async with trio.open_nursery() as nursery:
            await trio.serve_listeners(self._one, [listener], handler_nursery=nursery)

    def _prepared(self) -> socket.socket:
        self._listener.setblocking(False)
        return self._listener

    async def _one(self, connection: trio.SocketStream) -> None:
        try:
            self._clients.acquire_on_behalf_of_nowait(connection)
        except trio.WouldBlock:
            await connection.aclose()
            return
        try:
            async with connection:
                await self._answer(connection)
        except Exception as caught:  # one connection must never end the others, or the daemon
            # Python 3.11's contextlib.suppress does not look into the groups that trio raises.
            if not isinstance(unwrap(caught), _HANGUPS):
                log.exception("control connection failed by a bug", exc_info=caught)
        finally:
            self._clients.release_on_behalf_of(connection)

    async def _answer(self, connection: trio.SocketStream) -> None:
        try:
            caller = peercred.caller_of(connection.socket)
            request = parse_request(await _read_line(connection))
            if not self._access.allows(caller):
                log.warning("control request refused", uid=caller.uid, command=request.command)
                raise PrivilegeError(
                    "this user may not command the node",
                    hint="Try again with sudo, or as the user who first started the node.",
                )
        except VeilError as error:
            with trio.move_on_after(SEND_TIMEOUT_S):
                await connection.send_all(encode_reply(Failure(error)))
            return
        reply: Reply | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_hangup, connection, nursery.cancel_scope)
            reply = await self._run(request, connection)
            nursery.cancel_scope.cancel()
        if reply is not None:  # else the client went first
            with trio.move_on_after(SEND_TIMEOUT_S):
                await connection.send_all(encode_reply(reply))

    @staticmethod
    async def _watch_hangup(connection: trio.SocketStream, scope: trio.CancelScope) -> None:
        """Cancel the command when its client has gone (Ctrl-C at the other end)."""
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while await connection.receive_some(4096):
                pass
        scope.cancel()

    async def _run(self, request: Request, connection: trio.SocketStream) -> Reply:
        command = self._commands.get(request.command)
        if command is None:
            return Failure(UsageError(f"the node knows no command {request.command!r}"))

        async def tell(value: Mapping[str, Any]) -> None:
            await connection.send_all(encode_reply(Event(value)))

        try:
            return Result(await command(request.args, tell))
        except Exception as caught:  # the client must get an answer to a bug, too
            error = unwrap(caught)
            if isinstance(error, _HANGUPS):
                raise
            if isinstance(error, VeilError) and not isinstance(error, InternalError):
                return Failure(error)
            log.exception("command failed by a bug", command=request.command, exc_info=caught)
            return Failure(
                error
                if isinstance(error, VeilError)
                else InternalError(f"the node failed at {request.command!r}: {error!r}")
            )


async def _read_line(connection: trio.SocketStream) -> bytes:
    buffer = bytearray()
    with trio.move_on_after(REQUEST_TIMEOUT_S):
        while b"\n" not in buffer:
            data = await connection.receive_some(4096)
            if not data:
                raise RemoteProtocolError("the client closed before its request was whole")
            buffer += data
            if len(buffer) > REQUEST_BYTES_MAX:
                raise RemoteProtocolError("the client sent a request beyond all bounds")
        return bytes(buffer.partition(b"\n")[0])
    raise RemoteProtocolError("the client sent no whole request in time")
