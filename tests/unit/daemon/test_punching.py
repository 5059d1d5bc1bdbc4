"""Calls between whole nodes: real engines on loopback, parted until a call is answered."""

from __future__ import annotations

from types import SimpleNamespace

import attrs
import pytest
import trio

from tests.unit.daemon.nodes import ask, only, session_of, until
from tests.unit.daemon.test_paths import carrying, connected, crossing, network, own_id, path_ids
from veilnet.daemon.nat import hops, punching
from veilnet.daemon.nat import views as nat_views
from veilnet.daemon.nat.hops import Hops
from veilnet.daemon.paths import choosing
from veilnet.daemon.relays import homes
from veilnet.nat.attempt import Punch, Side
from veilnet.nat.punching import Refusal
from veilnet.networks.endpoint import Endpoint
from veilnet.protocol import nat_messages as messages
from veilnet.protocol.circuit import is_circuit


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Rounds that take no second, and no tries between calls."""
    monkeypatch.setattr(homes, "LOOK_S", 0.1)
    monkeypatch.setattr(choosing, "LOOK_S", 0.1)
    monkeypatch.setattr(choosing, "ROUND_S", 0.05)
    monkeypatch.setattr(choosing, "FRESH_S", 0.01)
    monkeypatch.setattr("veilnet.nat.punching.FIRST_MUTE_S", 0.2)
    monkeypatch.setattr("veilnet.nat.punching.MAX_MUTE_S", 0.2)


@pytest.fixture
def calls_only(monkeypatch):
    """A direct way comes by a call or not at all."""
    monkeypatch.setattr(punching.Punchings, "is_translated", lambda *_: True)


async def alone(*nodes):
    """Have nobody be anybody's home, who would be called for that."""
    for made in nodes:
        made.config = made.config.override({"home_relays": 0})
        await made.homes.look()
    await until(lambda: not any(made.homes._opening for made in nodes))


async def test_a_call_makes_a_relayed_channel_direct(tmp_path, calls_only):
    """Both know where the other is by the call; the session stays what it was."""
    async with crossing(tmp_path, "alice", commons="") as (wall, _, left, right):
        await alone(left, right)
        assert (await connected(left, "right"))["kind"] == "relayed"
        before = session_of(left, right)
        wall.parted.clear()
        await until(lambda: carrying(left, right) == ("direct", []))
        await until(lambda: carrying(right, left) == ("direct", []))
        assert session_of(left, right) is before
        course = left.paths.course(before)
        await until(lambda: not any(way.held for way in course.ways.values()))
        shown = (await ask(left, "peer", peer="right"))["direct"]
        assert (shown["state"], shown["peer_nat"]) == ("direct", "open")
        assert f"127.0.0.1:{right.engine.port}" in shown["candidates"]


@pytest.mark.parametrize(
    ("usable", "direct", "relayed", "says"),
    [
        (True, True, False, "straight"),
        (True, True, True, "straight"),
        (True, False, True, "another serves better"),
        (False, False, True, "is dead"),
    ],
)
def test_people_are_told_what_carries_and_not_what_could(usable, direct, relayed, says):
    """A direct way that is open and idle is said to be that, and one that died to have died."""
    ways = {
        0: SimpleNamespace(is_direct=True, carries=direct, was_alive=True),
        2: SimpleNamespace(is_direct=False, carries=relayed, was_alive=True),
    }
    course = SimpleNamespace(ways=ways, usable_direct=lambda: usable)
    assert says in nat_views._reason(course, {"state": "idle", "failed": 0})


async def test_a_call_that_finds_nothing_leaves_nothing(tmp_path, calls_only, monkeypatch):
    """The engine sends nowhere: the path goes at both ends, and people are told when it is next."""
    async with crossing(tmp_path, "alice", commons="") as (wall, _, left, right):
        await alone(left, right)
        monkeypatch.setitem(punching._ACTS, Punch, lambda *_: None)
        await connected(left, "right")
        wall.parted.clear()
        here = left.paths.course(session_of(left, right))
        calls = left.paths.direct.punching
        await until(lambda: calls.view(here, trio.current_time())["failed"] >= 1)
        await until(lambda: not any(way.held for way in here.ways.values()))
        there = right.paths.course(session_of(right, left))
        await until(lambda: not any(way.held for way in there.ways.values()))
        value = nat_views.direct(left, only(left), only(left).members.get(own_id(right)))
        assert value["state"] in ("relayed", "calling")
        assert value["reason"]


async def test_a_relay_vouches_for_where_it_sees_an_end(tmp_path):
    """Asked by that end alone, told to the other alone; it is the address of the link."""
    async with crossing(tmp_path, "alice", commons="") as (_, _, left, right):
        await connected(left, "right")
        course = left.paths.course(session_of(left, right))
        circuit = next(way.circuit for way in course.ways.values() if way.circuit)
        heard = []
        right.paths.direct.vouched = lambda circuit_id, at: heard.append((circuit_id, at))
        await until(lambda: circuit.confirmed)

        def told():
            left.relaying.vouch(circuit)
            return heard

        await until(told)
        assert heard[0] == (circuit.id, ("127.0.0.1", left.engine.port))


