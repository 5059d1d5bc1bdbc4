"""Havens: whom a node chooses, whom it keeps, and what it is to others; on doubles."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import trio
import trio.testing

from veilnet.daemon.commons.havens import PROBE_S, SHUNNED_S, CommonsLinks, Haven
from veilnet.daemon.searching import Search
from veilnet.errors import PeerUnreachable, TimedOut
from veilnet.networks.endpoint import Endpoint
from veilnet.protocol.messages import Pong

OWN = b"w" * 32
NEIGHBOURHOOD = "192.168.7."


def peer(number):
    """Return an id."""
    return bytes([number]) * 32


class FakeLink:
    """Answers until it is `deaf`."""

    def __init__(self):
        self.asked = 0
        self.deaf = False

    async def ask(self, _, *, timeout_s):
        """Answer, or not."""
        self.asked += 1
        if self.deaf:
            await trio.sleep(timeout_s)
            raise TimedOut("silence")
        return Pong()


class World:
    """Nodes that relay for strangers, and this node's parts as far as havens need them."""

    def __init__(self, nursery):
        self.there = {}
        """Who really is at an address."""
        self.claims = []
        self.sessions_by_id = {}
        self.dialled = []
        self.node = SimpleNamespace(
            config=SimpleNamespace(commons_relays=3),
            rng=random.Random(1),
            blocked=SimpleNamespace(place=lambda endpoint: endpoint),
            discovery=SimpleNamespace(
                relays=lambda: list(self.claims),
                is_near=lambda place: place.host.startswith(NEIGHBOURHOOD),
            ),
            relaying=SimpleNamespace(
                offer=lambda _: SimpleNamespace(for_strangers=True),
                reserve=lambda _: None,
                release=lambda _: None,
            ),
            sessions=SimpleNamespace(carrier=lambda _, peer_id: self.sessions_by_id.get(peer_id)),
            spawn=nursery.start_soon,
        )
        self.links = CommonsLinks(self.node, SimpleNamespace(id=b"c", peer_id=OWN))
        self.links.open = self.open

    def relay(self, number, host, *, claimed=None):
        """Add a node of an id; *claimed*: another says that it has that id."""
        place = Endpoint(host, 7)
        self.there[place] = peer(number)
        self.claims.append((peer(number) if claimed is None else peer(claimed), place))

    def meet(self, peer_id, place):
        """Have a session."""
        self.sessions_by_id[peer_id] = SimpleNamespace(
            peer_id=peer_id,
            endpoint=place,
            retiring=False,
            network_id=b"c",
            established_s=trio.current_time(),
            link=FakeLink(),
        )

    async def open(self, peer_id, endpoints):
        """Call somebody: only who has the id can answer."""
        (place,) = endpoints
        self.dialled.append((peer_id, place))
        await trio.lowlevel.checkpoint()
        if self.there[place] != peer_id:
            raise PeerUnreachable("another lives there")
        self.meet(peer_id, place)

    async def settle(self):
        """Look as often as it takes."""
        for _ in range(8):
            await self.links.look()
            await trio.sleep(1)

    @property
    def held(self):
        """Which nodes are havens."""
        return {haven.relay[0] for haven in self.links.havens()}


@pytest.fixture
async def world(nursery):
    """A world without anybody."""
    return World(nursery)


async def test_no_two_havens_are_of_one_prefix(world, autojump_clock):
    """Whoever fills a /24 or a /32 with relays is one haven; neighbours are each on their own."""
    for at in range(1, 9):
        world.relay(at, f"8.8.8.{at}")
        world.relay(10 + at, f"2600:1:{at}::1")
    await world.settle()
    assert len(world.held) == 2
    assert len({at > 10 for at in world.held}) == 2
    world.relay(30, "9.9.9.9")
    await world.settle()
    assert 30 in world.held


async def test_neighbours_are_each_on_their_own(world, autojump_clock):
    """In the network that this host is in, one prefix is not one holder."""
    for at in range(1, 4):
        world.relay(at, f"{NEIGHBOURHOOD}{at}")
    await world.settle()
    assert world.held == {1, 2, 3}


async def test_a_relay_whose_id_is_claimed_elsewhere_is_found(world, autojump_clock):
    """The claim leads nowhere, and shuns the claimed place alone."""
    world.relay(66, "6.6.6.6", claimed=1)
    world.relay(1, "8.8.8.8")
    await world.settle()
    assert world.held == {1}
    assert world.dialled == [(peer(1), Endpoint("6.6.6.6", 7)), (peer(1), Endpoint("8.8.8.8", 7))]


async def test_a_haven_that_does_not_answer_is_left(world, autojump_clock):
    """Every haven is asked for a sign of life; two silences in a row, and another takes over."""
    for at in range(1, 5):
        world.relay(at, f"8.8.{at}.8")
    await world.settle()
    first = set(world.held)
    assert len(first) == 3
    deaf = world.sessions_by_id[peer(min(first))].link
    for _ in range(int(1.5 * PROBE_S)):
        await world.links.look()
        await trio.sleep(1)
    assert all(world.sessions_by_id[peer(at)].link.asked in (1, 2) for at in first)
    deaf.deaf = True
    for _ in range(int(3 * PROBE_S)):
        await world.links.look()
        await trio.sleep(1)
    assert world.held == ({1, 2, 3, 4} - {min(first)})
    assert SHUNNED_S > 2 * PROBE_S / 3


async def test_who_is_the_haven_calls_where_its_guest_is(world, autojump_clock):
    """No circuit over ourselves: the link that the guest keeps shows where its NAT is open."""
    at = Endpoint("8.8.8.8", 9)
    mine = Haven(OWN, Endpoint("9.9.9.9", 7), peer(5))
    assert world.links.guest(mine) is None
    with pytest.raises(PeerUnreachable, match="this one"):
        await CommonsLinks.open(world.links, OWN, (mine.endpoint,))
    world.meet(peer(5), at)
    assert world.links.guest(mine) == at
    assert world.links.guest(Haven(peer(6), mine.endpoint, peer(5))) is None


async def test_a_search_calls_the_guest_of_ones_own(world, autojump_clock):
    """Who looks for a peer and is its haven calls it there, with no circuit."""
    search = Search.__new__(Search)
    search.known, search._offered = (), set()
    search.put, search.take = trio.open_memory_channel(1)
    at = Endpoint("8.8.8.8", 9)
    world.meet(peer(5), at)
    await search._try_haven(world.links, Haven(OWN, Endpoint("9.9.9.9", 7), peer(5)))
    assert search.take.receive_nowait().endpoint == at
