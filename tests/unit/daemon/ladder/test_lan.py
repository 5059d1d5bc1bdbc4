"""What is made of datagrams on a link: whom to believe, whom to answer, and at what cost."""

from __future__ import annotations

import ipaddress
import random

import pytest

from tests.unit.daemon.ladder.steps import scope
from veilnet.daemon.ladder import lan
from veilnet.daemon.ladder.announcement import ANSWER, ASK, Announcement, seal
from veilnet.daemon.ladder.interfaces import Interface
from veilnet.daemon.ladder.multicast import Heard
from veilnet.networks.endpoint import Endpoint

OURS = scope(b"n", b"s")
COMMONS = scope(b"c", b"t", public=True)
UNIX = 1_750_000_000
LINK = Interface(
    3,
    "eth0",
    tuple(map(ipaddress.ip_interface, ("192.168.1.5/24", "fe80::5/64", "2001:db8:1::5/64"))),
)
PEER = b"q" * 32
rng = random.Random(1)


def heard(said, *, scope=OURS, host="192.168.1.9"):
    """Return *said* as a datagram from *host*."""
    data = seal(said, scope, now=UNIX, rng=rng.randbytes)
    return Heard(data, (host, 5), 6 if ":" in host else 4, LINK.index, to_group=True)


def said(*hosts, kind=ASK, peer=PEER):
    """Return an announcement."""
    return Announcement(kind, peer, tuple(Endpoint(host, 7) for host in hosts))


@pytest.fixture
def listener():
    """Return one that has heard nothing yet."""
    return lan.Listener(random.Random(2), now=0.0)


def hear(listener, datagram, *, now=0.0, scopes=(OURS, COMMONS)):
    """Return what *listener* makes of a datagram."""
    return listener.hear(datagram, scopes, LINK, now=now, unix=UNIX)


def test_an_ask_of_our_network_is_answered_and_its_endpoints_offered(listener):
    """Both sides learn from one exchange."""
    told = hear(listener, heard(said("192.168.1.9", "2001:db8:1::9")))
    assert told == (OURS, said("192.168.1.9", "2001:db8:1::9"), True)


def test_an_answer_is_not_answered(listener):
    """Two nodes do not answer each other for ever."""
    scope, _, answer = hear(listener, heard(said("192.168.1.9", kind=ANSWER)))
    assert (scope, answer) == (OURS, False)


def test_endpoints_beyond_the_link_are_not_believed(listener):
    """A neighbour cannot point us at a stranger."""
    told = hear(listener, heard(said("203.0.113.1", "192.168.1.9", "2001:db8:2::1")))
    assert told[1].endpoints == (Endpoint("192.168.1.9", 7),)


@pytest.mark.parametrize("host", ["203.0.113.9", "192.168.2.9", "2001:db8:2::9"])
def test_a_sender_beyond_the_link_is_not_heard(listener, host):
    """What a router let through is not from here."""
    assert hear(listener, heard(said("192.168.1.9"), host=host)) is None


def test_a_link_local_sender_is_heard(listener):
    """IPv6 asks the group from its link-local address."""
    assert hear(listener, heard(said("192.168.1.9"), host="fe80::9%eth0")) is not None


def test_we_do_not_find_ourselves(listener):
    """Our own announcement, or another of this host's interfaces, is no neighbour."""
    assert hear(listener, heard(said("192.168.1.9", peer=OURS.peer_id))) is None


def test_our_own_question_costs_nothing(listener):
    """The group brings it back to us: it takes no share of what may be read, and is forgotten."""
    own = heard(said("192.168.1.5"), host="192.168.1.5")
    for _ in range(1_000):
        listener.sent(own.data)
        assert hear(listener, own) is None
    assert not listener._sources
    for _ in range(2 * lan.OWN_MAX):
        listener.sent(rng.randbytes(20))
    assert len(listener._own) == lan.OWN_MAX


def test_strangers_are_not_answered(listener):
    """Who shares no network with us and is not of the commons meets silence."""
    other = scope(b"x", b"x")
    assert hear(listener, heard(said("192.168.1.9"), scope=other)) is None
    assert hear(listener, heard(said("192.168.1.9"), scope=COMMONS), scopes=(OURS,)) is None


def test_a_flood_of_one_costs_the_others_nothing(listener):
    """Somebody has a burst and then its rate; others are still heard."""
    flood = [heard(said("192.168.1.9")) for _ in range(200)]
    read = sum(hear(listener, datagram) is not None for datagram in flood)
    assert read == lan.SOURCE_BURST
    assert hear(listener, heard(said("192.168.1.10"), host="192.168.1.10")) is not None


def test_a_flood_of_many_costs_a_bounded_number_of_authentications(listener):
    """Sources can be forged; what is read of all together has a rate."""
    flood = [heard(said("192.168.1.9"), host=f"192.168.1.{n % 250 + 1}") for n in range(500)]
    assert sum(hear(listener, datagram) is not None for datagram in flood) == lan.READS_BURST
    again = [heard(said("192.168.1.9"), host=f"192.168.1.{n + 1}") for n in range(250)]
    assert sum(hear(listener, item, now=1.0) is not None for item in again) == lan.READS_PER_S


def test_tables_are_bounded(listener, monkeypatch):
    """Sources and neighbours have a limit each."""
    monkeypatch.setattr(lan, "SOURCES_MAX", 10)
    monkeypatch.setattr(lan, "NEIGHBOURS_MAX", 10)
    for n in range(60):
        datagram = heard(said("192.168.1.9", peer=bytes([n]) * 32), host=f"192.168.1.{n + 1}")
        hear(listener, datagram, now=float(n))
    assert len(listener._sources) == 10
    assert len(listener._neighbours) == 10


def test_of_a_full_commons_only_some_answer():
    """About ANSWERS of two hundred answer a newcomer; of a network of ours everybody would."""
    answers = 0
    for number in range(40):
        listener = lan.Listener(random.Random(number), now=0.0)
        for n in range(200):
            listener._met(COMMONS, said(peer=n.to_bytes(32)), 0.0)
        answers += hear(listener, heard(said("192.168.1.9"), scope=COMMONS))[2]
    assert answers <= 8
    assert hear(listener, heard(said("192.168.1.9"), scope=OURS))[2]


def test_the_link_shows_no_link_local_address():
    """It would mean nothing without a zone; IPv4 comes first."""
    assert LINK.shown() == ["192.168.1.5", "2001:db8:1::5"]
