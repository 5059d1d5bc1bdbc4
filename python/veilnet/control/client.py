"""The client's end of the control socket: blocking, small, quick to import."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from veilnet.control.lines import (
    REPLY_BYTES_MAX,
    Event,
    Failure,
    Request,
    Result,
    encode_request,
    parse_reply,
)
from veilnet.control.location import short_address, socket_places
from veilnet.errors import (
    ConfigError,
    DaemonNotRunning,
    PrivilegeError,
    RemoteProtocolError,
    TimedOut,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

CONNECT_TIMEOUT_S = 5.0


def _open(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(CONNECT_TIMEOUT_S)
    try:
        with short_address(path) as address:
            connection.connect(address)
    except OSError as error:
        connection.close()
        if isinstance(error, PermissionError):
            raise PrivilegeError(
                f"the node's control socket {path} is not open to this user",
                hint="Try again with sudo, or as the user who first started the node.",
            ) from error
        if isinstance(error, TimeoutError):
            raise TimedOut(f"the node at {path} does not accept a connection") from error
        raise DaemonNotRunning(f"no node is running here (nobody listens on {path})") from error
    return connection


def is_running(path: Path) -> bool:
    """Whether a daemon listens on *path*, ours to use or not."""
    try:
        _open(path).close()
    except DaemonNotRunning:
        return False
    except (PrivilegeError, TimedOut):
        return True
    return True


def _state_of(path: Path) -> Path:
    return Path(str(ask(path, "status", {"peers": False})["state_folder"]))


def find(given: Path | None = None, state: Path | None = None) -> Path:
    """Return the socket of the node that a command means: the first place where one answers.

    A node with another state folder than *state*, if that was given, is not the one.
    Raises: DaemonNotRunning: there is none; PrivilegeError: there is, and not for this user;
    ConfigError: the one on the socket *given* is another.
    """
    if given is not None:
        if state is not None and (theirs := _state_of(given)) != state.resolve():
            raise ConfigError(
                f"the node that listens on {given} has the state folder {theirs}, not {state}",
                hint="Give each node on one host its own --state and --socket.",
            )
        return given
    closed: PrivilegeError | None = None
    for path in socket_places(given, state):
        if not is_running(path):
            continue
        try:
            if state is None or path.parent == state:
                _open(path).close()
            elif _state_of(path) != state.resolve():
                continue
        except DaemonNotRunning:
            continue  # it went just now
        except PrivilegeError as error:
            # The system's node may be closed to a user who has one of their own.
            closed = closed or error
            continue
        return path
    if closed is not None:
        raise closed
    where = "" if state is None else f" with the state folder {state}"
    raise DaemonNotRunning(f"no node{where} is running here")


def stream(
    path: Path, command: str, args: Mapping[str, Any] | None = None, *, timeout_s: float | None
) -> Iterator[Event | Result]:
    """Ask, and yield every event and then the result.

    Units: *timeout_s* bounds the silence between two lines; None waits for ever.
    Raises: DaemonNotRunning, PrivilegeError, TimedOut, and whatever the daemon answers.
    """
    with contextlib.closing(_open(path)) as connection:
        connection.settimeout(timeout_s)
        try:
            connection.sendall(encode_request(Request(command, args or {})))
            with connection.makefile("rb") as lines:
                while line := lines.readline(REPLY_BYTES_MAX + 1):
                    if len(line) > REPLY_BYTES_MAX:
                        raise RemoteProtocolError("the daemon sent a reply beyond all bounds")
                    reply = parse_reply(line)
                    if isinstance(reply, Failure):
                        raise reply.error
                    yield reply
                    if isinstance(reply, Result):
                        return
        except TimeoutError as error:
            raise TimedOut(
                f"the node did not answer {command!r} within {timeout_s:g} s",
                hint="See what it is doing: veilnet status; its log is in the state folder.",
            ) from error
        except (ConnectionResetError, BrokenPipeError) as error:
            raise DaemonNotRunning(f"the node went away while it worked on {command!r}") from error
    raise DaemonNotRunning(f"the node went away while it worked on {command!r}")


def ask(
    path: Path,
    command: str,
    args: Mapping[str, Any] | None = None,
    *,
    timeout_s: float | None = 30.0,
    on_event: Callable[[Mapping[str, Any]], None] | None = None,
) -> Mapping[str, Any]:
    """Ask, and return the result; *on_event* sees what comes before it.

    Raises: as `stream`.
    """
    for reply in stream(path, command, args, timeout_s=timeout_s):
        if isinstance(reply, Result):
            return reply.value
        if on_event is not None:
            on_event(reply.value)
    raise RemoteProtocolError("the daemon ended without a result")
