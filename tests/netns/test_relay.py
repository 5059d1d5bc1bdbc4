"""Relays on real nodes: who connects through them, what they may not do, what they may not see.

```
left  10.1.1.2 --+                          left and right: parted by the router
                 router -- 10.1.3.2 relay
right 10.1.2.2 --+

left 10.0.1.2 -- mallory -- 10.0.2.2 relay 10.0.3.1 -- 10.0.3.2 right        somebody on one leg
```
What mallory calls right is the relay.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import struct
import time
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from tests.netns import flows, programs
from tests.netns.onpath import RIGHT, Mallory
from tests.netns.scenes import (
    World,
    configure,
    eventually,
    in_bursts,
    needs_nft,
    ping,
    status,
    two_lines,
)
from veilnet.testing import Backbone, Flow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from veilnet.testing import Capture, Host, Node

PORT = 7000
UNCONFIRMED_BYTES = 65_536
_RELAYED_OVERHEAD = 20 + 8 + 32 + 36
"""Inner UDP and IP header, the channel's datagram, the relay frame around it."""

NEVER_CONFIRMS = """
from veilnet.daemon.relays.relaying import Relaying

Relaying.confirm = lambda self, circuit: None
"""


@attrs.frozen
class Scene:
    """Two ends that cannot reach each other, and what lies between them."""

    world: World
    backbone: Backbone
    left: Node
    right: Node

    @property
    def relay(self) -> Node:
        """Return the first relay, whose network it is."""
        return self.world.nodes["relay"]

    @property
    def inside(self) -> str:
        """Return the overlay address of right."""
        return self.right.address(version=4)


def _crossing(
    world: World,
    *,
    relays: tuple[str, ...] = ("relay",),
    super_packets: bool = False,
    **config: Any,
) -> Scene:
    """Join *relays*, left and right in one network; *config* is the relays'."""
    backbone = Backbone(world.lab)
    for name in ("left", "right", *relays):
        backbone.attach(world.host(name), super_packets=super_packets)
    first, *more = relays
    founder = world.founder(first, **config)
    for name in more:
        world.member(name, founder, **config)
    left, right = (world.member(name, founder, relay="off") for name in ("left", "right"))
    backbone.part(left.host, right.host)
    return Scene(world, backbone, left, right)


def _id(node: Node) -> str:
    return str(status(node)["peer_id"])


def _relay_status(node: Node) -> dict[str, object]:
    return dict(node.ask("relay", "status"))


# -- connecting -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """left and right, parted, and one relay."""
    with World(tmp_path_factory.mktemp("relay")) as world:
        yield _crossing(world)


def test_with_nothing_configured_a_parted_pair_connects_through_a_common_member(scene):
    """`connect` says over whom; a stream arrives as it was; the relay counts what it carried."""
    before = status(scene.relay)["relay"]["bytes_total"]
    answer = scene.left.connect("right")
    assert answer["path"]["kind"] == "relayed"
    assert answer["path"]["via"] == [_id(scene.relay)]
    assert flows.stream(scene.left.host, scene.right.host, scene.inside, size_bytes=2 << 20)
    eventually(lambda: status(scene.relay)["relay"]["bytes_total"] > before + (2 << 20))
    assert status(scene.relay)["relay"]["circuits"] >= 1


def test_the_first_packet_opens_a_relayed_channel_too(scene):
    """After a disconnect a ping to the overlay address is answered, without any command."""
    for node, peer in ((scene.left, "right"), (scene.right, "left")):
        node.run("disconnect", peer)
    assert ping(scene.left.host, scene.inside, count=5, wait_s=10) >= 1
    (path,) = [path for path in scene.left.paths("right") if path["share"] > 0]
    assert path["via"] == [_id(scene.relay)]


def test_both_ends_see_the_relay_and_the_relay_sees_two_peers(scene):
    """left and right name the relay in `via`; the relay names left and right, nothing inside."""
    scene.left.connect("right")
    for node, peer in ((scene.left, "right"), (scene.right, "left")):
        eventually(lambda node=node, peer=peer: node.paths(peer))
        assert {tuple(path["via"]) for path in node.paths(peer)} == {(_id(scene.relay),)}
    carries = _relay_status(scene.relay)["carries"]
    assert isinstance(carries, list)
    ends = {frozenset((item["from"]["name"], item["to"]["name"])) for item in carries}
    assert ends == {frozenset(("left", "right"))}


