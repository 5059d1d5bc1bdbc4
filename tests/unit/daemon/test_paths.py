"""Ways round and their steering: whole nodes, real engines, some of whom cannot call each other."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager

import attrs
import numpy as np
import pytest
import trio

from tests.unit.daemon.nodes import ask, join, only, running, session_of, until
from veilnet.daemon.paths import choosing, course, openings
from veilnet.daemon.relays import homes
from veilnet.errors import ConfigError, LocalProtocolError, PeerUnreachable, RemoteProtocolError
from veilnet.networks.endpoint import Endpoint
from veilnet.paths import DIRECT, make_policy
from veilnet.paths.guard import Guard
from veilnet.paths.record import Replayed, replay
from veilnet.protocol import relay_messages as messages
from veilnet.protocol.circuit import is_circuit
from veilnet.protocol.messages import Envelope


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Rounds that take no second."""
    monkeypatch.setattr(homes, "LOOK_S", 0.1)
    monkeypatch.setattr(choosing, "LOOK_S", 0.1)
    monkeypatch.setattr(choosing, "ROUND_S", 0.05)
    monkeypatch.setattr(choosing, "FRESH_S", 0.01)
    monkeypatch.setattr(course, "FIRST_DIRECT_S", 0.2)
    monkeypatch.setattr(course, "MAX_DIRECT_S", 0.2)


class Wall:
    """Keeps nodes from calling each other: neither knows an address of the other."""

    def __init__(self):
        self.parted = set()

    async def between(self, *pair):
        """Part two nodes."""
        self.parted.add(frozenset(pair))
        both = (pair, pair[::-1])
        for made, other in both:
            self._hide(made, other)
        # A handshake that was under way may still end with a session.
        await until(lambda: sum(self._together(*each) for each in both) == 0)

    @staticmethod
    def _together(made, other):
        session = session_of(made, other)
        if session is not None:
            made.end(session, reason="parted")
        return session is not None or made.channels.connecting((only(made).id, own_id(other)))

    def _hide(self, made, other):
        known = made.channels.endpoints

        def endpoints(network, member, *first):
            found = known(network, member, *first)
            if member.peer_id != other.identity.peer_id:
                return found
            if frozenset((made, other)) not in self.parted:
                return found
            return tuple(endpoint for endpoint in found if is_circuit(endpoint))

        made.channels.endpoints = endpoints


@asynccontextmanager
async def network(folder, *names, **keys):
    """A node of each name, the first the founder; all have links to all."""
    async with AsyncExitStack() as stack:
        made = []
        for name in names:
            node = await stack.enter_async_context(
                running(folder, name, found=not made, **(keys if name == names[-1] else {}))
            )
            if made:
                await join(made[0], node, name)
            made.append(node)
        await until(lambda: all(len(only(node).members) == len(names) for node in made))
        for node in made:
            await until(
                lambda node=node: (
                    len(node.homes.links(only(node))) == min(len(names) - 1, 3)
                    or node.config.home_relays == 0
                )
            )
        # Of two links that were opened at once one goes.
        await until(lambda: all(len(node.sessions) == len(names) - 1 for node in made))
        yield made


@asynccontextmanager
async def crossing(folder, *relays, **keys):
    """The relays, and left and right, who are parted; *keys* are right's."""
    async with network(folder, *relays, "left", "right", **keys) as made:
        *middle, left, right = made
        wall = Wall()
        await wall.between(left, right)
        yield wall, middle, left, right


async def connected(made, name):
    """Connect and return the path."""
    return (await ask(made, "connect", peer=name))["path"]


def carrying(made, other):
    """Return kind and relays' names of the path that carries most."""
    session = session_of(made, other)
    counters = None if session is None else made.statistics().get(session.sid)
    if counters is None:
        return None
    path = commands_paths(made).best(session, counters)
    return path["kind"], path["via_names"]


def commands_paths(made):
    """Return what shows paths."""
    from veilnet.daemon.paths.views import PathViews

    return PathViews(made)


async def test_who_cannot_be_called_is_reached_through_a_relay(tmp_path):
    """Nothing is configured; the circuit's endpoint stays inside the two nodes."""
    async with crossing(tmp_path, "alice") as (_, (alice,), left, right):
        path = await connected(left, "right")
        assert (path["kind"], path["via_names"]) == ("relayed", ["alice"])
        assert path["endpoint"] == f"127.0.0.1:{alice.engine.port}"
        assert carrying(right, left) == ("relayed", ["alice"])
        assert is_circuit(session_of(left, right).endpoint)
        for made in (alice, left, right):
            members = list(only(made).members)
            assert not any(is_circuit(e) for member in members for e in member.endpoints)
            assert not any(map(is_circuit, made.gossip.own_observed()))


