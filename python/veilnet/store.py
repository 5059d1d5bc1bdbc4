"""The state folder: small files that are whole or absent, one daemon at a time.

```
STATE/              0700, ours
  lock              flock held while a daemon runs
  name, a/b/name    0600: written to .new-XXXXXXXX beside it (O_EXCL), fsync, rename, fsync folder
```
A write either leaves the old file or the new one, also when the disk is full or the power fails.
Every path is resolved from one folder descriptor without following symbolic links, so a local
user who can write somewhere else cannot redirect us.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
from typing import TYPE_CHECKING, Final, Self

from veilnet.errors import ClosedError, ConfigError, InternalError, PrivilegeError, VeilError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

MAX_FILE_BYTES: Final = 64 * 1024 * 1024
"""No file of the state folder is longer; a longer one is not ours."""

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = ".new-"


class Store:
    """A state folder, held exclusively until `close`.

    Names are relative paths such as ``networks/ab12/network.cbor``; folders appear when needed.
    Methods block on the disk for as long as an fsync takes.
    """

    def __init__(self, path: Path, folder: int, lock: int) -> None:
        self.path = path
        self._folder = folder
        self._lock = lock

    @classmethod
    def open(cls, path: Path) -> Store:
        """Create the folder if needed, and lock it against a second daemon.

        Raises: ConfigError: another daemon holds it, or it is not a folder; PrivilegeError: it
        belongs to somebody else or may not be used.
        """
        with _explained("open", path):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        lock = -1
        try:
            with _explained("open", path):
                _make_private(path, folder)
                flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                lock = os.open("lock", flags, 0o600, dir_fd=folder)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ConfigError(
                    f"the state folder {path} is in use by another VeilNet daemon",
                    hint="Stop it with `veilnet down`, or choose another folder with --state DIR.",
                ) from error
        except BaseException:
            if lock >= 0:
                os.close(lock)
            os.close(folder)
            raise
        return cls(path, folder, lock)

    def close(self) -> None:
        """Release the folder; closing twice is harmless."""
        if self._folder >= 0:
            # The lock goes last: until then nobody else may take the folder.
            os.close(self._folder)
            os.close(self._lock)
            self._folder = self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Store {str(self.path)!r}{' closed' if self._folder < 0 else ''}>"

    def read(self, name: str, *, max_bytes: int = MAX_FILE_BYTES) -> bytes | None:
        """Return the file's content, None if there is no such file.

        Raises: ConfigError: longer than *max_bytes*, not a file, or readable by others.
        """
        with _explained("read", self.path / name), self._inside(name) as (folder, leaf):
            if folder is None:
                return None
            try:
                # O_NONBLOCK: a named pipe in the file's place must not stop the daemon.
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                file = os.open(leaf, flags, dir_fd=folder)
            except FileNotFoundError:
                return None
            with os.fdopen(file, "rb") as reader:
                _check_ours(self.path / name, file)
                data = reader.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise ConfigError(f"{self.path / name} is longer than the {max_bytes} bytes allowed")
        return data

    def place(self, name: str) -> Path:
        """Return where a file lies that a library opens by itself; it is there, and ours alone.

        What the library keeps beside it must be called after it (``name-wal``).
        Raises: ConfigError: it is not a file, or readable by others; PrivilegeError.
        """
        with (
            _explained("open", self.path / name),
            self._inside(name, create=True) as (folder, leaf),
        ):
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            file = os.open(leaf, flags, 0o600, dir_fd=folder)
            try:
                _check_ours(self.path / name, file)
            finally:
                os.close(file)
        return self.path / name

    def write(self, name: str, data: bytes) -> None:
        """Replace the file's content; on return it is on the disk, on an error the old one is.

        Raises: ConfigError: the disk is full or broken; PrivilegeError: it may not be written.
        """
        if len(data) > MAX_FILE_BYTES:
            raise InternalError(f"{name} of {len(data)} bytes is too long for the state folder")
        with (
            _explained("write", self.path / name),
            self._inside(name, create=True) as (folder, leaf),
        ):
            if folder is None:  # pragma: no cover - `create` made it
                raise InternalError(f"the folder of {name} vanished")
            fresh = _NEW + os.urandom(8).hex()
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            file = os.open(fresh, flags, 0o600, dir_fd=folder)
            try:
                with os.fdopen(file, "wb") as writer:
                    os.fchmod(file, 0o600)
                    writer.write(data)
                    writer.flush()
                    os.fsync(file)
                os.rename(fresh, leaf, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(fresh, dir_fd=folder)
                raise
            os.fsync(folder)

    def remove(self, name: str) -> None:
        """Remove the file; one that is not there is removed already."""
        with _explained("remove", self.path / name), self._inside(name) as (folder, leaf):
            if folder is None:
                return
            with contextlib.suppress(FileNotFoundError):
                os.unlink(leaf, dir_fd=folder)
                os.fsync(folder)

    def put_aside(self, name: str) -> str:
        """Rename the file to ``name.damaged``, over an older one of that name; return that."""
        with _explained("rename", self.path / name), self._inside(name) as (folder, leaf):
            if folder is not None:
                os.rename(leaf, f"{leaf}.damaged", src_dir_fd=folder, dst_dir_fd=folder)
        return f"{name}.damaged"

    def names(self, folder: str = "") -> list[str]:
        """Return the sorted names of files and folders in *folder*, none if there is none."""
        inside = f"{folder}/x" if folder else "x"
        with _explained("list", self.path / folder), self._inside(inside) as (descriptor, _):
            if descriptor is None:
                return []
            return sorted(name for name in _listed(descriptor) if _PART.fullmatch(name))

    def sweep(self, folder: str = "") -> None:
        """Remove what a killed write left behind in *folder*."""
        inside = f"{folder}/x" if folder else "x"
        with _explained("clean", self.path / folder), self._inside(inside) as (descriptor, _):
            if descriptor is None:
                return
            for name in _listed(descriptor):
                if name.startswith(_NEW):
                    os.unlink(name, dir_fd=descriptor)

    @contextlib.contextmanager
    def _inside(self, name: str, *, create: bool = False) -> Iterator[tuple[int | None, str]]:
        """Yield the descriptor of *name*'s folder (None: there is no such folder) and its leaf."""
        if self._folder < 0:
            raise ClosedError(f"the state folder {self.path} is closed")
        *parts, leaf = name.split("/")
        if not all(_PART.fullmatch(part) for part in (*parts, leaf)):
            raise InternalError(f"{name!r} is no name for a file of the state folder")
        folder = os.dup(self._folder)
        try:
            found = True
            for part in parts:
                if create:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, 0o700, dir_fd=folder)
                        os.fsync(folder)
                try:
                    inner = os.open(part, _FOLDER_FLAGS, dir_fd=folder)
                except FileNotFoundError:
                    found = False
                    break
                os.close(folder)
                folder = inner
            yield (folder if found else None), leaf
        finally:
            os.close(folder)


