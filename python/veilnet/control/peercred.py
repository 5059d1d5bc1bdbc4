"""Who is at the other end of a unix socket, by the kernel's word, and what it may do."""

from __future__ import annotations

import socket
import struct
from typing import Protocol

import attrs

_UCRED = struct.Struct("=iII")  # struct ucred: pid, uid, gid


class _Connection(Protocol):
    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes: ...


@attrs.frozen
class Caller:
    """The process that opened the connection."""

    pid: int
    uid: int
    gid: int


def caller_of(connection: _Connection) -> Caller:
    """Return the process at the other end of *connection*.

    Source: unix(7), SO_PEERCRED.
    """
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return Caller(*_UCRED.unpack(raw))


@attrs.frozen
class Access:
    """Who may ask this daemon: root, the daemon's own user, the recorded operator."""

    daemon_uid: int
    operator_uid: int | None = None

    def allows(self, caller: Caller) -> bool:
        """Whether *caller* may ask for anything at all."""
        return caller.uid in {0, self.daemon_uid} or (
            self.operator_uid is not None and caller.uid == self.operator_uid
        )