def test_the_relay_is_left_when_the_direct_way_is_free(tmp_path):
    """Joined again, left and right find each other directly, and the stream goes on over it."""
    with World(tmp_path) as world:
        scene = _crossing(world)
        scene.left.connect("right")
        with Flow(scene.left.host, scene.right.host, scene.inside) as flow:
            flow.wait_for(1 << 16)
            scene.backbone.join(scene.left.host, scene.right.host)

            def direct() -> bool:
                paths = scene.left.paths("right")
                return bool(paths) and paths[0]["kind"] == "direct" and paths[0]["share"] > 0

            eventually(direct, timeout_s=60)
            flow.wait_for(1 << 16)
            assert flow.finish().intact


def test_what_came_in_one_batch_leaves_in_few_calls(tmp_path):
    """The relay reads glued datagrams and says them on glued: one call of the kernel for many."""
    with World(tmp_path) as world:
        scene = _crossing(world, super_packets=True)
        scene.left.connect("right")
        before = status(scene.relay)["engine"]
        assert flows.stream(scene.left.host, scene.right.host, scene.inside, size_bytes=32 << 20)
        after = status(scene.relay)["engine"]
    for way in ("rx", "tx"):
        datagrams, calls = (
            after[f"{way}_{what}"] - before[f"{way}_{what}"] for what in ("datagrams", "calls")
        )
        assert datagrams > (32 << 20) / 1500
        assert datagrams > 4 * calls, f"{way}: {datagrams} datagrams in {calls} calls"


def test_two_relays_in_a_row_connect_whom_no_single_one_can(tmp_path):
    """left reaches only one, right only two, one reaches two: `via` names both, in order."""
    with World(tmp_path) as world:
        scene = _crossing(world, relays=("relay", "second"))
        first, second = world.nodes["relay"], world.nodes["second"]
        scene.backbone.part(scene.right.host, first.host)
        scene.backbone.part(scene.left.host, second.host)
        answer = scene.left.connect("right", "--timeout", "40")
        assert answer["path"]["via"] == [_id(first), _id(second)]
        assert flows.stream(scene.left.host, scene.right.host, scene.inside, size_bytes=1 << 18)


# -- consent and quota ----------------------------------------------------------------------------


def test_who_does_not_lend_is_no_relay_until_it_does(tmp_path):
    """`relay off` ends what is carried and refuses what comes; `relay on` lets it through again."""
    with World(tmp_path) as world:
        scene = _crossing(world)
        scene.left.connect("right")
        scene.relay.ask("relay", "off")
        eventually(lambda: status(scene.relay)["relay"]["circuits"] == 0)
        scene.left.run("disconnect", "right")
        done = scene.left.run("connect", "right", "--timeout", "4")
        assert (done.returncode, two_lines(done)) == (5, True), done.stderr
        assert status(scene.relay)["relay"]["circuits"] == 0
        scene.relay.ask("relay", "on")
        assert scene.left.connect("right")["path"]["via"] == [_id(scene.relay)]


@pytest.mark.slow
def test_a_relay_carries_no_faster_than_it_said(tmp_path):
    """A stream that wants 8 Mbit/s through a relay that lends 2 gets less than that, and some."""
    with World(tmp_path) as world:
        scene = _crossing(world, relay_rate_bps=2_000_000)
        scene.left.connect("right")
        with Flow(scene.left.host, scene.right.host, scene.inside, rate_bps=8e6) as flow:
            begun = time.monotonic()
            seen = flow.wait_until(
                lambda seen: bool(seen.times) and seen.times[-1] > begun + 6, timeout_s=30
            )
            # The bucket is full at first, and one peer has at most half of what is lent.
            assert 0.1e6 < seen.rate_bps(begun + 3, begun + 6) < 2.1e6


def test_a_relay_carries_no_more_than_it_said(tmp_path):
    """With 4 MB lent a day, no more than that passes, whatever is asked for."""
    lent = 4_000_000
    with World(tmp_path) as world:
        scene = _crossing(world, relay_volume_bytes=lent)
        scene.left.connect("right")
        with Flow(scene.left.host, scene.right.host, scene.inside, rate_bps=16e6) as flow:
            flow.wait_for(1 << 18)
            eventually(lambda: _silent(flow), timeout_s=20)
            assert 1 << 18 < flow.received_bytes < lent
        assert status(scene.relay)["relay"]["bytes_total"] <= lent


def _silent(flow: Flow) -> bool:
    times = flow.arrivals().times
    return bool(times) and time.monotonic() - times[-1] > 1.5


