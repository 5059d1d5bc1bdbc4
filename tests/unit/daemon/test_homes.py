"""Which members are whose home relays, as everybody can compute it."""

from __future__ import annotations

from collections import Counter
from contextlib import asynccontextmanager

import pytest
import trio

from tests.unit.daemon.nodes import ask, join, only, running, session_of, until
from veilnet.daemon import channels
from veilnet.daemon.relays import homes

NODES = [number.to_bytes(32) for number in range(200)]


def test_everybody_computes_the_same_order():
    """Whatever order the members are known in; the member itself is not in it."""
    for member in NODES[:20]:
        expected = homes.order(member, NODES, most=200)
        assert homes.order(member, reversed(NODES), most=200) == expected
        assert sorted(expected) == sorted(set(NODES) - {member})
        assert homes.order(member, NODES, most=3) == expected[:3]


def test_who_leaves_changes_nobody_elses_order():
    """Only those whose home it was have another one."""
    gone = NODES[7]
    for member in NODES[10:40]:
        before = homes.order(member, NODES, most=200)
        after = homes.order(member, [node for node in NODES if node != gone], most=200)
        assert after == [node for node in before if node != gone]


def test_homes_are_spread_over_the_members():
    """No member is home to very many: three on average, far fewer than all."""
    count = Counter(home for member in NODES for home in homes.order(member, NODES, most=3))
    assert sum(count.values()) == 600
    assert max(count.values()) < 15


@asynccontextmanager
async def three(folder, **keys):
    """Alice, the founder, with bob and carol."""
    async with (
        running(folder, "alice", **keys) as alice,
        running(folder, "bob", found=False, **keys) as bob,
        running(folder, "carol", found=False, **keys) as carol,
    ):
        await join(alice, bob, "bob")
        await join(alice, carol, "carol")
        nodes = (alice, bob, carol)
        await until(lambda: all(len(only(made).members) == 3 for made in nodes))
        yield nodes


def held(made):
    """Return whom a node holds as home relays."""
    return {session.peer_id for session in made.homes.links(only(made))}


async def test_members_hold_links_to_all_who_relay(tmp_path, monkeypatch):
    """Of three members each holds both others; the link that nobody asked for comes by itself."""
    monkeypatch.setattr(homes, "LOOK_S", 0.1)
    async with three(tmp_path) as nodes:
        for made in nodes:
            others = {other.identity.peer_id for other in nodes} - {made.identity.peer_id}
            await until(lambda made=made, others=others: held(made) == others)


async def test_two_members_need_no_relay(tmp_path, monkeypatch):
    """There is nobody to be found by: a channel closes as it always did."""
    monkeypatch.setattr(homes, "LOOK_S", 0.1)
    monkeypatch.setattr(channels, "IDLE_LOOK_S", 0.1)
    async with (
        running(tmp_path, "alice", idle_close_s=5) as alice,
        running(tmp_path, "bob", found=False, idle_close_s=5) as bob,
    ):
        await join(alice, bob, "bob")
        await until(lambda: len(alice.sessions) == len(bob.sessions) == 0)


@pytest.mark.parametrize("homes_wanted", [0, 3])
async def test_the_links_of_homes_are_not_idle(tmp_path, monkeypatch, homes_wanted):
    """What carried nothing for long is closed, but not the link to a relay, at either end."""
    monkeypatch.setattr(homes, "LOOK_S", 0.1)
    async with three(tmp_path, home_relays=homes_wanted) as (alice, bob, _):
        await until(lambda: len(held(bob)) == min(homes_wanted, 2))
        if homes_wanted:
            await until(lambda: alice.relaying.uses(session_of(alice, bob)))
        both = {made: session_of(made, other) for made, other in ((alice, bob), (bob, alice))}
        for made, session in both.items():
            stats = made.statistics()[session.sid]
            made.channels._close_idle(session, StatsOf(stats, age_s=1_000.0, data_s=1_000.0))
        if not homes_wanted:
            await until(lambda: all(session.link.closed.is_set() for session in both.values()))
            return
        for _ in range(10):  # whatever was begun has begun
            await trio.lowlevel.checkpoint()
        assert not any(session.retiring for session in both.values())


class StatsOf:
    """An engine's counters with some of them changed."""

    def __init__(self, stats, **changes):
        self._stats = stats
        self.__dict__.update(changes)

    def __getattr__(self, name):
        return getattr(self._stats, name)


async def test_a_home_that_is_lost_is_called_again(tmp_path, monkeypatch):
    """One end forgets the session; the link is there again soon, without anybody asking."""
    monkeypatch.setattr(homes, "LOOK_S", 0.1)
    async with three(tmp_path) as (alice, bob, _):
        await until(lambda: alice.identity.peer_id in held(bob))
        lost = session_of(bob, alice)
        bob.end(lost, reason="test")
        await until(lambda: session_of(bob, alice) not in {None, lost})
        await until(lambda: alice.identity.peer_id in held(bob))


async def test_a_channel_closed_by_a_command_is_left_alone(tmp_path, monkeypatch):
    """`disconnect` holds at both ends, though both are home to each other."""
    monkeypatch.setattr(homes, "LOOK_S", 0.05)
    async with three(tmp_path) as (alice, bob, _):
        await until(lambda: alice.identity.peer_id in held(bob))
        await until(lambda: bob.identity.peer_id in held(alice))
        looks = []
        for made in (alice, bob):
            look = made.homes.look

            async def counted(look=look):
                looks.append(look)
                await look()

            monkeypatch.setattr(made.homes, "look", counted)
        await ask(bob, "disconnect", peer="alice")
        for made in (alice, bob):
            await made.homes.look()
            await made.homes.look()
        assert session_of(bob, alice) is None
        assert session_of(alice, bob) is None
        assert alice.identity.peer_id not in held(bob)
        assert (await ask(bob, "connect", peer="alice"))["name"] == "alice"


async def test_who_does_not_relay_is_nobodys_home(tmp_path, monkeypatch):
    """A member says so when a link comes up; nobody holds one to it."""
    monkeypatch.setattr(homes, "LOOK_S", 0.1)
    async with (
        running(tmp_path, "alice", relay="off") as alice,
        running(tmp_path, "bob", found=False) as bob,
        running(tmp_path, "carol", found=False) as carol,
    ):
        await join(alice, bob, "bob")
        await join(alice, carol, "carol")
        await until(lambda: held(bob) == {carol.identity.peer_id})
        assert alice.identity.peer_id not in bob.relaying.offers(only(bob))


@pytest.mark.parametrize("wanted", [0, 1])
async def test_the_operator_says_how_many(tmp_path, monkeypatch, wanted):
    """No more links are held than `home_relays` says."""
    monkeypatch.setattr(homes, "LOOK_S", 0.1)
    async with three(tmp_path, home_relays=wanted) as nodes:
        for made in nodes:
            await until(lambda made=made: len(held(made)) == wanted)
            await made.homes.look()
            assert len(held(made)) == wanted