async def test_the_circuit_of_a_session_is_confirmed_at_both_ends(tmp_path):
    """The relay lifts its first limit once both have proven whom they talk to."""
    async with crossing(tmp_path, "alice") as (_, (alice,), left, _):
        await connected(left, "right")
        service = alice.relaying.service
        await until(lambda: [each.phase.name for each in service.circuits] == ["CONFIRMED"])


async def test_without_any_relay_it_says_so(tmp_path):
    """The only member in between does not relay: the error names nobody's circuit."""
    async with crossing(tmp_path, "alice") as (_, (alice,), left, _):
        await alice.relaying.decide(relay="off")
        await until(lambda: not left.relaying.offers(only(left)).get(alice.identity.peer_id))
        with pytest.raises(PeerUnreachable) as caught:
            await ask(left, "connect", peer="right", timeout_s=2)
        assert "100:" not in str(caught.value)


async def test_a_direct_path_is_found_beside_the_relay_and_takes_over(tmp_path):
    """The wall falls: both ends move, the handshake is not repeated, the address is remembered."""
    async with crossing(tmp_path, "alice") as (wall, _, left, right):
        for made in (left, right):
            # As each other's homes they would call each other anew, which is another way to it.
            made.config = made.config.override({"home_relays": 0})
            await made.homes.look()
        await until(lambda: not left.homes._opening | right.homes._opening)
        await connected(left, "right")
        before = session_of(left, right)
        wall.parted.clear()
        await until(lambda: carrying(left, right) == ("direct", []))
        await until(lambda: carrying(right, left) == ("direct", []))
        assert session_of(left, right) is before
        known = only(left).members.get(right.identity.peer_id)
        assert known.seen[0] == ("127.0.0.1", right.engine.port)
        await until(lambda: not is_circuit(before.endpoint))


async def test_an_hourly_handshake_goes_on_over_the_same_circuits(tmp_path):
    """Another session under new keys: the same relay, the circuit that there was."""
    async with crossing(tmp_path, "alice") as (_, (alice,), left, right):
        await connected(left, "right")
        old = session_of(left, right)
        (circuit,) = [c.id for c in alice.relaying.service.circuits]
        left.channels.renew(old)
        await until(lambda: session_of(left, right) not in {None, old})
        await until(lambda: len(left.paths.course(session_of(left, right)).circuits) == 1)
        assert carrying(left, right) == ("relayed", ["alice"])
        assert [c.id for c in alice.relaying.service.circuits] == [circuit]
        assert (await ask(right, "ping", peer="left"))["path"]["kind"] == "relayed"


async def test_a_channel_that_ends_gives_its_circuits_back(tmp_path):
    """Nothing of it is left at the relay or at either end."""
    async with crossing(tmp_path, "alice") as (_, (alice,), left, right):
        await connected(left, "right")
        await ask(left, "disconnect", peer="right")
        await until(lambda: not alice.relaying.service.circuits)
        await until(lambda: not len(left.relaying.circuits) + len(right.relaying.circuits))


async def test_a_chain_of_two_where_no_single_relay_reaches_both(tmp_path):
    """Left reaches alice and right bob; alice and bob reach each other."""
    async with network(tmp_path, "alice", "bob", "left", "right") as (alice, bob, left, right):
        wall = Wall()
        for pair in ((left, right), (left, bob), (right, alice)):
            await wall.between(*pair)
        path = await connected(left, "right")
        assert path["via_names"] == ["alice", "bob"]
        assert len(alice.relaying.service.circuits) == len(bob.relaying.service.circuits) == 1


async def test_a_relay_that_ends_is_replaced(tmp_path):
    """The other one is found, by whichever end notices."""
    async with crossing(tmp_path, "alice", "bob") as (_, relays, left, _):
        (via,) = (await connected(left, "right"))["via_names"]
        first, second = relays if via == "alice" else relays[::-1]
        await first.relaying.decide(relay="off")
        await until(lambda: not first.relaying.service.circuits)
        name = only(left).members.name_of(second.identity.peer_id)

        async def again():
            return (await ask(left, "ping", peer="right", timeout_s=10))["path"]["via_names"]

        assert await again() == [name]


