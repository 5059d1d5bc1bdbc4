"""Build what `bench/relay.py` needs besides VeilNet into bench/.peers, or keep the reason."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from peers import FOLDER, PROGRAMS

HERE = Path(__file__).parent
ROOT = HERE.parent
# The newest that builds with the Go that machines here have (1.104 wants Go 1.27).
DERPER = "tailscale.com/cmd/derper@v1.102.5"


def fetch() -> None:
    """Build what is missing.  It needs the registries, so it comes before any namespace."""
    PROGRAMS.mkdir(parents=True, exist_ok=True)
    if not (PROGRAMS / "derper").exists():
        _note("derper", ["go", "install", DERPER], HERE)
    if _stale("relay_peers", HERE / "relay_peers"):
        into = str(PROGRAMS / "relay_peers")
        _note("relay_peers", ["go", "build", "-o", into, "."], HERE / "relay_peers")
    # Cargo knows best whether anything changed; clang is where the package's own build finds it.
    settings = f'eval "$({sys.executable} packaging/backend/veilnet_build.py)"'
    build = "cargo build --quiet --release --package veilnet-engine --example relay_load"
    if _note("relay_load", ["bash", "-euc", f"{settings}; {build}"], ROOT):
        target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
        # Another bench may be running the old one: a running program can be replaced, not written.
        draft = PROGRAMS / "relay_load.new"
        shutil.copy2(target / "release/examples/relay_load", draft)
        draft.replace(PROGRAMS / "relay_load")


def _stale(name: str, folder: Path) -> bool:
    built = PROGRAMS / name
    newest = max(path.stat().st_mtime for path in folder.iterdir())
    return not built.exists() or built.stat().st_mtime < newest


def _note(name: str, argv: list[str], folder: Path) -> bool:
    """Run *argv*; where it fails keep the reason and whatever was built before."""
    reason = FOLDER / f"{name}.why"
    print(f"building {name}: {argv[-1]}", file=sys.stderr, flush=True)
    environment = os.environ | {"GOBIN": str(PROGRAMS), "GOFLAGS": "-p=2 -mod=mod"}
    try:
        done = subprocess.run(
            argv, cwd=folder, capture_output=True, text=True, env=environment, check=False
        )
        said, failed = done.stderr, done.returncode != 0
    except OSError as error:
        said, failed = str(error), True
    if not failed:
        reason.unlink(missing_ok=True)
        return True
    last = (said.strip().splitlines() or ["no message"])[-1]
    reason.write_text(f"building {name} failed: {last}\n")
    print(reason.read_text().strip(), file=sys.stderr, flush=True)
    return False
