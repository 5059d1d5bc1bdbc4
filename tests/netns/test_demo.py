"""`veilnet demo`: what it shows is true, and where it would not be, it says so."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from veilnet.demo import Step, scene
from veilnet.errors import PrivilegeError
from veilnet.testing import Delays, Lab, command

DEMO = [sys.executable, "-P", "-m", "veilnet", "demo"]


@pytest.mark.slow
def test_the_demo_reports_both_acts_in_json():
    """`demo --json` prints one object: traffic directly and relayed, a failover, no clear text."""
    done = subprocess.run([*DEMO, "--json"], capture_output=True, text=True, timeout=90, check=True)
    shown = json.loads(done.stdout)
    assert shown["ok"] is True
    assert (shown["nodes"], shown["plaintext_on_wire"]) == (3, 0)
    for name in ("handshake_ms", "direct_mbps", "relayed_mbps"):
        assert shown[name] > 0, name
    # That it is fast is the benches' business; the silence cannot be shorter than it takes to see.
    assert 100 < shown["failover_ms"] < 5000
    assert "the relay took over" in done.stderr
    assert "it is the path of choice" in done.stderr


def test_the_demo_says_not_ok_on_a_bare_wire(tmp_path):
    """laptop ==== router ==== server, without a tunnel: the tap finds the clear text."""
    steps: list[Step] = []
    with Lab() as lab, Delays() as delays:
        stage = scene.Stage.build(lab, delays, tmp_path)
        server = stage.backbone.address(stage.server.host)
        bare = scene.Tunnel(server, "eth0", {"handshake_ms": 0.0, "suite": "none"})
        direct = scene.first_act(stage, bare, steps.append, 0.2)
    assert direct.look.on_wire > 0
    assert direct.ok is False
    assert any(step.detail for step in steps)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_demo_leaves_nothing_behind(number, tmp_path):
    """Ended in its middle, by Ctrl-C or brutally, no process of it lives on."""
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        DEMO, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as demo:
        assert demo.stderr is not None
        assert demo.stderr.readline().startswith("ok ")
        demo.send_signal(number)
        # The pipe ends only when nobody who inherited it is left.
        demo.stderr.read()
        assert demo.wait(timeout=20) != 0
    if number == signal.SIGINT:
        assert list(Path(tmp_path).iterdir()) == []


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not installed")
def test_where_nothing_is_allowed_the_setting_and_the_way_as_root_are_named():
    """No user namespaces and no capabilities: exit 4, and two lines that help."""
    script = (
        "echo 0 > /proc/sys/user/max_user_namespaces\n"
        f"exec setpriv --bounding-set=-all -- {shlex.join(DEMO)}\n"
    )
    done = subprocess.run(
        command(["sh", "-c", script]), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == PrivilegeError.code
    assert done.stdout == ""
    what, remedy = done.stderr.splitlines()
    assert "user.max_user_namespaces" in what
    assert "sudo" in remedy
    assert "sysctl -w user.max_user_namespaces=" in remedy