# --- further paths -------------------------------------------------------------------------------


def busy(made, other):
    """Have *made* believe that data flows to *other*: there is no TUN device in these tests."""
    found = made.paths.course(session_of(made, other))
    found.active_s = trio.current_time() + 1_000
    made.paths.drive(found)
    found.wake.set()
    return found


async def test_a_session_with_data_keeps_a_standby_warm(tmp_path):
    """Direct carries; a relay is opened beside it before anything fails, at the peer as well."""
    async with network(tmp_path, "alice", "left", "right") as (_, left, right):
        assert (await connected(left, "right"))["kind"] == "direct"
        found = busy(left, right)
        await until(lambda: any(way.arm for way in found.ways.values()))
        (way,) = [way for way in found.ways.values() if way.arm]
        await until(lambda: way.stats is not None and way.stats.standby)
        theirs = right.paths.course(session_of(right, left))
        assert theirs.ways[way.path].arm == way.arm
        assert not theirs.ways[way.path].ours
        assert found.hints[way.arm[0]].rtt_s > 0
        value = await ask(left, "path", peer="right")
        assert {tuple(arm["via_names"]) for arm in value["arms"]} == {(), ("alice",)}
        assert value["reason"]
        assert [arm["share"] for arm in value["arms"] if not arm["via"]] == [1.0]
        left.end(session_of(left, right), reason="test")
        value = await ask(left, "path", peer="right")
        assert value["state"] == "idle"
        assert {arm["reason"] for arm in value["arms"]} == {
            "closed: remembered from the last channel"
        }


async def test_a_new_session_has_the_paths_of_the_old_one(tmp_path):
    """The standby is there again after the hourly handshake, over the circuit that there was."""
    async with network(tmp_path, "alice", "left", "right") as (alice, left, right):
        await connected(left, "right")
        found = busy(left, right)
        await until(lambda: any(way.arm and way.was_alive for way in found.ways.values()))
        (circuit,) = [c.id for c in alice.relaying.service.circuits if c.near[1] == own_id(left)]
        old = found.session
        left.channels.renew(old)
        await until(lambda: found.session is not old)
        await until(lambda: any(way.arm and way.was_alive for way in found.ways.values()))
        assert circuit in {c.id for c in alice.relaying.service.circuits}
        assert {way.circuit.id for way in found.ways.values() if way.arm and way.ours} == {circuit}


def own_id(made):
    """Return a node's peer id."""
    return made.identity.peer_id


async def test_what_is_not_used_is_closed(tmp_path):
    """Without data for long enough the further paths go, and their circuits, at both ends."""
    async with network(tmp_path, "alice", "left", "right") as (alice, left, right):
        await connected(left, "right")
        found = busy(left, right)
        await until(lambda: any(way.arm and way.was_alive for way in found.ways.values()))
        found.active_s = -1_000
        session = found.session
        await until(lambda: left.engine.set_shares(session.sid, [(0, 1.0)]) is None)
        for way in found.ways.values():
            way.used_s = way.opened_s = -1_000
        for made in (left, right):
            made.config = made.config.override({"relayed_idle_close_s": 5.0})
        found.wake.set()
        await until(lambda: set(found.ways) == {0})
        await until(lambda: not [c for c in alice.relaying.service.circuits if c.open])
        await until(lambda: set(right.paths.course(session_of(right, left)).ways) == {0})


async def test_a_dead_path_is_told_to_the_policy_at_once(tmp_path, monkeypatch):
    """What the engine has seen is not waited for until the next second."""
    async with network(tmp_path, "alice", "left", "right") as (_, left, right):
        await connected(left, "right")
        found = busy(left, right)
        await until(lambda: found.arms_told is not None)
        heard = []
        monkeypatch.setattr(left.paths.policy, "update", lambda *args: heard.append(args))
        gone = found.ways[0]
        twin = attrs.evolve(gone, path=2)
        found.ways[2] = twin
        for way in (gone, twin):
            way.told_rtts = [0.01]
        left.paths.changed(Changed(found.session.sid, 0, "dead", "silent", None))
        assert gone.told_rtts == twin.told_rtts == []
        ((name, (sample,), _),) = heard
        assert name == only(left).id + own_id(right)
        assert (sample.arm, sample.rtt_s) == (DIRECT, None)


class Changed:
    """The engine's event."""

    def __init__(self, *values):
        self.sid, self.path, self.state, self.cause, self.moved_to = values


# --- what a peer may ask -------------------------------------------------------------------------


