"""What people read."""

from __future__ import annotations

import pytest

from veilnet.cli import output, show


def peer(name, state="idle", **more):
    """A peer as `status` has it."""
    value = {
        "id": name.encode().hex(),
        "name": name,
        "network": "home",
        "addresses": ["fd00::7", "100.64.0.7"],
        "state": state,
        "paths": [],
        "tx_bytes": 0,
        "rx_bytes": 0,
    }
    return value | more


def test_peers_are_sorted_aligned_and_have_an_address(capsys):
    """By name, in columns, with the address to type and when an idle one was last heard."""
    path = {"kind": "direct", "endpoint": "192.0.2.7:41000", "rtt_ms": 1.5}
    show.status(
        {
            "peer_id": "ab" * 32,
            "state": "up",
            "port": 1,
            "version": "0",
            "networks": [],
            "peers": [
                peer("zed", "connected", paths=[path], heard_s=1.0),
                peer("al", heard_s=185.0),
                peer("bo"),
            ],
        }
    )
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[1] for line in lines] == ["al.home", "bo.home", "zed.home"]
    assert len({line.index("100.64.0.7") for line in lines}) == 1
    assert lines[0].endswith("seen 3 min ago")
    assert lines[1].endswith("idle")
    assert lines[2].endswith("direct 192.0.2.7:41000, rtt 1.50 ms")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "relayed by carol 192.0.2.7:41000, rtt 12 ms"),
        ({"share": 0.25}, "relayed by carol 192.0.2.7:41000, rtt 12 ms, 25% of the traffic"),
        (
            {"share": 0.0, "state": "standby"},
            "relayed by carol 192.0.2.7:41000, rtt 12 ms, standby",
        ),
        (
            {"via": ["ab" * 32, "cd" * 32], "via_names": ["", "dave"]},
            "relayed by stranger abababababab and dave 192.0.2.7:41000, rtt 12 ms",
        ),
        ({"kind": "direct", "via": [], "state": "dead"}, "direct 192.0.2.7:41000, rtt 12 ms, dead"),
    ],
)
def test_a_path_says_over_whom_it_goes(change, words):
    """The relays by name, what part of the traffic it carries, and whether it is in use."""
    path = {"kind": "relayed", "via": ["ab" * 32], "via_names": ["carol"], "share": 1.0}
    path |= {"endpoint": "192.0.2.7:41000", "rtt_ms": 12.3, "state": "active"}
    assert show.path_words(path | change) == words


def test_path_explain_is_a_table_with_the_reason_above(capsys):
    """Each way in a line: share or standby, forecast, both legs of a relay, and why."""
    arm = {"kind": "direct", "via": [], "via_names": [], "share": 1.0, "standby": False}
    arm |= {"state": "alive", "rtt_ms": 3.2, "forecast_ms": 3.5, "confidence": 0.9}
    arm |= {"own_leg_ms": None, "far_leg_ms": None, "reason": "cheapest"}
    relay = arm | {"kind": "relayed", "via": ["ab" * 32], "via_names": ["carol"], "share": 0.0}
    relay |= {"standby": True, "own_leg_ms": 4.0, "far_leg_ms": 5.0, "forecast_ms": None}
    show.explained(
        {
            "name": "bob",
            "network": "home",
            "state": "connected",
            "policy": "veil",
            "reason": "it is near",
            "arms": [arm, relay],
        }
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["bob.home  connected  policy veil", "it is near"]
    direct = "direct 100% alive 3.20 ms 3.50 ms 90% - cheapest"
    assert " ".join(lines[4].split()) == direct
    assert "standby" in lines[5]
    assert "4.00 ms + 5.00 ms" in lines[5]


def test_the_address_to_type():
    """IPv4 if there is one, else IPv6, else a dash."""
    assert show.address(["fd00::7", "100.64.0.7"]) == "100.64.0.7"
    assert show.address(["fd00::7"]) == "fd00::7"
    assert show.address([]) == "-"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s ago"), (59, "59 s ago"), (60, "1 min ago"), (7200, "2 h ago"), (90_000, "1 d ago")],
)
def test_how_long_ago(seconds, words):
    """In the largest unit of which there is one."""
    assert output.ago(seconds) == words
