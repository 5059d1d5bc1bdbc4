"""A node in trouble: full disks, lost events, greedy peers, a broken engine.

It goes on, or it says why it does not.
"""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
import trio

from tests.unit.daemon.nodes import DAY, ask, only, pair, running, session_of, until
from veilnet.daemon import birth, channels, events, gossip, run, underlay
from veilnet.daemon.handshakes import Handshakes
from veilnet.errors import (
    BrokenEngineError,
    ConfigError,
    LocalProtocolError,
    PeerRefused,
    VeilError,
)
from veilnet.networks.endpoint import Endpoint
from veilnet.networks.invite import Invite
from veilnet.protocol import handshake as vnh1
from veilnet.protocol import messages, rekey


class Spy:
    """An engine that notes what it is asked."""

    def __init__(self, engine):
        self._engine = engine
        self.calls = []

    def __getattr__(self, name):
        method = getattr(self._engine, name)
        if not callable(method):
            return method

        def noted(*args, **more):
            self.calls.append((name, *args))
            return method(*args, **more)

        return noted

    def of(self, name):
        """Return the arguments of every call of *name*."""
        return [call[1:] for call in self.calls if call[0] == name]


def failing(write, name, failures):
    """Return a `Store.write` that fails for files called *name* as often as *failures* says."""

    def attempt(path, data):
        if path.endswith(name) and failures:
            failures.pop()
            raise ConfigError("cannot write: No space left on device")
        write(path, data)

    return attempt


# --- the disk ------------------------------------------------------------------------------------


async def test_a_full_disk_delays_a_renewal_on_disk_and_loses_nothing(tmp_path, wall, monkeypatch):
    """What could not be written is written once the disk has room again."""
    async with running(tmp_path, "alice") as alice:
        failures = [1, 2]
        monkeypatch.setattr(
            alice.store, "write", failing(alice.store.write, "network.cbor", failures)
        )
        network = only(alice)
        wall.jump(11 * DAY)
        await alice.gossip.renew_due()
        name = f"networks/{network.id.hex()}/network.cbor"
        await until(lambda: network.own.encoding in (alice.store.read(name) or b""))
        assert not failures


async def test_what_changes_while_the_disk_works_is_written_next(tmp_path, monkeypatch):
    """A change made during a save is on the disk after the next one."""
    async with pair(tmp_path) as (alice, bob):
        network, flush = only(alice), only(alice).members.flush
        begun, go = threading.Event(), threading.Event()

        def slow():
            flush()
            begun.set()
            go.wait(10)

        monkeypatch.setattr(network.members, "flush", slow)
        alice.changed(network)
        await trio.to_thread.run_sync(begun.wait, 10)
        network.members.observe(bob.identity.peer_id, [Endpoint("192.0.2.77", 4242)], 2**31)
        alice.changed(network)
        go.set()
        path = alice.store.path / f"networks/{network.id.hex()}/members.db"
        await until(lambda: b"\xc0\x00\x02\x4d" in path.read_bytes())


async def test_a_name_that_does_not_resolve_for_a_moment_means_what_it_meant(tmp_path, monkeypatch):
    """`--endpoint NAME` survives a resolver that is away; only an invite insists on it."""
    there = Endpoint("192.0.2.5", 41000)
    answers = [[there]]

    def resolve(_):
        if not answers:
            raise ConfigError("does not resolve")
        return answers.pop()

    monkeypatch.setattr(underlay, "resolve", resolve)
    async with running(tmp_path, "alice", endpoints=("node.example:41000",)) as alice:
        assert (await alice.addresses.local_endpoints())[0] == there
        assert (await alice.addresses.local_endpoints(strict=True))[0] == there
        alice.addresses._resolved.clear()
        assert there not in await alice.addresses.local_endpoints()
        with pytest.raises(ConfigError):
            await alice.addresses.local_endpoints(strict=True)


# --- sessions that only one side has -------------------------------------------------------------


