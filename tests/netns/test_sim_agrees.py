"""What a lookup costs, and who is asked: real nodes beside the simulation of as many.

```
 leaf --- NAT --- 12 strangers at public places, all of the commons
```
The simulation (`veilnet.sim.discovery`) runs the machines of the daemon in a world of its own: its
routing, what a session and a message weigh and who is asked are assumptions, until this agrees.
"""

from __future__ import annotations

import hashlib
import statistics
import time

import pytest

from tests.netns.scenes import eventually, needs_nft, status
from veilnet.errors import VeilError
from veilnet.sim.discovery.network import Network, Setting, look
from veilnet.sim.traces import generated
from veilnet.testing import Internet, Lab, Node, Strangers
from veilnet.testing.capture import Capture
from veilnet.testing.internet import WEST
from veilnet.testing.nat import Nat

pytestmark = [needs_nft, pytest.mark.slow]

NODES = 12
FULL_S = 60.0
_IP = 14


def simulated():
    """Return who is asked for what nobody stored, and bytes: over new sessions, over old ones."""
    trace = generated("planetlab", seed=0)
    setting = Setting(NODES + 1, away=0.0, loss=0.0)
    network = Network(setting, trace, seed=1, system="machines")
    cold, warm = [], []
    for number in sorted(network.up):
        results = []
        for times in range(2):
            nowhere = hashlib.sha256(f"{number} {times}".encode()).digest()
            look(network.machine(number), nowhere, b"", results)
            network.loop.run(network.loop.now + 10.0)
        cold.append(results[0])
        warm.append(results[1])
    mean = statistics.fmean
    return {
        "asked": mean(one.asked for one in cold),
        "cold": mean(one.cost_bytes for one in cold),
        "warm": mean(one.cost_bytes for one in warm),
    }


def published(node):
    """Return what it had kept by others, network by network."""
    return status(node)["discovery"]["published"]


def searched(node, name):
    """Let *node* look for a name that nobody has; return who was spoken to, and bytes both ways."""
    with Capture(node.host, "eth0") as wire:
        with pytest.raises(VeilError, match=name):
            node.tell("connect", wait_s=40, peer=name, timeout_s=30)
        time.sleep(1.0)
        frames = [frame for frame in wire.frames if frame.data[12:14] == b"\x08\x00"]
    spoken = [f for f in frames if f.data[_IP + 9] == 17 and f.data[_IP + 16] != 239]
    places = {f.data[_IP + 16 : _IP + 20] if f.outgoing else f.data[_IP + 12 : _IP + 16]
              for f in spoken}  # fmt: skip
    return len(places), sum(len(frame.data) - _IP for frame in spoken)


def test_a_lookup_costs_what_the_simulation_says(tmp_path):
    """Within a third where sessions are new; and who is asked, within one."""
    with Lab() as lab:
        internet = Internet(lab)
        strangers = Strangers(internet, tmp_path, count=NODES, relays=1)
        nat, host = Nat(lab, internet, "nat", "port", at=WEST), lab.host("leaf")
        nat.admit(host)
        leaf = Node(host, tmp_path)
        seed = next(at for at in status(strangers.nodes[0])["discovery"]["public"] if "[" not in at)
        leaf.configure(contacts=[seed], log_level="debug")
        leaf.up("--name", "leaf")
        eventually(lambda: status(leaf)["discovery"]["contacts"] >= NODES, timeout_s=FULL_S)
        # What it publishes asks them too, whenever its relay is found.
        eventually(lambda: all(each["storers"] for each in published(leaf)), timeout_s=FULL_S)
        # Sessions of before are over: the first search needs new ones, the second does not.
        time.sleep(70)
        asked, cold = searched(leaf, "nosuch")
        _, warm = searched(leaf, "nosuch2")
    said = simulated()
    assert asked == pytest.approx(said["asked"], abs=1.5)
    assert cold == pytest.approx(said["cold"], rel=1 / 3)
    # Real nodes are told of by both of their addresses, so that answers are up to twice as long.
    assert said["warm"] / 1.5 < warm < 2 * said["warm"]
