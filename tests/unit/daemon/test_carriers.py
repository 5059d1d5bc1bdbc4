"""Carriers: over loopback with the real engine, and their table with doubles."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio.testing

from veilnet import _engine
from veilnet.daemon import carriers as module
from veilnet.daemon.carriers import ACCEPTED_MAX, IDLE_S, OWN_MAX, Carriers
from veilnet.errors import ClosedError, LocalProtocolError, PeerUnreachable
from veilnet.networks.endpoint import Endpoint

RELAY = Endpoint("192.0.2.7", 41000)


@attrs.frozen
class FakePath:
    """A path, as far as it is looked at."""

    endpoint: tuple[str, int]


class FakeEngine:
    """Hands out stand-ins and remembers descriptors."""

    def __init__(self):
        self.attached = {}
        self.in_use = set()
        self.count = 0

    def attach(self, fd, *, remote=None):
        """Take a descriptor."""
        self.count += 1
        stand_in = (f"100:1::{self.count:x}", 1)
        self.attached[stand_in] = (fd, remote)
        return stand_in

    def detach(self, endpoint):
        """Close one."""
        fd, _ = self.attached.pop(tuple(endpoint))
        os.close(fd)

    def paths(self):
        """Return a path for each endpoint in use."""
        return [FakePath(endpoint) for endpoint in self.in_use]


class FakeLines:
    """Connects at once, or when it is let."""

    def __init__(self):
        self.go = threading.Event()
        self.go.set()
        self.begun = threading.Event()
        self.dialled = []
        self.opened = []
        self.error = None
        self.called = []
        self.bell, self._ringer = socket.socketpair()
        self.closed = False

    def pipe(self):
        """A descriptor to be given away; its end tells."""
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        self.opened.append(reader)
        return writer

    def given_back(self, at):
        """Whether nobody holds descriptor *at* any more."""
        try:
            return os.read(self.opened[at], 1) == b""
        except BlockingIOError:
            return False

    def connect(self, host, port, timeout_s):
        """Wait for `go`."""
        self.dialled.append((host, port, timeout_s))
        self.begun.set()
        assert self.go.wait(10)
        if self.error is not None:
            raise self.error
        return self.pipe()

    def call(self, remote):
        """Somebody connects."""
        self.called.append((self.pipe(), remote))
        self._ringer.send(b"!")

    def fileno(self):
        """Return what is readable after a call."""
        return self.bell.fileno()

    def drain(self):
        """Return who called."""
        self.bell.recv(100)
        taken, self.called = self.called, []
        return taken

    def close(self):
        """Let nobody wait any more."""
        self.closed = True
        self.go.set()

    def end(self):
        """Close the double's own descriptors."""
        for fd in self.opened:
            os.close(fd)
        self.bell.close()
        self._ringer.close()


@pytest.fixture
def lines():
    """The lines' double."""
    made = FakeLines()
    yield made
    made.end()


