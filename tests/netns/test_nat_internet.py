"""The Internet of the NAT lab: what stands in it, how far away, and that it can be taken away.

```
 home -- west -- one -- two -- east -- office
                  |      |
                place  other
```
"""

from __future__ import annotations

import subprocess
import time

import pytest

from tests.netns.scenes import eventually, needs_nft, needs_ping, ping
from veilnet.errors import UsageError
from veilnet.testing import Delays, Internet, Nat
from veilnet.testing.internet import EAST, WEST
from veilnet.testing.nat import rules


@needs_ping
def test_places_reach_each_other_in_both_families(lab):
    """Every place has a public address of each family, in prefixes that it shares with nobody."""
    internet = Internet(lab)
    (place, here), (_, there) = internet.place("place"), internet.place("other")
    assert here.net4 != there.net4
    assert here.net6 != there.net6
    assert ping(place, there.address4) == 3
    assert ping(place, there.address6) == 3


@needs_ping
@needs_nft
def test_a_home_reaches_places_and_is_not_reached(lab):
    """Out through the router and back; its inner address is nobody's business."""
    internet = Internet(lab)
    place, uplink = internet.place("place")
    nat = Nat(lab, internet, "nat", "port", at=WEST)
    home = lab.host("home")
    address = nat.admit(home)
    assert ping(home, uplink.address4) == 3
    assert ping(place, address, count=1, wait_s=0.2) == 0


@needs_ping
def test_everybody_is_as_far_away_as_was_said(lab):
    """Ten milliseconds to the middle and ten from it, both ways: no echo is back before 40 ms."""
    with Delays() as delays:
        internet = Internet(lab, delays=delays, far_s=lambda: 0.01)
        (place, _), (_, there) = internet.place("place"), internet.place("other")
        began = time.monotonic()
        assert ping(place, there.address4, count=1) == 1
        assert time.monotonic() - began > 0.04
        assert ping(place, there.address6, count=1) == 1
        lab.remove(place)
        # The process that carries goes on for those who are left.
        late, _ = internet.place("late")
        assert ping(late, there.address4, count=1) == 1


@needs_nft
def test_what_is_removed_is_gone_with_its_processes(lab):
    """A host that was removed leaves its name, its end of each wire and nobody alive."""
    internet = Internet(lab)
    nat = Nat(lab, internet, "nat", "double", at=EAST)
    home = lab.host("home")
    nat.admit(home)
    process = home.popen(["sleep", "60"], stdout=subprocess.DEVNULL)
    links = set(internet.routers[EAST].links())
    lab.remove(home, *nat.routers)
    assert process.wait(timeout=5) != 0
    assert not {"home", "nat", "nat-carrier"} & set(lab.hosts)
    eventually(lambda: len(links - set(internet.routers[EAST].links())) == 1)


def test_there_are_no_other_kinds(lab):
    """A kind that is none is refused before anything is built."""
    internet = Internet(lab)
    with pytest.raises(UsageError):
        Nat(lab, internet, "nat", "conical", at=WEST)
    with pytest.raises(UsageError):
        rules("double", wan="eth0", address="11.0.0.2")
    assert "nat" not in lab.hosts
