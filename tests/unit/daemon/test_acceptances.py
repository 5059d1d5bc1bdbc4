"""Who waits while many handshakes are being answered at once."""

from __future__ import annotations

from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
import trio
import trio.testing

from veilnet.daemon import handshakes
from veilnet.daemon.handshakes import Handshakes, Kind
from veilnet.protocol import handshake as vnh1


class Silent:
    """The answer to one who never authenticates itself."""

    sid = None

    def __init__(self, host, state=vnh1.Answering.WAITING):
        self.init = SimpleNamespace(source=(host, 41_000))
        self.state = state
        self.gone = False

    def start(self, now):
        """Wait."""
        del now
        return []

    def deadline(self):
        """Do not end by itself."""
        return

    def cancel(self):
        """Note it."""
        self.gone = True
        return []


class Engine:
    """What becomes of those whom nobody answers."""

    def __init__(self):
        self.dismissed = []

    def dismiss(self, init):
        """Note it."""
        self.dismissed.append(init)


@asynccontextmanager
async def house():
    """Handshakes, and a way to have some begin."""
    made = Handshakes(Engine(), trio.CapacityLimiter(1))
    async with trio.open_nursery() as nursery:

        async def come(kind, *guests):
            for guest in guests:
                nursery.start_soon(made.accept, guest, None, None, kind)
                await trio.testing.wait_all_tasks_blocked()

        yield made, come
        nursery.cancel_scope.cancel()


async def test_who_never_authenticates_keeps_nobody_out():
    """However many came through the open door, members, lookups and other strangers come in."""
    flood = [Silent("192.0.2.1") for _ in range(200)]
    for kind in Kind:
        async with house() as (made, come):
            await come(Kind.STRANGER, *flood)
            late = Silent("198.51.100.7")
            await come(kind, late)
            assert not late.gone
            assert late.init not in made._engine.dismissed
            assert sum(map(len, made._guests.values())) <= handshakes.STRANGERS_MAX + 1


async def test_the_greediest_place_makes_room():
    """Whoever fills the places from one prefix takes them from itself, not from others."""
    async with house() as (_, come):
        first = Silent("198.51.100.7")
        await come(Kind.STRANGER, first, *(Silent(f"192.0.2.{n}") for n in range(200)))
        assert not first.gone


@pytest.mark.parametrize("kind", Kind)
async def test_what_is_being_computed_is_not_thrown_away(kind):
    """A flood costs no more key exchanges than there are places."""
    async with house() as (made, come):
        guests = [Silent("192.0.2.1", vnh1.Answering.ENCAPSULATING) for _ in range(80)]
        await come(kind, *guests)
        places = handshakes._PLACES[kind]
        assert [guest.gone for guest in guests[:places]] == [False] * places
        assert made._engine.dismissed == [guest.init for guest in guests[places:]]
