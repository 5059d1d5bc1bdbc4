"""What strangers cost a node, and what it keeps to be found through them; on loopback."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from tests.unit.daemon.nodes import join, only, running, session_of, until
from veilnet.daemon import channels, handshakes, node, sessions
from veilnet.daemon.relays import relaying
from veilnet.errors import PeerUnreachable
from veilnet.networks.endpoint import Endpoint
from veilnet.protocol import handshake as vnh1
from veilnet.protocol import relay_messages
from veilnet.store import Store

pytestmark = pytest.mark.slow


@asynccontextmanager
async def haven(folder, **keys):
    """A relay of the commons, bob whose haven it is, and bob's link to it."""
    keys["commons"] = "test"
    async with (
        running(folder, "relay", relay="all", **keys) as relay,
        running(folder, "bob", **keys) as bob,
    ):
        place = Endpoint("127.0.0.1", relay.engine.port)
        await bob.strangers.open(relay.commons.peer_id, (place,))
        bob.discovery.relays = lambda: [(relay.commons.peer_id, place)]
        await bob.strangers.look()
        await until(bob.strangers.havens)
        yield relay, bob


def links(relay, bob):
    """The session between the two, as each has it."""
    here = bob.sessions.carrier(bob.commons.id, relay.commons.peer_id)
    return here, relay.sessions.carrier(relay.commons.id, bob.commons.peer_id)


async def test_the_link_to_a_haven_gets_new_keys_though_it_carries_no_packets(tmp_path):
    """Ten minutes without new keys would be its end."""
    async with haven(tmp_path, rekey_s=1) as (relay, bob):
        here, there = links(relay, bob)
        await until(lambda: here.schedule.generation > 0 and there.schedule.generation > 0)
        assert links(relay, bob) == (here, there)


async def test_the_link_to_a_haven_is_replaced_every_hour(tmp_path):
    """Bound to the session before; the haven stays one, and so does the reservation there."""
    async with haven(tmp_path) as (relay, bob):
        here, there = links(relay, bob)
        bob.channels.renew(here)
        await until(lambda: links(relay, bob)[0] not in {None, here})
        await until(lambda: here.link.closed.is_set() and there.link.closed.is_set())
        assert bob.strangers.havens()
        assert bob.relaying.uses(links(relay, bob)[0])
        assert relay.relaying.uses(links(relay, bob)[1])


async def test_a_full_house_of_strangers_keeps_no_member_out(tmp_path, monkeypatch):
    """Strangers, lookups and members have places of their own."""
    monkeypatch.setitem(handshakes._PLACES, handshakes.Kind.STRANGER, 0)
    async with (
        running(tmp_path, "alice", commons="test") as alice,
        running(tmp_path, "bob", commons="test", found=False) as bob,
    ):
        place = Endpoint("127.0.0.1", alice.engine.port)
        with pytest.raises(PeerUnreachable):
            await bob.strangers.open(alice.commons.peer_id, (place,), timeout_s=0.5)
        await bob.discovery.dht.knock(place)
        await join(alice, bob, "bob")
        assert session_of(alice, bob) is not None


async def test_strangers_come_and_go_and_are_not_written_down(tmp_path, monkeypatch):
    """Who has a whole prefix gets its share of sessions; the disk hears nothing of any of them."""
    monkeypatch.setattr(sessions, "OF_PLACE_MAX", 2)
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        alice = await enter(running(tmp_path, "alice", commons="test"))
        others = [await enter(running(tmp_path, f"n{at}", commons="test")) for at in range(4)]
        before = list(alice.remembered.recent)
        for other in others:
            place = Endpoint("127.0.0.1", alice.engine.port)
            await other.strangers.open(alice.commons.peer_id, (place,))
        await until(lambda: others[0].sessions.carriers() == [])  # it was told
        full = [each for each in alice.sessions if each.mode is vnh1.Mode.FULL]
        assert [each.peer_id for each in full] == [other.commons.peer_id for other in others[2:]]
        alice.remember_recent()
        assert alice.remembered.recent == before == []


