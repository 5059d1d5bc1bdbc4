"""Other users at the socket of root's node: exit 4, unless they are its operator."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.cli.conftest import quiet

OPERATOR, STRANGER = 64_001, 64_002


def _as_user(uid, *argv):
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--", *argv]


def _others_can_run_python():
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        return False
    probe = _as_user(STRANGER, sys.executable, "-P", "-m", "veilnet", "--version")
    return subprocess.run(probe, capture_output=True, check=False, cwd="/").returncode == 0


pytestmark = pytest.mark.skipif(
    not _others_can_run_python(),
    reason="needs root, setpriv, and an interpreter that other users may run",
)


@pytest.fixture(scope="module")
def node():
    """Root's node, first started through sudo by OPERATOR, in a folder that all may enter."""
    with tempfile.TemporaryDirectory(prefix="veilnet-permission-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        sudo = {"SUDO_UID": str(OPERATOR), "SUDO_GID": str(OPERATOR)}
        quiet(folder / "state")
        started = _run(folder, None, "up", "--no-tun", **sudo)
        assert started.returncode == 0, started.stderr
        yield folder
        _run(folder, None, "down")


def _run(folder, uid, *words, **environ):
    clean = {key: value for key, value in os.environ.items() if not key.startswith("VEILNET_")}
    where = ["--state", str(folder / "state"), "--socket", str(folder / "socket")]
    argv = [sys.executable, "-P", "-m", "veilnet", *where, *words]
    return subprocess.run(
        argv if uid is None else _as_user(uid, *argv),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd="/",
        env=clean | environ,
    )


@pytest.mark.parametrize(
    "words", [("status",), ("invite",), ("down",), ("connect", "x")], ids=" ".join
)
def test_a_stranger_does_not_reach_the_socket(node, words):
    """The socket is closed to others: exit 4, two lines, and the node goes on."""
    done = _run(node, STRANGER, *words)
    assert (done.returncode, done.stdout) == (4, "")
    assert len(done.stderr.splitlines()) == 2
    assert "sudo" in done.stderr
    assert _run(node, None, "status").returncode == 0


def test_a_stranger_with_the_socket_in_hand_is_refused_by_the_node(node):
    """Were the socket's mode wrong, the node itself would still ask the kernel who calls."""
    path = node / "socket"
    mode = path.stat().st_mode
    path.chmod(0o666)
    try:
        done = _run(node, STRANGER, "status")
    finally:
        path.chmod(mode)
    assert (done.returncode, done.stdout) == (4, "")
    assert "may not command" in done.stderr


def test_the_operator_needs_no_sudo(node):
    """Whoever first started the node through sudo commands it as itself."""
    done = _run(node, OPERATOR, "status")
    assert done.returncode == 0, done.stderr
    done = _run(node, OPERATOR, "invite")
    assert done.stdout.startswith("veil:"), done.stderr


def test_nobody_else_reads_the_state(node):
    """The folder with the keys is closed to operator and stranger alike."""
    for uid in (OPERATOR, STRANGER):
        done = subprocess.run(
            _as_user(uid, "ls", str(node / "state")), capture_output=True, check=False
        )
        assert done.returncode != 0
