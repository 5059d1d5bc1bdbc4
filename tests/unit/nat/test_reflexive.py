"""Own addresses: who is believed, and what the ports that were seen tell."""

from __future__ import annotations

import pytest

from veilnet.nat import reflexive
from veilnet.nat.classify import Mapping, classify, stride_of
from veilnet.nat.reflexive import Reflexive

LOCAL = ("192.168.0.2", 41_000)


def told(*words, at=None):
    """What observers of as many places said, one after the other."""
    made = Reflexive()
    for number, said in enumerate(words):
        place = (f"20.{number if at is None else at}.0.{number + 1}", 4_000)
        made.heard(number, at=place, said=said, now=float(number))
    return made


def seen(*ports, host="100.1.0.1"):
    """What is told by observers that see these ports."""
    return told(*((host, port) for port in ports))


def verdict(made, local=LOCAL):
    """The class that follows."""
    return classify(made.own(4, local={local[0]}), local=[local])


def test_three_of_four_in_different_places_are_believed():
    """One of four may lie, about the port or about the address."""
    for lie in (("100.1.0.1", 9), ("66.6.6.6", 41_000)):
        made = told(("100.1.0.1", 500), lie, ("100.1.0.1", 500), ("100.1.0.1", 500))
        found = verdict(made)
        assert (found.mapping, found.sure) == (Mapping.INDEPENDENT, True)
        assert found.public == ("100.1.0.1", 500)


def test_many_of_one_place_have_one_vote():
    """Whoever has a prefix to itself says one thing, the newest."""
    made = told(*[("66.6.6.6", 1)] * 9, at=7)
    made.heard("a", at=("30.1.0.1", 1), said=("100.1.0.1", 500), now=20.0)
    made.heard("b", at=("30.2.0.1", 1), said=("100.1.0.1", 500), now=21.0)
    own = made.own(4)
    assert (own.host, own.votes, own.places) == ("100.1.0.1", 2, 3)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_fewer_observers_give_an_answer_that_is_not_sure(count):
    """They are asked all the same: it is better than nothing, and says what it is."""
    found = verdict(seen(*[500] * count))
    assert found.public == ("100.1.0.1", 500)
    assert not found.sure


def test_a_lan_observer_does_not_hide_the_translator():
    """Who is on our side of it sees our own address, who is beyond never does."""
    made = told(LOCAL, ("100.1.0.1", 500))
    assert verdict(made).public == ("100.1.0.1", 500)


def test_nothing_translates_where_our_own_address_is_seen():
    """Open, though a firewall may still be there."""
    public = ("100.1.0.9", 41_000)
    assert verdict(told(*[public] * 4), local=public).mapping is Mapping.OPEN


@pytest.mark.parametrize(
    ("ports", "mapping", "stride", "sure"),
    [
        ((500, 500, 500, 500), Mapping.INDEPENDENT, 0, True),
        ((500, 500), Mapping.INDEPENDENT, 0, False),
        ((41_000,), Mapping.INDEPENDENT, 0, False),
        ((500,), Mapping.UNKNOWN, 0, False),
        ((500, 501, 502, 503), Mapping.SEQUENTIAL, 1, True),
        ((500, 504, 506, 512), Mapping.SEQUENTIAL, 2, True),
        ((512, 506, 504, 500), Mapping.SEQUENTIAL, -2, True),
        ((500, 502, 501, 503), Mapping.SEQUENTIAL, 1, True),
        ((512, 500, 506, 504), Mapping.SEQUENTIAL, -2, True),
        ((500, 501, 502, 499), Mapping.SEQUENTIAL, 1, True),
        ((501, 500, 566), Mapping.RANDOM, 0, False),
        ((50_998, 50_999, 50_000, 50_001, 50_002, 50_003), Mapping.SEQUENTIAL, 1, True),
        ((3_000, 61_000, 1_500, 22_000), Mapping.RANDOM, 0, True),
        ((3_000, 61_000), Mapping.RANDOM, 0, False),
    ],
)
def test_ports_tell_the_class(ports, mapping, stride, sure):
    """As the table of `classify` says."""
    found = verdict(seen(*ports))
    assert (found.mapping, found.stride, found.sure) == (mapping, stride, sure)


