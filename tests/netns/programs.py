"""The real program, run in other ways: changed for a purpose, or with another engine."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import veilnet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from veilnet.testing import Node

ROOT = Path(__file__).parents[2]
_COPY_BYTES_MAX = 1 << 20
"""Larger files of a build are linked, not copied: whoever renews them makes a new file."""


def set_environment(node: Node, **variables: str) -> None:
    """Set environment variables for every program that *node* starts."""
    node._environment |= variables


@contextlib.contextmanager
def started(node: Node, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Start a command of *node*, and do not wait for it."""
    process = node.host.popen(
        node.command(*words),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=node._environment,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def changed(node: Node, change: str) -> Iterator[subprocess.Popen[str]]:
    """Run *node* in the foreground by its real entry point, after the statements of *change*."""
    script = (
        f"{change}\nimport sys\nfrom veilnet.cli.main import main\nsys.exit(main(sys.argv[1:]))\n"
    )
    words = node.command("up", "--foreground")
    # [python, -P, -m, veilnet, *words]
    argv = [*words[:2], "-c", script, *words[4:]]
    process = node.host.popen(
        argv,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=node._environment,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        yield process
    finally:
        process.terminate()
        try:
            process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def cleartext_package(folder: Path) -> Path:
    """Return *folder*, which holds a copy of the package with an engine that seals nothing."""
    library = _build_cleartext()
    package = folder / "veilnet"
    shutil.copytree(
        Path(veilnet.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__")
    )
    (extension,) = package.glob("_engine*.so")
    extension.unlink()
    shutil.copyfile(library, extension)
    said = subprocess.run(
        [sys.executable, "-P", "-c", "import veilnet._engine as e; print(e.CLEARTEXT, e.__file__)"],
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.split() == ["True", str(extension)]
    return folder


def _build_cleartext() -> Path:
    """Build the engine's test build and return the library.

    In a target folder of its own: cargo gives both builds of the extension one file name, and a
    test build must never be taken for the product.
    """
    if shutil.which("cargo") is None or not (ROOT / "Cargo.toml").exists():
        pytest.skip("no cargo, or no sources of the engine beside the tests")
    usual = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").resolve()
    ours = usual / "cleartext"
    if not ours.exists():
        _seed(usual / "release", ours / "release")
    said = subprocess.run(
        [sys.executable, ROOT / "packaging/backend/veilnet_build.py"],
        capture_output=True,
        text=True,
        check=True,
    )
    # Lines like: export NAME='value'
    variables = dict(
        shlex.split(line)[1].split("=", 1) for line in said.stdout.splitlines() if line
    )
    which = ["-p", "veilnet-py", "--features", "cleartext", "--target-dir", str(ours)]
    done = subprocess.run(
        ["cargo", "build", "--quiet", "--offline", "--locked", "--release", *which],
        cwd=ROOT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"the test build failed:\n{done.stderr[-3000:]}"
    return ours / "release/lib_engine.so"


def _seed(usual: Path, ours: Path) -> None:
    """Give a new target folder what another build made already: liboqs alone takes minutes."""

    def give(source: str, target: str) -> str:
        if Path(source).stat().st_size > _COPY_BYTES_MAX:
            with contextlib.suppress(OSError):
                os.link(source, target)
                return target
        return str(shutil.copy2(source, target))

    for part in ("build", "deps", ".fingerprint"):
        if (usual / part).is_dir():
            shutil.copytree(
                usual / part,
                ours / part,
                copy_function=give,
                symlinks=True,
                ignore=shutil.ignore_patterns("lib_engine*", "veilnet-py-*"),
            )
