"""Attacks on the wire, and from a peer that lies: nothing is delivered, nobody answers.

```
left 10.0.1.2 -- [eth0] mallory [eth1] -- 10.0.2.2 right        one network, left founded it
  veil0 =========== tunnel =========== veil0
```
"""

from __future__ import annotations

import contextlib
import ipaddress
import random
import secrets
import socket
import time
from typing import TYPE_CHECKING

import attrs
import pytest

from tests.netns import flows, programs
from tests.netns.onpath import LEFT, RIGHT, Mallory, udp_packet
from tests.netns.scenes import (
    World,
    counted,
    eventually,
    in_bursts,
    peer,
    ping,
    routed,
    status,
)
from veilnet.testing import nft

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from veilnet.testing import Capture, Node

pytestmark = pytest.mark.skipif(not nft.available(), reason="nft is not installed")

PORT = 7000
_UDP_OVERHEAD = 20 + 8 + 32
SETTLED_S = 6.0
"""Longer than from one confirmation of the path's MTU to the next, made until data is long ago."""


@attrs.frozen
class Scene:
    """Two nodes, joined and connected, and who stands between them."""

    world: World
    left: Node
    right: Node
    mallory: Mallory
    addresses: dict[str, str]

    def node(self, end: str) -> Node:
        """Return the node at *end*."""
        return self.left if end == LEFT else self.right

    def tun(self, end: str, needle: bytes | None = None) -> Capture:
        """Capture what is inside of the tunnel at *end*."""
        node = self.node(end)
        return node.host.capture(status(node)["tun"], needle=needle)

    def say(self, to: str, *payloads: bytes) -> None:
        """Send UDP datagrams to the end *to* from the other, inside."""
        node = self.right if to == LEFT else self.left
        with node.host.socket(socket.AF_INET, socket.SOCK_DGRAM) as source:
            for payload in payloads:
                source.sendto(payload, (self.addresses[to], PORT))