def test_nobody_saw_us():
    """That is unknown; or blocked, if a way over TCP works meanwhile."""
    assert classify(None, local=[LOCAL]).mapping is Mapping.UNKNOWN
    assert classify(None, local=[LOCAL], blocked=True).mapping is Mapping.BLOCKED


def test_a_new_mapping_replaces_the_old_word():
    """Each observer has one word; an address is forgotten with its flow."""
    made = seen(500, 500, 500, 500)
    for number in range(4):
        made.heard(number, at=(f"20.{number}.0.1", 1), said=("100.1.0.1", 777), now=50.0)
    assert verdict(made).public == ("100.1.0.1", 777)
    for number in range(4):
        made.forget(number)
    assert made.own(4) is None


def test_versions_are_apart():
    """Each IP version has an answer of its own."""
    made = told(("100.1.0.1", 500), ("2001:db8::7", 41_000), ("2001:db8::7", 41_000))
    assert made.endpoints() == [("2001:db8::7", 41_000), ("100.1.0.1", 500)]


def test_the_table_is_bounded(monkeypatch):
    """Whoever has been silent for longest goes."""
    monkeypatch.setattr(reflexive, "OBSERVERS_MAX", 8)
    made = Reflexive()
    for number in range(50):
        made.heard(number, at=(f"20.{number}.0.1", 1), said=("100.1.0.1", 500), now=float(number))
    assert len(made) == 8
    assert made.own(4).places == 8


def test_no_ports_no_stride():
    """A single port has no direction."""
    assert stride_of([500]) == 0


def stranger(made, number, said, *, at, now):
    """What somebody says whom we asked, and do not know."""
    made.heard(number, at=(at, 4_000), said=said, now=now, life_s=600.0, member=False)


def test_no_prefix_pushes_out_the_others():
    """However many speak out of one /24, ten places that say the truth outvote it."""
    made = Reflexive()
    for number in range(10):
        stranger(made, number, ("100.1.0.1", 500), at=f"20.{number}.0.1", now=float(number))
    for number in range(3 * reflexive.OBSERVERS_MAX):
        liar = f"66.0.0.{number % 256}"
        stranger(made, 1_000 + number, ("66.6.6.6", 1), at=liar, now=100.0 + number)
    assert len(made) == reflexive.OBSERVERS_MAX
    own = made.own(4, now=500.0)
    assert (own.host, own.votes, own.places, own.sure) == ("100.1.0.1", 10, 11, True)


def test_strangers_do_not_push_out_members():
    """Even if each of them has a prefix to itself."""
    made = told(("100.1.0.1", 500))
    for number in range(3 * reflexive.OBSERVERS_MAX):
        stranger(made, 1_000 + number, ("66.6.6.6", 1), at=f"66.0.{number % 256}.1", now=9.0)
    assert ("100.1.0.1", 500) in made.endpoints(now=10.0)


def test_what_is_not_sure_comes_after_what_a_member_says():
    """Two places of strangers outvote one of a member; host and port are the member's still."""
    made = told(("100.1.0.1", 500))
    for number, lie in enumerate((("66.6.6.6", 1), ("66.6.6.6", 1))):
        stranger(made, 10 + number, lie, at=f"66.{number}.0.1", now=5.0)
    assert made.endpoints(now=9.0) == [("100.1.0.1", 500), ("66.6.6.6", 1)]
    assert not made.own(4, now=9.0).sure
    stranger(made, 20, ("100.1.0.1", 9), at="66.9.0.1", now=6.0)
    assert made.own(4, now=9.0).endpoint == ("100.1.0.1", 500)


def test_what_many_places_see_is_sure_whoever_they_are():
    """A member behind another translator may see something else: that is told second."""
    made = told(("10.9.9.9", 500))
    for number in range(3):
        stranger(made, 10 + number, ("100.1.0.1", 7), at=f"66.{number}.0.1", now=5.0)
    assert made.own(4, now=9.0).sure
    assert made.endpoints(now=9.0) == [("100.1.0.1", 7), ("10.9.9.9", 500)]


def test_a_member_on_our_lan_does_not_hide_what_strangers_see():
    """It sees our own address, which nobody beyond the translator can call."""
    made = told(LOCAL)
    stranger(made, 10, ("100.1.0.1", 7), at="66.1.0.1", now=5.0)
    assert made.own(4, local={LOCAL[0]}, now=9.0).host == "100.1.0.1"
