"""What strangers of the commons may have a node believe and tell."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest

from tests.unit.daemon.nodes import running, until
from veilnet.daemon import tickets
from veilnet.daemon.sessions import DISCONNECTED, GOING
from veilnet.networks.endpoint import Endpoint
from veilnet.protocol.handshake import Mode
from veilnet.protocol.messages import Close, Endpoints, Ping, Ticket
from veilnet.protocol.tickets import KEY_BYTES, TICKET_BYTES

LIE = Endpoint("203.0.113.66", 6_666)


@asynccontextmanager
async def linked(folder):
    """Two strangers, and the link that the first opened to the second, at both ends."""
    async with (
        running(folder, "caller", commons="test") as caller,
        running(folder, "called", commons="test") as called,
    ):
        place = Endpoint("127.0.0.1", called.engine.port)
        near = await caller.strangers.open(called.commons.peer_id, (place,))
        key = (called.commons.id, caller.commons.peer_id)
        await until(lambda: called.sessions.carrier(*key) is not None)
        yield caller, near, called, called.sessions.carrier(*key)


async def said(link, message):
    """Say something and wait until it was served."""
    link.send(message)
    await link.ask(Ping(payload=b"?"), timeout_s=5)


async def test_who_calls_us_from_the_commons_does_not_say_where_we_are(tmp_path):
    """Whom we called ourselves may: we chose whom to ask."""
    async with linked(tmp_path) as (caller, near, called, far):
        await said(near.link, Endpoints(observed=tuple(LIE)))
        assert LIE not in called.gossip.own_observed()
        # The called node tells the truth once by itself; what comes later is what counts.
        place = Endpoint("127.0.0.1", caller.engine.port)
        await until(lambda: place in caller.gossip.own_observed())
        await said(far.link, Endpoints(observed=tuple(LIE)))
        assert LIE in caller.gossip.own_observed()


@pytest.mark.parametrize("member", [True, False])
async def test_only_what_is_sure_or_a_members_makes_calls_start_over(tmp_path, member):
    """A single stranger that changes its mind costs nothing."""
    async with linked(tmp_path) as (caller, _, _, far):
        moved = []
        caller.paths.direct.punching.moved = lambda: moved.append(True)
        if member:
            caller.gossip._network = lambda session: session
            caller.gossip._seen = lambda *_: None
        for number in (1, 2, 3):
            await said(far.link, Endpoints(observed=(f"203.0.113.{number}", 9)))
        assert bool(moved) == member


@pytest.mark.parametrize("called_first", [True, False])
async def test_a_stranger_that_moves_hears_where_it_is_and_not_where_we_are(tmp_path, called_first):
    """Our own addresses tell more than the one that it called, and are for members."""
    async with linked(tmp_path) as ends:
        heard = []
        here, session = ends[2:] if called_first else ends[:2]
        there = ends[0] if called_first else ends[2]
        serve = there.gossip.handle

        def handle(of, envelope):
            if of.mode is Mode.FULL:  # and no lookup, by which one may ask the other meanwhile
                heard.append(envelope.message)
            serve(of, envelope)

        there.gossip.handle = handle
        for _ in range(8):
            here.channels.moved(session, session.endpoint)
        await until(lambda: any(isinstance(each, Endpoints) for each in heard))
        await session.link.ask(Ping(payload=b"?"), timeout_s=5)
        told = [each for each in heard if isinstance(each, Endpoints)]
        assert told == [Endpoints(observed=tuple(session.endpoint))]


async def test_strangers_give_and_get_no_tickets(tmp_path, monkeypatch):
    """They would push out those of members, of which there is one for each."""
    monkeypatch.setattr(tickets, "GIVE_S", 0.0)
    async with linked(tmp_path) as (caller, _, called, far):
        given = Ticket(ticket=bytes(TICKET_BYTES), key=bytes(KEY_BYTES), life_s=600)
        await said(far.link, given)
        assert len(caller.tickets) == 0
        assert called.tickets._given_s == caller.tickets._given_s == {}


@pytest.mark.parametrize("code", [DISCONNECTED, GOING])
async def test_a_stranger_that_goes_is_no_home_that_went(tmp_path, code):
    """Or some thousand ids would push out what is known of homes."""
    async with linked(tmp_path) as (_, near, called, far):
        near.link.send(Close(code=code))
        await until(far.link.closed.is_set)
        assert called.homes._pauses == {}