async def test_a_path_with_an_id_of_ours_is_no_honest_question(tmp_path):
    """Each end gives ids of its own kind."""
    async with network(tmp_path, "alice", "left", "right") as (_, left, right):
        await connected(left, "right")
        session = session_of(left, right)
        wrong = 2 if session.initiator else 1
        with pytest.raises(RemoteProtocolError):
            left.paths.handle(session, Envelope(1, messages.PathOpen(path=wrong)))


async def test_a_path_over_a_circuit_that_never_came_is_refused(tmp_path, monkeypatch):
    """Nor may a peer name a circuit of somebody else's."""
    monkeypatch.setattr(openings, "ARRIVAL_S", 0.1)
    async with crossing(tmp_path, "alice") as (_, (alice,), left, right):
        await connected(left, "right")
        (foreign,) = [c.id for c in right.relaying.circuits]
        await connected(alice, "right")
        session = session_of(alice, right)
        path = 2 if session.initiator else 1
        for circuit in (bytes(16), foreign):
            question = messages.PathOpen(path=path, circuit=circuit)
            answer = await session.link.ask(question, timeout_s=5)
            assert isinstance(answer, messages.PathRefused)
            assert answer.path == path
        course_there = right.paths.course(session_of(right, alice))
        assert set(course_there.ways) == {0}


def somewhere(made, count):
    """Have *made* believe that every peer may be at *count* places, where nobody answers."""
    places = tuple(Endpoint("127.0.0.1", port) for port in range(1, count + 1))
    made.channels.endpoints = lambda network, member, *first: places
    return places


def path_ids(session):
    """Return ids that this end of a session may give, in order."""
    return range(2 if session.initiator else 1, 255, 2)


async def test_a_peer_opens_a_bounded_number_of_paths(tmp_path):
    """However many it asks for."""
    async with network(tmp_path, "alice", "left", "right") as (_, left, right):
        await connected(left, "right")
        somewhere(right, 8)
        session = session_of(left, right)
        answers = [
            await session.link.ask(messages.PathOpen(path=path), timeout_s=5)
            for path in path_ids(session)[:10]
        ]
        opened = sum(isinstance(answer, messages.PathOpened) for answer in answers)
        assert opened == openings.THEIRS_MAX
        assert len(right.paths.course(session_of(right, left)).ways) <= 8


async def test_a_peer_has_few_direct_paths_tried_in_a_minute(tmp_path):
    """Also one that closes each again at once: every one costs datagrams to some address."""
    async with network(tmp_path, "alice", "left", "right") as (_, left, right):
        await connected(left, "right")
        somewhere(right, 8)
        session = session_of(left, right)
        opened = 0
        for path in path_ids(session)[:60]:
            answer = await session.link.ask(messages.PathOpen(path=path), timeout_s=5)
            opened += isinstance(answer, messages.PathOpened)
            session.link.send(messages.PathClose(path=path))
        assert course.TRIES_BURST <= opened < course.TRIES_BURST + 10


async def test_a_peer_has_us_send_only_where_we_would(tmp_path):
    """Where it is reached already there is nothing to try, and an unknown address is nowhere."""
    async with network(tmp_path, "alice", "left", "right") as (_, left, right):
        await connected(left, "right")
        there = right.paths.course(session_of(right, left))
        right.channels.endpoints = lambda network, member, *first: (
            Endpoint(*there.ways[0].endpoint),
        )
        session = session_of(left, right)
        answer = await session.link.ask(messages.PathOpen(path=path_ids(session)[0]), timeout_s=5)
        assert isinstance(answer, messages.PathRefused)
        assert set(there.ways) == {0}
        places = somewhere(right, 3)
        for path in path_ids(session)[1:5]:
            answer = await session.link.ask(messages.PathOpen(path=path), timeout_s=5)
            assert isinstance(answer, messages.PathOpened)
        assert {way.endpoint for number, way in there.ways.items() if number} == set(places)


async def test_a_peers_direct_path_that_never_lives_is_given_up(tmp_path, monkeypatch):
    """Without any data, and the peer is told; it is not asked for ever whether it lives."""
    monkeypatch.setattr(choosing, "TRIAL_S", 0.2)
    async with network(tmp_path, "alice", "left", "right") as (_, left, right):
        await connected(left, "right")
        somewhere(right, 3)
        session = session_of(left, right)
        told = []
        monkeypatch.setattr(left.paths.openings, "closed", lambda _, path: told.append(path))
        ids = list(path_ids(session)[:3])
        for path in ids:
            answer = await session.link.ask(messages.PathOpen(path=path), timeout_s=5)
            assert isinstance(answer, messages.PathOpened)
        there = right.paths.course(session_of(right, left))
        await until(lambda: set(there.ways) == {0})
        await until(lambda: sorted(told) == ids)
        assert {stats.path for stats in right.engine.paths() if stats.sid == there.session.sid} == {
            0
        }


