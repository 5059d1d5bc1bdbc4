"""The shell of discovery, on doubles: questions, sessions, knocks."""

from __future__ import annotations

import itertools
import random
from collections import OrderedDict
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import trio
import trio.testing

from tests.unit.networks.world import backend, identity, seeded
from veilnet.daemon.bootstrap import KNOCKS_MAX, Bootstrap
from veilnet.daemon.commons.asking import OPENINGS_MAX
from veilnet.daemon.commons.dht import Dht
from veilnet.daemon.commons.discovery import LOOK_S, Discovery
from veilnet.daemon.commons.publishing import Publishing
from veilnet.daemon.host import unix_now
from veilnet.daemon.ladder import Found
from veilnet.discovery import events
from veilnet.discovery.descriptor import LIFE_S, Descriptor, seal
from veilnet.discovery.locator import secret_of
from veilnet.errors import LocalProtocolError, PeerUnreachable
from veilnet.networks.endpoint import Endpoint
from veilnet.protocol import handshake as vnh1
from veilnet.protocol.dht_messages import FindNodes, Nodes
from veilnet.protocol.messages import Envelope

ASKED = Endpoint("9.9.9.9", 1)


class FakeLink:
    """Keeps what is sent over it."""

    def __init__(self):
        self.sent = []

    def send(self, message, *, answers=None):
        """Take a message."""
        self.sent.append((message, answers))


def session(mode, *, initiator):
    """Return a session, as far as a question that comes in it is concerned."""
    return SimpleNamespace(
        mode=mode,
        initiator=initiator,
        endpoint=ASKED,
        sid=1,
        peer_id=b"p" * 32,
        link=FakeLink(),
    )


class FakeBlocked:
    """Keeps who proved itself over UDP."""

    def __init__(self):
        self.heard = []

    def place(self, endpoint):
        """Return where an endpoint really is."""
        return endpoint

    def answered(self, endpoint):
        """Take a sign of UDP."""
        self.heard.append(endpoint)


def fake_node():
    """Return a node that does nothing."""
    return SimpleNamespace(rng=random.Random(1), blocked=FakeBlocked())


async def made(node=None):
    """Return a Dht."""
    return Dht(node or fake_node(), SimpleNamespace(peer_id=b"w" * 32))


@pytest.mark.parametrize(
    ("mode", "initiator", "answered"),
    [
        (vnh1.Mode.LOOKUP, False, True),
        (vnh1.Mode.LOOKUP, True, False),
        (vnh1.Mode.FULL, True, True),
    ],
)
async def test_who_is_asked_anonymously_does_not_learn_our_id(mode, initiator, answered):
    """A question in a lookup that we opened stays without an answer: it would say our id."""
    asked = session(mode, initiator=initiator)
    (await made()).asked(asked, Envelope(id=7, message=FindNodes(target=bytes(32))))
    assert [(type(said), number) for said, number in asked.link.sent] == [(Nodes, 7)] * answered


async def test_who_asks_us_shows_that_udp_leads_here():
    """Its question came over UDP, in a session of its own; so does a link that it opened."""
    node = fake_node()
    asker = session(vnh1.Mode.LOOKUP, initiator=False)
    (await made(node)).asked(asker, Envelope(id=7, message=FindNodes(target=bytes(32))))
    assert node.blocked.heard == [ASKED]
    found = Discovery.__new__(Discovery)
    found._node = node
    found.met(session(vnh1.Mode.FULL, initiator=False))
    assert node.blocked.heard == [ASKED, ASKED]


async def test_a_flood_on_the_ladder_leaves_room_for_questions(nursery):
    """A few are knocked at, and another for each that ends."""
    found = Bootstrap.__new__(Bootstrap)
    send, contacts = trio.open_memory_channel(100)
    going, begun = trio.Semaphore(0), []

    async def knock(endpoint):
        begun.append(endpoint)
        await going.acquire()
        raise PeerUnreachable("nobody")

    found._node = SimpleNamespace(
        channels=SimpleNamespace(outside=lambda endpoints: endpoints), spawn=nursery.start_soon
    )
    found._discovery = SimpleNamespace(dht=SimpleNamespace(knock=knock))
    found._climb = SimpleNamespace(ladder=SimpleNamespace(contacts=contacts))
    found._knocks = trio.Semaphore(KNOCKS_MAX)
    for port in range(1, 51):
        send.send_nowait(Found(Endpoint("9.9.9.9", port), "lan"))
    nursery.start_soon(found._meet)
    await trio.testing.wait_all_tasks_blocked()
    assert len(begun) == KNOCKS_MAX < OPENINGS_MAX / 2
    for _ in range(3):
        going.release()
    await trio.testing.wait_all_tasks_blocked()
    assert len(begun) == KNOCKS_MAX + 3
    send.close()
    for _ in range(50):
        going.release()


