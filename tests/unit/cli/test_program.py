"""The exact next command."""

from __future__ import annotations

import os
import sys

import pytest

from veilnet.cli import program


@pytest.fixture
def in_venv(monkeypatch, tmp_path):
    """Run as a script that only the user's PATH has."""
    script = tmp_path / "bin" / "veilnet"
    script.parent.mkdir()
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:/usr/bin")
    monkeypatch.setattr(sys, "argv", [str(script)])
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    return str(script)


def test_sudo_needs_the_path_that_the_user_does_not(in_venv):
    """In an activated venv the name is enough for the user, and not for sudo."""
    assert program.command("status") == "veilnet status"
    assert program.command("up", sudo=True) == f"sudo {in_venv} up"


def test_hints_become_commands_that_work_here(in_venv):
    """A hint's commands are rewritten; what only looks like one is not."""
    text = "Start the node first: sudo veilnet up, or see `veilnet status`; /usr/bin/veilnet x"
    assert program.exact(text) == (
        f"Start the node first: sudo {in_venv} up, or see `veilnet status`; /usr/bin/veilnet x"
    )


def test_root_needs_no_sudo(in_venv, monkeypatch):
    """Root is not told to use sudo."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert "sudo" not in program.exact("sudo veilnet up")


def test_run_as_a_module(monkeypatch):
    """Run by `python -m veilnet`, that is what is printed."""
    monkeypatch.setattr(sys, "argv", ["/src/veilnet/__main__.py"])
    assert program.command("status") == f"{sys.executable} -m veilnet status"
