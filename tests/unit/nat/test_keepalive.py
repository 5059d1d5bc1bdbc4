"""Silences: how long they last, and how that is found out."""

from __future__ import annotations

import random

import pytest

from veilnet.nat import keepalive
from veilnet.nat.keepalive import Keepalive


def after_tests(life_s):
    """What is known after tests behind a translator that forgets after *life_s*."""
    made = Keepalive(random.Random(1))
    tests = 0
    for _ in range(40):
        silent_s = made.test_s()
        if silent_s is None:
            break
        tests += 1
        (made.survived if silent_s < life_s else made.died)(silent_s)
    return made, tests


@pytest.mark.parametrize("life_s", [2.0, 4.0, 10.0, 17.0, 25.0])
def test_a_short_patience_is_found_and_kept(life_s):
    """Within a dozen tests; then no silence is longer than the translator's patience."""
    made, tests = after_tests(life_s)
    assert tests <= 14
    assert made.is_short
    for active in (True, False):
        pauses = [made.pause_s(active=active) for _ in range(200)]
        assert max(pauses) < life_s
        assert min(pauses) >= keepalive.LEAST_S


def test_before_any_test_it_is_what_most_translators_bear():
    """3-5 s in use, 8-28 s idle, and not always the same."""
    made = Keepalive(random.Random(1))
    for active, (low, high) in ((True, (3, 5)), (False, (8, 28))):
        pauses = [made.pause_s(active=active) for _ in range(500)]
        assert low <= min(pauses) < low * 1.1
        assert high * 0.9 < max(pauses) <= high


def test_a_long_patience_saves_traffic():
    """Silences grow to what was tested, and to two minutes at most."""
    made, _ = after_tests(3_600.0)
    assert made.test_s() is None
    assert 28 < made.longest_s <= keepalive.MOST_S
    assert max(made.pause_s(active=False) for _ in range(500)) > 28


def test_one_lost_datagram_proves_nothing():
    """Only the second failure in a row counts."""
    made = Keepalive(random.Random(1))
    made.died(5.0)
    assert not made.is_short
    assert made.test_s() == 5.0
    made.survived(5.0)
    assert made.test_s() == 10.0


def test_another_translator_is_learnt_anew():
    """What is survived later outweighs what died before, and the other way round."""
    made, _ = after_tests(4.0)
    made.survived(60.0)
    assert not made.is_short
    made.died(3.0)
    made.died(3.0)
    assert made.is_short
    assert made.longest_s < 3.0


def test_one_peer_of_several_does_not_shorten_silences():
    """It may lie, or its own router may be deaf: another has to say so too."""
    made = Keepalive(random.Random(1))
    for _ in range(20):
        made.died(5.0, by="liar", needed=2)
    assert not made.is_short
    assert (made.test_s(), made.doubters) == (5.0, {"liar"})
    made.survived(5.0)
    assert (made.test_s(), made.doubters) == (10.0, frozenset())
    made.died(10.0, by="liar", needed=2)
    made.died(10.0, by="other", needed=2)
    assert made.is_short


def lied_to():
    """Six lies of the only peer that there is."""
    made = Keepalive(random.Random(1))
    for silent_s in (5.0, 5.0, 2.5, 2.5, 1.25, 1.25):
        made.died(silent_s, by="liar")
    return made


def test_lies_are_not_believed_for_ever():
    """Step by step what was thought to die is tested again, until silences are what they were."""
    made = lied_to()
    assert made.longest_s == keepalive.LEAST_S
    before_s, rounds = made.longest_s, 0
    while made.is_short:
        rounds += 1
        assert rounds < 40
        silent_s = made.test_s()
        if silent_s is None:
            made.relax()
            assert made.longest_s == before_s, "nothing is risked on a hope"
        else:
            made.survived(silent_s)
            assert made.longest_s <= max(2.1 * before_s, 2.0), "nor much at once"
        before_s = made.longest_s
    assert rounds > 4


@pytest.mark.parametrize("life_s", [2.0, 17.0])
def test_a_hope_that_fails_changes_nothing(life_s):
    """A translator that is really impatient stays what it is."""
    made, _ = after_tests(life_s)
    longest_s = made.longest_s
    for _ in range(50):
        made.relax()
        while (silent_s := made.test_s()) is not None:
            (made.survived if silent_s < life_s else made.died)(silent_s)
        assert made.longest_s < life_s
        assert made.longest_s >= 0.8 * longest_s
