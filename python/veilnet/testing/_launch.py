"""Start a command in fresh namespaces of its own; run as a file, never imported by threads.

```
caller -- exec --> launcher -- fork --> init (pid 1) -- fork --> command
                   unshares user, net,  reaps; when the command ends it ends too,
                   mount and pid        and the kernel kills whatever is left
```

`unshare(CLONE_NEWUSER)` fails once a process has threads, and Python 3.11 has no `os.unshare`:
hence a new single-threaded process, started by path with ``-I -S`` so that nothing of the package
(and no thread of its libraries) is loaded.  The command finds itself as uid 0 of the namespaces,
with no link but ``lo`` and a private ``/run``; it cannot reach the network of the host.
Nobody outlives it: not after an exception, SIGINT, or SIGKILL of any process in the drawing.

Source: user_namespaces(7), pid_namespaces(7), prctl(2) PR_SET_PDEATHSIG.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import socket
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

CLONE_NEWNS = 0x0002_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWPID = 0x2000_0000
CLONE_NEWNET = 0x4000_0000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE = 0x2, 0x4, 0x8, 0x4000, 0x4_0000
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 0x1

ENVIRONMENT = "VEILNET_LAB"
"""Set for the command, to the privilege that made its namespaces: ``user`` or ``root``."""

PRIVILEGES = ("user", "root")

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Leave the namespaces named by *flags* for new ones (this thread only)."""
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def setns(fd: int, kind: int) -> None:
    """Move this thread into the namespace that *fd* refers to."""
    _check(_libc.setns(ctypes.c_int(fd), ctypes.c_int(kind)), "setns")


def prctl(option: int, value: int) -> None:
    """Set one attribute of this process."""
    _check(_libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0), "prctl")


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """Mount *source* on *target*."""
    result = _libc.mount(
        source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode()
    )
    _check(result, f"mount {kind or 'propagation'} on {target}")


def link_up(name: str) -> None:
    """Set one link of this thread's namespace up: the smallest thing that needs CAP_NET_ADMIN."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        request = struct.pack("16sH22x", name.encode(), 0)
        answer = fcntl.ioctl(handle, SIOCGIFFLAGS, request)
        flags = struct.unpack_from("H", answer, 16)[0] | IFF_UP
        fcntl.ioctl(handle, SIOCSIFFLAGS, struct.pack("16sH22x", name.encode(), flags))


def _isolate(privilege: str, *, pid: bool) -> None:
    flags = CLONE_NEWNET | CLONE_NEWNS | (CLONE_NEWPID if pid else 0)
    uid, gid = os.geteuid(), os.getegid()
    if privilege == "user":
        unshare(flags | CLONE_NEWUSER)
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"0 {uid} 1"),
            ("gid_map", f"0 {gid} 1"),
        ):
            Path("/proc/self", name).write_text(text)
    elif uid == 0:
        unshare(flags)
    else:
        raise PermissionError(1, "not root")
    mount("none", "/", "", MS_REC | MS_PRIVATE)
    link_up("lo")


def _mount_proc() -> None:
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)


def _in_child(act: Callable[[], None]) -> str:
    """Run *act* in a child; return what stopped it, or nothing if it worked."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        said = ""
        try:
            act()
        except OSError as error:
            said = str(error)
        os.write(writer, said.encode())
        os._exit(1 if said else 0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        text = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    return text or ("" if status == 0 else f"probe ended with status {status}")


def _probe(privilege: str, *, pid: bool) -> str:
    # Some systems allow unshare and take the capabilities away afterwards, so the whole road is
    # walked once in a child that may die of it.
    def walk() -> None:
        _isolate(privilege, pid=pid)
        if pid and (refusal := _in_child(_mount_proc)):
            raise OSError(refusal)

    return _in_child(walk)


def choose(allowed: tuple[str, ...]) -> dict[str, object]:
    """Find the first of *allowed* that this system grants, and why the others were refused."""
    refusals: dict[str, str] = {}
    for privilege in allowed:
        for pid in (True, False):
            refusal = _probe(privilege, pid=pid)
            if not refusal:
                return {"privilege": privilege, "pid": pid, "refusals": refusals}
            refusals[privilege] = refusal
    return {"privilege": None, "pid": False, "refusals": refusals}


def _private_run() -> None:
    """Hide the host's sockets: a daemon of the host must not answer a client in the lab."""
    run = Path("/run").resolve()
    places = (Path.cwd(), Path(sys.executable), Path(__file__))
    if run.is_dir() and not any(place.resolve().is_relative_to(run) for place in places):
        mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")


def _die_with_parent() -> None:
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _execute(command: list[str]) -> NoReturn:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)  # noqa: S606 - no shell is the point
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
        os._exit(127)


def _wait_for(child: int) -> int:
    """Reap until *child* ends, passing signals on; return its exit code, shell style."""

    def forward(number: int, _frame: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal tells the command itself
    signal.signal(signal.SIGTERM, forward)
    signal.signal(signal.SIGHUP, forward)
    while True:
        ended, status = os.wait()
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _end_orphans() -> None:
    """Without a PID namespace, kill what the command left behind (it was given to us)."""
    while True:
        for text in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
            os.kill(int(text), signal.SIGKILL)
        try:
            os.wait()
        except ChildProcessError:
            return


def launch(privilege: str, *, pid: bool, tied: bool, command: list[str]) -> NoReturn:
    """Run *command* in new namespaces and exit as it does; *tied* also dies with the caller."""
    caller = os.getppid()
    _isolate(privilege, pid=pid)
    if tied:  # only now: the kernel forgets this when a process gains capabilities
        _die_with_parent()
        if os.getppid() != caller:
            sys.exit(1)
    _private_run()
    os.environ[ENVIRONMENT] = privilege
    if not pid:
        prctl(PR_SET_CHILD_SUBREAPER, 1)
    child = os.fork()
    if child == 0:
        _die_with_parent()
        if not pid:
            _execute(command)
        _mount_proc()
        inner = os.fork()
        if inner == 0:
            _execute(command)
        os._exit(_wait_for(inner))
    code = _wait_for(child)
    if not pid:
        _end_orphans()
    sys.exit(code)


def main(arguments: list[str]) -> NoReturn:
    """``[--probe] [--tied] [--privilege user|root] -- COMMAND...``."""
    split = arguments.index("--") if "--" in arguments else len(arguments)
    options, command = arguments[:split], arguments[split + 1 :]
    allowed: tuple[str, ...] = PRIVILEGES
    if "--privilege" in options:
        allowed = (options[options.index("--privilege") + 1],)
    choice = choose(allowed)
    if "--probe" in options:
        sys.stdout.write(json.dumps(choice) + "\n")
        sys.exit(0)
    privilege = choice["privilege"]
    if not isinstance(privilege, str) or not command:
        sys.stderr.write(f"no namespaces: {choice['refusals']}\n")
        sys.exit(4)
    launch(privilege, pid=bool(choice["pid"]), tied="--tied" in options, command=command)


if __name__ == "__main__":
    main(sys.argv[1:])
