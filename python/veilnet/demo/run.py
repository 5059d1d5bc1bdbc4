"""Run the demo in a process of its own, and show it."""

from __future__ import annotations

import contextlib
import json as json_
import subprocess
import sys
import tempfile
import threading
from typing import TYPE_CHECKING, Any, Self

from veilnet.demo.result import Look, Relayed, Result, Step
from veilnet.demo.traffic import speed
from veilnet.errors import InternalError, PrivilegeError, TimedOut, VeilError
from veilnet.testing import check, command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_LONGEST_S = 90.0
"""A loaded small machine gets this long; a demo takes about ten seconds."""


def run(*, on_step: Callable[[Step], None] = lambda _: None) -> Result:
    """Play the demo in new namespaces and return what it measured.

    *on_step* hears of each step when it starts, and again with a detail when it is done.
    Raises: PrivilegeError: no namespaces here; VeilError: what went wrong inside.
    Cancellation: KeyboardInterrupt ends everything that was started.
    """
    try:
        check()
    except (OSError, subprocess.CalledProcessError) as error:
        raise _not_executable(str(error)) from error
    with (
        tempfile.TemporaryDirectory(prefix="veilnet-demo-") as folder,
        _inner(folder) as process,
    ):
        for line in process.stdout or ():
            said: dict[str, Any] = json_.loads(line)
            if "step" in said:
                on_step(Step(**said["step"]))
            elif "error" in said:
                raise VeilError.from_json(said["error"])
            else:
                return Result.from_dict(said["result"])
        code = process.wait()
        noise = (process.stderr.read() if process.stderr else "").strip()
    if code in {126, 127} or "Permission denied" in noise:
        raise _not_executable(noise)
    if code < 0 or code > 128:
        raise TimedOut(f"the demo was ended before it was done (after at most {_LONGEST_S:g} s)")
    raise InternalError(f"the demo died (exit code {code}): {noise}")


def _not_executable(why: str) -> PrivilegeError:
    return PrivilegeError(
        f"this user cannot run the demo's programs with {sys.executable}: {why}",
        hint="Install VeilNet where this user may read and execute it, or run: sudo veilnet demo",
    )


@contextlib.contextmanager
def _inner(folder: str) -> Iterator[subprocess.Popen[str]]:
    argv = command([sys.executable, "-P", "-m", "veilnet.demo", folder], tied=True)
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(_LONGEST_S, process.terminate)
    watchdog.daemon = True
    watchdog.start()
    try:
        with process:
            try:
                yield process
            except BaseException:
                process.terminate()
                raise
    finally:
        watchdog.cancel()


def main(*, json: bool = False, debug: bool = False) -> int:
    """Run the demo for a person (or, with *json*, a script) and return the exit code.

    Raises: what `run` raises.
    """
    del debug  # tracebacks are the command line's business
    show = _Show()
    with show:
        result = run(on_step=show.step)
    if json:
        sys.stdout.write(json_.dumps(result.to_json()) + "\n")
    else:
        sys.stdout.write(_table(result))
    sys.stdout.flush()
    if not result.ok:
        raise InternalError("the demo ran, but what it saw is not what a tunnel must show (above)")
    return 0


class _Show:
    """Live progress on stderr: a spinner where somebody watches, else plain lines."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False)
        self._status: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None

    def step(self, step: Step) -> None:
        """Show that *step* started, or how it ended."""
        self._stop()
        if step.detail:
            self._console.print(f"ok  {step.text}: {step.detail}", markup=False, soft_wrap=True)
        elif self._console.is_terminal:
            self._status = self._console.status(f"{step.text} ...")
            self._status.start()


def _table(result: Result) -> str:
    direct, relayed = result.direct, result.relayed
    rows = [
        ("handshake", f"{direct.handshake_ms:.1f} ms", direct.suite),
        ("ping", f"{direct.ping_ms:.2f} ms", f"{direct.pings_answered} of {direct.pings_sent}"),
        ("TCP", speed(direct.mbps), "one stream, direct"),
        ("", speed(relayed.mbps), "one stream, over the relay"),
        (
            "failover",
            f"{relayed.failover_ms:.0f} ms",
            "direct way cut: last byte before to first byte after, at the receiver",
        ),
        ("", f"{relayed.back_s:.1f} s", "direct way mended: until it was the path of choice again"),
        ("", "whole" if relayed.stream_intact else "CHANGED", _stream(relayed)),
        ("clear text", f"{direct.look.on_wire} packets", f"{_seen(direct.look)}, on the wire"),
        ("", f"{relayed.look.on_wire} packets", f"{_seen(relayed.look)}, at the relay"),
        ("result", "ok" if result.ok else "FAILED", f"{result.nodes} nodes, {result.took_s:g} s"),
    ]
    lines = [f"  {name:<11} {value:<14} {detail}".rstrip() for name, value, detail in rows]
    return "\n" + "\n".join(lines) + "\n"


def _stream(relayed: Relayed) -> str:
    return f"the stream that ran all the while, {relayed.stream_bytes / 1e6:.1f} MB"


def _seen(look: Look) -> str:
    return f"of {look.frames} ({look.inside} inside the tunnel)"
