"""Whose links are kept alive, with whom silences are tested, and who gets an answer."""

from __future__ import annotations

import math
import random
from types import SimpleNamespace

import pytest

from tests.unit.daemon.nodes import running, until
from veilnet.daemon.nat import silences
from veilnet.daemon.nat.silences import Silences
from veilnet.networks.endpoint import Endpoint
from veilnet.protocol import handshake as vnh1
from veilnet.protocol.messages import Ping
from veilnet.protocol.nat_messages import SilenceTest

OWN, COMMONS = b"own", b"commons"


class Links:
    """A node with links of several kinds, that notes what is tested and probed."""

    def __init__(self):
        self.rng = random.Random(1)
        self.networks = {OWN: object()}
        self.links, self.havens, self.used = [], set(), set()
        self.spawned, self.probed = [], []
        self.strangers = SimpleNamespace(holds=lambda each: each.sid in self.havens)
        self.relaying = SimpleNamespace(uses=lambda each: each.sid in self.used)
        self.sessions = SimpleNamespace(carriers=lambda: self.links)
        self.engine = SimpleNamespace(probe=self.probed.append)
        self.made = Silences(self)

    def add(self, network, *, host, initiator=True, haven=False, used=False, data_s=math.inf):
        """Add a link that has been idle for *data_s*."""
        sid = len(self.links) + 1
        session = SimpleNamespace(
            sid=sid,
            network_id=network,
            peer_id=b"peer %d" % sid,
            mode=vnh1.Mode.FULL,
            initiator=initiator,
            endpoint=Endpoint(host, 9),
            retiring=False,
            stats=SimpleNamespace(data_s=data_s, sent_s=100.0, heard_s=100.0),
        )
        self.links.append(session)
        self.havens |= {sid} if haven else set()
        self.used |= {sid} if used else set()
        return session

    def statistics(self):
        """Counters of each link."""
        return {each.sid: each.stats for each in self.links}

    def spawn(self, task, *args):
        """Note a test."""
        self.spawned.append(args)

    def tested(self):
        """Begin a test; return whom with, its length and how many must agree."""
        self.spawned.clear()
        self.made._testing = None
        self.made._test_due_s = 0.0
        self.made.look(1.0)
        return self.spawned[0] if self.spawned else None

    def dies(self):
        """Have the next test fail, if there is one."""
        found = self.tested()
        if found is not None:
            _, silent_s, by, needed = found
            self.made.keepalive.died(silent_s, by=by, needed=needed)
        return found


@pytest.fixture
def node():
    """A node without links."""
    return Links()


def test_strangers_are_not_asked_and_their_links_not_kept(node):
    """Even if nobody else is there; what they say would shorten every silence."""
    for number in range(5):
        node.add(COMMONS, host=f"20.{number}.0.1", initiator=False, used=True)
        node.add(COMMONS, host=f"20.{number}.0.2")
    node.made.keepalive.died(5.0)
    node.made.keepalive.died(5.0)
    assert node.made.keepalive.is_short
    assert node.tested() is None
    assert node.probed == []


def test_members_havens_and_relays_in_use_are_kept(node):
    """What members taught holds for them all."""
    kept = [
        node.add(OWN, host="20.1.0.1", initiator=False),
        node.add(COMMONS, host="20.2.0.1", haven=True),
        node.add(COMMONS, host="20.3.0.1", used=True),
    ]
    node.made.keepalive.died(5.0)
    node.made.keepalive.died(5.0)
    node.made._test_due_s = math.inf
    node.made.look(1.0)
    assert node.probed == [each.sid for each in kept]


def test_the_only_member_is_believed(node):
    """Nobody else could tell."""
    member = node.add(OWN, host="20.1.0.1")
    node.add(COMMONS, host="20.2.0.1", haven=True)
    assert node.dies()[0] is node.dies()[0] is member
    assert node.made.keepalive.is_short


def test_of_several_members_two_must_agree(node):
    """The second is asked next, and while it is busy nobody is believed."""
    first, second = node.add(OWN, host="20.1.0.1"), node.add(OWN, host="20.1.0.2", data_s=0.0)
    assert node.dies()[0] is first
    assert node.tested() is None
    second.stats.data_s = math.inf
    assert not node.made.keepalive.is_short
    assert node.dies()[0] is second
    assert node.made.keepalive.is_short


def test_a_member_on_the_lan_does_not_hide_the_translator(node):
    """It would come through any silence; where all are near, though, all count."""
    far = node.add(OWN, host="20.1.0.1")
    near = [node.add(OWN, host=f"192.168.0.{number}") for number in (1, 2)]
    assert node.dies()[0] is node.dies()[0] is far
    assert node.made.keepalive.is_short
    node.links.remove(far)
    assert node.dies()[0] in near


@pytest.mark.parametrize("hosts", [("20.1.0.1",), ("20.1.0.1", "20.1.0.7")])
def test_havens_in_one_place_teach_nothing(node, hosts):
    """Ids in the commons are free: they may be one and the same."""
    for host in hosts:
        node.add(COMMONS, host=host, haven=True)
    assert node.tested() is None


def test_without_a_member_two_havens_teach(node):
    """They are in different places, and agree."""
    both = {node.add(COMMONS, host=f"20.{n}.0.1", haven=True).sid for n in (1, 2)}
    assert {node.dies()[0].sid, node.dies()[0].sid} == both
    assert node.made.keepalive.is_short


async def test_strangers_get_an_answer_only_where_they_reserved(tmp_path, monkeypatch):
    """And never in the places that members have."""
    monkeypatch.setattr(silences, "STRANGERS_ANSWERS_MAX", 1)
    async with (
        running(tmp_path, "relay", commons="test", relay="all") as relay,
        running(tmp_path, "bob", commons="test") as bob,
    ):
        place = Endpoint("127.0.0.1", relay.engine.port)
        session = await bob.strangers.open(relay.commons.peer_id, (place,))
        made = relay.paths.direct.punching.silences
        await until(lambda: relay.sessions.carrier(relay.commons.id, bob.commons.peer_id))

        async def asks():
            session.link.send(SilenceTest(after_ms=60_000))
            await session.link.ask(Ping(payload=b"?"), timeout_s=5)
            return len(made._answering), len(made._answering_strangers)

        assert await asks() == (0, 0)
        await until(lambda: bob.relaying.offer(session))
        bob.relaying.reserve(session)
        await until(lambda: relay.relaying.service.reservations)
        assert await asks() == (0, 1)
        await bob.discovery.dht.knock(place)
        lookup = next(each for each in bob.sessions if each.mode is vnh1.Mode.LOOKUP)
        lookup.link.send(SilenceTest(after_ms=60_000))
        await lookup.link.ask(Ping(payload=b"?"), timeout_s=5)
        assert (len(made._answering), len(made._answering_strangers)) == (0, 1)
