"""A path fails under a TCP stream: the stream goes on over another, every byte as it was sent.

```
left  --+                 +-- one, two          relays, 5 ms away
        router -----------+
right --+                                       left and right: parted where relays are tried
```
How fast is for bench/failover.py to say; here a flow that takes ten seconds has not failed over.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Self

import attrs
import pytest

from tests.netns.scenes import World, configure, eventually, needs_nft
from veilnet.errors import TimedOut
from veilnet.testing import Backbone, Delays, Flow, carrier, stall

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from veilnet.testing import Host, Node

HELD_S = 9.0
LEG_S = 0.005
LONGEST_S = 10.0
READY_S = 90.0
RATE_BPS = 4e6
THROTTLED_BPS = 1e6
TIMES = 2
TRIES = 8


@attrs.frozen
class Scene:
    """left and right, the relays, and what lies between them."""

    world: World
    backbone: Backbone
    left: Node
    right: Node
    inside: str
    direct: bool

    def relays(self) -> list[Node]:
        """Return the relays."""
        return [self.world.nodes[name] for name in ("one", "two")]

    def ready(self) -> bool:
        """Say whether a new stream would take the right kind of way, and another stands by."""
        paths = self.left.paths("right")
        taken = {path["kind"] for path in paths if path["share"] > 0}
        # The answers take a way of their own: both ends need a second one, over another relay.
        spare = all(
            len({tuple(path["via"]) for path in end if path["state"] in {"standby", "active"}}) >= 2
            for end in (paths, self.right.paths("left"))
        )
        return spare and taken == {"direct" if self.direct else "relayed"}

    def murmur(self) -> Flow:
        """Return a stream that is hardly one: with it the policy goes on deciding meanwhile."""
        return Flow(self.left.host, self.right.host, self.inside, rate_bps=16e3, period_s=0.1)

    def start(self, node: Node) -> None:
        """Start a node that does not run, so that its Python can be made to stand still."""
        process = node.foreground(prelude=stall.prelude(HELD_S))
        assert process.stdout is not None
        process.stdout.close()
        process.returncode = 0  # the lab ends it


def _scene(world: World, delays: Delays, *, direct: bool) -> Scene:
    backbone = Backbone(world.lab, delays=delays)
    founder: Node | None = None
    nodes = {}
    for name, delay_s in (("one", LEG_S), ("two", LEG_S), ("left", 0.0), ("right", 0.0)):
        backbone.attach(world.host(name), delay_s=delay_s)
        nodes[name] = node = world.node(name)
        if delay_s == 0:
            configure(node, relay="off")
        if founder is None:
            founder = node
            node.up("--name", name)
        else:
            node.connect(founder.invite(), "--name", name)
    scene = Scene(world, backbone, nodes["left"], nodes["right"], nodes["right"].address(), direct)
    for node in nodes.values():
        node.down()
        scene.start(node)
    if not direct:
        backbone.part(scene.left.host, scene.right.host)
    scene.left.connect("right", "--timeout", "30")
    return scene


@contextmanager
def _murmuring(folder: Path, *, direct: bool) -> Iterator[Scene]:
    with World(folder) as world, Delays() as delays:
        scene = _scene(world, delays, direct=direct)
        with scene.murmur():
            yield scene


@pytest.fixture(scope="module")
def relayed(tmp_path_factory):
    """left and right reach each other over relays only."""
    with _murmuring(tmp_path_factory.mktemp("relayed"), direct=False) as scene:
        yield scene


@pytest.fixture(scope="module")
def direct(tmp_path_factory):
    """left and right reach each other directly, and over relays."""
    with _murmuring(tmp_path_factory.mktemp("direct"), direct=True) as scene:
        yield scene


@contextmanager
def _stream(scene: Scene) -> Iterator[tuple[Flow, Node | None]]:
    """Begin a stream that takes the kind of way that is to fail; give it, and its relay if any."""
    for _ in range(TRIES):
        eventually(scene.ready, timeout_s=READY_S)
        with Flow(scene.left.host, scene.right.host, scene.inside, rate_bps=RATE_BPS) as flow:
            # A second and a half: by then both ends have told the relays that they want more than
            # 64 KB.
            flow.wait_for(3 << 18, timeout_s=30)
            relay = carrier(scene.relays())
            if (relay is None) == scene.direct:
                yield flow, relay
                return
    raise AssertionError("the policy prefers another way, again and again")


def _survives(
    scene: Scene,
    fail: Callable[[Scene, Host], Callable[[], None]],
    *,
    held: bool = False,
    times: int = 1,
) -> None:
    """Let the path that carries fail, several times; the stream goes on, and ends whole.

    *fail* gets the relay's host, or right's where the path is direct, and returns how to undo it.
    """
    for _ in range(times):
        with _stream(scene) as (flow, relay):
            if held:
                for node in scene.world.nodes.values():
                    stall.stall(node)
                flow.wait_for(1 << 16)  # Python stands still, packets flow
            undo = fail(scene, relay.host if relay else scene.right.host)
            at = time.monotonic()
            try:
                assert flow.outage(at, timeout_s=30).recovered_s < LONGEST_S
            except TimedOut as error:
                for end, other in ((scene.left, "right"), (scene.right, "left")):
                    error.add_note(json.dumps(end.ask("path", "explain", other), indent=1))
                raise
            finally:
                undo()
            ended = flow.finish(timeout_s=30)
            assert ended.intact
            assert ended.received_bytes == ended.sent_bytes


def _killed(scene: Scene, host: Host) -> Callable[[], None]:
    node = scene.world.nodes[host.name]
    node.kill()
    return lambda: scene.start(node)


def _partitioned(scene: Scene, host: Host) -> Callable[[], None]:
    scene.backbone.isolate(host)
    return lambda: scene.backbone.readmit(host)


def _lossy(scene: Scene, host: Host) -> Callable[[], None]:
    scene.backbone.lose(0.3, host)
    return lambda: scene.backbone.mend(host)


def _throttled(scene: Scene, host: Host) -> Callable[[], None]:
    scene.backbone.narrow(host, THROTTLED_BPS)
    return lambda: scene.backbone.widen(host)


def _cut(scene: Scene, host: Host) -> Callable[[], None]:
    scene.backbone.part(scene.left.host, host)
    return lambda: scene.backbone.join(scene.left.host, host)


def _direct_lossy(scene: Scene, host: Host) -> Callable[[], None]:
    scene.backbone.lose(0.3, scene.left.host, host)
    return lambda: scene.backbone.mend(scene.left.host, host)


def _direct_throttled(scene: Scene, host: Host) -> Callable[[], None]:
    scene.backbone.police(THROTTLED_BPS, scene.left.host, host)
    return lambda: scene.backbone.mend(scene.left.host, host)


@needs_nft
@pytest.mark.slow
@pytest.mark.parametrize("fail", [_killed, _partitioned, _lossy])
def test_a_stream_survives_its_relay(relayed, fail):
    """Killed, cut off or lossy: another relay carries on."""
    _survives(relayed, fail, times=TIMES)


@needs_nft
@pytest.mark.slow
def test_a_stream_survives_a_relay_that_is_throttled(tmp_path):
    """Another relay carries on, also one that was throttled itself just before."""
    with _murmuring(tmp_path, direct=False) as scene:
        _survives(scene, _throttled, times=TIMES)


@needs_nft
@pytest.mark.slow
def test_who_only_answers_moves_with_who_asks(direct):
    """Too few answers are owed to condemn a path by; the end that asks tells that it left it."""
    for _ in range(TIMES):
        eventually(direct.ready, timeout_s=READY_S)
        with _Asking(direct) as asking:
            asking.until(5)
            undo = _cut(direct, direct.right.host)
            at = len(asking.heard)
            try:
                # What comes over the relay comes after what was on its way when the cut was made.
                asking.until(at + 10)
            finally:
                undo()
        # The first after the cut may have crossed before it.
        assert set(asking.heard[at + 1 : at + 10]) <= set(asking.answered)


class _Asking:
    """left asks right by UDP every 50 ms, and right answers."""

    def __init__(self, scene: Scene) -> None:
        family = socket.AF_INET6 if ":" in scene.inside else socket.AF_INET
        self._server = scene.right.host.socket(family, socket.SOCK_DGRAM)
        self._server.bind((scene.inside, 0))
        self._client = scene.left.host.socket(family, socket.SOCK_DGRAM)
        self._client.connect(self._server.getsockname())
        self.heard: list[int] = []
        self.answered: list[int] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=run) for run in (self._ask, self._answer)]

    def __enter__(self) -> Self:
        for one in (self._client, self._server):
            one.settimeout(0.05)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        time.sleep(0.5)
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._client.close()
        self._server.close()

    def until(self, heard: int) -> None:
        """Wait until right has heard so many."""
        eventually(lambda: len(self.heard) >= heard, timeout_s=LONGEST_S)

    def _ask(self) -> None:
        number = 0
        while not self._over.is_set():
            self._client.send(number.to_bytes(4, "big"))
            number += 1
            with suppress(TimeoutError):
                self.answered.append(int.from_bytes(self._client.recv(16), "big"))
            time.sleep(0.05)

    def _answer(self) -> None:
        while not self._over.is_set():
            with suppress(TimeoutError):
                data, whence = self._server.recvfrom(16)
                self.heard.append(int.from_bytes(data, "big"))
                self._server.sendto(data, whence)


@needs_nft
@pytest.mark.slow
@pytest.mark.parametrize("fail", [_cut, _direct_lossy, _direct_throttled])
def test_a_stream_survives_its_direct_path(direct, fail):
    """Cut, lossy or throttled: a relay carries on."""
    _survives(direct, fail)


@pytest.mark.slow
@pytest.mark.parametrize("fail", [_killed, _partitioned])
def test_a_stream_survives_its_relay_while_python_stands_still(relayed, fail):
    """With the GIL of every daemon held all the while: failing over is the engine's alone."""
    _survives(relayed, fail, held=True, times=TIMES)


@pytest.mark.slow
def test_a_stream_survives_its_direct_path_while_python_stands_still(direct):
    """With the GIL of every daemon held all the while: failing over is the engine's alone."""
    _survives(direct, _cut, held=True)
