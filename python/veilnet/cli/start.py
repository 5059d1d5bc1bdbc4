"""Starting the node: by exec of a fresh interpreter, never by fork of this one."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from veilnet.cli.options import Globals
from veilnet.control import client
from veilnet.control.location import default_state, socket_to_offer
from veilnet.errors import (
    DaemonNotRunning,
    InternalError,
    PrivilegeError,
    TimedOut,
    VeilError,
)

START_TIMEOUT_S = 60.0
"""A first start makes keys and tests both back ends; a loaded small machine needs its time."""
STOP_TIMEOUT_S = 20.0


def state_of(found: Globals) -> Path:
    """Return the state folder that *found* means."""
    return found.state or default_state()


def running(found: Globals, *, to_start: bool = True) -> Path | None:
    """Return the socket of the node that already runs for *found*, None if there is none.

    *to_start*: whether one will be started then, so that only a node in its place is in the way.

    Raises: ConfigError: a node runs there, but with another state folder than the one asked for;
    PrivilegeError: it is not this user's to command.
    """
    try:
        path = client.find(found.socket, found.state)
        client.ask(path, "status", {"peers": False})  # does anybody listen?
    except DaemonNotRunning:
        return None
    except PrivilegeError:
        # The system's node is not this user's to command; a node of its own may be.
        if not to_start or client.is_running(socket_to_offer(found.socket, found.state)):
            raise
        return None
    return path


def start(
    found: Globals,
    overrides: Mapping[str, Any],
    *,
    found_network: bool = True,
    invite: str | None = None,
) -> Path:
    """Start a node in the background, wait until it is up, and return its socket.

    *found_network*: whether its first start makes a network of its own.  *invite*: what it joins
    by, unattended.

    Raises: whatever kept it from starting.
    """
    path = socket_to_offer(found.socket, found.state)
    settings: dict[str, Any] = {
        "state": str(state_of(found)),
        "socket": str(path),
        "found_network": found_network,
        "invite": invite,
        "overrides": {
            **overrides,
            "log_level": found.log_level,
            "log_json": found.log_json or None,
        },
    }
    ready, tell = os.pipe()
    try:
        try:
            process = subprocess.Popen(
                # -P: the folder that the user stands in must never feed a root daemon its modules.
                # The settings go by stdin, because an invite must not stand in a command line.
                [sys.executable, "-P", "-m", "veilnet.daemon", str(tell), settings["state"]],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=None if found.debug else subprocess.DEVNULL,
                pass_fds=(tell,),
                start_new_session=True,
            )
        finally:
            os.close(tell)
        with contextlib.suppress(BrokenPipeError), process.stdin or contextlib.nullcontext() as way:
            if way is not None:
                way.write(json.dumps(settings).encode())
        try:
            line = _read_line(ready, START_TIMEOUT_S)
        except BaseException:
            process.send_signal(signal.SIGTERM)
            raise
    finally:
        os.close(ready)
    if not line:
        raise InternalError(
            f"the node died while it started (exit code {process.wait(timeout=10)})",
            hint="See why with: veilnet up --foreground --debug",
        )
    value = json.loads(line)
    if "error" in value:
        process.wait(timeout=10)
        raise VeilError.from_json(value)
    # The node outlives us on purpose; Popen must not warn about it.
    process.returncode = 0
    return path


def stop(path: Path) -> Mapping[str, Any]:
    """Stop the node that listens on *path*, and wait until it is gone.

    Raises: DaemonNotRunning, PrivilegeError.
    """
    value = client.ask(path, "down")
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while client.is_running(path) and time.monotonic() < deadline:
        time.sleep(0.05)
    return value


def stop_if_useless(path: Path) -> bool:
    """Stop a node that was started to join, if it is in no network; return whether it was."""
    with contextlib.suppress(VeilError):
        if not client.ask(path, "status", {"peers": False})["networks"]:
            stop(path)
            return True
    return False


def _read_line(fd: int, timeout_s: float) -> bytes:
    """Return what was written to *fd* up to a line's end, or up to its end."""
    deadline, data = time.monotonic() + timeout_s, b""
    while not data.endswith(b"\n"):
        if not select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise TimedOut(
                f"the node did not start within {timeout_s:g} s",
                hint="See why with: veilnet up --foreground --debug",
            )
        chunk = os.read(fd, 65536)
        if not chunk:
            break
        data += chunk
    return data


def run_here(found: Globals, overrides: Mapping[str, Any], *, invite: str | None = None) -> None:
    """Run the node in this process until it is told to stop."""
    from veilnet.daemon.run import Settings, run

    run(
        Settings(
            state=state_of(found),
            socket=socket_to_offer(found.socket, found.state),
            overrides={
                **overrides,
                "log_level": found.log_level,
                "log_json": found.log_json or None,
            },
            foreground=True,
            found_network=invite is None,
            invite=invite,
        )
    )