@pytest.mark.parametrize("error", [LocalProtocolError("too many lookups"), ValueError("a bug")])
async def test_a_put_that_breaks_off_is_over(error):
    """The publisher hears of it, and tries again later; a bug is still told."""
    ended = []

    async def run_put(_):
        raise error

    publishing = Publishing.__new__(Publishing)
    publishing._dht = SimpleNamespace(run_put=run_put)
    publisher = SimpleNamespace(done=lambda result, _: ended.append(result))
    put = events.Put(9, bytes(32), b"blob")
    with (
        pytest.raises(ValueError, match="a bug") if isinstance(error, ValueError) else nullcontext()
    ):
        await publishing._put(publisher, put)
    assert ended == [events.Failed(9, events.Reason.NOT_STORED)]


async def test_where_nobody_becomes_a_contact_the_climbs_grow_rare():
    """Members who are all behind translators answer each other, and no table takes them."""
    found = Discovery.__new__(Discovery)
    table, climbs = SimpleNamespace(answering=0), []
    found.dht = SimpleNamespace(machine=SimpleNamespace(table=table))
    ladder = SimpleNamespace(has_won=True, lost=lambda: climbs.append(now_s))
    found._node = SimpleNamespace(bootstrap=SimpleNamespace(ladder=ladder))
    found._again_s, found._again_pause_s = 0.0, LOOK_S
    for number in range(3_600):
        now_s = float(number)
        found._climb_if_lost(now_s)
    pauses = [after - before for before, after in itertools.pairwise(climbs)]
    assert pauses[:4] == [5.0, 10.0, 20.0, 40.0]
    assert set(pauses[7:]) == {300.0}
    # A contact that was there and is gone is missed at once.
    table.answering = 1
    found._climb_if_lost(now_s)
    table.answering = 0
    now_s += 1.0
    found._climb_if_lost(now_s)
    assert climbs[-1] == now_s


async def test_who_was_not_reached_where_it_was_is_looked_for_where_it_is():
    """Storers that it cannot reach any more agree on the past, before one tells the present."""
    peer, k_net = identity(1), b"k" * 32
    secret = secret_of(k_net)

    def stored(seq, day):
        said = Descriptor(peer_id=peer.peer_id, seq=seq, expires_s=int(unix_now()) + LIFE_S)
        return seal(said, peer, secret, day, rng=seeded(seq))[1]

    kept = [7, 7, 9]

    async def get(_, holds):
        day = holds.args[0]
        if not any(holds(stored(seq, day)) for seq in kept):
            raise PeerUnreachable("nothing that counts")

    found = Discovery.__new__(Discovery)
    found._node = SimpleNamespace(backend=backend())
    found._published = OrderedDict()
    found.dht = SimpleNamespace(get=get)
    network = SimpleNamespace(id=b"n" * 32, k_net=k_net, suite=1)

    async def seen(**options):
        return (await found.locate(network, peer.peer_id, **options)).seq

    assert await seen() == 7
    assert await seen() == 7
    assert await seen(anew=True) == 9
    # Nothing newer: what is known may still lead there, and nothing older does.
    kept[:] = [7, 9]
    assert await seen(anew=True) == 9
    kept.clear()
    assert await seen(anew=True) == 9
    found._published.clear()
    with pytest.raises(PeerUnreachable):
        await seen(anew=True)


async def test_words_that_lapse_are_no_news():
    """Where we were seen stands until somebody says otherwise or our own addresses change."""
    local, seen = [Endpoint("192.168.1.2", 1)], [Endpoint("9.9.9.9", 7)]

    async def local_endpoints():
        return list(local)

    node = SimpleNamespace(
        addresses=SimpleNamespace(local_endpoints=local_endpoints),
        gossip=SimpleNamespace(own_observed=lambda: list(seen)),
    )
    publishing = Publishing(node, None)
    first = await publishing._where()
    assert first == (Endpoint("9.9.9.9", 7), Endpoint("192.168.1.2", 1))
    seen.clear()
    assert await publishing._where() == first
    seen.append(Endpoint("9.9.9.9", 8))
    assert (await publishing._where())[0].port == 8
    seen.clear()
    local[:] = [Endpoint("192.168.7.2", 1)]
    assert await publishing._where() == (Endpoint("192.168.7.2", 1),)
