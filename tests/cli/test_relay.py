"""Lending a node as a relay: what is said holds at once, is shown, and outlives a restart."""

from __future__ import annotations

import pytest


@pytest.fixture
def up(host):
    """A node that runs."""
    host.ok("up", "--no-tun", "--name", "alice")
    return host


def test_own_networks_are_the_default(up):
    """Nobody has to switch anything on, and nobody else is served."""
    assert up.ok("status", "--json").json["relay"] == {
        "for": ["own"],
        "circuits": 0,
        "rate_bps": 0,
        "bytes_total": 0,
    }
    out = up.ok("relay", "status").out
    assert out.splitlines() == [
        "relays    for own networks",
        "limits    rate none, volume none a day, 64 circuits; one peer: half of each",
        "carries   0 circuits, nothing now, 0 B today, 0 B since the start",
    ]


def test_on_is_for_strangers_too(up):
    """`relay on` lends to everybody; `--own` goes back to the default."""
    ran = up.ok("relay", "on")
    assert "relays    for own networks and strangers" in ran.out
    ran = up.ok("relay", "on", "--own", "--json")
    assert (ran.json["for"], ran.err) == (["own"], "")


def test_off_is_for_nobody_and_is_kept(up):
    """Over a restart too, whatever the file says."""
    up.ok("relay", "off")
    up.ok("relay", "limit", "--circuits", "8", "--volume", "1.5G")
    up.ok("down")
    (up.state / "config.toml").write_text('relay = "all"\nrelay_rate_bps = 1000000\n')
    up.ok("up", "--no-tun")
    value = up.ok("relay", "status", "--json").json
    assert value["for"] == []
    assert value["limits"] == {"circuits": 8, "rate_bps": 10**6, "volume_bytes": 1_500_000_000}
    assert value["set_by"] == {
        "relay": "command",
        "relay_circuits": "command",
        "relay_rate_bps": "config",
        "relay_volume_bytes": "command",
    }
    assert "relays    for nobody" in up.ok("relay", "status").out
    assert up.ok("relay", "limit", "--volume", "none", "--json").json["limits"]["volume_bytes"] == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("limit",), "no limit is named"),
        (("limit", "--rate", "fast"), "--rate: 'fast' is no amount"),
        (("limit", "--volume", "0"), "--volume: '0' is no amount"),
        (("limit", "--rate", "9999999T"), "relay_rate_bps"),
        (("limit", "--circuits", "0"), "--circuits"),
    ],
)
def test_a_limit_that_is_none(up, words, said):
    """Exit 2, and two lines that say what and what next."""
    ran = up.run("relay", *words)
    assert ran.code == 2
    assert said in ran.error_lines[0]
    assert len(ran.error_lines) == 2


def test_without_a_node(host):
    """Exit 3."""
    assert host.run("relay", "off").code == 3
