"""This host moves, or something that looks like it happens to it.

Where sessions really go on from another address: tests/netns/test_roaming.py.
"""

from __future__ import annotations

from tests.unit.daemon.nodes import pair, running, session_of, until
from veilnet.daemon import underlay
from veilnet.daemon.uplink import Uplink
from veilnet.networks.endpoint import Endpoint

SEEN = Endpoint("203.0.113.9", 4242)


async def test_a_change_that_changes_nothing_is_none(tmp_path):
    """Links come and go all day on a host that runs containers."""
    async with pair(tmp_path) as (alice, bob):
        session_of(alice, bob)
        await alice.uplink.look()
        alice.gossip.reflexive.heard("somebody", at=SEEN, said=SEEN, now=0.0)
        assert not await alice.uplink.look()
        assert len(alice.gossip.reflexive) > 0


async def test_another_address_is_told_and_nothing_forgotten(tmp_path, monkeypatch):
    """It is one more way in: this host calls from where it did before."""
    async with pair(tmp_path) as (alice, bob):
        session = session_of(bob, alice)
        await alice.uplink.look()
        alice.gossip.reflexive.heard("somebody", at=SEEN, said=SEEN, now=0.0)
        more = Endpoint("192.0.2.77", alice.engine.port)
        find = underlay.local_endpoints
        monkeypatch.setattr(
            underlay, "local_endpoints", lambda port, **how: [*find(port, **how), more]
        )
        assert await alice.uplink.look()
        assert len(alice.gossip.reflexive) > 0
        network = bob.networks.get(session.network_id)
        await until(lambda: more in network.members.get(session.peer_id).endpoints)


async def test_another_way_out_voids_what_others_saw(tmp_path, monkeypatch):
    """Behind another translator nobody sees this host where it was seen before, in that version."""
    async with pair(tmp_path) as (alice, _):
        reflexive = alice.gossip.reflexive
        await until(lambda: len(reflexive) > 0)  # the peer's word
        await alice.uplink.look()
        _, six = underlay.ways_out()
        for name, seen in (("four", SEEN), ("six", Endpoint("2001:db8::9", 4242))):
            reflexive.heard(name, at=seen, said=seen, now=0.0)
        monkeypatch.setattr(underlay, "ways_out", lambda: ("192.0.2.77", six))
        assert await alice.uplink.look()
        assert reflexive.own(4) is None
        assert reflexive.own(6) is not None


async def test_a_look_that_failed_is_made_again(tmp_path, monkeypatch):
    """The kernel tells of a change once, and what it was is still to be seen to."""
    looks = []

    async def look(_, *, routes_only):
        looks.append(routes_only)
        if len(looks) == 1:
            raise OSError("no descriptor left")

    monkeypatch.setattr(Uplink, "_look", look)
    async with running(tmp_path, "alice"):
        await until(lambda: len(looks) > 1)
