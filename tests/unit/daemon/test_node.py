"""Whole nodes in one process: the real engine on loopback, no TUN, a wall clock that jumps."""

from __future__ import annotations

import secrets
import socket

import pytest
import trio

from tests.unit.daemon.nodes import DAY, ask, join, only, pair, running, session_of, until
from veilnet.daemon import channels, gossip, joining, searching
from veilnet.daemon.host import unix_now
from veilnet.errors import PeerRefused, PeerUnreachable, UnknownPeer, UsageError, VeilError
from veilnet.networks.invite import Invite
from veilnet.networks.network import Network
from veilnet.networks.refusal import Refused
from veilnet.protocol import messages


async def test_a_membership_renews_itself(tmp_path, wall):
    """From a third of its life on, the member asks and the founder signs; both get new ones."""
    async with pair(tmp_path) as (alice, bob):
        before = {made: only(made).own.credential for made in (alice, bob)}
        wall.jump(11 * DAY)
        await bob.gossip.renew_due()
        await alice.gossip.renew_due()
        for made, old in before.items():
            new = only(made).own.credential
            assert (new.serial > old.serial, new.name) == (True, old.name)
            assert new.not_after >= old.not_after + 11 * DAY - 60
        known = only(alice).members.get(bob.identity.peer_id)
        assert known.credential == only(bob).own.credential


async def test_nothing_renews_before_its_time(tmp_path, wall):
    """A young credential is left alone, and the founder refuses to sign early."""
    async with pair(tmp_path) as (alice, bob):
        before = only(bob).own.credential
        wall.jump(9 * DAY)
        await bob.gossip.renew_due()
        assert only(bob).own.credential == before
        answer = await session_of(bob, alice).link.ask(
            messages.Renew(serial=before.serial), timeout_s=5
        )
        assert isinstance(answer, messages.RenewRefuse)


async def test_a_laptop_back_after_months_returns_by_itself(tmp_path, wall):
    """An expired member reaches the founder, has no addresses until renewed, and has them then."""
    async with running(tmp_path, "alice") as alice:
        async with running(tmp_path, "bob", found=False) as bob:
            await join(alice, bob, "bob")
        wall.jump(60 * DAY)
        await alice.gossip.renew_due()
        async with running(tmp_path, "bob", found=False) as bob:
            with trio.fail_after(15):
                await bob.gossip.renew_due()
            network = only(bob)
            assert network.is_valid(network.own.credential, gossip.unix_now())
            assert (await ask(bob, "ping", peer="alice"))["rtt_ms"] >= 0


async def test_an_expired_member_is_refused_by_other_members(tmp_path, wall):
    """Carol, who issues nothing, does not open a session with a member whose time has run out."""
    async with pair(tmp_path) as (alice, bob), running(tmp_path, "carol", found=False) as carol:
        await join(alice, carol, "carol")
        wall.jump(31 * DAY)
        await carol.gossip.renew_due()
        with pytest.raises(PeerUnreachable):
            await ask(bob, "connect", peer="carol", timeout_s=2)
        assert session_of(carol, bob) is None