@contextlib.contextmanager
def _listening(node: Node, address: str) -> Iterator[socket.socket]:
    """Bind PORT, so that the kernel answers a datagram by no ICMP error."""
    with node.host.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind((address, PORT))
        sink.settimeout(5)
        yield sink


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Two nodes whose whole conversation, its first word included, mallory heard."""
    with World(tmp_path_factory.mktemp("wire")) as world:
        hosts = routed(world)
        with Mallory(*hosts) as mallory:
            left = world.founder("left")
            right = world.member("right", left)
            network = status(right)["networks"][0]["id"]
            addresses = {LEFT: left.address(network), RIGHT: right.address(network)}
            with _listening(left, addresses[LEFT]), _listening(right, addresses[RIGHT]):
                yield Scene(world, left, right, mallory, addresses)


def _flipped(datagram: bytes, at: int) -> bytes:
    return datagram[:at] + bytes([datagram[at] ^ 1 << at % 8]) + datagram[at + 1 :]


def _changed(datagram: bytes) -> list[bytes]:
    """Return *datagram* with a bit of each byte flipped, cut at each length, and with more."""
    size = len(datagram)
    flips = [_flipped(datagram, at) for at in range(size)]
    cuts = [datagram[:length] for length in range(1, size)] + [datagram[1:], datagram[16:]]
    more = [datagram + bytes([n] * n) for n in range(1, 17)] + [(datagram * 2)[:1472]]
    return flips + cuts + more


def _quiet(mallory: Mallory, end: str, attack: Callable[[], None]) -> bool:
    """Run *attack* and say whether *end* sent nothing meanwhile, at one of three tries.

    A node in a session may say something by itself (a keepalive); one that answers always does.
    """
    other = LEFT if end == RIGHT else RIGHT
    for _ in range(3):
        before = len(mallory.heard(other))
        attack()
        if len(mallory.heard(other)) == before:
            return True
    return False


def _settled(mallory: Mallory) -> None:
    """Wait until neither end asks anything any more: no report, no confirmation of the MTU."""
    heard, since_s = (-1, -1), 0.0

    def silent() -> bool:
        nonlocal heard, since_s
        if (now := (mallory.tap(LEFT).seen, mallory.tap(RIGHT).seen)) != heard:
            heard, since_s = now, time.monotonic()
        return time.monotonic() - since_s > SETTLED_S

    eventually(silent, timeout_s=120)


# -- an attacker on the path ----------------------------------------------------------------------


def test_a_changed_datagram_reaches_nobody_and_its_original_exactly_once(scene):
    """Flipped in header, ciphertext or tag, cut or prolonged: no packet and no answer comes of it.

    Nor does it spoil the original, which is delivered when it comes, once, however often.
    """
    mallory, canary = scene.mallory, secrets.token_bytes(64)
    size = _UDP_OVERHEAD + len(canary)
    _settled(mallory)
    with scene.tun(RIGHT, canary) as inside, mallory.holding():
        before = len(mallory.of_size(RIGHT, size))
        scene.say(RIGHT, canary)
        eventually(lambda: len(mallory.of_size(RIGHT, size)) > before)
        original = mallory.of_size(RIGHT, size)[before]
        changed = _changed(original)

        def attack() -> None:
            in_bursts(scene.right, changed, lambda some: mallory.say(RIGHT, some))

        assert _quiet(mallory, RIGHT, attack)
        assert inside.hits == 0
        rejected = peer(scene.right, "left")["rejected"]
        mallory.say(RIGHT, [original])
        inside.wait_until(lambda tap: tap.hits == 1)
        in_bursts(scene.right, [original] * 100, lambda some: mallory.say(RIGHT, some))
        assert peer(scene.right, "left")["rejected"] == rejected + 100
        assert inside.hits == 1
    assert inside.dropped == 0


def test_everything_said_so_far_is_said_again_and_meets_silence(scene):
    """Handshake, control and data of both directions, replayed: nobody delivers or answers.

    In order and shuffled, from the true address and from a stranger's; the session stays as it is.
    """
    mallory, ends = scene.mallory, (LEFT, RIGHT)
    for end in ends:
        scene.say(end, *(b"%03d" % n for n in range(300)))
    assert flows.stream(
        scene.left.host, scene.right.host, scene.addresses[RIGHT], size_bytes=1 << 18
    )
    scene.right.ask("ping", "left", "-c", "1")
    # What one of them still waits for an answer to would make it call the other anew.
    _settled(mallory)
    keys = {end: scene.node(end).ask("key", "status")["keys"] for end in ends}
    with mallory.holding():
        for end in ends:
            other = scene.node(RIGHT if end == LEFT else LEFT)
            name = other.name
            said = [item.payload for item in mallory.heard(end) if item.payload]
            assert len(said) > 300
            again = said + random.Random(1).sample(said, len(said))
            rejected = peer(scene.node(end), name)["rejected"]
            with scene.tun(end) as inside:

                def attack(end=end, again=again) -> None:
                    in_bursts(scene.node(end), again, lambda some: mallory.say(end, some))

                assert _quiet(mallory, end, attack)
            assert [frame for frame in inside.frames if not frame.outgoing] == []
            assert inside.dropped == 0
            assert peer(scene.node(end), name)["rejected"] >= rejected + 300
            with scene.tun(end) as inside, _stranger(scene, end) as (say, answers):
                in_bursts(scene.node(end), again, say)
                assert answers() == 0
            assert [frame for frame in inside.frames if not frame.outgoing] == []
    for end in ends:
        (now,), (then,) = scene.node(end).ask("key", "status")["keys"], keys[end]
        assert now["epoch"] == then["epoch"]
        assert now["last_rekey_s"] > then["last_rekey_s"]
    assert ping(scene.left.host, scene.addresses[RIGHT]) == 3


@contextlib.contextmanager
def _stranger(scene: Scene, end: str):
    """Yield how to send to *end* from an address of mallory's own, and how to count answers."""
    node = scene.node(end)
    with scene.mallory.host.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        handle.setblocking(False)
        handle.connect(("10.0.2.2" if end == RIGHT else "10.0.1.2", status(node)["port"]))

        def say(payloads: Iterable[bytes]) -> None:
            for payload in payloads:
                handle.send(payload)

        def answers() -> int:
            # What Python would answer is out once it has answered a command, start and all.
            node.ask("status")
            count = 0
            with contextlib.suppress(BlockingIOError):
                while True:
                    handle.recv(1 << 16)
                    count += 1
            return count

        yield say, answers


def test_junk_of_every_size_meets_silence(scene):
    """Random bytes, from none to what one UDP datagram holds: no answer to a stranger."""
    sizes = [*range(1473), 1500, 2000, 4096, 9000, 16_384, 32_768, 65_507]
    junk = [secrets.token_bytes(size) for size in sizes]
    with _stranger(scene, RIGHT) as (say, answers):
        in_bursts(scene.right, junk, say)
        assert answers() == 0
    assert ping(scene.left.host, scene.addresses[RIGHT]) == 3


