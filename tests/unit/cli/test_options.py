"""Global options: before or after the command, flag or environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from veilnet.cli.options import Globals, split
from veilnet.errors import UsageError


@pytest.mark.parametrize(
    "words",
    [
        ["--state", "/s", "--json", "status"],
        ["status", "--json", "--state", "/s"],
        ["--state=/s", "status", "--json"],
    ],
)
def test_before_or_after_the_command(words):
    """A global option means the same wherever it stands."""
    found, rest = split(words, {})
    assert found == Globals(state=Path("/s"), json=True)
    assert rest == ["status"]


def test_nothing_after_a_double_dash_is_ours():
    """Words behind -- belong to the command."""
    found, rest = split(["exclude", "--", "curl", "--json"], {})
    assert not found.json
    assert rest == ["exclude", "--", "curl", "--json"]


def test_the_environment_and_the_flag_above_it():
    """Every global option has a VEILNET_ twin; the command line wins."""
    environ = {"VEILNET_STATE": "/e", "VEILNET_JSON": "1", "VEILNET_LOG_LEVEL": "debug"}
    found, _ = split(["--state", "/s", "status"], environ)
    assert (found.state, found.json, found.log_level) == (Path("/s"), True, "debug")


def test_relative_paths_become_absolute(monkeypatch, tmp_path):
    """The daemon leaves the folder, so a relative path is fixed at once."""
    monkeypatch.chdir(tmp_path)
    found, _ = split(["--socket", "s"], {})
    assert found.socket == tmp_path / "s"


@pytest.mark.parametrize(
    ("words", "environ"),
    [
        (["--state"], {}),
        (["--state="], {}),
        (["status"], {"VEILNET_JSON": "maybe"}),
        (["up", "--log-level", "loud"], {}),
        (["up"], {"VEILNET_LOG_LEVEL": "loud"}),
    ],
)
def test_what_cannot_be_meant(words, environ):
    """An option without its value, or a twin that is neither true nor false, is a usage error."""
    with pytest.raises(UsageError):
        split(words, environ)


def test_the_next_command_meets_the_same_node():
    """What names the node is repeated, what only shapes output is not."""
    found, _ = split(["--state", "/s", "--socket", "/k", "--json"], {})
    assert found.as_arguments() == ["--state", "/s", "--socket", "/k"]
