"""Exit codes, and the two lines on stderr; no node runs in these tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from veilnet.networks.endpoint import Endpoint
from veilnet.networks.invite import Invite

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


def is_one_object(ran):
    """Whether a program can read what went wrong."""
    value = json.loads(ran.err)
    named = set(value) == {"error", "code", "message", "hint"}
    return ran.out == "" and len(ran.error_lines) == 1 and named and value["code"] == ran.code


@pytest.mark.parametrize("words", NEEDS_A_NODE, ids=" ".join)
@pytest.mark.parametrize("json_wanted", [False, True])
def test_without_a_node_the_exit_code_is_3(host, words, json_wanted):
    """Whatever needs a node says so in two lines, the second with the command that starts it."""
    ran = host.run(*words, *(["--json"] if json_wanted else []))
    assert ran.code == 3
    assert is_one_object(ran) if json_wanted else is_two_lines(ran)
    hint = json.loads(ran.err)["hint"] if json_wanted else ran.error_lines[1]
    assert hint.endswith("up")
    assert ("nothing to stop" in ran.err) == (words == ("down",))


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
    ("words", "flag"),
    [
        (("up", "--name", "two words"), "--name"),
        (("up", "--name", "localhost"), "--name"),
        (("connect", "bob", "--name", "-"), "--name"),
        (("up", "--kem-backend", "rsa"), "--kem-backend"),
        (("up", "--log-level", "loud"), "--log-level"),
        (("up", "--endpoint", "1.2.3.4"), "--endpoint"),
        (("up", "--hosts-file", "/nowhere/hosts"), "--hosts-file"),
        (("up", "--hosts-file", "/"), "--hosts-file"),
        (("invite", "--expires", "400d"), "at most 30d"),
        (("invite", "--expires", "soon"), "--expires"),
        (("connect", ""), "PEER"),
        (("ping", " "), "PEER"),
    ],
    ids=str,
)
def test_a_bad_option_is_2_and_is_named(host, words, flag):
    """The command line is at fault and says where; the configuration file is not mentioned."""
    for more in ((), ("--json",)):
        ran = host.run(*words, *more)
        assert ran.code == 2, ran.err
        assert is_one_object(ran) if more else is_two_lines(ran)
        assert flag in ran.err
        assert "config.toml" not in ran.err
    assert not host.state.exists()


def test_an_invite_whose_beginning_was_not_copied(host):
    """It is recognised by its checksum; any other long word is a name that nobody has."""
    invite = Invite(
        bytes(8), bytes(32), bytes(32), bytes(32), (Endpoint("10.0.0.1", 1),), bytes(32)
    )
    body = invite.format().removeprefix("veil:")
    ran = host.run("connect", body)
    assert ran.code == 2
    assert "without veil:" in ran.err
    assert host.run("connect", body[:-1]).code == 3


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


def test_a_faulty_config_can_be_shown(host):
    """`config show` has every key, the good values, and a mark at what cannot be used."""
    host.state.mkdir(mode=0o700)
    file = host.state / "config.toml"
    file.write_text("nonsense = 1\nlisten_port = -1\nrekey_s = 60\n")
    shown = host.ok("config", "show")
    lines = shown.out.splitlines()
    assert "rekey_s = 60" in lines
    assert "listen_port = 0" in lines
    assert sum(line.startswith("# BAD") for line in lines) == 2
    assert set(host.ok("config", "show", "--json").json["faults"]) == {"nonsense", "listen_port"}
    ran = host.run("config", "check")
    assert (ran.code, "config check" in ran.error_lines[1]) == (7, False)
    file.write_text(shown.out)
    host.ok("config", "check")


def test_doctor_names_a_bad_config_once(host):
    """One bad key is one BAD line and exit 7, whatever else this machine lacks."""
    host.state.mkdir(mode=0o700)
    (host.state / "config.toml").write_text("nonsense = 1")
    ran = host.run("doctor", "--json")
    bad = [check["name"] for check in ran.json["checks"] if not check["ok"]]
    assert bad in (["config"], ["tun", "config"])
    assert ran.code == (7 if bad == ["config"] else 4)
    node = next(check for check in ran.json["checks"] if check["name"] == "node")
    assert (node["ok"], node["state"]) == (True, "unknown")
    assert "--   node: no node" in host.run("doctor").out


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


def written_to(output, host):
    """Let `veilnet config show` write into *output*; return how it ended."""
    argv = [sys.executable, "-m", "veilnet", "config", "show", *host.arguments]
    return subprocess.run(argv, stdout=output, stderr=subprocess.PIPE, text=True, check=False)


def test_a_closed_pipe_is_no_error(host):
    """`veilnet config show | true` ends quietly."""
    reader, writer = os.pipe()
    os.close(reader)
    done = written_to(writer, host)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_disk_behind_the_output_is_said(host):
    """`veilnet config show > /dev/full` names what is in the way, and is no bug."""
    with Path("/dev/full").open("w") as full:
        done = written_to(full, host)
    assert done.returncode == 2
    assert "the output cannot be written: No space left" in done.stderr


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
