"""Where the state folder and the control socket are, unless the user names them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SYSTEM_STATE = Path("/var/lib/veilnet")
SYSTEM_SOCKET = Path("/run/veilnet/veilnet.sock")


def _user_socket(environ: Mapping[str, str]) -> Path | None:
    runtime = environ.get("XDG_RUNTIME_DIR")
    return Path(runtime) / "veilnet" / "veilnet.sock" if runtime else None


def default_state(euid: int | None = None) -> Path:
    """Return the state folder of a node that was given none."""
    if (os.geteuid() if euid is None else euid) == 0:
        return SYSTEM_STATE
    import platformdirs  # costs start-up time that most commands need not pay

    return Path(platformdirs.user_state_dir("veilnet"))


def socket_to_ask(given: Path | None, environ: Mapping[str, str] | None = None) -> Path:
    """Return the socket a client asks: the given one, the system's, else the user's."""
    if given is not None:
        return given
    user = _user_socket(os.environ if environ is None else environ)
    if user is not None and user.exists() and not SYSTEM_SOCKET.exists():
        return user
    return SYSTEM_SOCKET


def socket_to_offer(
    given: Path | None,
    state: Path,
    environ: Mapping[str, str] | None = None,
    euid: int | None = None,
) -> Path:
    """Return the socket a new daemon listens on."""
    if given is not None:
        return given
    if (os.geteuid() if euid is None else euid) == 0:
        return SYSTEM_SOCKET
    return _user_socket(os.environ if environ is None else environ) or state / "veilnet.sock"


@contextlib.contextmanager
def short_address(path: Path) -> Iterator[str]:
    """Give a name for *path* that fits a unix socket address, however deep the folder is.

    The kernel takes 107 bytes; a name through /proc/self/fd has no such limit on the folder.
    Raises: OSError: the folder is not there, or not ours to enter.
    """
    if len(os.fsencode(path)) <= 100:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