async def test_a_session_that_cannot_begin_leaves_nothing_in_the_engine(tmp_path, monkeypatch):
    """Whichever step of a birth fails, by whatever error, the engine forgets the session too."""
    async with pair(tmp_path) as (alice, bob):
        member = only(bob).members.get(alice.identity.peer_id)
        for error in (PeerRefused("lapsed"), ZeroDivisionError()):
            with monkeypatch.context() as patch:

                def begin(self, session, error=error):
                    raise error

                patch.setattr(birth.Birth, "begin", begin)
                with pytest.raises((VeilError, ZeroDivisionError, ExceptionGroup)):
                    await bob.channels.call(
                        only(bob), member.peer_id, member.endpoints, timeout_s=2
                    )
            for made in (alice, bob):
                await until(
                    lambda made=made: (
                        {each.sid for each in made.engine.sessions()}
                        == {each.sid for each in made.sessions}
                    )
                )


async def test_a_session_that_cannot_begin_gives_back_what_it_took(tmp_path, monkeypatch):
    """At the responder: the peer's addresses and its link are those of the session before again."""
    async with pair(tmp_path) as (alice, bob):
        member, old = only(bob).members.get(alice.identity.peer_id), session_of(alice, bob)
        alice.engine = Spy(alice.engine)
        taken, given_back = [], []
        part, gone = alice.part, trio.Event()

        def begin(session):
            taken.append((alice.engine.of("assign")[-1][0], alice.relaying._bound[old.key]))
            assert taken == [(session.sid, session.sid)]
            raise PeerRefused("lapsed")

        def parts(session):
            part(session)
            if not gone.is_set():
                given_back.append((alice.engine.of("assign")[-1], alice.relaying._bound[old.key]))
                gone.set()

        monkeypatch.setattr(alice.paths, "begin", begin)
        monkeypatch.setattr(alice, "part", parts)
        with trio.fail_after(10):
            await bob.channels.call(only(bob), member.peer_id, member.endpoints, timeout_s=2)
            await gone.wait()
        ((sid, addresses), bound) = given_back[0]
        assert (sid, bound) == (old.sid, old.sid)
        assert addresses


async def test_a_session_ends_whatever_fails_beside_it(tmp_path, monkeypatch):
    """One part of the node that cannot let go takes nothing from the others, or the engine."""
    async with pair(tmp_path) as (alice, bob):
        session = session_of(alice, bob)
        alice.engine = Spy(alice.engine)
        told = []

        def fail(_):
            told.append("relaying")
            raise told_error

        monkeypatch.setattr(alice.relaying, "session_down", fail)
        monkeypatch.setattr(alice.paths, "ended", lambda _: told.append("paths"))
        monkeypatch.setattr(alice, "route", lambda _: told.append("route"))
        told_error = LocalProtocolError("no such circuit")
        alice.end(session, reason="test")
        assert told == ["relaying", "paths", "route"]
        assert alice.engine.of("close_session") == [(session.sid,)]
        assert session.sid not in {each.sid for each in alice.engine.sessions()}
        alice.part(session)
        told_error = ZeroDivisionError()
        alice.part(session)
        assert told == ["relaying", "paths", "route"] * 3
        told_error = BrokenEngineError("dead")
        with pytest.raises(BrokenEngineError):
            alice.part(session)


async def test_a_refused_initiator_forgets_what_it_authenticated(tmp_path, monkeypatch):
    """Sessions that a responder never accepts do not pile up in the initiator's engine."""
    async with pair(tmp_path) as (alice, bob):
        member = only(bob).members.get(alice.identity.peer_id)

        def refuse(_):
            raise PeerRefused("lapsed")

        monkeypatch.setattr(alice.sessions, "add", refuse)
        with pytest.raises(VeilError):
            await bob.channels.call(only(bob), member.peer_id, member.endpoints, timeout_s=1)
        assert {each.sid for each in bob.engine.sessions()} == {each.sid for each in bob.sessions}


async def test_what_lost_events_left_is_set_right(tmp_path, monkeypatch):
    """Sessions that only the engine, or only the node, knows are closed in the next round."""
    monkeypatch.setattr(channels, "STRAY_S", 0.0)
    async with pair(tmp_path) as (alice, bob):
        alice.sessions.remove(session_of(alice, bob))
        await alice.channels.look_around()
        assert alice.engine.sessions() == []
        bob.engine.close_session(session_of(bob, alice).sid)
        await bob.channels.look_around()
        assert len(bob.sessions) == 0


