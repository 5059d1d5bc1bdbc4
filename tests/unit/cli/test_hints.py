"""Every hint names commands and options that this release has."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
import typer

import veilnet
from veilnet import errors
from veilnet.cli import doctor
from veilnet.cli.app import app
from veilnet.cli.program import exact
from veilnet.errors import InviteError, VeilError

ROOT = Path(veilnet.__file__).parent
MENTION = re.compile(r"(?<![\w/.-])veilnet((?: [a-z-]+[a-z]\b| --[a-z-]+)+)")


def default_hints():
    """Return every error class's own hint."""
    classes = [each for each in vars(errors).values() if isinstance(each, type)]
    return {each.default_hint for each in classes if issubclass(each, VeilError)}


def given_hints():
    """Return every literal that is given as a hint anywhere in the package."""
    found = set()
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "hint":
                found |= {
                    part.value
                    for part in ast.walk(node.value)
                    if isinstance(part, ast.Constant) and isinstance(part.value, str)
                }
    return found


def missing(hint):
    """Return the words after `veilnet` in *hint* that are no command or option of it."""
    wrong = []
    for mention in MENTION.finditer(hint):
        command = typer.main.get_command(app)
        everywhere = {name for each in command.params for name in each.opts} | {"--help"}
        for number, word in enumerate(mention[1].split()):
            options = {name for each in command.params for name in each.opts}
            inner = getattr(command, "commands", {})
            if word.startswith("-"):
                wrong += [] if word in options | everywhere else [word]
            elif word in inner:
                command = inner[word]
            elif number == 0 or inner:
                wrong.append(word)
            else:
                break  # plain English goes on behind a whole command
    return wrong


@pytest.mark.parametrize("hint", sorted(default_hints() | given_hints()))
def test_a_hint_names_what_there_is(hint):
    """Whoever follows a hint meets no "no such command"."""
    assert missing(hint) == []


def test_the_check_itself_sees_what_is_missing():
    """A command, a subcommand or an option that is not there is found."""
    assert missing("Run `veilnet bugreport`.") == ["bugreport"]
    assert missing("veilnet member revoke PEER") == ["revoke"]
    assert missing("sudo veilnet up --no-such N") == ["--no-such"]
    assert missing("See: sudo veilnet up --listen-port N or veilnet peer list") == []


def test_the_firewall_hint_names_the_port(monkeypatch):
    """What can be filled in is filled in, so that the line can be pasted."""
    monkeypatch.setattr(doctor.shutil, "which", lambda name: name if name == "ufw" else None)
    monkeypatch.setattr(doctor, "_may_configure", lambda: True)
    monkeypatch.setattr(doctor, "_output", lambda argv: "-P INPUT DROP" if "-S" in argv else None)
    assert doctor._firewall(41000).hint.endswith("sudo ufw allow 41000/udp")
    assert "PORT" in doctor._firewall(None).hint
    monkeypatch.setattr(doctor, "_output", lambda argv: "-P INPUT ACCEPT" if "-S" in argv else None)
    assert (doctor._firewall(41000).ok, doctor._firewall(41000).hint) == (True, "")
    monkeypatch.setattr(doctor, "_output", lambda argv: None)
    assert (doctor._firewall(41000).ok, doctor._firewall(41000).hint) == (None, "")


def chain(policy, *rules, hook="input"):
    """Return what `nft -j list ruleset` says of one chain."""
    where = {"family": "inet", "table": "t"}
    items = [{"metainfo": {}}, {"chain": {**where, "name": "c", "hook": hook, "policy": policy}}]
    items += [{"rule": {**where, "chain": "c", "expr": list(rule)}} for rule in rules]
    return json.dumps({"nftables": items})


MATCH = {"match": {"op": "==", "left": {"meta": {"key": "iif"}}, "right": "lo"}}


@pytest.mark.parametrize(
    ("ruleset", "drops"),
    [
        (chain("accept"), False),
        (chain("drop"), True),
        (chain("drop", hook="output"), False),
        (chain("accept", [MATCH, {"drop": None}]), False),
        (chain("accept", [MATCH, {"accept": None}], [{"counter": {}}, {"reject": {}}]), True),
        ("no JSON", False),
    ],
)
def test_a_chain_that_drops_the_rest_is_seen(ruleset, drops):
    """By its policy or by its last rule; what drops only something is none."""
    assert doctor.dropping_chains(ruleset) == (["nft chain inet t c"] if drops else [])


def test_what_is_to_be_typed_elsewhere_stays_as_it_is(monkeypatch):
    """A hint for another machine has no path of this one."""
    monkeypatch.setattr("sys.argv", ["/opt/venv/bin/veilnet"])
    text = InviteError("it is used up").hint
    assert exact(text) == text == "Ask whoever sent it for a new one; there: veilnet invite"
    assert "/opt/venv/bin/veilnet" in exact("See what there is: veilnet peer list")
