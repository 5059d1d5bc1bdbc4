"""Lookup sessions of our own: shared by questions, left when they are silent; on doubles."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import trio

from veilnet.daemon.commons.asking import ASKED_S, SESSIONS_MAX, Asking
from veilnet.errors import TimedOut
from veilnet.networks.endpoint import Endpoint

THERE = Endpoint("9.9.9.9", 1)


class FakeLink:
    """Answers a number after so many seconds; None: never."""

    def __init__(self):
        self.closed = trio.Event()
        self.sent = []

    async def ask(self, message, *, timeout_s):
        """Answer."""
        assert not self.closed.is_set()
        if message is None:
            await trio.sleep(timeout_s)
            raise TimedOut("silence")
        with trio.move_on_after(message):
            await self.closed.wait()
            raise TimedOut("closed")
        return message

    def send(self, message):
        """Take a message."""
        self.sent.append(message)


class FakeNode:
    """Opens sessions at once."""

    def __init__(self):
        self.opened = []
        self.blocked = SimpleNamespace(reach=self.reach)

    async def reach(self, _where, _call):
        """Open one."""
        await trio.lowlevel.checkpoint()
        session = SimpleNamespace(link=FakeLink(), established_s=trio.current_time())
        self.opened.append(session)
        return session

    def end(self, session, *, reason):
        """Close one."""
        del reason
        session.link.closed.set()

    @property
    def live(self):
        """How many are open."""
        return sum(not session.link.closed.is_set() for session in self.opened)


@pytest.fixture
def node():
    """A node."""
    return FakeNode()


async def test_a_silent_question_does_not_fail_the_others(node, autojump_clock):
    """The session is left, others on it get their answers, and then it is closed."""
    asking, answers = Asking(node, None), []

    async def ask(pause_s, message):
        await trio.sleep(pause_s)
        answers.append(await asking.ask(THERE, message))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, 1.5, 1.5)
        with pytest.raises(TimedOut):
            await asking.ask(THERE, None)
        assert node.live == 1
        assert len(asking) == 0
        nursery.start_soon(ask, 0, 0.1)
        await trio.sleep(0.5)
        assert answers == [0.1]
        assert len(node.opened) == 2
    assert answers == [0.1, 1.5]
    assert node.live == len(asking) == 1


async def test_a_session_that_answers_others_is_kept(node, autojump_clock):
    """It lives: only that question was not answered."""
    asking = Asking(node, None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(asking.ask, THERE, 1.0)
        with pytest.raises(TimedOut):
            await asking.ask(THERE, None)
    assert await asking.ask(THERE, 0.1) == 0.1
    assert len(node.opened) == node.live == 1


async def test_a_session_about_to_end_is_asked_nothing(node, autojump_clock):
    """However often it was used; what was asked in time is answered in time."""
    asking = Asking(node, None)
    await asking.ask(THERE, 0)
    await trio.sleep(ASKED_S - 0.5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(asking.ask, THERE, 1.5)
        await trio.sleep(1)
        assert await asking.ask(THERE, 0) == 0
        assert len(node.opened) == node.live == 2
    assert node.live == 1
    await trio.sleep(ASKED_S)
    await asking.look()
    assert node.live == len(asking) == 0


async def test_sessions_are_bounded(node, autojump_clock):
    """The one not used for longest goes."""
    asking = Asking(node, None)
    for port in range(1, SESSIONS_MAX + 10):
        await asking.ask(Endpoint("9.9.9.9", port), 0)
        await asking.ask(Endpoint("9.9.9.9", 1), 0)
    assert node.live == len(asking) == SESSIONS_MAX
    assert not node.opened[0].link.closed.is_set()