def test_ten_thousand_probes_meet_silence(scene):
    """Random, truncated and bit-flipped recordings: 0 answers to 10,000, and all were looked at."""
    rng = random.Random(10_000)
    said = [item.payload for item in scene.mallory.heard(RIGHT) if item.payload]
    probes = []
    for number in range(10_000):
        recorded = rng.choice(said)
        match number % 4:
            case 0:
                probes.append(rng.randbytes(rng.randint(1, 1400)))
            case 1:
                probes.append(recorded[: rng.randrange(1, len(recorded) + 1)])
            case 2:
                probes.append(_flipped(recorded, rng.randrange(len(recorded))))
            case _:
                cut = rng.randrange(len(recorded))
                probes.append(recorded[:cut] + rng.randbytes(len(recorded) - cut))
    before = counted(scene.right)
    with scene.tun(RIGHT) as inside, _stranger(scene, RIGHT) as (say, answers):
        in_bursts(scene.right, probes, say)
        assert answers() == 0
    assert [frame for frame in inside.frames if not frame.outgoing] == []
    assert counted(scene.right) >= before + 10_000


def test_first_contact_answers_only_what_is_whole_and_new(tmp_path):
    """A HELLO and an INIT are answered once; changed or again, they meet silence.

    No session exists yet, so that every datagram from the door's side is an answer.
    """
    with (
        World(tmp_path) as world,
        Mallory(*routed(world)) as mallory,
        contextlib.ExitStack() as stack,
    ):
        left, right = world.founder("left"), world.node("right")
        with mallory.holding():
            joining = stack.enter_context(
                programs.started(right, "connect", left.invite(), "--timeout", "60")
            )

            def to_left(payloads: Sequence[bytes]) -> None:
                in_bursts(left, payloads, lambda some: mallory.say(LEFT, some))

            hello = mallory.wait_for(LEFT, 1, timeout_s=30)[0].payload
            to_left(_changed(hello))
            assert mallory.heard(RIGHT) == []
            to_left([hello])
            (retry,) = mallory.wait_for(RIGHT, 1)
            assert len(retry.payload) <= len(hello)
            to_left([hello] * 50)
            assert len(mallory.heard(RIGHT)) == 1

            # The second flight: some of what comes now may be a HELLO again, sealed anew.
            before = len(mallory.heard(LEFT))
            mallory.say(RIGHT, [retry.payload])
            fresh = [item.payload for item in mallory.wait_for(LEFT, before + 2)[before:]]
            for datagram in fresh:
                to_left(_changed(datagram))
            left.ask("status")
            assert len(mallory.heard(RIGHT)) == 1
            to_left(fresh)
            eventually(
                lambda: len(mallory.heard(RIGHT)) > 1 + 2 + len(fresh)
            )  # RESP: many fragments
            left.ask("status")
            answered = len(mallory.heard(RIGHT))
            to_left([hello, *fresh] * 20)
            left.ask("status")
            assert len(mallory.heard(RIGHT)) == answered
        out, err = joining.communicate(timeout=60)
        assert joining.returncode == 0, err
        assert "connected" in out


# -- a member that lies ---------------------------------------------------------------------------


def _foreign(own4: str, own6: str) -> list[str]:
    """Return addresses that are nobody's in the tunnel, *own4* and *own6* among them."""
    near4, near6 = (str(ipaddress.ip_address(own) + 77) for own in (own4, own6))
    return [
        *(own4, near4, "10.0.2.2", "10.0.1.2", "127.0.0.1", "0.0.0.0"),
        *("255.255.255.255", "224.0.0.1", "198.51.100.7", "169.254.0.1"),
        *(own6, near6, "::1", "::", "fe80::1", "ff02::1", "2001:db8::7"),
    ]


@contextlib.contextmanager
def _device(node: Node) -> Iterator[Callable[[bytes], None]]:
    """Yield a way to put a packet into the node's TUN device, with whatever addresses."""
    name = status(node)["tun"]
    with (
        node.host.socket(socket.AF_PACKET, socket.SOCK_RAW) as four,
        node.host.socket(socket.AF_PACKET, socket.SOCK_RAW) as six,
    ):
        four.bind((name, 0x0800))
        six.bind((name, 0x86DD))
        yield lambda packet: (four if packet[0] >> 4 == 4 else six).sendall(packet)


def test_a_peer_may_not_send_from_an_address_not_its_own(scene):
    """From the receiver's, another's, the underlay's or no address: 0 delivered, all counted."""
    network = status(scene.right)["networks"][0]["id"]
    own, six = scene.addresses[RIGHT], scene.right.address(network, version=6)
    spoofed, honest = secrets.token_bytes(32), secrets.token_bytes(32)
    rejected = peer(scene.right, "left")["rejected"]
    sources = _foreign(own, six)
    with (
        scene.tun(RIGHT, spoofed) as inside,
        scene.tun(RIGHT, honest) as control,
        _device(scene.left) as put,
    ):
        for source in sources:
            put(udp_packet(source, six if ":" in source else own, PORT, spoofed))
        put(udp_packet(scene.addresses[LEFT], own, PORT, honest))
        control.wait_until(lambda tap: tap.hits == 1)
        assert peer(scene.right, "left")["rejected"] == rejected + len(sources)
    assert inside.hits == 0
    assert inside.dropped == 0