async def test_whose_relay_vouches_decides_what_its_word_is_worth(tmp_path):
    """A member's is taken, a stranger's not before the peer says so; nothing inside an overlay."""
    async with crossing(tmp_path, "alice", commons="") as (_, _, left, right):
        await connected(left, "right")
        course = left.paths.course(session_of(left, right))
        calls, way = left.paths.direct.punching, next(w for w in course.ways.values() if w.circuit)
        machine = calls._caller(course, trio.current_time()).machine
        member_way, way.circuit = way.circuit, attrs.evolve(way.circuit, network_id=b"commons")
        assert machine.vouched is None
        calls.vouched(way.circuit.id, Endpoint("203.0.113.66", 53))
        assert machine.vouched is None
        calls.vouched(way.circuit.id, Endpoint("127.0.0.1", 9))
        machine.peer = Side(public=(("127.0.0.1", 7),))
        assert machine.vouched == ("127.0.0.1", 9)
        way.circuit = member_way
        calls.vouched(way.circuit.id, Endpoint("203.0.113.66", 53))
        assert machine.vouched == ("203.0.113.66", 53)
        calls.vouched(way.circuit.id, Endpoint(str(only(right).own.addresses[0]), 53))
        assert machine.vouched == ("203.0.113.66", 53)


async def test_a_call_with_an_id_that_is_not_its_to_give_is_misbehaviour(tmp_path):
    """Or it could take a path of ours for its own."""
    async with network(tmp_path, "alice", "left", "right", commons="") as (_, left, right):
        await connected(left, "right")
        session = session_of(left, right)
        mine = path_ids(session)[0]
        session.link.send(messages.Call(path=mine ^ 1 or 2, attempt=1))
        await until(lambda: right.sessions.get(session_of(right, left) or 0) is None)


async def test_calls_of_one_peer_are_bounded(tmp_path, monkeypatch):
    """A flood of them gets refusals, and no more paths than a peer may have."""
    async with network(tmp_path, "alice", "left", "right", commons="") as (_, left, right):
        await connected(left, "right")
        session = session_of(left, right)
        refused = []
        monkeypatch.setattr(
            left.paths.direct.punching,
            "handle",
            lambda _, envelope: refused.append(envelope.message),
        )
        for path in path_ids(session)[:40]:
            session.link.send(messages.Call(path=path, attempt=1, local=(("192.0.2.1", 9),)))
        await until(lambda: sum(isinstance(each, messages.CallRefused) for each in refused) >= 39)
        codes = {each.code for each in refused if isinstance(each, messages.CallRefused)}
        assert codes == {Refusal.BUSY, Refusal.TOO_OFTEN}
        assert len(right.paths.course(session_of(right, left)).ways) <= 8


async def test_no_address_inside_an_overlay_is_called(tmp_path):
    """What a peer says of itself is checked like every address of a member."""
    async with network(tmp_path, "alice", "left", "right", commons="") as (_, left, right):
        await connected(left, "right")
        inside = str(only(right).own.addresses[0])
        call = messages.Call(path=3, attempt=1, local=((inside, 9), ("192.0.2.1", 9)))
        checked = right.paths.direct.punching._checked(session_of(right, left), call)
        assert checked.local == (Endpoint("192.0.2.1", 9),)
        assert not any(map(is_circuit, checked.public))


async def test_status_says_where_the_node_is_seen(tmp_path):
    """By whom, over what, and how sure that is."""
    async with network(tmp_path, "alice", "bob", "left", commons="") as (_, _, left):
        await until(lambda: nat_views.discovery(left)["observers"] == 1)
        found = nat_views.discovery(left)
        assert (found["nat"], found["reachable"], found["nat_sure"]) == ("open", ["udp4"], False)
        assert found["public"] == [f"127.0.0.1:{left.engine.port}"]


async def test_a_silence_test_is_answered_once_it_is_over(tmp_path):
    """The peer's probe comes after the time that was asked for; one at a time."""
    async with network(tmp_path, "alice", "bob", "left", commons="") as (alice, _, left):
        session = session_of(left, alice)
        silences = alice.paths.direct.punching.silences
        for _ in range(20):
            session.link.send(messages.SilenceTest(after_ms=300))
        await until(lambda: silences._answering)
        assert len(silences._answering) == 1
        await until(lambda: not silences._answering)


async def test_hops_are_kept_and_bounded(monkeypatch):
    """Counting costs datagrams: each address once in ten minutes."""
    counted = []
    monkeypatch.setattr(hops, "count", lambda host: counted.append(host) or 3)
    monkeypatch.setattr(hops, "KEPT_MAX", 4)
    made = Hops()
    for number in (1, 1, 2, 3, 4, 5, 5):
        assert await made.count((f"192.0.2.{number}", 9)) == 3
    assert len(counted) == 5
    assert len(made) == 4


def test_a_target_next_door_is_one_hop_away():
    """Loopback answers itself that nobody listens: it is reached."""
    assert hops.count("127.0.0.1") == 1