async def test_a_peer_that_is_not_reached_is_said_to_be_unreachable(tmp_path, monkeypatch):
    """Until it is there again, or for ten minutes."""
    async with running(tmp_path, "alice") as alice:
        async with running(tmp_path, "bob", found=False) as bob:
            await join(alice, bob, "bob")
        member = bob.identity.peer_id
        alice.end(session_of(alice, bob), reason="test")
        entry = only(alice).members.get(member)
        with pytest.raises(PeerUnreachable):
            # Nobody allowed a relay: that says nothing of whether bob can be reached.
            await alice.channels.open(only(alice), entry, timeout_s=1, direct=True)
        await until(lambda: not alice.channels.connecting((only(alice).id, member)))
        assert (await ask(alice, "peer", peer="bob"))["state"] == "idle"
        with pytest.raises(PeerUnreachable):
            await ask(alice, "connect", peer="bob", timeout_s=1)
        await until(lambda: not alice.channels.connecting((only(alice).id, member)))
        found = await ask(alice, "peer", peer="bob")
        assert found["state"] == "unreachable"
        assert "does not answer" in found["reason"]
        assert 0 <= found["tried_s"] < 5
        assert "does not answer" in (await ask(alice, "path", peer="bob"))["reason"]
        async with running(tmp_path, "bob", found=False) as bob:
            await ask(bob, "connect", peer="alice")
            assert (await ask(alice, "peer", peer="bob"))["state"] == "connected"
            alice.end(session_of(alice, bob), reason="test")
            assert (await ask(alice, "peer", peer="bob"))["state"] == "idle"
        with pytest.raises(PeerUnreachable):
            await ask(alice, "connect", peer="bob", timeout_s=1)
        await until(lambda: not alice.channels.connecting((only(alice).id, member)))
        monkeypatch.setattr(channels, "MISSED_S", 0.0)
        assert (await ask(alice, "peer", peer="bob"))["state"] == "idle"


async def test_junk_on_the_control_channel_costs_the_session(tmp_path):
    """A peer that sends what no honest peer sends loses its session, and the node lives on."""
    async with pair(tmp_path) as (alice, bob):
        session = session_of(bob, alice)
        theirs = session_of(alice, bob)
        bob.engine.send_control(session.sid, b"\xff" * 40)
        await until(lambda: alice.sessions.get(theirs.sid) is None)
        assert (await ask(bob, "connect", peer="alice"))["path"]["state"] == "active"


async def test_a_join_request_in_a_members_session_is_no_honest_message(tmp_path):
    """Only a joining session may ask to join."""
    async with pair(tmp_path) as (alice, bob):
        theirs = session_of(alice, bob)
        session_of(bob, alice).link.send(messages.JoinRequest(name="mallory"))
        await until(lambda: alice.sessions.get(theirs.sid) is None)
        assert {member.name for member in only(alice).members} == {"alice", "bob"}


async def test_gossip_that_is_false_is_not_believed(tmp_path):
    """A member entry whose signature does not hold ends the session and changes no table."""
    async with pair(tmp_path) as (alice, bob):
        own = only(bob).own
        forged = bytes([own.encoding[0]]) + own.encoding[1:-1] + bytes([own.encoding[-1] ^ 1])
        theirs = session_of(alice, bob)
        entry = messages.MemberEntry(public_key=own.public_key, credential=forged)
        session_of(bob, alice).link.send(messages.Members(entries=(entry,)))
        await until(lambda: alice.sessions.get(theirs.sid) is None)
        assert only(alice).members.get(own.peer_id).encoding == own.encoding


async def test_members_learn_of_a_newcomer_at_once(tmp_path):
    """Bob's table has carol as soon as alice let her in, with where she was seen."""
    async with pair(tmp_path) as (alice, bob), running(tmp_path, "carol", found=False) as carol:
        await join(alice, carol, "carol")
        await until(lambda: carol.identity.peer_id in only(bob).members)
        await until(lambda: only(bob).members.get(carol.identity.peer_id).endpoints)
        assert (await ask(bob, "connect", peer="carol"))["name"] == "carol"


async def test_who_has_moved_is_asked_for(tmp_path, monkeypatch):
    """Bob came back on another port while carol was away: she asks alice where he is now."""
    monkeypatch.setattr(searching, "KNOWN_S", 0.5)
    async with running(tmp_path, "alice") as alice:
        async with running(tmp_path, "bob", found=False) as bob:
            await join(alice, bob, "bob")
            old_port = bob.engine.port
        async with running(tmp_path, "carol", found=False) as carol:
            await join(alice, carol, "carol")
            await ask(carol, "disconnect", peer="alice")
            free = 20_000 + (old_port + 1) % 20_000
            async with running(tmp_path, "bob", found=False, listen_port=free) as bob:
                await ask(bob, "connect", peer="alice")
                await ask(carol, "connect", peer="bob", timeout_s=10)
                now = ("127.0.0.1", bob.engine.port)  # not *free* if that was taken meanwhile
                # A path over alice may have come first.
                await until(lambda: now in [tuple(p.endpoint) for p in carol.engine.paths()])
    assert now[1] != old_port


