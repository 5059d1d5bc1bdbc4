"""Exit codes, and the two lines on stderr; no node runs in these tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

NEEDS_A_NODE = [
    ("status",),
    ("down",),
    ("invite",),
    ("peer", "list"),
    ("peer", "show", "bob"),
    ("member", "list"),
    ("network", "list"),
    ("network", "show", "home"),
    ("key", "status"),
    ("ping", "bob"),
    ("connect", "bob"),
    ("disconnect", "bob"),
]


def is_two_lines(ran):
    """Whether the program said what happened and what next, and nothing else."""
    return ran.out == "" and len(ran.error_lines) == 2 and ran.err.startswith("veilnet: ")


@pytest.mark.parametrize("words", NEEDS_A_NODE, ids=" ".join)
@pytest.mark.parametrize("json_wanted", [False, True])
def test_without_a_node_the_exit_code_is_3(host, words, json_wanted):
    """Whatever needs a node says so in two lines, the second with the command that starts it."""
    ran = host.run(*words, *(["--json"] if json_wanted else []))
    assert ran.code == 3
    assert is_two_lines(ran)
    assert ran.error_lines[1].endswith("up")


@pytest.mark.parametrize(
    "words",
    [
        ("frobnicate",),
        ("status", "--frobnicate"),
        ("connect",),
        ("connect", "bob", "--timeout", "soon"),
        ("connect", "bob", "--timeout", "0"),
        ("ping", "bob", "-c", "0"),
        ("up", "--listen-port", "70000"),
        ("peer", "frobnicate"),
    ],
    ids=" ".join,
)
def test_usage_errors_are_2(host, words):
    """A command line that cannot be meant is exit 2, in two lines, with the help to read."""
    ran = host.run(*words)
    assert ran.code == 2
    assert is_two_lines(ran)
    assert "--help" in ran.error_lines[1]


@pytest.mark.parametrize(
    "invite", ["veil:", "veil:abcdefg", "VEIL:77777777", "veil:" + "a" * 300, "veil:ü"]
)
def test_a_garbled_invite_is_7_and_starts_nothing(host, invite):
    """An invite with a wrong checksum is refused before a node is started for it."""
    ran = host.run("connect", invite)
    assert ran.code == 7
    assert is_two_lines(ran)
    assert not host.state.exists()


@pytest.mark.parametrize("text", ["nonsense = 1", "listen_port = -1", "= ="])
def test_a_bad_config_is_7(host, text):
    """Both the check and a start refuse a config that cannot be meant, and name the file."""
    host.state.mkdir(mode=0o700)
    (host.state / "config.toml").write_text(text)
    for words in (("config", "check"), ("up", "--no-tun")):
        ran = host.run(*words)
        assert ran.code == 7
        assert is_two_lines(ran)
        assert "config.toml" in ran.error_lines[0]


def test_the_shown_config_passes_the_check(host):
    """What `config show` prints is a config.toml that `config check` accepts."""
    shown = host.ok("config", "show").out
    host.state.mkdir(mode=0o700)
    (host.state / "config.toml").write_text(shown)
    assert host.ok("config", "check", "--json").json["ok"] is True


def test_the_config_as_json(host):
    """`config show --json` has every key with its value."""
    assert host.ok("config", "show", "--json").json["idle_close_s"] == 300.0


def test_no_traceback_unless_asked_for(host):
    """--debug shows where an error came from; without it two lines are all."""
    assert "Traceback" not in host.run("status").err
    assert "Traceback" in host.run("status", "--debug").err
    assert "Traceback" in host.run("status", VEILNET_DEBUG="1").err


def test_version_and_help(host):
    """--version and --help answer on stdout and exit 0."""
    assert host.ok("--version").out.startswith("veilnet ")
    for words in ((), ("up",), ("connect",), ("peer", "list")):
        assert "Usage: veilnet" in host.ok(*words, "--help").out


def test_doctor_says_which_backend_and_why(host):
    """`doctor --json` is JSON whatever is wrong, and tells the crypto backend."""
    ran = host.run("doctor", "--json")
    value = json.loads(ran.out)
    checks = {check["name"]: check for check in value["checks"]}
    assert value["ok"] is (ran.code == 0)
    assert "cryptography" in checks["crypto"]["detail"] or "liboqs" in checks["crypto"]["detail"]


def test_a_closed_pipe_is_no_error(host):
    """`veilnet config show | true` ends quietly."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "veilnet", "config", "show", *host.arguments],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_command_line_is_quick_to_load():
    """Commands that only ask a node import neither trio nor any crypto."""
    script = (
        "import sys, veilnet.cli.main as m; m.main(['status', '--socket', '/none']);"
        "print(sorted({'trio', 'cryptography', 'oqs', 'pyroute2', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