async def test_a_wish_is_granted_with_a_round_trip(tmp_path):
    """A relay that both may use is so far from the peer; who is no member is refused."""
    async with network(tmp_path, "alice", "left", "right") as (alice, left, right):
        await connected(left, "right")
        link = session_of(left, right).link
        answer = await link.ask(messages.PathWish(relay=own_id(alice)), timeout_s=5)
        assert isinstance(answer, messages.PathHint)
        assert answer.relay == own_id(alice)
        assert 0 < answer.rtt_us < 5_000_000
        for nobody in (bytes(32), own_id(left), own_id(right)):
            answer = await link.ask(messages.PathWish(relay=nobody), timeout_s=5)
            assert isinstance(answer, messages.PathRefused)


async def test_one_session_has_one_wish_at_a_time(tmp_path, monkeypatch):
    """Who wishes for more waits; the wishes of others do not wait for its own."""
    async with network(tmp_path, "alice", "left", "right") as (alice, left, right):
        await connected(left, "right")
        wish = messages.PathWish(relay=own_id(alice))
        granted, link_to = trio.Event(), right.detours.link_to

        async def slow(*args, **keys):
            await granted.wait()
            return await link_to(*args, **keys)

        monkeypatch.setattr(right.detours, "link_to", slow)
        answers = []

        async def ask_for_it():
            answers.append(await session_of(left, right).link.ask(wish, timeout_s=10))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask_for_it)
            await until(lambda: len(answers) == 4)
            assert {answer.code for answer in answers} == {openings.BUSY}
            other = session_of(alice, right)
            monkeypatch.setattr(right.detours, "link_to", link_to)
            wish_too = messages.PathWish(relay=own_id(left))
            answer = await other.link.ask(wish_too, timeout_s=10)
            assert isinstance(answer, messages.PathHint)
            granted.set()
        assert isinstance(answers[-1], messages.PathHint)
        assert isinstance(
            await session_of(left, right).link.ask(wish, timeout_s=10), messages.PathHint
        )


async def test_a_busy_peer_says_nothing_of_a_relay(tmp_path, monkeypatch):
    """A wish that is put off does not take the relay from the arms; all are wished for in turn."""
    async with network(tmp_path, "alice", "bob", "left", "right") as (alice, bob, left, right):
        await connected(left, "right")
        found = left.paths.course(session_of(left, right))
        right.paths.openings._wishing.add(found_there := session_of(right, left).sid)
        relays = [own_id(alice), own_id(bob)]
        await left.paths.openings.wish(found, relays)
        assert not found.hints
        right.paths.openings._wishing.discard(found_there)
        await left.paths.openings.wish(found, relays)
        assert all(found.hints[relay].rtt_s > 0 for relay in relays)
        assert not found.asking


async def test_a_session_that_ends_says_nothing_of_a_relay(tmp_path, monkeypatch):
    """Crossing sessions are common when nodes start: what one that goes was asked stays open."""
    async with network(tmp_path, "alice", "left", "right") as (alice, left, right):
        await connected(left, "right")
        found = left.paths.course(session_of(left, right))

        async def ends(*_, **__):
            raise LocalProtocolError("the session closed before the answer came")

        monkeypatch.setattr(found.session.link, "ask", ends)
        await left.paths.openings.wish(found, [own_id(alice)])
        assert not found.shuns((own_id(alice),), trio.current_time())


async def test_a_relay_that_comes_back_is_shunned_no_longer(tmp_path):
    """However long it was away, a session where there was none is reason enough for one try."""
    async with network(tmp_path, "alice", "left", "right") as (alice, left, right):
        await connected(left, "right")
        found = left.paths.course(session_of(left, right))
        for _ in range(8):
            found.unreached(own_id(alice), trio.current_time())
        assert found.shuns((own_id(alice),), trio.current_time())
        left.paths.begin(session_of(left, alice), anew=False)
        assert found.shuns((own_id(alice),), trio.current_time() + course.FIRST_SHUN_S)
        left.paths.begin(session_of(left, alice), anew=True)
        assert not found.shuns((own_id(alice),), trio.current_time() + course.FIRST_SHUN_S)
        found.unreached(own_id(alice), trio.current_time())
        assert found.shuns((own_id(alice),), trio.current_time() + course.MAX_SHUN_S - 1)