async def test_a_link_that_nobody_needs_is_closed_soon(tmp_path, monkeypatch):
    """At both ends; the link to a haven stays."""
    monkeypatch.setattr(channels, "STRANGER_IDLE_S", 0.0)
    async with (
        haven(tmp_path) as (relay, bob),
        running(tmp_path, "carol", commons="test") as carol,
    ):
        place = Endpoint("127.0.0.1", relay.engine.port)
        session = await carol.strangers.open(relay.commons.peer_id, (place,))
        await relay.channels.look_around()
        await until(session.link.closed.is_set)
        assert not links(relay, bob)[0].link.closed.is_set()


async def test_what_strangers_offer_takes_no_members_place(tmp_path, monkeypatch):
    """A haven's offer goes with its link; a member's is remembered."""
    monkeypatch.setattr(relaying, "OFFERS_MAX", 1)
    async with (
        haven(tmp_path) as (relay, bob),
        running(tmp_path, "carol", found=False) as carol,
    ):
        await join(bob, carol, "carol")
        member = (only(bob).id, carol.identity.peer_id)
        await until(lambda: member in bob.relaying._offers)
        assert bob.strangers.havens()
        here, _ = links(relay, bob)
        assert bob.relaying.offer(here).for_strangers
        here.link.send(relay_messages.RelayOffer(for_own=True))
        there = links(relay, bob)[1]
        await until(lambda: relay.relaying.offer(there).for_own)
        bob.end(here, reason="test")
        assert not bob.relaying._strange_offers
        assert set(bob.relaying._offers) == {member}


async def test_strangers_cause_no_writing(tmp_path, monkeypatch):
    """The set of seen INITs is written for members and joiners alone."""
    written = []
    real = Store.write

    def write(store, name, data):
        written.append((store.path.name, name))
        real(store, name, data)

    monkeypatch.setattr(Store, "write", write)
    async with (
        running(tmp_path, "alice", commons="test") as alice,
        running(tmp_path, "bob", commons="test", found=False) as bob,
    ):
        place = Endpoint("127.0.0.1", alice.engine.port)
        await bob.strangers.open(alice.commons.peer_id, (place,))
        await bob.discovery.dht.knock(place)
        await alice.save_changes()
        assert ("alice", node.SEEN_INITS) not in written
        await join(alice, bob, "bob")
        await alice.save_changes()
        assert ("alice", node.SEEN_INITS) in written


async def test_the_end_of_a_strangers_session_costs_little(tmp_path, monkeypatch):
    """No counters of all sessions and circuits are read for it, and no member's are forgotten."""
    asked = []
    for kind, name in ((node.Node, "statistics"), (relaying.Relaying, "_count")):
        real = getattr(kind, name)
        monkeypatch.setattr(kind, name, lambda self, real=real: asked.append(self) or real(self))
    async with (
        running(tmp_path, "alice", commons="test") as alice,
        running(tmp_path, "bob", commons="test", found=False) as bob,
    ):
        place = Endpoint("127.0.0.1", alice.engine.port)
        await bob.discovery.dht.knock(place)
        await bob.strangers.open(alice.commons.peer_id, (place,))
        await join(alice, bob, "bob")
        members = session_of(alice, bob)
        strangers = [each for each in alice.sessions if each.network_id == alice.commons.id]
        assert {each.mode for each in strangers} == {vnh1.Mode.LOOKUP, vnh1.Mode.FULL}
        asked.clear()
        for session in strangers:
            if session.mode is vnh1.Mode.LOOKUP:
                alice.end(session, reason="test")
        assert not asked
        for session in strangers:
            alice.end(session, reason="test")
        assert len(asked) == 1  # it may have had circuits
        alice.end(members, reason="test")
        assert list(alice.heard) == [members.key]
