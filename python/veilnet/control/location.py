"""Where the state folder and the control socket are, unless the user names them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SYSTEM_STATE = Path("/var/lib/veilnet")
SOCKET_NAME = "veilnet.sock"
SYSTEM_SOCKET = Path("/run/veilnet") / SOCKET_NAME


def default_state(euid: int | None = None) -> Path:
    """Return the state folder of a node that was given none."""
    return SYSTEM_STATE if (os.geteuid() if euid is None else euid) == 0 else _user_state()


def _user_state() -> Path:
    import platformdirs  # costs start-up time that most commands need not pay

    return Path(platformdirs.user_state_dir("veilnet"))


def socket_places(
    given: Path | None, state: Path | None, environ: Mapping[str, str] | None = None
) -> Iterator[Path]:
    """Yield where a control socket may be, best first; *given* and *state* are the user's words.

    A client asks the first that answers, a new node listens on the first that is its to make: one
    list for both, or a node could not be found again.
    """
    if given is not None:
        yield given
        return
    if state is not None:
        yield state / SOCKET_NAME
    yield SYSTEM_SOCKET
    if runtime := (os.environ if environ is None else environ).get("XDG_RUNTIME_DIR"):
        yield Path(runtime) / "veilnet" / SOCKET_NAME
    yield _user_state() / SOCKET_NAME


def socket_to_offer(
    given: Path | None,
    state: Path | None,
    environ: Mapping[str, str] | None = None,
    euid: int | None = None,
) -> Path:
    """Return the socket a new node listens on."""
    is_root = (os.geteuid() if euid is None else euid) == 0
    places = socket_places(given, state, environ)
    return next(path for path in places if is_root or path == given or path != SYSTEM_SOCKET)


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
