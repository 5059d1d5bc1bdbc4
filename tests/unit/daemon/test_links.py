"""Control links in virtual time, over a wire that loses what it is told to."""

from __future__ import annotations

import pytest
import trio

from veilnet.daemon.links import Link
from veilnet.errors import LocalProtocolError, TimedOut
from veilnet.protocol.messages import Features, JoinGrant, JoinRefuse, JoinRequest, Ping, Pong


class Wire:
    """The `send_control` of both ends; datagrams arrive one virtual millisecond later."""

    def __init__(self, nursery):
        self.nursery = nursery
        self.links = {}
        self.unasked = {1: [], 2: []}
        self.lose = lambda sid, number: False
        self.sent = 0

    def send_control(self, sid, data):
        """Take a datagram of one end."""
        self.sent += 1
        if not self.lose(sid, self.sent):
            self.nursery.start_soon(self._deliver, 3 - sid, data)

    async def _deliver(self, sid, data):
        await trio.sleep(0.001)
        link = self.links[sid]
        if not link.closed.is_set():
            for envelope in link.receive(data, trio.current_time()):
                self.unasked[sid].append(envelope)
                if isinstance(envelope.message, Ping):
                    link.send(Pong(payload=envelope.message.payload), answers=envelope.id)

    def open(self):
        """Return both ends, running."""
        for sid in (1, 2):
            self.links[sid] = Link(self, sid)
            self.nursery.start_soon(self.links[sid].run, self.links[sid].close)
        return self.links[1], self.links[2]


@pytest.fixture
async def wire(nursery):
    """A wire without links yet."""
    return Wire(nursery)


async def test_an_answer_finds_its_question(wire, autojump_clock):
    """Two questions at once each get their own answer."""
    one, _ = wire.open()
    got = {}

    async def ask(payload):
        got[payload] = await one.ask(Ping(payload=payload), timeout_s=5)

    async with trio.open_nursery() as both:
        both.start_soon(ask, b"a")
        both.start_soon(ask, b"b")
    assert got == {b"a": Pong(payload=b"a"), b"b": Pong(payload=b"b")}


async def test_loss_costs_time_and_nothing_else(wire, autojump_clock):
    """Every second datagram lost, and the answer still comes."""
    one, _ = wire.open()
    wire.lose = lambda sid, number: number % 2 == 1
    assert await one.ask(Ping(payload=b"x" * 900), timeout_s=30) == Pong(payload=b"x" * 900)


async def test_a_question_without_answer_times_out(wire, autojump_clock):
    """The asker is told after its own deadline, and the link lives on."""
    one, _ = wire.open()
    with pytest.raises(TimedOut):
        await one.ask(JoinRequest(name="bob"), timeout_s=3)
    assert await one.ask(Ping(), timeout_s=3) == Pong()


async def test_a_late_answer_is_unasked(wire, autojump_clock):
    """What answers a question that nobody asks any more is handed up like any other message."""
    _, two = wire.open()
    two.send(JoinRefuse(code=3), answers=77)
    two.send(Features())
    await trio.sleep(1)
    assert [type(item.message) for item in wire.unasked[1]] == [JoinRefuse, Features]


async def test_a_dead_line_is_noticed(wire, autojump_clock):
    """When nothing is acknowledged the link says so once, and does not try for ever."""
    one, _ = wire.open()
    wire.lose = lambda sid, number: True
    one.send(Features())
    with trio.fail_after(120):
        await one.closed.wait()
    sent = wire.sent
    await trio.sleep(600)
    assert wire.sent == sent


async def test_closing_fails_the_open_questions(wire, autojump_clock):
    """Whoever waits on a closed link learns it at once."""
    one, _ = wire.open()
    wire.lose = lambda sid, number: True

    async def close_soon():
        await trio.sleep(0.1)
        one.close()

    wire.nursery.start_soon(close_soon)
    with pytest.raises(LocalProtocolError, match="closed"):
        await one.ask(Ping(), timeout_s=60)
    with pytest.raises(LocalProtocolError):
        one.send(Features())


async def test_flush_waits_for_the_acknowledgement(wire, autojump_clock):
    """A message whose first try is lost is still delivered before `flush` returns."""
    one, _ = wire.open()
    wire.lose = lambda sid, number: number == 1
    one.send(Features(release="1"))
    await one.flush(timeout_s=10)
    assert [item.message for item in wire.unasked[2]] == [Features(release="1")]


async def test_a_long_message_arrives_whole(wire, autojump_clock):
    """A grant of many chunks arrives through loss as it was sent."""
    one, _ = wire.open()
    wire.lose = lambda sid, number: number % 5 == 0
    grant = JoinGrant(
        genesis=b"g" * 9000, network_name="home", k_net=bytes(32), credential=b"c" * 5000
    )
    one.send(grant)
    await one.flush(timeout_s=30)
    assert [item.message for item in wire.unasked[2]] == [grant]
