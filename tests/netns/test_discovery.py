"""Members find each other when nobody is left of those who brought them together.

```
 a -- NAT -- west -- one -- two -- east -- NAT -- b
                      |      |
          strangers, of whom three relay; the inviter
```
a and b know each other's names.  Each test takes away whoever could have introduced them.
"""

from __future__ import annotations

import time
from contextlib import contextmanager

import pytest

from tests.netns.scenes import needs_nft, needs_ping, ping, status
from veilnet.testing import Flow, Internet, Lab, NatScene, Strangers
from veilnet.testing.strangers import RELAYS
from veilnet.testing.waiting import wait_until

pytestmark = [needs_nft, needs_ping]

FOUND_S = 20.0
PART_BYTES = 1 << 20
SILENCE_S = 5.0


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    """The Internet with its strangers, for all tests."""
    with Lab() as lab:
        internet = Internet(lab)
        yield lab, internet, Strangers(internet, tmp_path_factory.mktemp("strangers"))


@pytest.fixture
def scene(street, tmp_path, request):
    """Two members behind NATs of the kinds that the test names."""
    lab, internet, strangers = street
    with NatScene(lab, internet, tmp_path, *request.param, strangers=strangers) as made:
        made.join()
        made.wait_until_found(timeout_s=FOUND_S)
        yield made


def members(node):
    """Return the ids of all members that *node* knows, its own included."""
    said = status(node)
    return {said["peer_id"], *(peer["id"] for peer in said["peers"])}


@pytest.mark.parametrize("scene", [("symmetric_random", "symmetric_random")], indirect=True)
def test_no_common_member_is_reachable(scene):
    """The inviter is dead, no direct path can be: a stranger relays, in both directions."""
    scene.lose_inviter()
    scene.return_later()
    answer = scene.a.connect("b", "--timeout", "30")
    assert answer["path"]["kind"] == "relayed"
    assert not members(scene.a) & set(answer["path"]["via"])
    assert ping(scene.a.host, scene.b.address()) == 3
    assert ping(scene.b.host, scene.a.address()) == 3


@contextmanager
def lost(node):
    """Let *node* be dead meanwhile."""
    node.kill()
    try:
        yield
        assert not node.pids()
    finally:
        node.start()


@pytest.mark.parametrize(
    "scene", [("port", "port"), ("symmetric_random", "symmetric_random")], indirect=True
)
def test_the_inviter_and_every_bootstrap_node_are_dead(scene, street):
    """Only strangers are left that neither was ever told of by an invite or a configuration.

    Behind NATs that give every flow another port, no address of before is of use.
    """
    _, _, strangers = street
    scene.lose_inviter()
    with lost(strangers.nodes[0]):
        scene.return_later()
        assert not scene.inviter.pids()
        scene.a.connect("b", "--timeout", "30")
        assert ping(scene.a.host, scene.b.address()) == 3
        assert ping(scene.b.host, scene.a.address()) == 3


def relayed(node):
    """Return how many bytes *node* has relayed."""
    return node.look()["relay"]["bytes_total"]


@pytest.mark.parametrize("scene", [("symmetric_random", "symmetric_random")], indirect=True)
def test_the_stranger_that_carries_dies(scene, street):
    """Nobody is asked to mend it: another of those that relay carries the same TCP stream on."""
    _, _, strangers = street
    scene.lose_inviter()
    scene.a.connect("b", "--timeout", "30")
    relays = strangers.nodes[:RELAYS]
    with Flow(scene.a.host, scene.b.host, scene.b.address(), rate_bps=2e6) as flow:
        flow.wait_for(PART_BYTES, timeout_s=FOUND_S)
        before = [relayed(node) for node in relays]
        flow.wait_for(PART_BYTES, timeout_s=FOUND_S)
        gained = [relayed(node) - size for node, size in zip(relays, before, strict=True)]
        busiest = relays.pop(gained.index(max(gained)))
        before = [relayed(node) for node in relays]
        at = time.monotonic()
        with lost(busiest):
            flow.wait_for(PART_BYTES, timeout_s=FOUND_S)
            assert flow.outage(at).silence_s < SILENCE_S
            assert sum(relayed(node) for node in relays) > sum(before) + PART_BYTES // 2
        assert flow.finish().intact


def test_nothing_but_a_name_is_known(street, tmp_path):
    """Who joined while this one was away is found by name; whoever knew it is dead."""
    lab, internet, strangers = street
    kinds = ("symmetric_random", "port")
    with NatScene(lab, internet, tmp_path, *kinds, strangers=strangers) as scene:
        scene.join(apart=True)
        wait_until(lambda: scene.is_found(scene.b), "b is found", timeout_s=FOUND_S)
        scene.lose_inviter()
        with lost(strangers.nodes[0]):
            scene.a.start()
            assert not scene.knows(scene.a, "b")
            scene.a.connect("b", "--timeout", "30")
            assert ping(scene.a.host, scene.b.address()) == 3