async def test_an_init_at_a_door_that_is_gone_is_dismissed(tmp_path, monkeypatch):
    """Its place in the gate is given back."""
    async with pair(tmp_path) as (alice, bob):
        member = only(bob).members.get(alice.identity.peer_id)
        alice.engine = Spy(alice.engine)
        monkeypatch.setattr(alice.doors, "get", lambda _: None)
        with pytest.raises(VeilError):
            await bob.channels.call(only(bob), member.peer_id, member.endpoints, timeout_s=1)
        assert alice.engine.of("dismiss")


def test_one_full_endpoint_does_not_end_a_race():
    """A HELLO that cannot be sent to one endpoint is no end of the handshake."""

    class Engine:
        def hello(self, *args, **more):
            raise LocalProtocolError("the list of handshakes at this endpoint is full")

    hello = vnh1.SendHello(None, b"", ("192.0.2.1", 1))
    Handshakes(Engine(), trio.CapacityLimiter(1))._call(hello)


# --- greedy peers --------------------------------------------------------------------------------


async def test_a_join_request_is_signed_once(tmp_path, monkeypatch):
    """A joiner that asks again, at once or later, gets the grant already made."""
    async with running(tmp_path, "alice") as alice:
        invite = Invite.parse((await ask(alice, "invite"))["invite"])
        issuer, admitted = only(alice).issuer, []
        admit = issuer.admit
        monkeypatch.setattr(issuer, "admit", lambda **how: (admitted.append(how), admit(**how))[1])
        async with running(tmp_path, "bob", found=False) as bob:
            session = await bob.joining._call(invite, invite.endpoints, 5)
            request = messages.JoinRequest(name="bob")
            for _ in range(20):
                session.link.send(request)
            grants = [await session.link.ask(request, timeout_s=5) for _ in range(2)]
    assert len(admitted) == 1
    assert grants[0] == grants[1]


async def test_a_renewal_is_signed_once(tmp_path, wall, monkeypatch):
    """A member that asks again with its old serial gets the credential already made."""
    async with pair(tmp_path) as (alice, bob):
        issuer, renewed = only(alice).issuer, []
        renew = issuer.renew
        monkeypatch.setattr(issuer, "renew", lambda *args: (renewed.append(args), renew(*args))[1])
        wall.jump(11 * DAY)
        session, serial = session_of(bob, alice), only(bob).own.credential.serial
        for _ in range(20):
            session.link.send(messages.Renew(serial=serial))
        await until(lambda: renewed and session_of(alice, bob).renew_question is None)
        grants = [
            await session.link.ask(messages.Renew(serial=serial), timeout_s=5) for _ in range(2)
        ]
    assert len(renewed) == 1
    assert isinstance(grants[0], messages.RenewGrant)
    assert grants[0] == grants[1]


async def test_a_peer_that_moves_all_the_time_is_passed_on_now_and_then(tmp_path, monkeypatch):
    """Others hear of it at a bounded rate, and in the end where it is."""
    monkeypatch.setattr(gossip, "SEEN_S", 0.5)
    async with pair(tmp_path) as (alice, bob):
        theirs = session_of(alice, bob)
        await until(lambda: theirs.seen is None and theirs.seen_s > 0)
        told = []
        monkeypatch.setattr(alice.gossip, "tell", lambda *args, **_: told.append(args))
        for number in range(1, 41):
            listening = (Endpoint(f"192.0.2.{number}", 7),)
            session_of(bob, alice).link.send(messages.Endpoints(listening=listening))
        member = only(alice).members.get
        await until(lambda: listening[0] in member(bob.identity.peer_id).endpoints)
    assert len(told) <= 3


async def test_gossip_beyond_the_bound_is_left_for_later(tmp_path, monkeypatch):
    """One session never has more than MERGING_MAX portions of gossip under way."""
    monkeypatch.setattr(gossip, "MERGING_MAX", 0)
    async with pair(tmp_path) as (alice, bob):
        network = only(alice)
        monkeypatch.setattr(network.members, "merge", lambda *_, **__: pytest.fail("merged"))
        theirs = session_of(alice, bob)
        entry = only(bob).own.entry()
        envelope = messages.Envelope(1, messages.Members(entries=(entry,)))
        alice.gossip.handle(theirs, envelope)
        assert theirs.merging == 0
        answer = await session_of(bob, alice).link.ask(messages.Ping(payload=b"x"), timeout_s=5)
        assert answer == messages.Pong(payload=b"x")


