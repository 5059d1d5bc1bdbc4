"""What this user may not do: exit 4, and two lines that help.

```
 host: no wires
```
"""

from __future__ import annotations

import shutil

import pytest

from tests.netns.scenes import World, two_lines

pytestmark = pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not installed")

POWERLESS = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"]


@pytest.fixture
def world(tmp_path):
    """An empty lab for each test."""
    with World(tmp_path) as made:
        yield made


@pytest.mark.parametrize("words", [["up"], ["up", "--foreground"]], ids=" ".join)
def test_up_without_the_power_to_make_devices(world, words):
    """Without CAP_NET_ADMIN there is no TUN device: exit 4, the remedy named, nothing left."""
    node = world.node("host")
    done = node.host.run([*POWERLESS, *node.command(*words)], check=False)
    assert (done.returncode, two_lines(done)) == (4, True), done.stderr
    assert "sudo" in done.stderr
    assert "--no-tun" in done.stderr
    assert not node.socket.exists()
    assert node.pids() == []


def test_up_without_a_device_needs_no_power(world):
    """`up --no-tun` runs without any capability, and says that it has no device."""
    node = world.node("host")
    done = node.host.run([*POWERLESS, *node.command("up", "--no-tun")], check=False)
    assert done.returncode == 0, done.stderr
    assert node.status()["tun"] is None
    assert not any(name.startswith("veil") for name in node.host.links())
