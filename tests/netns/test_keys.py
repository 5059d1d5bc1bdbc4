"""Keys that change while packets flow: no packet waits for them, no stream ends by them.

```
left 10.0.0.1 ========== 10.0.0.2 right            under load
left 10.0.1.2 == mallory == 10.0.2.2 right         both begin at once, behind a blackout
```
Generations (a fresh KEM, Python) come after one to two seconds here, not ninety to 180; steps (the
ratchet, the engine alone) after 1,000 datagrams, not 2^26.
"""

from __future__ import annotations

import threading
import time

import attrs
import pytest

from tests.netns import flows
from tests.netns.onpath import LEFT, RIGHT, Mallory
from tests.netns.scenes import World, eventually, needs_iperf3, pair, ping, routed, status
from veilnet.control import client
from veilnet.testing import Node, nft

FAST = {"rekey_s": 1, "step_datagrams": 1000}
_SECONDS = 6.0


def _joined(world, **config):
    left = world.founder("left", **config)
    right = world.member("right", left, **config)
    return left, right, right.address(status(right)["networks"][0]["id"])


def _keys(node):
    (keys,) = client.ask(node.socket, "keys")["keys"]
    return keys


@attrs.define
class _Watch:
    """Reads the keys of some nodes until closed: every (epoch, step) that each end sent under."""

    nodes: tuple[Node, ...]
    seen: dict[str, set[tuple[int, int]]] = attrs.field(factory=dict)
    _done: threading.Event = attrs.field(factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self):
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        self._thread.join()

    def _look(self):
        while not self._done.wait(0.05):
            for node in self.nodes:
                keys = _keys(node)
                self.seen.setdefault(node.name, set()).add((keys["epoch"], keys["step_tx"]))


@needs_iperf3
@pytest.mark.parametrize(
    ("config", "generations", "steps"),
    [(FAST, 3, 2), ({"rekey_s": 1}, 3, 0), ({"step_datagrams": 1000}, 0, 16)],
    ids=["generations-and-steps", "generations", "steps"],
)
def test_keys_change_under_load_and_nothing_waits(tmp_path, config, generations, steps):
    """While TCP and UDP flow both ways, keys change many times: no pause of a second, no end.

    Sixteen steps and more go around the four that the header can tell apart.
    """
    with World(tmp_path) as world:
        pair(world)
        left, right, to_right = _joined(world, **config)
        to_left = left.address(status(left)["networks"][0]["id"])
        assert ping(left.host, to_right) == 3
        with (
            flows.Ticking(right.host, left.host, to_left) as ticking,
            flows.Iperf(left.host, right.host, to_right, seconds=_SECONDS) as stream,
            _Watch((left, right)) as watch,
        ):
            report = stream.report()
        assert flows.longest_pause_s(report) <= 1.0
        assert ticking.gap_s < 1.0
        # The socket's own queue may overflow while the machine is busy; keys cost nothing.
        assert ticking.received >= 0.95 * ticking.sent
        for seen in watch.seen.values():
            assert max(epoch for epoch, _ in seen) >= generations
        assert max(step for _, step in watch.seen["left"]) >= steps
        assert {keys["epoch"] > 0 for keys in map(_keys, (left, right))} == {generations > 0}
        assert ping(left.host, to_right) == 3
        for node in (left, right):
            assert "session down" not in _last_session(node)


def _last_session(node):
    """Return what the node logged since its full session came up."""
    return (node.state / "veilnet.log").read_text().rpartition("mode='FULL'")[2]


@pytest.mark.skipif(not nft.available(), reason="nft is not installed")
def test_both_ends_begin_a_generation_at_once(tmp_path):
    """Each begins one while neither hears the other: one gives in, both go on with the same keys.

    A blackout of 1.2 s is shorter than what an end takes for silence.  An offer is the only thing
    here of about 1,100 bytes: the flow's datagrams are small, probes of the path MTU are larger.
    """
    with World(tmp_path) as world, Mallory(*routed(world)) as mallory:
        left, right, to_right = _joined(world, rekey_s=1)
        collided = 0
        with flows.Ticking(left.host, right.host, to_right):
            for _ in range(12):
                # Just after a generation nobody offers, then both are about to.
                _wait_for_another(left)
                eventually(lambda: _keys(right)["last_rekey_s"] > 0.7)
                with mallory.holding():
                    over = time.monotonic() + 1.2
                    heard = {end: len(mallory.heard(end)) for end in (LEFT, RIGHT)}

                    def both_offered(heard=heard):
                        return all(
                            any(
                                1000 < len(item.payload) < 1400
                                for item in mallory.heard(end)[then:]
                            )
                            for end, then in heard.items()
                        )

                    eventually(lambda over=over: both_offered() or time.monotonic() > over)
                    collided += both_offered()
                _wait_for_another(left)
                eventually(lambda: _keys(left)["epoch"] == _keys(right)["epoch"])
                if collided == 2:
                    break
        assert collided == 2
        assert ping(left.host, to_right) == 3
        for node in (left, right):
            assert "session down" not in _last_session(node)
            assert "failed" not in _last_session(node)


def _wait_for_another(node):
    epoch = _keys(node)["epoch"]
    eventually(lambda: _keys(node)["epoch"] > epoch)
