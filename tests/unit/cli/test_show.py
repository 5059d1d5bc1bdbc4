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
