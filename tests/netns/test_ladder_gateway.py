"""A node behind a gateway that gives ports: PCP, NAT-PMP, UPnP.

```
 home 192.168.0.2 ==== 192.168.0.1 gateway, which says that it is 203.0.113.7 outside
```
The gateway is a small one of ours: the real protocols on real sockets, and no NAT behind them.
"""

from __future__ import annotations

import pytest

from tests.netns.ladder_scenes import Program
from tests.netns.scenes import eventually

PORT = 41_000
OUTSIDE = "203.0.113.7"
LIFE_S = 1


@pytest.fixture
def gateway(lab):
    """Return a function that starts a gateway of a kind, and a node that asks it for a port."""
    home, router = lab.host("home"), lab.router("gateway")
    lab.wire(home, "192.168.0.2/24", router, "192.168.0.1/24")
    home.route("default", via="192.168.0.1")
    programs = []

    def start(mode):
        gate = Program(router, "gate", "192.168.0.1", OUTSIDE, mode, str(LIFE_S)).up()
        programs.append(gate)
        programs.append(asker := Program(home, "map", str(PORT)))
        return gate, asker

    yield start, home
    for program in programs:
        program.end()


def asked(gate, by):
    """Return what the gateway was asked in a protocol."""
    return [line for line in gate.lines if line.get("by") == by]


@pytest.mark.parametrize(
    ("mode", "by"), [("pcp", "PCP"), ("natpmp", "NAT-PMP"), ("deaf", "NAT-PMP")]
)
def test_a_port_is_mapped_renewed_and_given_back(gateway, mode, by):
    """The node knows its public port; the gateway is asked again at half the life, and at last 0.

    A gateway that knows no PCP says so, or is deaf to it: NAT-PMP is tried both times.
    """
    start, _ = gateway
    gate, home = start(mode)
    eventually(lambda: home.lines and home.lines[-1].get("mapped") == f"{OUTSIDE}:{PORT}")
    assert f"leads here, by {by} of 192.168.0.1" in home.lines[-1]["note"]
    # Three lives long, and no gap: the mapping stands all the time.
    eventually(lambda: len(asked(gate, by)) >= 6)
    assert all(line.get("mapped") for line in home.lines[1:])
    home.end()
    assert home.lines[-1] == {"state": "over", "mapped": ""}
    eventually(lambda: asked(gate, by)[-1]["life"] == 0)
    for line in asked(gate, by):
        assert (line["client"], line["inside"]) == ("192.168.0.2", PORT)
        assert line["protocol"] == (17 if by == "PCP" else 1)
        assert line.get("result", 0) == 0


def test_a_port_is_mapped_by_upnp(gateway):
    """Found by multicast, asked over HTTP, given back at the end."""
    start, _ = gateway
    gate, home = start("upnp")
    eventually(lambda: home.lines and home.lines[-1].get("mapped") == f"{OUTSIDE}:{PORT}")
    assert "by UPnP" in home.lines[-1]["note"]
    added = asked(gate, "UPnP")[0]
    assert added["action"] == "AddPortMapping"
    assert (added["NewInternalClient"], added["NewInternalPort"]) == ("192.168.0.2", str(PORT))
    assert (added["NewProtocol"], added["NewLeaseDuration"]) == ("UDP", "7200")
    home.end()
    eventually(lambda: asked(gate, "UPnP")[-1]["action"] == "DeletePortMapping")
    assert asked(gate, "UPnP")[-1]["NewExternalPort"] == str(PORT)


def test_a_gateway_that_knows_nothing_is_a_line(gateway):
    """No protocol answered: it is told with what can be done, and nothing hangs or raises."""
    _, home = gateway
    asker = Program(home, "map", str(PORT))
    eventually(lambda: asker.lines and asker.lines[-1].get("state") == "failed")
    said = asker.lines[-1]
    assert "the gateway 192.168.0.1 gave no port" in said["failed"]
    assert "PCP, NAT-PMP" in said["failed"]
    assert "UPnP" in said["failed"]
    assert "Switch UPnP, NAT-PMP or PCP on" in said["remedy"]
    assert said["mapped"] == ""
    asker.end()
