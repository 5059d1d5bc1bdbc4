"""Whose links are kept alive, with whom silences are tested, and who gets an answer."""

from __future__ import annotations

import math
import random
from types import SimpleNamespace

import pytest
import trio

from tests.unit.daemon.nodes import pair, running, session_of, until
from veilnet.daemon.nat import silences
from veilnet.daemon.nat.silences import Silences
from veilnet.nat.classify import Mapping
from veilnet.networks.endpoint import Endpoint
from veilnet.protocol import handshake as vnh1
from veilnet.protocol.messages import Ping
from veilnet.protocol.nat_messages import SilenceLimit, SilenceTest

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
        self.allowed = {}
        self.engine = SimpleNamespace(
            probe=self.probed.append, set_keepalive=self.allowed.__setitem__
        )
        self.mapping = Mapping.INDEPENDENT
        self.gossip = SimpleNamespace(nat=lambda _: SimpleNamespace(mapping=self.mapping))
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
            silence_told_s=28,
            silence_heard_s=28,
            said=[],
            stats=SimpleNamespace(data_s=data_s, sent_s=100.0, heard_s=100.0),
        )
        session.link = SimpleNamespace(send=session.said.append)
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


def survives(node):
    """Have the next test hold; return whom with and its length."""
    session, silent_s, by, _ = node.tested()
    node.made.keepalive.survived(silent_s, by=by)
    return session, silent_s


def test_a_long_silence_is_agreed_on_by_two_and_told(node):
    """Beyond 28 s two have to say that it was survived; then each end hears of it."""
    both = [node.add(OWN, host=f"20.1.0.{number}") for number in (1, 2)]
    while node.made.keepalive.survived_s < 20.0:
        survives(node)
    assert [each.said for each in both] == [[], []]
    (first, once_s), (second, again_s) = survives(node), survives(node)
    assert first is not second
    assert once_s == again_s == 40.0
    node.made.look(2.0)
    assert [each.said for each in both] == [[SilenceLimit(longest_s=32)]] * 2
    # Nothing changes until the peer allows it too; the shorter holds.
    assert set(node.allowed.values()) == {28}
    node.made.limited(first, 120)
    assert node.allowed == {first.sid: 32, second.sid: 28}
    node.made.limited(first, 30)
    assert node.allowed[first.sid] == 30


def test_beyond_what_all_bear_nothing_is_tested_with_one(node):
    """While it is silent nobody else could reach us."""
    node.add(OWN, host="20.1.0.1")
    while node.made.keepalive.survived_s < 20.0:
        survives(node)
    assert node.tested() is None


def test_one_liar_makes_no_silence_longer(node):
    """It keeps the translator awake by what we do not see; another says what is true."""
    for number in (1, 2):
        node.add(OWN, host=f"20.1.0.{number}")
    while node.made.keepalive.survived_s < 20.0:
        survives(node)
    for _ in range(60):
        if (found := node.tested()) is None:
            continue  # enough is known; later more is hoped for
        session, silent_s, by, needed = found
        if session.sid == 1:
            node.made.keepalive.survived(silent_s, by=by)
        else:
            node.made.keepalive.died(silent_s, by=by, needed=needed)
    assert node.made.keepalive.longest_s == 28.0


@pytest.mark.parametrize(
    ("mapping", "host", "ours_s"),
    [(Mapping.OPEN, "20.1.0.1", 120), (Mapping.UNKNOWN, "20.1.0.1", 28),
     (Mapping.INDEPENDENT, "2001:db8::1", 28)],
)  # fmt: skip
def test_who_is_told_tells(node, mapping, host, ours_s):
    """Who has no translator allows two minutes; of another IP version nothing is known."""
    session = node.add(OWN, host=host)
    node.mapping = mapping
    node.made.keepalive.survived(20.0)
    for by in (1, 2):
        node.made.keepalive.survived(80.0, by=by)
    node.made.limited(session, 100)
    assert node.allowed == {session.sid: min(100, ours_s)}
    assert session.said == ([SilenceLimit(longest_s=ours_s)] if ours_s != 28 else [])


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


async def test_the_engine_is_silent_for_as_long_as_a_test_lasts(tmp_path):
    """Longer than its own keepalives let a link be, and than an end waits that stands in."""
    async with pair(tmp_path) as (alice, bob):
        session = session_of(alice, bob)
        await trio.sleep(3.0)  # what a new session says is said
        made = alice.paths.direct.punching.silences
        assert await made._came(session, 31.0)
