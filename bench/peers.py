"""The programs that a bench needs besides VeilNet: built once into bench/.peers, or a reason."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

FOLDER = Path(__file__).parent / ".peers"
PROGRAMS = FOLDER / "bin"

# The versions that carry the offloads worth beating; Debian's predate them and prove nothing.
MODULES = {
    "wireguard": "golang.zx2c4.com/wireguard@latest",
    "nebula": "github.com/slackhq/nebula/cmd/nebula@v1.11.0",
    "nebula-cert": "github.com/slackhq/nebula/cmd/nebula-cert@v1.11.0",
}


class Unavailable(Exception):
    """A peer or a program could not be had; the text says why."""


def program(name: str) -> Path:
    """Return the built program *name*.  Raises: Unavailable."""
    path = PROGRAMS / name
    if not path.exists():
        reason = FOLDER / f"{name}.why"
        raise Unavailable(reason.read_text().strip() if reason.exists() else f"{name} is not built")
    return path


def version(name: str) -> str:
    """Return the module version that *name* was built from, as the binary itself says."""
    try:
        said = _run(["go", "version", "-m", str(program(name))])
    except Unavailable:
        return "unknown"
    words = [line.split() for line in said.splitlines()]
    return next((line[2] for line in words if line[:1] == ["mod"]), "unknown")


def fetch() -> None:
    """Build what is missing.  It needs the module proxy, so it comes before any namespace."""
    PROGRAMS.mkdir(parents=True, exist_ok=True)
    for name, module in MODULES.items():
        _make(name, ["go", "install", module])
    source = Path(__file__).parent / "udpgen.c"
    built = PROGRAMS / "udpgen"
    if built.exists() and built.stat().st_mtime < source.stat().st_mtime:
        built.unlink()
    _make("udpgen", ["cc", "-O2", "-o", str(built), str(source)])


def _make(name: str, argv: list[str]) -> None:
    if (PROGRAMS / name).exists():
        return
    reason = FOLDER / f"{name}.why"
    print(f"building {name}: {' '.join(argv)}", flush=True)
    try:
        _run(argv)
        reason.unlink(missing_ok=True)
    except Unavailable as error:
        reason.write_text(f"{error}\n")


def _run(argv: list[str]) -> str:
    if shutil.which(argv[0]) is None:
        raise Unavailable(f"{argv[0]} is not installed")
    environment = os.environ | {"GOBIN": str(PROGRAMS), "GOFLAGS": "-p=2"}
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise Unavailable(f"`{' '.join(argv)}` failed: {last}")
    return done.stdout
