"""Whether UDP leads anywhere: what is taken for a sign, and for how long."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import trio

from veilnet.daemon import blocked as module
from veilnet.daemon.blocked import (
    HEAD_START_S,
    MISSED_MAX,
    UNKNOWN_START_S,
    VERDICT_S,
    Blocked,
)
from veilnet.errors import InternalError, PeerUnreachable
from veilnet.networks.endpoint import Endpoint

ONE, OTHER, THIRD = (Endpoint(f"8.8.{at}.8", 7) for at in range(3))
LAN = Endpoint("192.168.1.4", 7)
UDP_S, TCP_S = 2.0, 0.2


class FakeCarriers:
    """Connects wherever `listen` says, with a stand-in that tells."""

    def __init__(self, *_):
        self.dialled = []
        self.deaf = False

    def moved(self):
        """Close what is tied to the address of before."""

    async def connect(self, endpoint):
        """Return a stand-in."""
        self.dialled.append(endpoint)
        await trio.sleep(TCP_S)
        if self.deaf:
            raise PeerUnreachable("nobody takes carriers there")
        return Endpoint("100:1::1", 1)


@pytest.fixture
def blocked(monkeypatch):
    """What is tested, without an engine."""
    monkeypatch.setattr(module, "Carriers", FakeCarriers)
    monkeypatch.setattr(module._engine.Carriers, "open", lambda: None, raising=False)
    return Blocked(SimpleNamespace(engine=None))


class Calls:
    """Calls over UDP that are answered or not, and over TCP that are."""

    def __init__(self, *, udp):
        self.udp = udp
        self.made = []

    async def __call__(self, where):
        """Call."""
        over_tcp = where[0].host.startswith("100:1:")
        self.made.append("tcp" if over_tcp else "udp")
        if not over_tcp and not self.udp:
            await trio.sleep(UDP_S)
            raise PeerUnreachable("silence")
        await trio.sleep(0.1)
        return self.made[-1]


async def test_two_silent_prefixes_are_a_sign(blocked, autojump_clock):
    """Ports, hosts of one prefix, addresses of one node and of the LAN are no two."""
    assert not blocked.missed((ONE, OTHER))
    assert not blocked.missed((ONE,))
    assert not blocked.missed((Endpoint("8.8.0.9", 7), Endpoint("8.8.0.8", 8)))
    assert not blocked.missed((LAN, Endpoint("192.168.2.4", 7), Endpoint("100:1::1", 1)))
    assert blocked.missed((THIRD,))
    assert blocked.udp_is_dead


async def test_who_answered_once_outweighs_any_silence(blocked, autojump_clock):
    """As long as this host stays where it is; a neighbour's answer says nothing."""
    blocked.answered(LAN)
    blocked.answered(Endpoint("100:1::1", 1))
    blocked.missed((ONE,))
    assert blocked.missed((OTHER,))
    blocked.answered(THIRD)
    assert not blocked.udp_is_dead
    blocked.missed((ONE,))
    assert not blocked.missed((OTHER,))
    blocked.moved()
    blocked.missed((ONE,))
    assert blocked.missed((OTHER,))


async def test_old_silence_is_no_sign(blocked, autojump_clock):
    """Two contacts that died a long time apart do not switch UDP off, and few are kept."""
    blocked.missed((ONE,))
    await trio.sleep(VERDICT_S)
    assert not blocked.missed((OTHER,))
    blocked.answered(ONE)
    for at in range(2 * MISSED_MAX):
        blocked.missed((Endpoint(f"9.9.{at}.1", 7),))
    assert len(blocked._missed) == MISSED_MAX


async def test_a_verdict_expires_and_udp_is_tried_again(blocked, autojump_clock):
    """Two silent strangers cost a minute: then the next call goes over UDP, and that is that."""
    calls = Calls(udp=True)
    blocked.missed((ONE,))
    blocked.missed((OTHER,))
    assert await blocked.reach((THIRD,), calls) == "tcp"
    await trio.sleep(VERDICT_S)
    assert not blocked.udp_is_dead
    assert blocked.udp_is_doubtful
    assert await blocked.reach((THIRD,), calls) == "udp"
    blocked.answered(THIRD)  # as the handshake's end does
    assert not blocked.udp_is_doubtful
    assert blocked.carriers.dialled == [THIRD]


