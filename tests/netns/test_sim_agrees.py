"""What a lookup costs, whom it asks, how far it goes: real nodes beside the simulation of as many.

```
 leaf --- NAT --- 20 nodes at public places, strangers to each other, all of the commons
```
The simulation (`veilnet.sim.discovery`) runs the machines of the daemon in a world of its own: its
routing, what a session and a message weigh and who is asked are assumptions, until this agrees.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import statistics
import time

import pytest

from tests.netns.scenes import eventually, needs_nft, status
from tests.netns.searcher import PRELUDE
from veilnet.discovery.contact import UNKNOWN_ID, Contact
from veilnet.discovery.events import Found
from veilnet.errors import VeilError
from veilnet.sim.discovery.network import Network, Setting, look
from veilnet.sim.traces import generated
from veilnet.testing import Internet, Lab, Node
from veilnet.testing.capture import Capture
from veilnet.testing.internet import WEST
from veilnet.testing.nat import Nat

pytestmark = [needs_nft, pytest.mark.slow]

NODES = 20
PUTS, GETS, STORERS = 12, 60, 6
FULL_S, SEARCHES_S = 60.0, 120.0
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


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """The Internet with its nodes, and where each of them is; all know the first."""
    with Lab() as lab:
        internet, folder, at = Internet(lab), tmp_path_factory.mktemp("town"), []
        nodes = []
        for number in range(NODES):
            host, uplink = internet.place(f"node{number + 1}")
            nodes.append(node := Node(host, folder))
            node.configure(contacts=at[:1], relay="off" if number else "all")
            node.start("--name", node.name)
            at.append(f"{uplink.address4}:{status(node)['port']}")
        for node in nodes:
            eventually(lambda node=node: contacts(node) >= NODES - 1, timeout_s=FULL_S)
        yield lab, internet, at


def contacts(node):
    """Return how many nodes it knows of."""
    return status(node)["discovery"]["contacts"]


def leaf_of(town, folder, name):
    """Return a node behind a NAT, not yet started, that knows one of the strangers."""
    lab, internet, at = town
    nat, host = Nat(lab, internet, f"nat-{name}", "port", at=WEST), lab.host(name)
    nat.admit(host)
    leaf = Node(host, folder)
    leaf.configure(contacts=at[:1], log_level="debug")
    return leaf


def test_a_lookup_costs_what_the_simulation_says(town, tmp_path):
    """Within a third where sessions are new; and who is asked, within two of twenty."""
    leaf = leaf_of(town, tmp_path, "leaf")
    leaf.up("--name", "leaf")
    eventually(lambda: contacts(leaf) >= NODES, timeout_s=FULL_S)
    # What it publishes asks them too, whenever its relay is found.
    eventually(lambda: all(each["storers"] for each in published(leaf)), timeout_s=FULL_S)
    # Sessions of before are over: the first search needs new ones, the second does not.
    time.sleep(70)
    asked, cold = searched(leaf, "nosuch")
    _, warm = searched(leaf, "nosuch2")
    said = simulated()
    assert asked == pytest.approx(said["asked"], abs=2)
    assert cold == pytest.approx(said["cold"], rel=1 / 3)
    # Real nodes are told of by both of their addresses, so that answers are up to twice as long.
    assert said["warm"] / 1.5 < warm < 2 * said["warm"]


def simulated_searches(blobs):
    """Return what becomes of the same in the simulation: storers, and found, hops, asked."""
    setting = Setting(NODES, away=1 / (NODES + 1), loss=0.0)
    network = Network(setting, generated("planetlab", seed=0), seed=1, system="machines")
    stored, searches = [], []
    for locator, blob in blobs:
        machine = network.machine(network.somebody())
        machine.put(locator, blob, stored.append, want_storers=STORERS)
        network.loop.run(network.loop.now + 20.0)
    for number in range(GETS):
        locator, blob = blobs[number % PUTS]
        seed = network.contact(sorted(network.up)[number % NODES])
        machine = network.newcomer([Contact(UNKNOWN_ID, seed.endpoint)])
        ended = []
        machine.get(locator, blob.__eq__, ended.append, lambda seen, m=machine: m.enough(seen.id))
        network.loop.run(network.loop.now + 30.0, done=lambda ended=ended: bool(ended))
        found = isinstance(ended[0], Found)
        searches.append([found, ended[0].hops if found else 0, ended[0].asked])
        # The next stands in its place: its sessions have to be over.
        del network.world.nodes[machine.number]
        network.loop.run(network.loop.now + 61.0)
    return [one.count for one in stored], searches


def test_lookups_that_succeed_go_as_far_as_in_the_simulation(town, tmp_path):
    """Who knows one node alone finds what six keep: always, in as many hops, within a fifth of one.

    As many storers; and questions until it is seen, within a sixth: how many are out by then is a
    matter of milliseconds.
    """
    rng = random.Random(5)
    blobs = [(rng.randbytes(32), rng.randbytes(900)) for _ in range(PUTS)]
    _, _, at = town
    leaf = leaf_of(town, tmp_path, "searcher")
    os.mkfifo(leaf.state / "wanted")
    wanted = {
        "put": [[locator.hex(), blob.hex(), STORERS] for locator, blob in blobs],
        "get": [
            [at[number % NODES], *(part.hex() for part in blobs[number % PUTS])]
            for number in range(GETS)
        ],
    }
    with leaf.foreground("--name", "searcher", prelude=PRELUDE) as process:
        eventually(lambda: contacts(leaf) >= NODES, timeout_s=FULL_S)
        (leaf.state / "wanted").write_text(json.dumps(wanted))
        eventually((leaf.state / "found.json").exists, timeout_s=SEARCHES_S)
        process.terminate()
    said = json.loads((leaf.state / "found.json").read_text())
    stored, searches = simulated_searches(blobs)
    real, simulated = (
        [statistics.fmean(one[part] for one in rows) for part in range(3)]
        for rows in (said["get"], searches)
    )
    print(f"found, hops, asked: real {real}, simulated {simulated}")  # noqa: T201 - the figures
    assert real[0] == simulated[0] == 1.0
    assert real[1] == pytest.approx(simulated[1], abs=0.2)
    assert real[2] == pytest.approx(simulated[2], rel=1 / 6)
    assert statistics.fmean(said["put"]) == pytest.approx(statistics.fmean(stored), abs=0.5)