def test_a_circuit_that_nobody_confirms_carries_64_kb(tmp_path):
    """Two ends that never say that they have met: their handshake fits, their stream does not."""
    with World(tmp_path) as world:
        backbone = Backbone(world.lab)
        for name in ("left", "right", "relay"):
            backbone.attach(world.host(name))
        relay = world.founder("relay")
        left, right = world.node("left"), world.node("right")
        for node in (left, right):
            configure(node, relay="off")
        with programs.changed(left, NEVER_CONFIRMS), programs.changed(right, NEVER_CONFIRMS):
            for node in (left, right):
                node.connect(relay.invite(), "--name", node.name)
            backbone.part(left.host, right.host)
            assert left.connect("right")["path"]["via"] == [_id(relay)]
            network = status(relay)["networks"][0]["id"]
            with Flow(left.host, right.host, right.address(network), rate_bps=8e6) as flow:
                eventually(lambda: _silent(flow), timeout_s=20)
                assert flow.received_bytes < UNCONFIRMED_BYTES
            carries = _relay_status(relay)["carries"]
            assert isinstance(carries, list)
            for item in carries:
                assert item["confirmed"] is False
                assert item["bytes"] <= UNCONFIRMED_BYTES


def test_a_relay_calls_nobody_whom_it_has_no_link_with(tmp_path):
    """Asked for a circuit to a member that is down, the relay sends nothing to its address.

    left itself does: that its calls are seen shows that the relay's would be.
    """
    with World(tmp_path) as world:
        scene = _crossing(world, home_relays=0)
        scene.right.down()
        scene.backbone.join(scene.left.host, scene.right.host)
        left, relay = (
            socket.inet_aton(scene.backbone.address(node.host))
            for node in (scene.left, scene.relay)
        )
        scene.relay.run("disconnect", "right")
        with scene.right.host.capture("eth0") as tap:
            done = scene.left.run("connect", "right", "--timeout", "6")
            assert done.returncode == 5, done.stderr
        sources = {frame.data[26:30] for frame in tap.frames if _is_udp(frame.data)}
        assert left in sources
        assert relay not in sources


def _is_udp(data: bytes) -> bool:
    return data[12:14] == b"\x08\x00" and data[23] == 17


# -- somebody on one leg --------------------------------------------------------------------------


@attrs.frozen
class Leg:
    """A relayed pair with mallory between left and the relay."""

    left: Node
    relay: Node
    right: Node
    mallory: Mallory
    inside: str


def _leg(world: World) -> tuple[Host, Host, Host]:
    left, router, relay, right = (
        world.host("left"),
        world.lab.router("router"),
        world.host("relay"),
        world.host("right"),
    )
    world.lab.wire(left, "10.0.1.2/24", router, "10.0.1.1/24")
    world.lab.wire(relay, "10.0.2.2/24", router, "10.0.2.1/24")
    world.lab.wire(relay, "10.0.3.1/24", right, "10.0.3.2/24")
    left.route("default", via="10.0.1.1")
    relay.route("default", via="10.0.2.1")
    for host in (relay, right):
        host.offload("eth1" if host is relay else "eth0", tx_udp_segmentation=False)
    return left, router, relay


@contextlib.contextmanager
def _relayed(world: World, **environment: str) -> Iterator[Leg]:
    left_host, router, relay_host = _leg(world)
    with Mallory(left_host, router, relay_host) as mallory:
        nodes = {name: world.node(name) for name in ("relay", "left", "right")}
        for name, node in nodes.items():
            programs.set_environment(node, **environment)
            if name != "relay":
                configure(node, relay="off")
        relay, left, right = nodes.values()
        relay.up("--name", "relay")
        for node in (left, right):
            node.connect(relay.invite(), "--name", node.name)
        answer = left.connect("right")
        assert answer["path"]["via"] == [_id(relay)]
        yield Leg(left, relay, right, mallory, right.address())


@pytest.fixture(scope="module")
def leg(tmp_path_factory):
    """A relayed pair, whose first leg mallory hears and may say something on."""
    with World(tmp_path_factory.mktemp("leg")) as world, _relayed(world) as made:
        yield made


@contextlib.contextmanager
def _listening(leg: Leg) -> Iterator[None]:
    with leg.right.host.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind((leg.inside, PORT))
        yield


def _say(leg: Leg, payload: bytes) -> None:
    with leg.left.host.socket(socket.AF_INET, socket.SOCK_DGRAM) as source:
        source.sendto(payload, (leg.inside, PORT))


def _tun(node: Node, needle: bytes) -> Capture:
    return node.host.capture(status(node)["tun"], needle=needle)


def _spoiled(frame: bytes) -> list[bytes]:
    flips = [
        frame[:at] + bytes([frame[at] ^ 1 << at % 8]) + frame[at + 1 :] for at in range(len(frame))
    ]
    cuts = [frame[:size] for size in range(1, len(frame))]
    return flips + cuts + [frame + bytes([n] * n) for n in range(1, 33)]


