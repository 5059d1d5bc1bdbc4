"""What is known from before: saved contacts and known members."""

from __future__ import annotations

from typing import NamedTuple

from trio.testing import wait_all_tasks_blocked

from tests.unit.daemon.ladder.steps import drained, started
from veilnet.daemon.ladder import Found
from veilnet.daemon.ladder.saved import KNOWN_MAX, SAMPLE, Known, Saved
from veilnet.networks.endpoint import Endpoint

COMMONS = b"c" * 32


class Contact(NamedTuple):
    """What a cache holds."""

    id: bytes
    endpoint: Endpoint


class Cache:
    """As much of discovery's cache as the step asks for."""

    def __init__(self, contacts):
        self.contacts = contacts

    def sample(self, count):
        """Return the first ones."""
        return self.contacts[:count]


async def climbed(nursery, step):
    """Return the ladder and everything found in its first climb."""
    ladder = await started(nursery, step)
    got = []
    while True:
        await wait_all_tasks_blocked()
        if not (more := drained(ladder)):
            return ladder, got
        got += more


async def test_saved_contacts_are_passed_on_as_places_of_the_commons(nursery, autojump_clock):
    """Their ids of the last run mean nothing: a node of the commons has another at each start."""
    del autojump_clock
    places = [Endpoint(f"192.0.2.{n}", 9) for n in range(1, 251)]
    cache = Cache([Contact(b"i" * 32, place) for place in places])
    _, got = await climbed(nursery, Saved(cache, COMMONS))
    assert got == [Found(place, "saved", COMMONS) for place in places[:SAMPLE]]


async def test_an_empty_cache_is_said_so(nursery, autojump_clock):
    """A first start has none, and that is told with what to do."""
    del autojump_clock
    ladder, got = await climbed(nursery, Saved(Cache([]), COMMONS))
    assert got == []
    assert ladder.report()[0]["failed"] == "no contact is saved"
    assert ladder.report()[0]["remedy"]


async def test_everybodys_first_place_comes_before_anybodys_second(nursery, autojump_clock):
    """One member with many dead endpoints does not hold up the others."""
    del autojump_clock
    known = [
        Found(Endpoint(f"192.0.2.{place}", peer), "known", b"n" * 32, bytes([peer]) * 32)
        for peer in (1, 2, 3)
        for place in (1, 2)
    ]
    _, got = await climbed(nursery, Known(lambda: known))
    assert [(item.endpoint.port, item.endpoint.host[-1]) for item in got] == [
        (1, "1"),
        (2, "1"),
        (3, "1"),
        (1, "2"),
        (2, "2"),
        (3, "2"),
    ]
    assert got[0].peer == b"\1" * 32


async def test_a_large_network_is_tried_in_part(nursery, autojump_clock):
    """At most KNOWN_MAX places in one climb."""
    del autojump_clock
    known = (
        Found(Endpoint(f"10.0.{n // 250}.{n % 250 + 1}", 9), "known", b"n" * 32, n.to_bytes(32))
        for n in range(5_000)
    )
    _, got = await climbed(nursery, Known(lambda: known))
    assert len(got) == KNOWN_MAX