def test_another_address_on_a_peers_device_is_good_for_nothing(scene):
    """An address added to left's TUN by hand: its pings reach nobody, left's own are answered."""
    own, rest = scene.addresses[LEFT], scene.addresses[RIGHT]
    other = str(ipaddress.ip_address(own) + 99)
    device = status(scene.left)["tun"]
    rejected = peer(scene.right, "left")["rejected"]
    scene.left.host.address(device, f"{other}/32")
    with scene.tun(RIGHT) as inside:
        assert ping(scene.left.host, rest, "-I", other, wait_s=0.5) == 0
        assert [frame for frame in inside.frames if not frame.outgoing] == []
        assert peer(scene.right, "left")["rejected"] == rejected + 3
        assert ping(scene.left.host, rest, "-I", own) == 3


LIAR = """
from veilnet.daemon.node import Node

honest = Node.route

def route(self, session):
    honest(self, session)
    carrier = self.sessions.carrier(*session.key)
    if carrier is not None:
        self.engine.assign(carrier.sid, ["0.0.0.0/0", "::/0"])

Node.route = route
"""


def test_a_peer_may_not_send_to_an_address_not_ours(tmp_path):
    """A node changed to send everything through the tunnel gets nothing past its end."""
    with World(tmp_path) as world:
        routed(world)
        right = world.founder("right")
        left = world.node("left")
        with programs.changed(left, LIAR):
            left.connect(right.invite(), "--name", "left")
            network = status(right)["networks"][0]["id"]
            own, six = right.address(network), right.address(network, version=6)
            mine, my_six = left.address(network), left.address(network, version=6)
            foreign, honest = secrets.token_bytes(32), secrets.token_bytes(32)
            device = status(right)["tun"]
            rejected = peer(right, "left")["rejected"]
            with (
                right.host.capture(device, needle=foreign) as inside,
                right.host.capture(device, needle=honest) as control,
                _listening(right, own),
                _device(left) as put,
            ):
                targets = [
                    item for item in (mine, my_six, *_foreign(own, six)) if item not in (own, six)
                ]
                for target in targets:
                    put(udp_packet(my_six if ":" in target else mine, target, PORT, foreign))
                put(udp_packet(mine, own, PORT, honest))
                control.wait_until(lambda tap: tap.hits == 1)
                assert peer(right, "left")["rejected"] == rejected + len(targets)
            assert inside.hits == 0
            assert inside.dropped == 0


# -- clear text -----------------------------------------------------------------------------------


def _canary_stays_inside(world: World, **environment: str) -> None:
    """left == right: 64 bytes that nobody else has, by UDP and TCP; a tap on both wires.

    Raises: AssertionError: the tap on a wire found them, or the one in the tunnel did not.
    """
    left_host, right_host = (world.host(name) for name in ("left", "right"))
    world.lab.wire(left_host, "10.0.0.1/24", right_host, "10.0.0.2/24")
    left, right = world.node("left"), world.node("right")
    for node in (left, right):
        programs.set_environment(node, **environment)
    left.up("--name", "left")
    right.connect(left.invite(), "--name", "right")
    network = status(right)["networks"][0]["id"]
    canary = secrets.token_bytes(64)
    with (
        left_host.capture("eth0", needle=canary) as wire,
        left_host.capture(status(left)["tun"], needle=canary) as inside,
    ):
        for version in (4, 6):
            address = right.address(network, version=version)
            assert flows.message(left_host, right_host, address, canary, socket.SOCK_DGRAM)
            assert flows.message(left_host, right_host, address, canary, socket.SOCK_STREAM)
        inside.wait_until(lambda tap: tap.hits >= 4)
    assert wire.dropped == 0
    assert wire.seen > 0
    assert wire.hits == 0, f"{wire.hits} datagrams in clear"


def test_the_canary_is_never_on_the_wire(tmp_path):
    """What is said inside by UDP and TCP is found in the tunnel and not on the wire."""
    with World(tmp_path) as world:
        _canary_stays_inside(world)


def test_the_same_check_finds_the_canary_in_a_build_without_encryption(tmp_path, cleartext):
    """The check above can fail: it does in a build that seals nothing."""
    with World(tmp_path) as world, pytest.raises(AssertionError, match="datagrams in clear"):
        _canary_stays_inside(world, PYTHONPATH=str(cleartext))


@pytest.fixture(scope="session")
def cleartext(tmp_path_factory):
    """The folder of a copy of the package whose engine seals nothing."""
    return programs.cleartext_package(tmp_path_factory.mktemp("cleartext"))
