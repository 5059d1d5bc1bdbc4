"""A real VeilNet on a host of the lab, driven by the commands that people type."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from veilnet.control import client
from veilnet.errors import InternalError, VeilError

if TYPE_CHECKING:
    from veilnet.testing.lab import Host


class Node:
    """One node: a state folder and a control socket of its own under *folder*, on *host*.

    Several nodes may run on one host if their *name* differs.  Closing the lab ends it.
    """

    def __init__(self, host: Host, folder: Path, *, name: str = "") -> None:
        self.host = host
        self.name = name or host.name
        self.state = folder / self.name
        self.socket = folder / f"{self.name}.sock"
        # What the user set for other nodes must not reach this one.
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith("VEILNET_")}

    def __repr__(self) -> str:
        return f"<Node {self.name} on {self.host.name}>"

    def command(self, *words: str) -> list[str]:
        """Return the command line that says *words* to this node."""
        # -P: whatever lies in the folder that we were started in is no module of ours.
        where = ["--state", str(self.state), "--socket", str(self.socket)]
        return [sys.executable, "-P", "-m", "veilnet", *where, *words]

    def run(self, *words: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run one command to its end, whatever its exit code."""
        argv = self.command(*words)
        return self.host.run(argv, timeout_s=timeout_s, check=False, env=self._environment)

    def ask(self, *words: str, timeout_s: float = 60.0) -> dict[str, Any]:
        """Run one command with ``--json`` and return its answer.

        Raises: the VeilError that the exit code and the two lines on stderr stand for.
        """
        done = self.run("--json", *words, timeout_s=timeout_s)
        if done.returncode != 0:
            raise _as_error(self.name, words[0], done.returncode, done.stderr)
        answer = json.loads(done.stdout)
        if not isinstance(answer, dict):
            raise InternalError(f"veilnet {words[0]} --json printed no object")
        return answer

    def configure(self, **config: object) -> None:
        """Write *config* into its config.toml, before it is started."""
        if config:
            self.state.mkdir(mode=0o700, exist_ok=True)
            lines = [f"{key} = {json.dumps(value)}\n" for key, value in config.items()]
            (self.state / "config.toml").write_text("".join(lines))

    def said(self, pattern: str, *, since_bytes: int = 0) -> bool:
        """Say whether its log matches *pattern* beyond its first *since_bytes*."""
        log = self.state / "veilnet.log"
        return log.exists() and bool(re.search(pattern.encode(), log.read_bytes()[since_bytes:]))

    def log_bytes(self) -> int:
        """Return how long its log is."""
        log = self.state / "veilnet.log"
        return log.stat().st_size if log.exists() else 0

    def logs(self, *, lines: int = 40) -> str:
        """Return the last *lines* of its log under its name; nothing if it has none."""
        log = self.state / "veilnet.log"
        if not log.exists():
            return ""
        return "\n".join([f"--- {self.name}", *log.read_text().splitlines()[-lines:]])

    def up(self, *options: str) -> dict[str, Any]:
        """Start it in the background and return its status."""
        return self.ask("up", *options)

    def foreground(self, *options: str, prelude: str = "") -> subprocess.Popen[str]:
        """Start it as `up --foreground` does, after the statements of *prelude*; return it, up.

        It logs where `up` lets it log.  The lab ends it, or the caller does.
        Raises: InternalError: it ended instead.
        """
        run = "import sys\nfrom veilnet.cli.main import main\nsys.exit(main(sys.argv[1:]))\n"
        words = self.command("up", "--foreground", *options)
        # [python, -P, -m, veilnet, *words]
        self.state.mkdir(mode=0o700, exist_ok=True)
        with (self.state / "veilnet.log").open("ab") as log:
            process: subprocess.Popen[str] = self.host.popen(
                [*words[:2], "-c", f"{prelude}\n{run}", *words[4:]],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=self._environment,
            )
        if process.stdout is None or process.stdout.readline() != "up\n":
            process.kill()
            process.communicate()
            raise InternalError(f"{self.name} did not come up; its log is {self.state}/veilnet.log")
        return process

    def start(self, *options: str, invite: str = "") -> None:
        """Start it as `foreground` does and let the lab end it; with *invite* it joins by that.

        One program is started, where `up` and `connect` are two.
        """
        before = self._environment
        try:
            self._environment = before | ({"VEILNET_INVITE": invite} if invite else {})
            process = self.foreground(*options)
        finally:
            self._environment = before
        if process.stdout is not None:
            process.stdout.close()
        process.returncode = 0  # it lives as long as the lab, which ends it

    def tell(self, command: str, *, wait_s: float = 30.0, **args: object) -> dict[str, Any]:
        """Give the running node a command as the program does, but without a program for it.

        Raises: what the program would report.
        """
        return dict(client.ask(self.socket, command, args, timeout_s=wait_s))

    def down(self) -> None:
        """Stop it."""
        self.ask("down")

    def invite(self, *options: str) -> str:
        """Return a new invite."""
        return str(self.ask("invite", *options)["invite"])

    def connect(self, peer: str, *options: str) -> dict[str, Any]:
        """Connect to *peer*, an invite included, and return what the command says."""
        return self.ask("connect", peer, *options)

    def status(self) -> dict[str, Any]:
        """Return its status."""
        return self.ask("status")

    def look(self) -> dict[str, Any]:
        """Return its status without starting a program for it: for who looks often."""
        return dict(client.ask(self.socket, "status"))

    def paths(self, peer: str) -> list[dict[str, Any]]:
        """Return its paths to *peer*, a name, the one with the largest share first."""
        for item in self.look()["peers"]:
            if item["name"] == peer:
                return sorted(item.get("paths", ()), key=lambda path: -float(path["share"]))
        return []

    def address(self, network: str = "", *, version: int = 4) -> str:
        """Return its overlay address in *network* (an id; its first if none is named).

        Raises: InternalError: it has none of that IP version.
        """
        mark = "." if version == 4 else ":"
        for joined in self.look()["networks"]:
            if not network or joined["id"] == network:
                for address in joined["addresses"]:
                    if mark in address:
                        return str(address).partition("/")[0]
        raise InternalError(f"{self.name} has no IPv{version} overlay address")

    def pids(self) -> list[int]:
        """Return the processes of the node itself, found by its state folder."""
        found = []
        for pid in self.host.processes():
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes()
                if str(self.state).encode() in words:
                    found.append(pid)
        return found

    def kill(self) -> None:
        """End it by SIGKILL, as a crash or the kernel would."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _as_error(name: str, command: str, code: int, stderr: str) -> VeilError:
    with contextlib.suppress(ValueError):
        said = json.loads(stderr.splitlines()[-1]) if stderr.strip() else None
        if isinstance(said, dict):
            where = f"`veilnet {command}` on {name}: {said.get('message')}"
            return VeilError.from_json(said | {"message": where})
    # The command line above us spells out how to call the program; here its name is enough.
    plain = stderr.replace(f"{sys.executable} -m veilnet", "veilnet")
    lines = [line for line in plain.splitlines() if line.strip()] or ["it said nothing"]
    message, hint = (lines[-2], lines[-1]) if len(lines) > 1 else (lines[-1], "")
    where = f"`veilnet {command}` on {name}: {message.removeprefix('veilnet: ')}"
    return VeilError.from_json({"code": code, "message": where, "hint": hint})