@asynccontextmanager
async def running(carriers):
    """Carriers that take calls inside the block."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(carriers.run)
        yield carriers
        nursery.cancel_scope.cancel()


async def test_who_asks_for_the_same_relay_shares_one(lines):
    """While it is made and after it is."""
    engine = FakeEngine()
    carriers = Carriers(engine, lines)
    lines.go.clear()
    got = []

    async def ask():
        got.append(await carriers.connect(RELAY))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        nursery.start_soon(ask)
        await trio.to_thread.run_sync(lines.begun.wait)
        lines.go.set()
    got.append(await carriers.connect(RELAY))
    assert len(lines.dialled) == 1
    assert got == [Endpoint("100:1::1", 1)] * 3
    assert engine.attached["100:1::1", 1][1] == RELAY.host
    assert carriers.remote(got[0]) == RELAY
    carriers.close()
    assert lines.given_back(0)


async def test_a_failure_is_told_to_all_who_wait(lines):
    """And the next one tries again."""
    carriers = Carriers(FakeEngine(), lines)
    lines.error = PeerUnreachable("nobody there")
    lines.go.clear()
    failed = []

    async def ask():
        try:
            await carriers.connect(RELAY)
        except PeerUnreachable as error:
            failed.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        nursery.start_soon(ask)
        await trio.to_thread.run_sync(lines.begun.wait)
        lines.go.set()
    assert len(failed) == 2
    lines.error = None
    assert await carriers.connect(RELAY) == Endpoint("100:1::1", 1)
    carriers.close()


async def test_a_cancelled_connect_leaves_nothing(lines):
    """Even when the connection comes up after everybody has gone."""
    engine = FakeEngine()
    carriers = Carriers(engine, lines)
    lines.go.clear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(carriers.connect, RELAY)
        await trio.to_thread.run_sync(lines.begun.wait)
        nursery.cancel_scope.cancel()
    assert not engine.attached
    lines.go.set()
    with trio.fail_after(5):
        while not (lines.opened and lines.given_back(0)):
            await trio.lowlevel.checkpoint()
    carriers.close()


async def test_who_waited_for_a_dial_that_was_cancelled_dials_itself(lines):
    """That somebody else lost interest says nothing of who is called."""
    carriers = Carriers(FakeEngine(), lines)
    lines.go.clear()
    found = []

    async def ask():
        found.append(await carriers.connect(RELAY))

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as first:
                first.start_soon(carriers.connect, RELAY)
                await trio.to_thread.run_sync(lines.begun.wait)
                nursery.start_soon(ask)
                await trio.testing.wait_all_tasks_blocked()
                first.cancel_scope.cancel()
            lines.go.set()
    assert len(found) == len(carriers) == 1
    carriers.close()


async def test_connections_of_ours_are_bounded(lines):
    """And who has ended makes room."""
    carriers = Carriers(FakeEngine(), lines)
    for port in range(1, OWN_MAX + 1):
        await carriers.connect(Endpoint(RELAY.host, port))
    with pytest.raises(PeerUnreachable, match="in use"):
        await carriers.connect(RELAY)
    carriers.closed(Endpoint("100:1::3", 1))
    assert await carriers.connect(RELAY)
    carriers.close()
    assert not len(carriers)
    with pytest.raises(PeerUnreachable):
        await carriers.connect(RELAY)


async def test_callers_are_taken_and_bounded(lines):
    """Each with the address that it came from; beyond the bound they are hung up on."""
    engine = FakeEngine()
    async with running(Carriers(engine, lines)) as carriers:
        lines.call(("192.0.2.9", 5555))
        await trio.testing.wait_all_tasks_blocked()
        assert engine.attached["100:1::1", 1][1] == "192.0.2.9"
        for port in range(ACCEPTED_MAX + 3):
            lines.call(("198.51.100.1", port + 1))
        await trio.testing.wait_all_tasks_blocked()
        assert len(engine.attached) == len(carriers) == ACCEPTED_MAX
        assert all(lines.given_back(at) for at in range(ACCEPTED_MAX, ACCEPTED_MAX + 4))
    assert not engine.attached
    assert lines.closed


async def test_what_carries_nothing_is_closed(lines, autojump_clock):
    """What carries a path is not, and counts as used from its last use on."""
    engine = FakeEngine()
    async with running(Carriers(engine, lines)) as carriers:
        used = await carriers.connect(RELAY)
        engine.in_use.add(tuple(used))  # before the clock jumps over the next thread's work
        idle = await carriers.connect(Endpoint(RELAY.host, 1))
        await trio.sleep(IDLE_S + 2 * module.LOOK_S)
        assert carriers.remote(idle) is None
        assert lines.given_back(1)
        assert carriers.remote(used) == RELAY
        engine.in_use.clear()
        await trio.sleep(IDLE_S - module.LOOK_S)
        assert carriers.remote(used) == RELAY
        await trio.sleep(3 * module.LOOK_S)
        assert carriers.remote(used) is None


# --- the real thing -----------------------------------------------------------------------


async def event(engine, kind):
    """The engine's next event of *kind*."""
    with trio.fail_after(5):
        while True:
            await trio.lowlevel.wait_readable(engine.fileno())
            for each in engine.drain():
                if isinstance(each, kind):
                    return each


async def test_two_engines_meet_over_tls():
    """A stand-in on either side, which ends when the other does, and is then worth nothing."""
    one, other = _engine.Engine.open(), _engine.Engine.open()
    near = Carriers(one, _engine.Carriers.open())
    far = Carriers(other, _engine.Carriers.open())
    port = far.listen(0)
    try:
        async with running(far), running(near):
            stand_in = await near.connect(Endpoint("127.0.0.1", port))
            assert _engine.is_carrier(stand_in)
            assert not _engine.is_carrier(("127.0.0.1", port))
            with trio.fail_after(5):
                while not len(far):
                    await trio.lowlevel.checkpoint()
            far.close()
            ended = await event(one, _engine.CarrierClosed)
            assert ended.endpoint == tuple(stand_in)
            near.closed(Endpoint(*ended.endpoint))
            assert not len(near)
            with pytest.raises(PeerUnreachable):
                await near.connect(Endpoint("127.0.0.1", 1))
    finally:
        one.close()
        other.close()
    end, rest = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with pytest.raises(ClosedError):
        one.attach(end.detach())
    assert rest.recv(1) == b"", "closed all the same"
    rest.close()


async def test_only_sockets_of_messages_are_attached():
    """Whatever else a descriptor is, the engine closes it and says so."""
    engine = _engine.Engine.open()
    try:
        reader, writer = os.pipe()
        with pytest.raises(LocalProtocolError):
            engine.attach(writer)
        assert os.read(reader, 1) == b""
        os.close(reader)
    finally:
        engine.close()
