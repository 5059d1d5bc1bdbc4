"""What a node says sooner than it had to: behind AUTH, and in a circuit without HELLO."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
import trio

from tests.unit.daemon.nodes import held, only, pair, session_of, three, until
from veilnet.errors import PeerUnreachable
from veilnet.networks.endpoint import Endpoint
from veilnet.protocol import handshake as vnh1


@asynccontextmanager
async def parted(folder):
    """Alice and bob, who know each other and have no session."""
    async with pair(folder) as (alice, bob):
        for one, other in ((alice, bob), (bob, alice)):
            one.end(session_of(one, other), reason="test")
        await until(lambda: not (list(alice.sessions) or list(bob.sessions)))
        yield alice, bob


async def test_a_session_carries_before_the_peer_has_verified_us(tmp_path, monkeypatch):
    """Bob speaks behind his AUTH; alice takes it once she has let him in."""
    async with parted(tmp_path) as (alice, bob):
        judged = held(alice, monkeypatch)
        member = only(bob).members.get(alice.identity.peer_id)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: bob.channels.open(only(bob), member, timeout_s=10))
            await until(lambda: session_of(bob, alice) is not None)
            begun = session_of(bob, alice)
            assert (begun.ready, begun.confirmed) == (True, False)
            assert session_of(alice, bob) is None
            judged.set()
        await until(lambda: begun.confirmed)
        assert session_of(bob, alice) is begun
        # His greeting came behind AUTH, before alice had her session.
        await until(session_of(alice, bob).heard.is_set)
        assert await bob.channels.probe(begun, timeout_s=5) > 0


async def test_what_carries_gives_way_only_to_what_is_confirmed(tmp_path, monkeypatch):
    """While a second handshake waits to be verified the first session carries."""
    async with pair(tmp_path) as (alice, bob):
        first = session_of(bob, alice)
        judged = held(alice, monkeypatch)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                bob.channels.call, only(bob), alice.identity.peer_id, [first.endpoint]
            )
            await until(lambda: len(alice.handshakes) == 1)
            for _ in range(20):
                await trio.sleep(0.01)
                assert session_of(bob, alice) is first
            judged.set()
        await until(lambda: session_of(bob, alice) not in {None, first})
        assert session_of(bob, alice).confirmed


async def test_a_peers_session_takes_the_place_of_what_is_not_confirmed(tmp_path, monkeypatch):
    """Whoever is the arbiter: what the peer opened meanwhile is there, and ours may never be."""
    async with parted(tmp_path) as (alice, bob):
        judged = held(alice, monkeypatch, first=True)
        member = only(bob).members.get(alice.identity.peer_id)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: bob.channels.open(only(bob), member, timeout_s=10))
            await until(lambda: session_of(bob, alice) is not None)
            begun = session_of(bob, alice)
            with trio.fail_after(10):
                hers = await alice.channels.call(
                    only(alice), bob.identity.peer_id, [Endpoint("127.0.0.1", bob.engine.port)]
                )
            await until(lambda: session_of(bob, alice) is not begun)
            judged.set()
        assert hers.confirmed
        await until(lambda: len(list(alice.sessions)) == len(list(bob.sessions)) == 1)
        assert await bob.channels.probe(session_of(bob, alice), timeout_s=5) > 0


async def test_who_is_never_confirmed_leaves_nothing(tmp_path, monkeypatch):
    """It ends at the deadline, the caller hears why, and the next call holds its packets."""
    async with parted(tmp_path) as (alice, bob):
        judged = held(alice, monkeypatch)
        where = [Endpoint("127.0.0.1", alice.engine.port)]
        key = (only(bob).id, alice.identity.peer_id)
        with pytest.raises(PeerUnreachable, match="never confirmed"), trio.fail_after(10):
            await bob.channels.call(only(bob), alice.identity.peer_id, where, timeout_s=1.0)
        assert session_of(bob, alice) is None
        assert bob.engine.sessions() == []
        assert "never confirmed" in bob.channels.missed(key).reason
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bob.channels.call, only(bob), alice.identity.peer_id, where)
            for _ in range(20):
                await trio.sleep(0.01)
                assert session_of(bob, alice) is None
            judged.set()
        assert session_of(bob, alice).confirmed
        assert bob.channels.missed(key) is None


async def test_a_circuit_brings_the_cookie(tmp_path, monkeypatch):
    """INIT is the first thing said through a circuit; a changed cookie costs time."""
    async with three(tmp_path) as (alice, bob, carol):
        for changed in (False, True):
            machine = bob.channels._machine(
                only(bob), carol.identity.peer_id, (), timeout_s=10.0, psk=None
            )
            put, take = trio.open_memory_channel(4)
            keyed, said = trio.Event(), []
            hello = bob.engine.hello

            def heard(schedule, hello=hello, said=said, **more):
                said.append(more["cookie"])
                return hello(schedule, **more)

            monkeypatch.setattr(bob.handshakes, "_engine", Watched(bob.engine, heard))
            sessions = []

            async def call(machine=machine, take=take, keyed=keyed, sessions=sessions):
                sessions.append(await bob.channels._run(only(bob), machine, late=take, keyed=keyed))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(call)
                await keyed.wait()
                with trio.fail_after(10):
                    circuit = await bob.relaying.open_circuit(
                        only(bob),
                        alice.identity.peer_id,
                        carol.identity.peer_id,
                        com=machine.com,
                        timeout_s=5,
                    )
                assert len(circuit.cookie) == 16
                cookie = bytes(16) if changed else circuit.cookie
                put.send_nowait(vnh1.EndpointFound(circuit.endpoint, cookie))
            assert tuple(sessions[0].endpoint) == tuple(circuit.endpoint)
            # Said once with the cookie; again only if that brought nothing.
            assert said[0] == cookie
            assert (len(said) > 1) == changed
            bob.end(sessions[0], reason="test")


class Watched:
    """An engine whose calls of hello are seen."""

    def __init__(self, engine, hello):
        self._engine = engine
        self.hello = hello

    def __getattr__(self, name):
        return getattr(self._engine, name)
