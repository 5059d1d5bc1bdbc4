"""What the tests of whole nodes share: a wall clock that jumps, and loopback alone."""

from __future__ import annotations

import pytest

from veilnet.daemon import birth, commands, doors, gossip, host, joining, node, underlay
from veilnet.daemon.relays import relaying
from veilnet.networks.endpoint import Endpoint


@pytest.fixture
def wall(monkeypatch):
    """A wall clock that a test moves: `wall.jump(seconds)`."""

    class Wall:
        offset = 0

        def jump(self, seconds):
            self.offset += seconds

    made, real = Wall(), host.unix_now
    for module in (birth, commands, doors, gossip, joining, node, relaying):
        monkeypatch.setattr(module, "unix_now", lambda: real() + made.offset)
    return made


@pytest.fixture(autouse=True)
def loopback_only(monkeypatch):
    """Nodes of these tests call each other over loopback alone."""
    monkeypatch.setattr(
        underlay, "local_endpoints", lambda port, **_: [Endpoint("127.0.0.1", port)]
    )
