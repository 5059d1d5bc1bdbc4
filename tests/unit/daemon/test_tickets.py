"""Coming back to a peer with a ticket, between whole nodes."""

from __future__ import annotations

import trio

from tests.unit.daemon.nodes import held, only, pair, session_of, until
from veilnet.daemon import tickets
from veilnet.protocol import handshake as vnh1


async def test_who_was_here_comes_back_in_one_round_trip(tmp_path, monkeypatch):
    """Both ends get a ticket; the next call shows it, and the session carries at once."""
    monkeypatch.setattr(tickets, "GIVE_S", 0.0)
    async with pair(tmp_path) as (alice, bob):
        await until(lambda: len(alice.tickets) == len(bob.tickets) == 1)
        shown = []
        answer = alice.answer

        def watched(init):
            shown.append((init.mode, init.holder))
            answer(init)

        monkeypatch.setattr(alice, "answer", watched)
        old = session_of(bob, alice)
        alice.end(session_of(alice, bob), reason="test")
        bob.end(old, reason="test")
        member = only(bob).members.get(alice.identity.peer_id)
        monkeypatch.setattr(tickets, "GIVE_S", 60.0)
        with trio.fail_after(10):
            session = await bob.channels.open(only(bob), member, timeout_s=5)
        holder = tickets.holder_of(only(bob).id, bob.identity.peer_id)
        assert shown == [(vnh1.Mode.TICKET, holder)]
        assert session is not old
        assert session.ready
        assert session.mode is vnh1.Mode.FULL
        assert len(bob.tickets) == 0, "a ticket is shown once"
        await until(lambda: session_of(alice, bob) is not None)
        assert await bob.channels.probe(session, timeout_s=5) > 0


async def test_a_session_that_ends_before_it_is_confirmed_is_opened_again(tmp_path, monkeypatch):
    """One of two that cross is given up while its handshake waits for the ACK: no bug of ours."""
    monkeypatch.setattr(tickets, "GIVE_S", 0.0)
    async with pair(tmp_path) as (alice, bob):
        await until(lambda: len(alice.tickets) == len(bob.tickets) == 1)
        bob.end(session_of(bob, alice), reason="test")
        judged = held(alice, monkeypatch)
        member = only(bob).members.get(alice.identity.peer_id)
        opened = []

        async def open_it():
            opened.append(await bob.channels.open(only(bob), member, timeout_s=10))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(open_it)
            await until(lambda: session_of(bob, alice) is not None)
            given_up = session_of(bob, alice)
            bob.end(given_up, reason="test")
            await until(lambda: not bob.handshakes.expects(given_up.sid))
            judged.set()
        assert opened[0] is not given_up
        # Alice judges both at once, and keeps the one that bob began last.
        assert await bob.channels.probe(opened[0], timeout_s=5) > 0