async def test_where_udp_is_blocked_that_is_noticed_and_stays_known(blocked, autojump_clock):
    """Two calls wait for UDP; later every call takes a moment longer, and none waits for it."""
    calls, start = Calls(udp=False), trio.current_time()
    assert await blocked.reach((ONE,), calls) == "tcp"
    assert await blocked.reach((OTHER,), calls) == "tcp"
    assert trio.current_time() - start < 2 * UDP_S + 1
    for _ in range(3):
        await trio.sleep(VERDICT_S)
        for where, is_dead in ((ONE, False), (OTHER, True), (THIRD, True)):
            began = trio.current_time()
            assert await blocked.reach((where,), calls) == "tcp"
            assert trio.current_time() - began < HEAD_START_S + TCP_S + 0.2
            assert blocked.udp_is_dead == is_dead


async def test_one_silent_node_is_called_over_tcp_too_while_nobody_answered(
    blocked, autojump_clock
):
    """It may be all that a new device knows; whose UDP works does not spend a connection on it."""
    calls = Calls(udp=False)
    assert await blocked.reach((ONE,), calls) == "tcp"
    assert calls.made == ["udp", "tcp"]
    assert not blocked.udp_is_dead
    blocked.carriers.deaf = True
    with pytest.raises(PeerUnreachable, match="silence"):
        await blocked.reach((ONE,), calls)
    blocked.answered(THIRD)
    dialled = len(blocked.carriers.dialled)
    with pytest.raises(PeerUnreachable, match="silence"):
        await blocked.reach((ONE,), calls)
    assert len(blocked.carriers.dialled) == dialled


async def test_who_is_all_that_is_known_is_called_over_tcp_soon(blocked, autojump_clock):
    """A joiner does not wait for the inviter's silence; where UDP answers TCP is not needed."""
    for each in (OTHER, THIRD):
        blocked.missed((each,))
    blocked.carriers.deaf = True
    assert blocked.udp_is_dead
    assert await blocked.reach((ONE,), Calls(udp=True), only=True) == "udp"
    blocked.carriers.deaf = False
    blocked.moved()
    calls = Calls(udp=False)
    began = trio.current_time()
    assert await blocked.reach((ONE,), calls, only=True) == "tcp"
    assert trio.current_time() - began < UNKNOWN_START_S + TCP_S + 0.2
    assert await blocked.reach((ONE,), Calls(udp=True), only=True) == "udp"
    assert len(blocked.carriers.dialled) == 1
    with pytest.raises(PeerUnreachable, match="silence"):
        await blocked.reach((LAN,), calls, only=True)
    blocked.answered(THIRD)
    with pytest.raises(PeerUnreachable, match="silence"):
        await blocked.reach((ONE,), calls, only=True)
    assert len(blocked.carriers.dialled) == 1


async def test_addresses_of_the_internet_are_dialled_together(blocked, autojump_clock):
    """A black hole does not use up the time of the next; private ones come last."""
    connect = blocked.carriers.connect

    async def hole(endpoint):
        if endpoint == ONE:
            blocked.carriers.dialled.append(endpoint)
            await trio.sleep(5)
            raise PeerUnreachable("nobody")
        return await connect(endpoint)

    blocked.carriers.connect = hole
    began = trio.current_time()
    assert await blocked.ways((LAN, ONE, OTHER, THIRD))
    assert blocked.carriers.dialled == [ONE, OTHER]
    assert trio.current_time() - began < 2 * HEAD_START_S
    began = trio.current_time()
    assert await blocked.ways((LAN, ONE))
    assert blocked.carriers.dialled[-2:] == [ONE, LAN]
    assert trio.current_time() - began < 2 * HEAD_START_S


async def test_whatever_ails_a_carrier_is_said_as_it_is(blocked, autojump_clock):
    """Not as a group of one; UDP beside it is not disturbed."""

    async def broken(_):
        raise InternalError("no descriptors left")

    blocked.carriers.connect = broken
    with pytest.raises(InternalError):
        await blocked.ways((ONE, OTHER))
    slow = Calls(udp=True)

    async def call(where):
        await trio.sleep(2 * UNKNOWN_START_S)
        return await slow(where)

    assert await blocked.reach((ONE,), call, only=True) == "udp"


async def test_a_race_that_nobody_wins_fails(blocked, autojump_clock):
    """The miss counts once, and the caller hears why."""
    blocked.carriers.deaf = True
    blocked.missed((ONE,))
    blocked.missed((OTHER,))
    await trio.sleep(VERDICT_S)
    with pytest.raises(PeerUnreachable, match="silence"):
        await blocked.reach((THIRD,), Calls(udp=False))
    assert not blocked.udp_is_dead