def _check_ours(path: Path, file: int) -> None:
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{path} is not a regular file")
    if status.st_mode & 0o077:
        raise ConfigError(
            f"{path} can be read or written by other users",
            hint=f"If it has not been tampered with: chmod 600 {path}",
        )


def _listed(folder: int) -> list[str]:
    return os.listdir(folder)


def _make_private(path: Path, folder: int) -> None:
    status = os.fstat(folder)
    if status.st_uid != os.geteuid():
        raise PrivilegeError(
            f"the state folder {path} belongs to user {status.st_uid}, not to us",
            hint="Run as its owner, or choose another folder with --state DIR.",
        )
    if stat.S_IMODE(status.st_mode) != 0o700:
        os.fchmod(folder, 0o700)


@contextlib.contextmanager
def _explained(deed: str, path: Path) -> Iterator[None]:
    """Turn the operating system's error into one that says whose fault and what next."""
    try:
        yield
    except VeilError:
        raise
    except PermissionError as error:
        raise PrivilegeError(f"may not {deed} {path}: {error.strerror}") from error
    except OSError as error:
        hint = {
            errno.ENOSPC: "Free some space on that disk; the old state is still there.",
            errno.EDQUOT: "Your disk quota is used up; the old state is still there.",
            errno.EROFS: "That disk is read-only; choose another folder with --state DIR.",
            errno.EMFILE: "The process has too many files open; raise its limit (ulimit -n).",
            errno.ELOOP: "A symbolic link stands where a file of VeilNet should; remove it.",
        }.get(error.errno or 0, "Check the disk and the folder.")
        raise ConfigError(f"cannot {deed} {path}: {error.strerror}", hint=hint) from error