async def test_a_port_that_was_taken_for_once_is_asked_for_again(tmp_path):
    """A node whose port another program has takes any; the next time it has its own again."""
    async with running(tmp_path, "alice") as alice:
        own_port = alice.engine.port
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as other:
        other.bind(("::", own_port))
        async with running(tmp_path, "alice") as alice:
            assert alice.engine.port != own_port
    async with running(tmp_path, "alice") as alice:
        assert alice.engine.port == own_port


async def test_both_sides_count_the_same_generation(tmp_path):
    """A generation begun by either end is confirmed at both, and the session goes on."""
    async with pair(tmp_path) as (alice, bob):
        for made, other in ((alice, bob), (bob, alice)):
            ours, theirs = session_of(made, other), session_of(other, made)
            goal = ours.schedule.generation + 1
            made.rekeying.stale(ours)
            await until(
                lambda ours=ours, theirs=theirs, goal=goal: (
                    ours.schedule.generation == theirs.schedule.generation == goal
                )
            )
        assert (await ask(bob, "ping", peer="alice"))["path"]["state"] == "active"


async def test_the_hourly_handshake_is_bound_to_the_session_before(tmp_path):
    """A full handshake under the old session's key replaces it at both ends."""
    async with pair(tmp_path) as (alice, bob):
        old = session_of(bob, alice)
        bob.channels.renew(old)
        await until(lambda: session_of(bob, alice) not in {None, old})
        await until(lambda: len(alice.sessions) == len(bob.sessions) == 1)
        assert (await ask(alice, "ping", peer="bob"))["path"]["state"] == "active"


async def test_a_session_lost_at_one_end_comes_back(tmp_path, monkeypatch):
    """One end forgets a session, as after a crash: the other's next probe brings a new one."""
    monkeypatch.setattr(channels, "PROBE_PATIENCE_S", 0.5)
    async with pair(tmp_path) as (alice, bob):
        alice.end(session_of(alice, bob), reason="test")
        assert (await ask(bob, "ping", peer="alice"))["path"]["state"] == "active"


async def test_idle_channels_close_at_both_ends(tmp_path, monkeypatch):
    """What carried nothing for idle_close_s is closed, and opens again when asked for."""
    monkeypatch.setattr(channels, "IDLE_LOOK_S", 0.1)
    async with (
        running(tmp_path, "alice") as alice,
        running(tmp_path, "bob", found=False, idle_close_s=5) as bob,
    ):
        await join(alice, bob, "bob")
        await until(lambda: len(alice.sessions) == len(bob.sessions) == 0)
        assert (await ask(bob, "connect", peer="alice"))["name"] == "alice"


async def test_a_crash_between_invite_and_grant_loses_nothing(tmp_path):
    """The same peer may ask again by an invite it has used: it gets its credential, not a no."""
    async with running(tmp_path, "alice") as alice:
        text = (await ask(alice, "invite"))["invite"]
        async with running(tmp_path, "bob", found=False) as bob:
            await ask(bob, "connect", peer=text, name="bob")
            network = only(bob)
            bob.networks.remove(network.id)
            await ask(bob, "connect", peer=text, name="bob")
            assert only(bob).own.credential.serial > network.own.credential.serial
        async with running(tmp_path, "carol", found=False) as carol:
            with pytest.raises(Refused):
                await ask(carol, "connect", peer=text)
        assert len(only(alice).members) == 2


