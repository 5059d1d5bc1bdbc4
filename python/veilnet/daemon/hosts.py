"""Members' names in a hosts file: one clearly marked block, and nothing outside it is touched.

```
# BEGIN veilnet 3f2a9c (written by the node; the block goes when the node stops)
fd12:...:9a    server server.home.veil
# END veilnet 3f2a9c
```
The marker carries the start of the peer id, so that many nodes on one host can each have a block.

Invariant: a member's bare name is never written if it is reserved, this host's own, or stands in
the file outside the blocks: what a peer is called must not change where the host's own words lead.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from veilnet.errors import ConfigError, PrivilegeError
from veilnet.networks.names import is_reserved

if TYPE_CHECKING:
    from collections.abc import Iterable


def rewrite(path: Path, owner: str, entries: Iterable[tuple[str, tuple[str, ...]]]) -> None:
    """Replace *owner*'s block by *entries* (address, names); no entries means no block.

    Raises: PrivilegeError, ConfigError: the file cannot be read or replaced.
    """
    begin, end = f"# BEGIN veilnet {owner}", f"# END veilnet {owner}"
    try:
        old = path.read_text("utf-8", "surrogateescape")
    except FileNotFoundError:
        old = ""
    except OSError as error:
        raise _failed(path, error) from error
    kept = _without(old.splitlines(), begin, end)
    taken = _taken(kept)
    lines = [
        f"{address}\t{' '.join(allowed)}"
        for address, names in entries
        if (allowed := [name for name in names if "." in name or not _means_else(name, taken)])
    ]
    if lines:
        note = "(written by the node; the block goes when the node stops)"
        kept += [f"{begin} {note}", *lines, end]
    new = "".join(f"{line}\n" for line in kept)
    if new != old:
        try:
            _replace(path, new)
        except OSError as error:
            raise _failed(path, error) from error


def _means_else(name: str, taken: set[str]) -> bool:
    return is_reserved(name) or name in taken


def _taken(lines: list[str]) -> set[str]:
    """Return the host's own names and those in *lines* outside every node's block."""
    own = socket.gethostname().lower()
    taken = {own, own.split(".")[0]}
    inside = False
    for line in lines:
        if line.startswith("# BEGIN veilnet "):
            inside = True
        elif line.startswith("# END veilnet "):
            inside = False
        elif not inside:
            taken.update(line.partition("#")[0].lower().split()[1:])
    return taken


def _without(lines: list[str], begin: str, end: str) -> list[str]:
    kept: list[str] = []
    inside = False
    for line in lines:
        if line.startswith(begin):
            # A block that never ends would swallow the operator's own lines.
            inside = end in lines
        elif line == end:
            inside = False
        elif not inside:
            kept.append(line)
    return kept


def _replace(path: Path, text: str) -> None:
    data = text.encode("utf-8", "surrogateescape")
    try:
        _by_rename(path, data)
    except OSError as error:
        # A container's /etc/hosts is a mount point: it cannot be renamed over, only written.
        if error.errno != errno.EBUSY:
            raise
        with path.open("r+b") as file:
            file.write(data)
            file.truncate()


def _by_rename(path: Path, data: bytes) -> None:
    path = Path(os.path.realpath(path))
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                os.fchown(file.fileno(), status.st_uid, status.st_gid)
            os.fchmod(file.fileno(), 0o644)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _failed(path: Path, error: OSError) -> PrivilegeError | ConfigError:
    if isinstance(error, PermissionError):
        return PrivilegeError(
            f"the hosts file {path} is not ours to write",
            hint="Use sudo, or leave --hosts away.",
        )
    return ConfigError(f"the hosts file {path} cannot be written: {error.strerror}")
