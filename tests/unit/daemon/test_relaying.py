"""Circuits between whole nodes: the real engine on loopback, alice as the relay."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.unit.daemon.nodes import ask, only, running, session_of, three, until
from veilnet.daemon import birth
from veilnet.daemon.relays import relaying
from veilnet.daemon.relays.circuits import Circuits
from veilnet.errors import ClosedError, LocalProtocolError, PeerUnreachable, UsageError
from veilnet.protocol import relay, relay_messages
from veilnet.protocol.circuit import is_circuit
from veilnet.protocol.messages import Close


async def opened(by, relay_, target, **more):
    """Open a circuit and return both ends of it."""
    with trio.fail_after(10):
        here = await by.relaying.open_circuit(
            only(by), relay_.identity.peer_id, target.identity.peer_id, timeout_s=5, **more
        )
        there = await target.relaying.expect(here.id, of=(b"", b""), timeout_s=5)
    assert there is not None
    return here, there


def carried(alice):
    """What alice says that she carries."""
    return ask(alice, "relay")


async def test_a_circuit_opens_and_closes_at_both_ends(tmp_path):
    """Each end knows the other, has an endpoint for it, and hears that it closed."""
    async with three(tmp_path) as (alice, bob, carol):
        here, there = await opened(bob, alice, carol)
        assert (here.relays, here.target) == ((alice.identity.peer_id,), carol.identity.peer_id)
        assert (there.target, there.incoming) == (bob.identity.peer_id, True)
        assert is_circuit(here.endpoint)
        assert bob.relaying.circuits.at(tuple(here.endpoint)) is here
        (way,) = (await carried(alice))["carries"]
        assert (way["from"]["name"], way["to"]["name"], way["confirmed"]) == ("bob", "carol", False)
        bob.relaying.confirm(here)
        carol.relaying.confirm(there)
        await until(lambda: alice.relaying.service.circuits[0].phase.name == "CONFIRMED")
        bob.relaying.close_circuit(here)
        await until(there.closed.is_set)
        assert (here.closed.is_set(), there.why) == (True, relay.Closing.DONE)
        assert (await carried(alice))["circuits"] == 0
        assert alice.engine.circuits() == []


async def test_a_handshake_goes_through_and_confirms(tmp_path):
    """A session made over a circuit lifts its limit by itself, and its bytes are counted."""
    async with three(tmp_path) as (alice, bob, carol):
        here, there = await opened(bob, alice, carol)
        session = await bob.channels.call(
            only(bob), carol.identity.peer_id, [here.endpoint], timeout_s=5
        )
        assert tuple(session.endpoint) == tuple(here.endpoint)
        await until(lambda: alice.relaying.service.circuits[0].phase.name == "CONFIRMED")
        assert (here.confirmed, there.confirmed) == (True, True)
        await until(lambda: alice.relaying.service.quota.total_bytes > 5_000)
        value = await ask(alice, "status")
        assert value["relay"]["circuits"] == 1
        assert value["relay"]["bytes_total"] > 5_000


async def test_a_link_that_gets_another_session_keeps_its_circuits(tmp_path):
    """After the hourly handshake frames go over the new session, at the relay and at the end."""
    async with three(tmp_path) as (alice, bob, carol):
        here, there = await opened(bob, alice, carol)
        await bob.channels.call(only(bob), carol.identity.peer_id, [here.endpoint], timeout_s=5)
        old = session_of(bob, alice)
        before = here.endpoint
        bob.channels.renew(old)
        await until(lambda: len([s for s in bob.sessions if s.key == old.key]) == 1)
        await until(lambda: session_of(bob, alice) not in {None, old})
        await until(lambda: here.link == session_of(bob, alice).sid)
        assert here.endpoint != before
        assert not here.closed.is_set()
        relayed = session_of(bob, carol)
        assert await bob.channels.probe(relayed, timeout_s=5) > 0
        assert not there.closed.is_set()


class Unwilling:
    """An engine that does not move what goes over a link."""

    def __init__(self, engine, error):
        self._engine = engine
        self._error = error
        self.tried = 0

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def rebind_link(self, old, new):
        """Fail."""
        del old, new
        self.tried += 1
        raise self._error


@pytest.mark.parametrize("where", ["relay", "end"])
@pytest.mark.parametrize("error", [LocalProtocolError("not direct"), ClosedError("no session")])
async def test_circuits_that_cannot_be_moved_cost_no_session(tmp_path, where, error, monkeypatch):
    """They are closed at everybody, and the new session is there and opens others."""
    withdrawn = []
    monkeypatch.setattr(birth.Birth, "withdraw", lambda _, session: withdrawn.append(session))
    async with three(tmp_path) as (alice, bob, carol):
        here, there = await opened(bob, alice, carol)
        made = alice if where == "relay" else bob
        made.engine = Unwilling(made.engine, error)
        old = session_of(bob, alice)
        bob.channels.renew(old)
        await until(lambda: made.engine.tried)
        await until(lambda: here.closed.is_set() and there.closed.is_set())
        await until(lambda: session_of(bob, alice) not in {None, old})
        await until(lambda: [len(each.sessions) for each in (alice, bob)] == [2, 1])
        assert alice.engine.circuits() == []
        assert not alice.relaying.service.circuits
        for each in (bob, carol):
            assert not each.relaying.client.ends
            assert not len(each.relaying.circuits)
        assert made.engine.tried == 1
        assert not withdrawn
        await opened(bob, alice, carol)


async def test_one_peer_waits_for_few_circuits(autojump_clock):
    """What it announces beyond is not waited for, and keeps nobody else from waiting."""
    del autojump_clock
    circuits = Circuits()
    eve, bob = (b"n", b"eve"), (b"n", b"bob")

    async def waits(number, of):
        began_s = trio.current_time()
        assert await circuits.expect(bytes([number]) * 16, of=of, timeout_s=3) is None
        waited.append((of, trio.current_time() - began_s))

    waited = []
    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(waits, number, eve)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(waits, 11, bob)
    assert sorted(time_s for of, time_s in waited if of == eve) == [0.0] * 6 + [3.0] * 4
    assert [time_s for of, time_s in waited if of == bob] == [3.0]
    assert not circuits._waiting
    assert not circuits._expected


async def test_off_closes_everything_in_one_command(tmp_path):
    """Both ends hear it, nothing is forwarded, and the members know."""
    async with three(tmp_path) as (alice, bob, carol):
        here, there = await opened(bob, alice, carol)
        assert alice.identity.peer_id in bob.relaying.offers(only(bob))
        value = await ask(alice, "relay_set", relay="off")
        assert (value["for"], value["circuits"]) == ([], 0)
        await until(lambda: here.closed.is_set() and there.closed.is_set())
        assert here.why == relay.Closing.OFF
        assert alice.engine.circuits() == []
        await until(lambda: alice.identity.peer_id not in bob.relaying.offers(only(bob)))
        with pytest.raises(relay.CircuitRefused) as caught:
            await opened(bob, alice, carol)
        assert caught.value.refusal is relay.Refusal.OFF
        await ask(alice, "relay_set", relay="own")
        await opened(bob, alice, carol)


async def test_a_relay_that_goes_takes_its_circuits_with_it(tmp_path):
    """Both ends hear that the link is lost, and what waits for an answer is told."""
    async with three(tmp_path) as (alice, bob, carol):
        here, there = await opened(bob, alice, carol)
        for made in (bob, carol):
            await made.retire(session_of(made, alice), Close(reason="test"))
        assert here.closed.is_set()
        assert there.closed.is_set()
        await until(lambda: not alice.relaying.service.circuits)
        assert alice.engine.circuits() == []
        with pytest.raises(PeerUnreachable, match="no direct link"):
            await opened(bob, alice, carol)


async def test_who_is_not_linked_with_the_relay_is_not_reached(tmp_path):
    """A relay opens no link on somebody's behalf."""
    async with three(tmp_path) as (alice, bob, carol):
        await carol.retire(session_of(carol, alice), Close(reason="test"))
        await until(lambda: session_of(alice, carol) is None)
        with pytest.raises(PeerUnreachable, match="no link to the peer"):
            await opened(bob, alice, carol)
        assert session_of(alice, carol) is None