async def test_too_many_joiners_wait_their_turn(tmp_path, monkeypatch):
    """The bound on joining sessions is kept, and what is refused costs a timeout, not the node."""
    from veilnet.daemon import sessions

    monkeypatch.setattr(sessions, "JOINERS_MAX", 0)
    async with running(tmp_path, "alice") as alice:
        text = (await ask(alice, "invite"))["invite"]
        async with running(tmp_path, "bob", found=False) as bob:
            with pytest.raises(VeilError):
                await bob.joining.join(Invite.parse(text), name="bob", timeout_s=1)
            assert len(alice.sessions) == 0


async def test_joining_ends_in_time(tmp_path, monkeypatch):
    """Whatever connection over TCP is still being made, by whatever it is called."""
    async with running(tmp_path, "alice") as alice, running(tmp_path, "bob", found=False) as bob:
        text = (await ask(alice, "invite"))["invite"]
        monkeypatch.setattr(bob.blocked, "reach", _never)
        with trio.fail_after(5), pytest.raises(PeerUnreachable, match="does not answer"):
            await bob.joining.join(Invite.parse(text), name="bob", timeout_s=0.1)


async def _never(*_, **__):
    await trio.sleep_forever()


async def test_names_that_nobody_has(tmp_path):
    """Asking the founder for a name that no member has ends in UnknownPeer."""
    async with pair(tmp_path) as (_, bob):
        with pytest.raises(UnknownPeer):
            await ask(bob, "connect", peer="zed")


async def test_joining_unattended_waits_for_the_inviter(tmp_path, monkeypatch):
    """An inviter that is away delays the join; once it is back the node is in."""
    monkeypatch.setattr(joining, "UNATTENDED_S", 0.5)
    monkeypatch.setattr(joining, "FIRST_PAUSE_S", 0.1)
    async with running(tmp_path, "alice") as alice:
        invite = Invite.parse((await ask(alice, "invite"))["invite"])
    async with running(tmp_path, "bob", found=False) as bob:
        bob.spawn(bob.joining.join_unattended, invite)
        await until(lambda: len(bob.handshakes) > 0)
        async with running(tmp_path, "alice") as alice:
            await until(lambda: len(bob.networks) == 1)
            assert bob.identity.peer_id in only(alice).members


async def test_a_refusal_ends_joining_unattended(tmp_path):
    """A used-up invite is not asked for again and again."""
    async with pair(tmp_path) as (alice, _), running(tmp_path, "carol", found=False) as carol:
        text = (await ask(alice, "invite"))["invite"]
        await ask(carol, "connect", peer=text)
        async with running(tmp_path, "dave", found=False) as dave:
            with trio.fail_after(10), pytest.raises(PeerRefused):
                await dave.joining.join_unattended(Invite.parse(text))


async def test_who_founded_several_networks_says_which_to_invite_to(tmp_path):
    """No guess: an invite lets somebody in for good."""
    async with running(tmp_path, "alice") as alice:
        second = Network.found(
            alice.store,
            alice.identity,
            node_name="alice",
            now=unix_now(),
            rng=secrets.token_bytes,
            name="work",
        )
        alice.networks.add(second)
        await alice.addresses.add(second)
        with pytest.raises(UsageError, match="home, work") as caught:
            await ask(alice, "invite")
        assert "--network" in caught.value.hint
        assert (await ask(alice, "invite", network="work"))["network"] == "work"


async def test_when_a_peer_was_last_heard_is_remembered(tmp_path):
    """Also after its session is gone."""
    async with pair(tmp_path) as (alice, bob):
        key = session_of(alice, bob).key
        assert not alice.heard
        await ask(alice, "disconnect", peer="bob")
        assert abs(alice.heard[key] - unix_now()) < 60
        (peer,) = (await ask(alice, "status"))["peers"]
        assert (peer["state"], peer["heard_s"] < 60) == ("idle", True)
