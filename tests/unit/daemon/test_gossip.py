"""What members tell each other of their network, between whole nodes."""

from __future__ import annotations

import secrets

import pytest

from tests.unit.daemon.nodes import only, pair, session_of, until
from tests.unit.networks.world import HERE, identity
from veilnet.daemon import gossip
from veilnet.daemon.host import unix_now
from veilnet.errors import ConfigError
from veilnet.networks import members
from veilnet.networks.member import Member
from veilnet.protocol.messages import MAX_MEMBERS

pytestmark = pytest.mark.slow


def let_in(network, count):
    """Have the founder's table hold so many more members, told to nobody."""
    now = unix_now()
    issuer = network.require_issuer()
    invite = network.invite(endpoints=[HERE], now=now, rng=secrets.token_bytes, uses=count)
    for number in range(count):
        one = identity(number)
        admitted = issuer.admit(
            invite_id=invite.invite_id, peer_id=one.peer_id, name=f"member-{number}", now=now
        )
        member = Member(one.public_key, admitted.credential, admitted.encoding)
        network.members.merge((member,), now)


async def test_a_long_table_is_told_whole(tmp_path):
    """Who was away learns of all that joined meanwhile, however many messages that takes."""
    async with pair(tmp_path) as (alice, bob):
        let_in(only(alice), 3 * MAX_MEMBERS + 1)
        bob.gossip.greet(session_of(bob, alice))
        await until(lambda: len(only(bob).members) == len(only(alice).members))
        await until(lambda: not session_of(alice, bob).telling)


async def test_who_comes_to_a_large_network_learns_it_at_once(tmp_path, monkeypatch):
    """An answer is bounded, and one that was cut off is followed by questions for the rest."""
    monkeypatch.setattr(members, "MAX_KNOWN", 8)
    monkeypatch.setattr(members, "MAX_LACKING", 8)
    monkeypatch.setattr(gossip, "MUCH", 4)
    monkeypatch.setattr(gossip, "CATCH_UP_S", 0.05)
    async with pair(tmp_path) as (alice, bob):
        let_in(only(alice), 60)
        bob.gossip.greet(session_of(bob, alice))
        await until(lambda: len(only(bob).members) == len(only(alice).members))
        assert only(alice).members.parts >= 8
        await until(lambda: not session_of(bob, alice).catching_up)


async def test_a_disk_in_trouble_makes_no_liar_of_the_peer(tmp_path, monkeypatch):
    """What cannot be looked up here was not false there: the session stays."""

    def broken(*_):
        raise ConfigError("cannot use members.db: disk I/O error")

    async with pair(tmp_path) as (alice, bob):
        session = session_of(bob, alice)
        monkeypatch.setattr(only(bob).members, "verify", broken)
        let_in(only(alice), 1)
        bob.gossip.greet(session)
        await until(lambda: session_of(alice, bob).telling == 0)
        await until(lambda: session.merging == 0)
        assert session_of(bob, alice) is session
        monkeypatch.undo()
        bob.gossip.greet(session)
        await until(lambda: len(only(bob).members) == len(only(alice).members))