async def test_a_refusal_tells_nothing_of_third_members(tmp_path, monkeypatch):
    """Our errors name addresses; what goes over the wire is the same for every reason of a kind."""
    async with network(tmp_path, "alice", "left", "right") as (alice, left, right):
        await connected(left, "right")

        async def fails(*_, **__):
            raise PeerUnreachable("alice does not answer at 192.0.2.9:7")

        def breaks(**_):
            raise LocalProtocolError("no socket for 192.0.2.9:7")

        monkeypatch.setattr(right.detours, "link_to", fails)
        link = session_of(left, right).link
        wish = messages.PathWish(relay=own_id(alice))
        no_link = await link.ask(wish, timeout_s=5)
        nobody = await link.ask(messages.PathWish(relay=bytes(32)), timeout_s=5)
        assert no_link == nobody == openings.refusal(openings.NO_LINK)
        somewhere(right, 1)
        monkeypatch.setattr(openings, "Way", breaks)
        path = path_ids(session_of(left, right))[0]
        no_path = await link.ask(messages.PathOpen(path=path), timeout_s=5)
        assert no_path == openings.refusal(openings.NO_PATH, path=path)
        for said in openings.REASONS.values():
            assert not any(character.isdigit() for character in said)


# --- the policy ----------------------------------------------------------------------------------


def shipped(name, seed):
    """Build a policy as the experiments do."""
    return Guard(make_policy(name, rng=np.random.default_rng(seed)))


async def test_the_daemon_runs_the_policy_of_the_experiments(tmp_path):
    """The same class behind the same guard, and a recorded run replays to the same decisions."""
    trace = tmp_path / "trace"
    async with network(tmp_path, "alice", "bob", "right", path_trace=str(trace)) as made:
        alice, _, right = made
        await connected(right, "alice")
        found = busy(right, alice)
        await until(lambda: any(way.arm and way.was_alive for way in found.ways.values()))
        for _ in range(30):
            for path in found.ways:
                right.engine.probe(found.session.sid, path)
            before = trace.read_text().count('"decide"')
            await until(lambda before=before: trace.read_text().count('"decide"') > before)
        guard = right.paths.policy._policy
        assert type(guard) is Guard
        assert type(guard.policy) is type(shipped("veil", 0).policy)
    with trace.open() as lines:
        replayed = list(replay(lines, shipped))
    assert len(replayed) >= 30
    assert all(isinstance(step, Replayed) and step.said == step.recorded for step in replayed)
    # Another policy says something else, or the comparison would prove nothing.
    with trace.open() as lines:
        other = list(replay(lines, lambda _, seed: shipped("random", seed)))
    assert [step.said for step in other] != [step.recorded for step in other]
    assert trace.read_text().count('"samples":[[') >= 20


async def test_what_was_learnt_outlives_the_node(tmp_path):
    """The state folder has it, and the next start begins with it."""
    async with running(tmp_path, "alice") as alice:
        learnt = alice.paths.policy.state()
    async with running(tmp_path, "alice") as alice:
        assert alice.store.read(alice.paths.file_name) == learnt
    (tmp_path / "alice" / "paths.bin").write_bytes(b"nonsense")
    async with running(tmp_path, "alice") as alice:
        assert alice.paths.policy.state()


async def test_another_policy_may_choose(tmp_path):
    """The operator's word, to compare; what the shipped one learnt stays as it is."""
    async with running(tmp_path, "alice") as alice:
        learnt = alice.paths.policy.state()
    async with running(tmp_path, "alice", path_policy="greedy") as alice:
        assert alice.paths.policy.name == "greedy"
    assert (tmp_path / "alice" / "paths.bin").read_bytes() == learnt
    assert (tmp_path / "alice" / "paths-greedy.bin").exists()


async def test_a_trace_that_cannot_be_written_is_said_at_the_start(tmp_path):
    """Whoever asked for it would look for it in vain."""
    where = tmp_path / "no" / "trace"
    with pytest.raises(ConfigError, match="trace"):
        async with running(tmp_path, "alice", path_trace=str(where)):
            pass
    async with running(tmp_path, "alice") as alice:
        assert isinstance(alice.paths.policy, Guard)
