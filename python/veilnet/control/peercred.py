"""Who is at the other end of a unix socket, by the kernel's word, and what it may do."""

from __future__ import annotations

import grp
import os
import pwd
import socket
import struct
from typing import Final, Protocol

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


GROUP: Final = "veilnet"
"""The group whose members may command the system's node."""


def group_id(name: str = GROUP) -> int | None:
    """Return the id of a group of this host, None if there is none."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def is_in_group(uid: int, gid: int, group: int) -> bool:
    """Whether user *uid*, running as *gid*, is of *group*: by the host's word, not the caller's.

    Looked up every time, so that whoever is taken out of the group is out.
    """
    if gid == group:
        return True
    try:
        user = pwd.getpwuid(uid)
        return group in os.getgrouplist(user.pw_name, user.pw_gid)
    except (KeyError, OSError):
        return False


@attrs.frozen
class Access:
    """Who may ask this daemon: root, its own user, the recorded operator, a group's members."""

    daemon_uid: int
    operator_uid: int | None = None
    group: int | None = None

    def allows(self, caller: Caller) -> bool:
        """Whether *caller* may ask for anything at all."""
        if caller.uid in {0, self.daemon_uid}:
            return True
        if self.operator_uid is not None and caller.uid == self.operator_uid:
            return True
        return self.group is not None and is_in_group(caller.uid, caller.gid, self.group)


def socket_group(
    *, operator_uid: int | None, operator_gid: int | None, group: int | None
) -> int | None:
    """Return the group that owns the control socket, None: the daemon's.

    It has one group only: the one called `veilnet`, unless that would lock the operator out.
    """
    if group is None or operator_uid is None or operator_gid is None:
        return operator_gid if group is None else group
    return group if is_in_group(operator_uid, operator_gid, group) else operator_gid