# --- messages that fail --------------------------------------------------------------------------


@pytest.mark.parametrize("error", [LocalProtocolError("full"), ZeroDivisionError()])
async def test_a_message_that_fails_costs_no_other(tmp_path, monkeypatch, error):
    """Messages that were acknowledged together are served each for itself."""
    async with pair(tmp_path) as (alice, bob):
        session, served = session_of(alice, bob), []

        def handle(_, envelope):
            served.append(envelope.id)
            if envelope.id == 1:
                raise error

        envelopes = [messages.Envelope(number, messages.Ping(payload=b"")) for number in (1, 2)]
        monkeypatch.setattr(session.link, "receive", lambda *_: envelopes)
        monkeypatch.setattr(alice.gossip, "handle", handle)
        alice.control(session, b"")
        assert served == [1, 2]


async def test_keys_that_cannot_be_exchanged_end_the_session(tmp_path, monkeypatch):
    """A generation message that cannot be sent leaves no session with half an exchange."""
    async with pair(tmp_path) as (alice, bob):
        session = session_of(alice, bob)

        def full(*_, **__):
            raise LocalProtocolError("the control stream's queue is full")

        monkeypatch.setattr(session.link, "send", full)
        confirm = rekey.SendMessage(messages.GenerationConfirm(data=bytes(32)))
        alice.rekeying._act(session, [confirm])
        assert alice.sessions.get(session.sid) is None


# --- memberships and keys ------------------------------------------------------------------------


async def test_the_issuer_takes_an_expired_members_routes_away(tmp_path, wall):
    """Its session stays, for renewal, and carries no packets any more."""
    async with pair(tmp_path) as (alice, bob):
        session = session_of(alice, bob)
        wall.jump(31 * DAY)
        await alice.gossip.renew_due()
        alice.engine = Spy(alice.engine)
        await alice.gossip.compare()
        assert (session.sid, []) in alice.engine.of("assign")
        assert alice.sessions.get(session.sid) is session


async def test_return_keys_change_and_the_last_one_still_opens(tmp_path):
    """A new key goes to every peer; the engine keeps the two newest."""
    async with pair(tmp_path) as (alice, bob):
        alice.engine, bob.engine = Spy(alice.engine), Spy(bob.engine)
        for _ in range(2):
            await alice.gossip.rotate_return_keys()
        (first,), (second,) = alice.engine.of("set_return_keys")
        assert (len(first), len(second)) == (2, 2)
        assert second[1] == first[0]
        await until(
            lambda: (
                [key for _, key in bob.engine.of("set_peer_return_key")][-2:]
                == [first[0], second[0]]
            )
        )


# --- the end -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("the TUN device is gone: File descriptor in bad state", "the TUN device is gone: File"),
        ("index out of bounds", "the engine's thread died: index"),
    ],
)
def test_a_broken_engine_says_what_broke(reason, message):
    """One line of what happened, one of what to do: exit code 70."""
    with pytest.raises(BrokenEngineError, match=message) as caught:
        events._failed(None, SimpleNamespace(reason=reason))
    assert caught.value.code == 70
    assert "sudo veilnet up" in caught.value.hint


def test_a_node_whose_device_is_gone_ends(tmp_path, monkeypatch, capsys):
    """It does not hang: it closes everything, logs why, and fails with the one clear error."""

    async def pump(_):
        events._failed(None, SimpleNamespace(reason="the TUN device is gone: bad state"))

    monkeypatch.setattr(events, "pump", pump)
    settings = run.Settings(
        state=tmp_path / "state",
        socket=tmp_path / "socket",
        overrides={"tun": False},
        foreground=True,
    )
    with pytest.raises(BrokenEngineError, match="TUN device is gone"):
        run.run(settings)
    assert "the TUN device is gone" in capsys.readouterr().err
    assert not (tmp_path / "socket").exists()
