"""Runs the real program, each test with a state folder and a socket of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

QUIET = 'commons = ""\nlan = "off"\nport_mapping = false\n'


def quiet(state: Path) -> None:
    """Keep the node that starts in *state* from speaking to this machine's own network."""
    if not (state / "config.toml").exists():
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        (state / "config.toml").write_text(QUIET)
        (state / "config.toml").chmod(0o600)


@dataclass
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        """What the command printed, as JSON."""
        return json.loads(self.out)

    @property
    def error_lines(self):
        """The lines on stderr."""
        return self.err.splitlines()


@dataclass
class Host:
    """One node's corner of this machine."""

    folder: Path
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def state(self):
        """The node's state folder."""
        return self.folder / "state"

    @property
    def arguments(self):
        """The global options that mean this node."""
        return ["--state", str(self.state), "--socket", str(self.folder / "socket")]

    def run(self, *words, timeout_s=60, **environ) -> Ran:
        """Run `veilnet WORDS` for this host and wait for its end."""
        clean = {key: value for key, value in os.environ.items() if not key.startswith("VEILNET_")}
        done = subprocess.run(
            [sys.executable, "-m", "veilnet", *words, *self.arguments],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env={**clean, **self.environ, **environ},
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def ok(self, *words, **more) -> Ran:
        """Run a command that must succeed; a node that it starts is a quiet one."""
        if words[0] in {"up", "connect"}:
            quiet(self.state)
        ran = self.run(*words, **more)
        assert ran.code == 0, f"{words}: exit {ran.code}\n{ran.out}\n{ran.err}"
        return ran

    def log(self) -> str:
        """Return the node's log, to show why a test failed."""
        path = self.state / "veilnet.log"
        return path.read_text() if path.exists() else "no log"


@pytest.fixture
def hosts(tmp_path):
    """Make hosts by name; their nodes are stopped at the end."""
    made: dict[str, Host] = {}

    def host(name: str) -> Host:
        if name not in made:
            folder = tmp_path / name
            folder.mkdir()
            made[name] = Host(folder)
        return made[name]

    yield host
    for each in made.values():
        each.run("down")


@pytest.fixture
def host(hosts):
    """One host."""
    return hosts("host")
