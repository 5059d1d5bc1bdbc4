"""A host that has a network's IPv4 range already keeps it: there VeilNet speaks IPv6 alone.

```
 alice 10.0.0.1 ---- 10.0.0.2 bob        alice reaches 100.64.0.0/10 by bob, whatever that may be
```
"""

from __future__ import annotations

import pytest

from tests.netns.scenes import World, needs_ping, pair, ping, status

pytestmark = needs_ping

TAKEN, THERE = "100.64.0.0/10", "100.64.0.9"


def test_a_route_of_the_host_is_left_alone_and_ipv4_stays_off(tmp_path):
    """It is said whose route is in the way; IPv6 carries; the route is as it was."""
    with World(tmp_path) as world:
        left, right = pair(world)
        left.route(TAKEN, via="10.0.0.2")
        alice = world.founder("alice", left)
        bob = world.member("bob", alice, right)
        (warning,) = status(alice)["networks"][0]["warnings"]
        assert TAKEN in warning
        assert "eth0" in warning
        assert "IPv4 is off" in warning
        assert "warnings" not in status(bob)["networks"][0]
        assert ping(left, bob.address(version=6)) == 3
        assert ping(right, alice.address(version=6)) == 3
        right.netlink("addr", "add", index=right.index("lo"), address=THERE, prefixlen=32)
        assert ping(left, THERE) == 3


@pytest.mark.parametrize("version", [4, 6])
def test_without_such_a_route_both_carry(tmp_path, version):
    """The same two hosts; a default route is in nobody's way."""
    with World(tmp_path) as world:
        left, right = pair(world)
        left.route("default", via="10.0.0.2")
        alice = world.founder("alice", left)
        bob = world.member("bob", alice, right)
        assert "warnings" not in status(alice)["networks"][0]
        assert ping(left, bob.address(version=version)) == 3
