"""What members tell each other of their network, between whole nodes."""

from __future__ import annotations

import secrets

import pytest

from tests.unit.daemon.nodes import only, pair, session_of, until
from tests.unit.networks.world import HERE, identity
from veilnet.daemon.host import unix_now
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
