"""Two members behind NATs meet, directly where that can be, and over a stranger where not.

```
 a -- NAT -- west -- one -- two -- east -- NAT -- b
                      |      |
          strangers, of whom three relay; the inviter, dead by then
```
One meeting of a few pairs; `bench/nat.py` has all of them, and more often.
"""

from __future__ import annotations

import pytest

from tests.netns.scenes import eventually, needs_nft, needs_ping, ping
from veilnet.testing import Internet, Lab, NatScene, Strangers

pytestmark = [needs_nft, needs_ping]

DIRECT_S, FOUND_S, CALL_S = 35.0, 20.0, 30.0


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    """The Internet with its strangers, for all tests."""
    with Lab() as lab:
        internet = Internet(lab)
        yield lab, internet, Strangers(internet, tmp_path_factory.mktemp("strangers"))


@pytest.fixture
def meet(street, tmp_path):
    """Return a function that brings two members behind NATs of two kinds as far as their call."""
    scenes = []
    lab, internet, strangers = street

    def made(kind_a, kind_b):
        name = f"{kind_a}-{kind_b}"
        scene = NatScene(lab, internet, tmp_path, kind_a, kind_b, name=name, strangers=strangers)
        scenes.append(scene)
        scene.join()
        scene.wait_until_found(timeout_s=FOUND_S)
        scene.lose_inviter()
        scene.forget_each_other()
        return scene

    yield made
    for scene in scenes:
        scene.close()


@pytest.mark.parametrize(
    ("kind_a", "kind_b"),
    [
        ("full", "full"),
        ("full", "address"),
        ("port", "full"),
        ("address", "address"),
        ("address", "port"),
        ("port", "port"),
        ("full", "symmetric_random"),
        ("symmetric_sequential", "full"),
        ("symmetric_random", "address"),
        ("address", "symmetric_sequential"),
        ("port", "symmetric_random"),
        ("double", "double"),
        ("hairpin", "hairpin"),
        ("ipv6_only", "ipv6_only"),
    ],
)
def test_they_meet_directly(meet, kind_a, kind_b):
    """Whatever carries at first, within 35 s both send directly, and pings pass."""
    scene = meet(kind_a, kind_b)
    scene.a.tell("connect", wait_s=CALL_S + 5, peer="b", timeout_s=CALL_S)
    eventually(scene.direct, timeout_s=DIRECT_S)
    assert ping(scene.a.host, scene.b.address()) == 3


@pytest.mark.parametrize(
    ("kind_a", "kind_b"),
    [("symmetric_random", "symmetric_sequential")],
)
def test_they_meet_over_a_stranger(meet, kind_a, kind_b):
    """No direct path can be between them: a node of the commons carries, in both directions."""
    scene = meet(kind_a, kind_b)
    answer = scene.a.tell("connect", wait_s=CALL_S + 5, peer="b", timeout_s=CALL_S)
    assert answer["path"]["kind"] == "relayed"
    assert ping(scene.a.host, scene.b.address()) == 3
    assert ping(scene.b.host, scene.a.address()) == 3
