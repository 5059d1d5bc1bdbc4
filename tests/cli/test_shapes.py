"""What `--json` prints is what docs/reference/json-schema says; the guide lists what there is."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from tests.cli.schema import faults, load
from veilnet.cli.app import app
from veilnet.demo.result import Direct, Look, Relayed, Result

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "commands.md"


def test_status_and_connect_have_the_documented_shapes(hosts):
    """Of nodes that are alone, connected and idle; nothing is missing and nothing undocumented."""
    alice, bob = hosts("alice"), hosts("bob")
    alone = alice.ok("up", "--no-tun", "--name", "alice", "--json").json
    invite = alice.ok("invite", "--json").json["invite"]
    connected = bob.ok("connect", invite, "--no-tun", "--name", "bob", "--json").json
    busy = bob.ok("status", "--json").json
    why = [bob.ok("path", "explain", "alice", "--json").json]
    bob.ok("disconnect", "alice")
    why.append(bob.ok("path", "explain", "alice", "--json").json)
    idle = bob.ok("status", "--json").json
    assert [peer["state"] for peer in busy["peers"] + idle["peers"]] == ["connected", "idle"]
    assert faults(connected, load("connect")) == []
    assert [value["state"] for value in why] == ["connected", "idle"]
    assert why[0]["arms"]
    for value in why:
        assert faults(value, load("path")) == []
    for value in (alone, busy, idle):
        assert faults(value, load("status")) == []


def test_relaying_has_the_documented_shape(host):
    """Whatever was said last; and as much of it as `status` shows."""
    host.ok("up", "--no-tun", "--name", "alice")
    assert faults(host.ok("relay", "status", "--json").json, load("relay")) == []
    assert faults(host.ok("relay", "limit", "--rate", "100M", "--json").json, load("relay")) == []
    carried = {"id": "0" * 64, "name": "bob"}
    value = host.ok("relay", "on", "--json").json
    value["carries"] = [
        {
            "network": "home",
            "from": carried,
            "to": carried,
            "through": through,
            "bytes": 9,
            "confirmed": True,
        }
        for through in (None, carried)
    ]
    assert faults(value, load("relay")) == []


def test_the_demo_has_the_documented_shape():
    """The figures that scripts may rely on."""
    look = Look(on_wire=0, inside=9, frames=9)
    direct = Direct(
        handshake_ms=4.0,
        suite="S1",
        ping_ms=0.3,
        pings_answered=3,
        pings_sent=3,
        mbps=900.0,
        look=look,
    )
    relayed = Relayed(
        failover_ms=400.0,
        mbps=300.0,
        look=look,
        back_s=2.0,
        stream_bytes=9,
        stream_intact=True,
    )
    result = Result(nodes=3, direct=direct, relayed=relayed)
    assert faults(result.to_json(), load("demo")) == []


@pytest.mark.parametrize(
    "change",
    [{"peer_id": "ab"}, {"extra": 1}, {"handshake_ms": -1}, {"handshake_ms": True}, {"path": None}],
)
def test_the_check_sees_what_is_wrong(change):
    """A member that is missing, new, of another type or out of bounds is found."""
    path = {"kind": "direct", "endpoint": "x", "veil": "mist", "state": "active"}
    path |= {"rtt_ms": None, "mtu_bytes": 1412, "share": 1.0, "loss": 0, "via": [], "via_names": []}
    good = {"peer_id": "0" * 64, "path": path, "handshake_ms": 1.5, "first_byte_ms": 2}
    good |= {"name": "bob", "network": "home"}
    assert faults(good, load("connect")) == []
    assert faults(good | change, load("connect"))
    del path["kind"]
    assert faults(good, load("connect")) == ["$.path.kind is missing"]


def commands(command, words=()):
    """Return every command as its words."""
    inner = getattr(command, "commands", None)
    if inner is None:
        return [(" ".join(words), command)]
    return [found for name, each in inner.items() for found in commands(each, (*words, name))]


def test_the_guide_lists_every_command_and_option():
    """docs/guide/commands.md is complete."""
    text = GUIDE.read_text("utf-8")
    for name, command in commands(typer.main.get_command(app)):
        assert f"`{name}" in text, name
        for each in command.params:
            option = each.opts[0]
            if option.startswith("--") and option not in {"--help", "--count"}:
                assert option in text, f"{name} {option}"