async def test_a_question_that_is_given_up_leaves_nothing(tmp_path):
    """Cancelled before the answer: no circuit stays, here, at the relay or at the target."""
    async with three(tmp_path) as (alice, bob, carol):
        with trio.move_on_after(0):
            await bob.relaying.open_circuit(
                only(bob), alice.identity.peer_id, carol.identity.peer_id, timeout_s=5
            )
        assert len(bob.relaying.client) == 0
        await until(lambda: alice.relaying.service.reservations == 1)
        await until(lambda: not (alice.relaying.service.circuits or carol.relaying.client.ends))


async def test_a_link_in_use_is_not_closed_for_idleness(tmp_path):
    """Circuits keep it, and so does a reservation, at both ends; nothing else does."""
    async with three(tmp_path) as (alice, bob, carol):
        ours, theirs = session_of(bob, alice), session_of(alice, bob)
        assert not bob.relaying.uses(ours)
        bob.relaying.reserve(ours)
        await until(lambda: alice.relaying.uses(theirs))
        assert bob.relaying.uses(ours)
        assert not alice.relaying.uses(session_of(alice, carol))
        bob.relaying.release(ours)
        assert not bob.relaying.uses(ours)


async def test_a_member_whose_time_has_run_out_is_not_served(tmp_path, wall):
    """Its session with the founder is for its renewal alone."""
    async with three(tmp_path) as (alice, bob, carol):
        wall.jump(31 * 86_400)
        with pytest.raises(relay.CircuitRefused) as caught:
            await opened(bob, alice, carol)
        assert caught.value.refusal is relay.Refusal.OFF


async def test_a_circuit_that_is_not_there_is_closed_at_the_peer(tmp_path):
    """A relay that restarted, as it looks to an end: one round trip, and the end knows."""
    async with three(tmp_path) as (alice, bob, carol):
        here, _ = await opened(bob, alice, carol)
        service = alice.relaying.service
        service._drop(service.get(here.id), [])
        session_of(bob, alice).link.send(relay_messages.CircuitsHeld(circuits=(here.id,)))
        await until(here.closed.is_set)
        assert here.why == relay.Closing.UNKNOWN


async def test_what_an_operator_cannot_mean(tmp_path):
    """Changes nothing."""
    async with running(tmp_path, "alice") as alice:
        for wrong in ({"relay": "perhaps"}, {"relay_circuits": 0}, {"colour": 1}):
            with pytest.raises(UsageError):
                await ask(alice, "relay_set", **wrong)
        assert alice.relaying.lending.terms == relay.Terms()


async def test_a_bug_in_relaying_does_not_end_the_node(tmp_path, monkeypatch):
    """The round is tried again, not in a closed circle."""
    monkeypatch.setattr(relaying, "COUNT_S", 0.05)
    rounds = 0

    def broken(self, now):
        nonlocal rounds
        del self, now
        rounds += 1
        raise RuntimeError("bug")

    async with three(tmp_path) as (alice, bob, carol):
        monkeypatch.setattr("veilnet.protocol.relay_switch.Switch.tick", broken)
        await opened(bob, alice, carol)
        await until(lambda: rounds >= 2)
        monkeypatch.undo()
        assert (await ask(bob, "ping", peer="alice"))["rtt_ms"] > 0