def _inject(leg: Leg, payloads: list[bytes]) -> None:
    """Say *payloads* to the relay and return when its engine has looked at every one."""
    in_bursts(leg.relay, payloads, lambda some: leg.mallory.say(RIGHT, some))


@needs_nft
def test_what_is_changed_on_a_leg_dies_at_the_relay_and_the_original_passes_once(leg):
    """Flipped, cut, prolonged or replayed, a relay frame never gets to the other leg."""
    canary = secrets.token_bytes(64)
    size = _RELAYED_OVERHEAD + len(canary)
    with (
        _listening(leg),
        _tun(leg.right, canary) as inside,
        leg.relay.host.capture("eth1") as far,
        leg.mallory.holding(),
    ):
        before = len(leg.mallory.of_size(RIGHT, size))
        _say(leg, canary)
        eventually(lambda: len(leg.mallory.of_size(RIGHT, size)) > before)
        original = leg.mallory.of_size(RIGHT, size)[before]
        passed = len(_sizes(far, size))
        _inject(leg, _spoiled(original))
        assert inside.hits == 0
        assert len(_sizes(far, size)) == passed
        _inject(leg, [original])
        inside.wait_until(lambda tap: tap.hits == 1)
        _inject(leg, [original] * 100)
        far.wait_until(lambda tap: len(_sizes(tap, size)) == passed + 1)
    assert inside.hits == 1
    assert len(_sizes(far, size)) == passed + 1
    assert inside.dropped == far.dropped == 0


def _sizes(tap: Capture, size: int) -> list[bytes]:
    """Return the UDP payloads of *size* that went out by a link."""
    return [data for data in _payloads(tap) if len(data) == size]


def _payloads(tap: Capture) -> list[bytes]:
    found = []
    for frame in tuple(tap.frames):
        if frame.outgoing and _is_udp(frame.data):
            (length,) = struct.unpack_from("!H", frame.data, 14 + 20 + 4)
            found.append(frame.data[42 : 34 + length])
    return found


@needs_nft
def test_no_two_bytes_blocks_are_the_same_on_both_legs(leg):
    """Of a stream through the relay no 16 bytes in a row that one tap saw are seen by the other."""
    size = _RELAYED_OVERHEAD + 200
    with _listening(leg), leg.relay.host.capture("eth1") as far:
        before = len(leg.mallory.of_size(RIGHT, size))
        for number in range(220):  # some may get lost at a tap of this machine
            _say(leg, struct.pack("!I", number) * 50)
        far.wait_until(lambda tap: len(_sizes(tap, size)) >= 200)
        # Either tap may be behind the other.
        eventually(lambda: len(leg.mallory.of_size(RIGHT, size)) >= before + 200)
        near = leg.mallory.of_size(RIGHT, size)[before:]
    seen = {payload[at : at + 16] for payload in near for at in range(size - 15)}
    again = [
        p for p in _sizes(far, size) if any(p[at : at + 16] in seen for at in range(size - 15))
    ]
    assert again == []


# -- clear text -----------------------------------------------------------------------------------


def _canary_is_not_at_the_relay(world: World, **environment: str) -> None:
    """left == relay == right: 64 bytes that nobody else has, and taps on both wires of the relay.

    Raises: AssertionError: one of them found it, or the one inside of the tunnel did not.
    """
    canary = secrets.token_bytes(64)
    with _relayed(world, **environment) as leg:
        relay = leg.relay.host
        with (
            relay.capture("eth0", needle=canary) as near,
            relay.capture("eth1", needle=canary) as far,
            _tun(leg.left, canary) as inside,
        ):
            for version in (4, 6):
                address = leg.right.address(version=version)
                for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                    assert flows.message(leg.left.host, leg.right.host, address, canary, kind)
            inside.wait_until(lambda tap: tap.hits >= 4)
        for tap in (near, far):
            assert tap.dropped == 0
            assert tap.seen > 0
        assert near.hits + far.hits == 0, f"{near.hits} + {far.hits} datagrams in clear"


@needs_nft
def test_a_relay_never_holds_what_it_carries_in_clear(tmp_path):
    """What is said inside by UDP and TCP is found in the tunnel, and on no wire of the relay."""
    with World(tmp_path) as world:
        _canary_is_not_at_the_relay(world)


@needs_nft
@pytest.mark.slow
def test_the_same_check_finds_the_canary_in_a_build_without_encryption(tmp_path):
    """The check above can fail: it does in a build that seals nothing."""
    cleartext = programs.cleartext_package(tmp_path / "cleartext")
    with (
        World(tmp_path) as world,
        pytest.raises(AssertionError, match="datagrams in clear"),
    ):
        _canary_is_not_at_the_relay(world, PYTHONPATH=str(cleartext))
