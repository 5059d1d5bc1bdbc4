"""Lookup sessions between whole nodes."""

from __future__ import annotations

import pytest
import trio

from tests.unit.daemon.nodes import running, until
from veilnet._engine import KeySchedule
from veilnet.daemon import birth
from veilnet.daemon.birth import Birth
from veilnet.errors import LocalProtocolError
from veilnet.protocol import handshake as vnh1
from veilnet.protocol.messages import Ping, Pong


def inside(folder, name):
    """A node that belongs to the commons."""
    return running(folder, name, commons="lookups-of-this-test")


async def look_up(node, other):
    """Open a lookup session from *node* to *other*."""
    commons = node.commons
    machine = vnh1.Initiation(
        terms=vnh1.Terms(
            suite=commons.suite,
            mode=vnh1.Mode.LOOKUP,
            network_id=commons.id,
            secret=commons.k_net,
        ),
        identity=None,
        responder=vnh1.NOBODY,
        door_key=commons.door_key(),
        endpoints=(("127.0.0.1", other.engine.port),),
        schedules=KeySchedule,
        rng=node.rng,
    )
    made = Birth(node, commons, mode=vnh1.Mode.LOOKUP, initiator=True)
    primitives = node.primitives(commons.suite, commons)
    with trio.fail_after(5):
        return await node.handshakes.run(machine, primitives, made)


def lookups(node):
    """The lookup sessions of *node*."""
    return [each for each in node.sessions if each.mode is vnh1.Mode.LOOKUP]


async def test_two_strangers_talk_without_names(tmp_path):
    """A question crosses a lookup session and its answer comes back; nobody carries anything."""
    async with inside(tmp_path, "a") as a, inside(tmp_path, "b") as b:
        first, second = await look_up(a, b), await look_up(a, b)
        for session in (first, second):
            assert isinstance(await session.link.ask(Ping(payload=b"?"), timeout_s=5), Pong)
        theirs = lookups(b)
        assert len(theirs) == 2
        assert {each.peer_id for each in (*theirs, first, second)} == {vnh1.NOBODY}
        assert a.sessions.carriers() == b.sessions.carriers() == []
        assert all(each.lookup and each.confirmed for each in b.statistics().values())
        for refused in (a.engine.probe, lambda sid: a.engine.assign(sid, ["fd00::1/128"])):
            with pytest.raises(LocalProtocolError):
                refused(first.sid)


async def test_a_lookup_session_ends_by_itself(tmp_path, monkeypatch):
    """When its time is over it is gone at both ends, in the node and in the engine."""
    monkeypatch.setattr(birth, "LOOKUP_S", 0.1)
    async with inside(tmp_path, "a") as a, inside(tmp_path, "b") as b:
        await look_up(a, b)
        await until(lambda: not lookups(a) and not lookups(b))
        assert a.statistics() == b.statistics() == {}


async def test_a_node_outside_the_commons_answers_nobody(tmp_path):
    """Without a commons there is no public door."""
    async with inside(tmp_path, "a") as a, running(tmp_path, "b", commons="") as b:
        assert b.commons is None
        with pytest.raises(trio.TooSlowError):
            with trio.fail_after(0.05):
                await look_up(a, b)
        assert lookups(b) == []
