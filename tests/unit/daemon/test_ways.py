"""What a second of a path's counters shows, which ids paths get, and what a decision becomes."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from veilnet.daemon.paths.course import (
    HINTS_MAX,
    OPENINGS_BURST,
    SHUNNED_MAX,
    TRIES_BURST,
    Course,
    Leg,
    prefixes_of,
    told,
)
from veilnet.daemon.paths.ways import (
    ALIVE,
    BROWNED,
    DEAD,
    PROBING,
    SETTLE_MOST_S,
    TOLL_S,
    PathIds,
    Way,
    best_of,
)
from veilnet.paths import DIRECT, Decision
from veilnet.protocol.circuit import is_circuit, link_of

ONE, TWO = b"1" * 32, b"2" * 32
ADDRESS, CIRCUIT = ("192.0.2.7", 7), ("100:0:1:2::3:4", 1)


def stats(path=0, **more):
    """The engine's counters of a path."""
    value = {
        "path": path,
        "endpoint": ADDRESS,
        "state": ALIVE,
        "share": 0.0,
        "standby": False,
        "rtt_s": 0.02,
        "rtt_min_s": 0.015,
        "jitter_s": 0.001,
        "loss": 0.0,
        "tx_bytes": 0,
        "judged_datagrams": 0,
        "lost_datagrams": 0,
        "delivered_bytes": 0,
        "owed_datagrams": 0,
        "probes_answered": 0,
        "heard_s": 0.1,
        "carried_s": None,
        "leaves": ("192.0.2.1", 0),
        "mtu_bytes": 1400,
    }
    return SimpleNamespace(**value | more)


def way(path=0, arm=DIRECT, *, ours=True, opened_s=0.0, **counters):
    """An open path of which something was counted."""
    endpoint = counters.pop("endpoint", ADDRESS if arm == DIRECT else CIRCUIT)
    made = Way(path=path, arm=arm, endpoint=endpoint, ours=ours, opened_s=opened_s)
    made.look(stats(path, endpoint=endpoint, **counters), opened_s)
    return made


def course(*ways):
    """A course with these ways."""
    session = SimpleNamespace(network_id=b"n" * 32, peer_id=b"p" * 32, initiator=True)
    made = Course(session=session, ids=PathIds(initiator=True))
    made.ways = {each.path: each for each in ways}
    return made


# --- probes --------------------------------------------------------------------------------------


def test_a_new_way_is_judged_by_the_best_of_a_few_probes():
    """One at a time; nothing is said of it before, and then not what was in its way."""
    made = way()
    assert not made.to_settle()
    made.samples(0.0)
    made.settle(0.0)
    rtts = iter([0.05, 0.02, 0.01, 0.03])
    while made.to_settle():
        made.probe_sent(0.1)
        assert not made.to_settle()
        assert made.settling == 0 or made.samples(0.1) == []
        made.probe_answered(next(rtts))
    assert next(rtts, None) is None
    (sample,) = made.samples(0.5)
    assert sample.rtt_s == 0.01
    made.probe_answered(0.01)
    made.probe_answered(0.02)
    assert made.samples(1.0)[0].rtt_s == pytest.approx(0.015)


@pytest.mark.parametrize(("share", "now_s"), [(1.0, 0.1), (0.0, SETTLE_MOST_S)])
def test_a_way_is_judged_once_it_carries_and_after_a_second(share, now_s):
    """Whatever became of its probes."""
    made = way()
    made.settle(0.0)
    made.look(stats(share=share), now_s)
    assert not made.to_settle()


# --- samples -------------------------------------------------------------------------------------


def test_the_first_look_shows_nothing():
    """Counters may be old when a path is first looked at: only what comes after is a sample."""
    made = way(share=1.0, tx_bytes=10**6, probes_answered=5)
    assert made.samples(1.0) == []


def test_data_is_what_the_peers_reports_say_of_it():
    """Demand is what was sent, loss and goodput what was judged; what is not yet judged arrived."""
    made = way(share=1.0)
    made.samples(1.0)
    made.look(
        stats(
            share=1.0,
            tx_bytes=100_000,
            judged_datagrams=80,
            lost_datagrams=8,
            delivered_bytes=70_000,
        ),
        2.0,
    )
    (sample,) = made.samples(2.0, busy=True)
    assert (sample.arm, sample.probe, sample.busy) == (DIRECT, False, True)
    assert sample.rtt_s == 0.02
    assert sample.rtt_min_s == 0.015
    assert sample.loss == pytest.approx(0.1)
    assert sample.demand_bps == pytest.approx(800_000)
    assert sample.goodput_bps == pytest.approx(720_000)


def test_who_carries_nearly_everything_is_judged_by_what_was_wanted_whatever_its_share():
    """A flow that is alone stays with half of the shares; what others carry is not its fault."""
    for most in (True, False):
        made = way(0, share=1.0, tx_bytes=0, delivered_bytes=0)
        made.samples(1.0)
        made.look(stats(0, share=1.0, tx_bytes=1_000_000, delivered_bytes=1_000_000), 2.0)
        made.samples(2.0)
        made.slowed(2.0)
        made.look(stats(0, share=0.5, tx_bytes=1_250_000, delivered_bytes=1_250_000), 3.0)
        assert made.sent_bytes() == 250_000
        (sample,) = made.samples(3.0, most=most)
        assert sample.demand_bps == pytest.approx(8_000_000 if most else 2_000_000)


def test_a_slow_path_is_measured_by_what_was_wanted_of_it():
    """TCP asks for no more than comes through; for a minute it is not taken at its word."""
    made = way(share=1.0)
    made.samples(1.0)
    made.look(stats(share=1.0, tx_bytes=1_000_000, delivered_bytes=1_000_000), 2.0)
    assert made.samples(2.0)[0].demand_bps == pytest.approx(8_000_000)
    made.slowed(2.0)
    made.look(stats(share=1.0, tx_bytes=1_100_000, delivered_bytes=1_100_000), 3.0)
    (sample,) = made.samples(3.0)
    assert sample.demand_bps == pytest.approx(8_000_000)
    assert sample.goodput_bps == pytest.approx(800_000)
    made.look(stats(share=1.0, tx_bytes=1_200_000, delivered_bytes=1_200_000), 64.0)
    assert made.samples(64.0)[0].demand_bps < 100_000


def test_nothing_is_held_against_a_way_for_what_others_carry():
    """With a small share little comes through because little is sent; nor once it carried it."""
    made = way(share=1.0)
    made.look(stats(share=1.0, tx_bytes=1_000_000, delivered_bytes=1_000_000), 1.0)
    made.samples(1.0)
    made.slowed(1.0)
    made.look(stats(share=0.1, tx_bytes=1_010_000, delivered_bytes=1_010_000), 2.0)
    assert made.samples(2.0)[0].demand_bps == pytest.approx(80_000)
    made.look(stats(share=1.0, tx_bytes=1_020_000, delivered_bytes=1_020_000), 3.0)
    made.samples(3.0)
    made.look(stats(share=1.0, tx_bytes=2_020_000, delivered_bytes=2_020_000), 4.0)
    assert made.samples(4.0)[0].demand_bps == pytest.approx(8_000_000)
    made.look(stats(share=1.0, tx_bytes=2_030_000, delivered_bytes=2_030_000), 5.0)
    assert made.samples(5.0)[0].demand_bps == pytest.approx(80_000)


def test_a_path_that_nothing_was_sent_on_shows_nothing():
    """A share alone is no sample."""
    made = way(share=1.0)
    made.samples(1.0)
    made.look(stats(share=1.0), 2.0)
    assert made.samples(2.0) == []


def second_of_data(made, number, **more):
    """One more second in which 10 kB went out; the samples."""
    more = {"owed_datagrams": 8} | more
    made.look(stats(share=1.0, tx_bytes=10_000 * number, **more), float(number))
    return made.samples(float(number))


def test_data_that_no_report_ever_covers_counts_as_lost():
    """A peer that reports nothing has a path that brings nothing, not a perfect one."""
    made = way(share=1.0)
    made.samples(0.0)
    (first,) = second_of_data(made, 1)
    assert (first.loss, first.goodput_bps) == (0.0, first.demand_bps)
    (second,) = second_of_data(made, 2)
    assert second.goodput_bps == second.demand_bps
    (third,) = second_of_data(made, 3)
    assert (third.loss, third.goodput_bps) == (1.0, 0.0)
    assert third.demand_bps == pytest.approx(80_000)
    # One word of the peer's, and it may be late again.
    (heard,) = second_of_data(made, 4, judged_datagrams=5, delivered_bytes=40_000)
    assert heard.goodput_bps >= heard.demand_bps
    (late,) = second_of_data(made, 5, judged_datagrams=5, delivered_bytes=40_000)
    assert late.loss == 0.0


def test_a_path_never_measured_and_never_reported_on_shows_its_loss():
    """Else it would show nothing at all, for ever."""
    made = way(share=1.0, rtt_s=None)
    made.samples(0.0)
    found = [second_of_data(made, number, rtt_s=None) for number in (1, 2, 3)]
    assert found[:2] == [[], []]
    assert (found[2][0].rtt_s, found[2][0].goodput_bps) == (None, 0.0)


def test_seconds_without_data_are_no_loss():
    """Only what goes out all the time can be missed."""
    made = way(share=1.0)
    made.samples(0.0)
    second_of_data(made, 1)
    made.look(stats(share=1.0, tx_bytes=10_000), 5.0)
    assert made.samples(5.0) == []
    (sample,) = second_of_data(made, 6)
    assert sample.loss == 0.0


def test_probes_and_reports_of_ours_are_no_data():
    """Who only receives on a path sends there all the same; nobody owes it a word."""
    made = way(share=1.0)
    made.samples(0.0)
    for number in range(1, 6):
        (sample,) = second_of_data(made, number, owed_datagrams=0)
        assert sample.loss == 0.0


# --- doubts --------------------------------------------------------------------------------------


def asked_at(made, seconds, *, hurry=False):
    """When it would be asked whether it lives."""
    return [s for s in range(seconds) if made.doubted(float(s), hurry=hurry)]


@pytest.mark.parametrize("hurry", [True, False])
def test_a_way_that_never_lived_is_asked_ever_more_seldom(hurry):
    """After 2 s, 4 s, ... 60 s, whatever data waits."""
    made = way(2, state=PROBING)
    assert asked_at(made, 300, hurry=hurry) == [0, 2, 6, 14, 30, 62, 122, 182, 242]


def test_a_way_that_is_missed_is_asked_every_two_seconds():
    """It carried, it is dead, and there is data; without data it can wait."""
    made = way(2)
    made.look(stats(2, state=DEAD), 0.0)
    assert asked_at(made, 10, hurry=True) == [0, 2, 4, 6, 8]
    assert asked_at(made, 40) == [10, 14, 22, 38]
    made.look(stats(2), 100.0)
    assert asked_at(made, 200) == []
    made.look(stats(2, state=DEAD), 200.0)
    assert [s for s in range(200, 210) if made.doubted(float(s), hurry=False)] == [200, 202, 206]


def test_a_way_that_was_left_as_bad_is_missed_too():
    """Nothing but a probe could say that it is good again; one that carries needs none."""
    made = way(2)
    made.look(stats(2, state=BROWNED), 0.0)
    assert asked_at(made, 10, hurry=True) == [0, 2, 4, 6, 8]
    assert asked_at(made, 40) == [10, 14, 22, 38]
    made.look(stats(2, state=BROWNED, share=0.5), 100.0)
    assert asked_at(made, 200, hurry=True) == []


def test_a_dead_path_brought_nothing_back():
    """Whatever it once measured."""
    made = way(share=1.0)
    made.samples(1.0)
    made.look(stats(share=1.0, state=DEAD), 2.0)
    (sample,) = made.samples(2.0)
    assert (sample.rtt_s, sample.loss, sample.probe) == (None, 1.0, False)


def test_a_probe_is_a_sample_of_its_own():
    """Answered ones show their mean round trip, also beside data; each is told once."""
    made = way(share=1.0)
    made.samples(1.0)
    made.probe_sent(1.0)
    made.probe_answered(0.03)
    made.probe_answered(0.05)
    made.look(stats(share=1.0, tx_bytes=1_000), 2.0)
    data, probe = made.samples(2.0)
    assert (data.probe, probe.probe) == (False, True)
    assert probe.rtt_s == pytest.approx(0.04)
    assert (probe.demand_bps, probe.loss) == (0.0, 0.0)
    made.look(stats(share=1.0, tx_bytes=1_000), 3.0)
    assert made.samples(3.0) == []


def test_the_engines_own_probes_count_as_well():
    """It keeps the standby warm and says only that so many were answered."""
    made = way(standby=True)
    made.samples(1.0)
    made.look(stats(standby=True, probes_answered=1, rtt_s=0.04), 2.0)
    (sample,) = made.samples(2.0)
    assert (sample.probe, sample.rtt_s) == (True, 0.04)


@pytest.mark.parametrize(("rtt_s", "patience_s"), [(0.02, 1.0), (0.5, 2.0)])
def test_two_probes_without_an_answer_mean_a_loss(rtt_s, patience_s):
    """A second, or four round trips, for each; a single one may be lost anywhere."""
    made = way(rtt_s=rtt_s)
    made.samples(0.0)
    made.probe_sent(0.0)
    made.probe_sent(0.5)
    assert made.samples(patience_s - 0.1) == []
    assert made.samples(patience_s + 0.1) == []
    made.probe_sent(10.0)
    assert made.samples(10.0 + patience_s - 0.1) == []
    (sample,) = made.samples(10.0 + patience_s + 0.1)
    assert (sample.rtt_s, sample.loss, sample.probe) == (None, 1.0, True)
    assert made.samples(30.0) == []
    made.probe_answered(0.1)
    assert made.unanswered == 0


def test_what_was_carried_counts_after_the_share_is_gone():
    """The engine leaves a bad path within the second: that second is the sample."""
    made = way(share=1.0)
    made.samples(1.0)
    made.look(stats(tx_bytes=10_000, judged_datagrams=10, lost_datagrams=5, state=BROWNED), 1.4)
    (sample,) = made.samples(1.4)
    assert (sample.probe, sample.loss) == (False, 0.5)
    made.look(stats(tx_bytes=11_000, judged_datagrams=10, lost_datagrams=5), 2.4)
    assert made.samples(2.4) == []


# --- ids -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("initiator", "rest"), [(True, 0), (False, 1)])
def test_ids_are_this_ends_own_and_given_once_in_a_generation(initiator, rest):
    """Even ones are the initiator's; when they are used up only new keys bring more."""
    ids = PathIds(initiator=initiator)
    given = []
    while (path := ids.next(3, ())) is not None:
        given.append(path)
    assert len(given) == len(set(given)) == 127
    assert all(1 <= path <= 254 and path % 2 == rest for path in given)
    assert ids.next(3, ()) is None
    assert ids.next(4, ()) in given


def test_an_open_path_keeps_its_id_over_a_new_generation():
    """An id is not given again while its path is open."""
    ids = PathIds(initiator=True)
    taken = {ids.next(0, ()) for _ in range(126)}
    assert ids.next(0, taken) is not None
    assert ids.next(1, taken) not in taken


# --- arms ----------------------------------------------------------------------------------------


def test_arms_are_what_is_open_and_what_could_be():
    """In an order that stays; relays with both legs as far as they are known; none is shunned."""
    made = course(way(0, (ONE,), rtt_s=0.03))
    made.hinted(TWO, 0.01, 0.0)
    made.shun((b"3" * 32,), 0.0)
    legs = {TWO: Leg(0.02, ("192.0.2.9", 9))}
    arms = made.arms([ONE, TWO, b"3" * 32], legs.get, 1.0)
    assert [arm.id for arm in arms] == [(ONE,), (TWO,)]
    assert math.isnan(arms[0].own_leg_s)
    assert (arms[1].own_leg_s, arms[1].far_leg_s) == (0.02 + TOLL_S, 0.01)


def test_a_relay_that_the_peer_cannot_reach_is_no_arm_for_a_while():
    """The peer said that it has no link to it: it is asked again soon, and ever more seldom."""
    made = course(way(0))
    made.hinted(ONE, 0.01, 0.0)
    now, pauses = 0.0, []
    for _ in range(3):
        made.unreached(ONE, now)
        assert not made.hints
        began = now
        while [arm.id for arm in made.arms([ONE], lambda _: None, now)] == [DIRECT]:
            now += 1
        pauses.append(now - began)
    assert pauses == [5, 10, 20]


def test_a_try_for_a_direct_path_is_no_arm_before_it_answers():
    """A policy is not asked about what is not there."""
    made = course(way(0, (ONE,)), way(2, DIRECT, state=PROBING))
    assert [arm.id for arm in made.arms([], lambda _: None, 1.0)] == [(ONE,)]
    made.ways[2].look(stats(2), 2.0)
    assert {arm.id for arm in made.arms([], lambda _: None, 2.0)} == {(ONE,), DIRECT}


def test_small_changes_of_a_leg_are_not_told():
    """A round trip that trembles is no other arm; one that doubles is."""
    made = course(way(0, (ONE,)))

    def seen(rtt_s):
        return told(made.arms([], lambda _: Leg(rtt_s, ADDRESS), 0.0))

    assert seen(0.02) == seen(0.0201)
    assert seen(0.02) != seen(0.04)
    assert seen(None) == seen(None)


def test_of_two_ways_of_one_arm_the_better_speaks():
    """Usable before dead, quick before slow."""
    slow, quick = way(2, (ONE,), rtt_s=0.2), way(4, (ONE,), rtt_s=0.1)
    dead, browned = way(6, (ONE,), state=DEAD, rtt_s=0.01), way(8, (ONE,), state=BROWNED, rtt_s=0.0)
    assert best_of([slow, dead, browned, quick]) == {(ONE,): quick}


# --- decisions -----------------------------------------------------------------------------------


def test_a_decision_becomes_shares_of_paths():
    """The standby by its path; what is not open is missing."""
    made = course(way(0), way(2, (ONE,)))
    steering = made.steer(Decision(((DIRECT, 1.0),), standby=(ONE,)))
    assert (steering.shares, steering.standby, steering.missing) == (((0, 1.0),), 2, ())
    steering = made.steer(Decision((((TWO,), 0.5), (DIRECT, 0.5)), standby=(b"3" * 32,)))
    assert steering.shares == ((0, 1.0),)
    assert steering.missing == ((TWO,), (b"3" * 32,))


@pytest.mark.parametrize("state", [DEAD, PROBING])
def test_what_is_not_proven_gets_no_share(state):
    """If nothing wanted is usable the engine keeps what it has."""
    made = course(way(0, state=DEAD), way(2, (ONE,), state=state))
    steering = made.steer(Decision((((ONE,), 1.0),), standby=(ONE,)))
    assert (steering.shares, steering.standby, steering.missing) == ((), None, ())
    assert not made.news(steering)


def test_what_the_engine_left_as_bad_is_not_taken_up_again_before_it_has_mended():
    """Unless what it left it for is no better; then the policy decides."""
    made = course(way(0, share=1.0), way(2, (ONE,), state=BROWNED), way(4, (TWO,)))
    back = Decision((((ONE,), 1.0),), standby=DIRECT)
    steering = made.steer(back)
    assert (steering.shares, steering.standby) == (((0, 1.0),), 4)
    assert made.steer(Decision((((ONE,), 0.6), (DIRECT, 0.4)))).shares == ((0, 1.0),)
    assert made.steer(Decision((((ONE,), 0.6), ((TWO,), 0.4)))).shares == ((4, 1.0),)
    for no_better in ({"state": BROWNED}, {"loss": 0.1}):
        made.ways[0].look(stats(0, share=1.0, **no_better), 1.0)
        assert made.steer(back).shares == ((2, 1.0),)
    # What a small part of the traffic fares like does not matter.
    made.ways[0].look(stats(0, share=0.9), 2.0)
    made.ways[4].look(stats(4, share=0.1, loss=0.2), 2.0)
    assert made.steer(back).shares == ((0, 0.9), (4, 0.1))
    made.ways[0].look(stats(0, share=1.0), 3.0)
    made.ways[2].look(stats(2), 3.0)
    assert made.steer(back).shares == ((2, 1.0),)


def test_another_way_over_a_relay_that_was_left_is_left_too():
    """Each end may have opened one; a second relay carries meanwhile."""
    made = course(way(0, (TWO,), share=1.0), way(2, (ONE,), state=BROWNED), way(3, (ONE,)))
    assert made.steer(Decision((((ONE,), 1.0),))).shares == ((0, 1.0),)
    made.ways[2].look(stats(2), 1.0)
    assert made.steer(Decision((((ONE,), 1.0),))).shares == ((2, 1.0),)


def test_the_engine_is_told_only_news():
    """Shares that it has are not set again; a share that it moved by itself is."""
    made = course(way(0, share=1.0), way(2, (ONE,), standby=True))
    as_is = made.steer(Decision(((DIRECT, 1.0),), standby=(ONE,)))
    assert not made.news(as_is)
    assert made.news(made.steer(Decision(((DIRECT, 0.7), ((ONE,), 0.3)))))
    made.ways[0].look(stats(0, share=0.0, state=ALIVE), 1.0)
    made.ways[2].look(stats(2, share=1.0), 1.0)
    assert made.news(as_is)


def test_what_nobody_uses_is_given_up():
    """Our own idle paths after a while, tries in vain sooner, also theirs; never what carries."""
    made = course(
        way(0),
        way(2, (ONE,), share=1.0),
        way(4, (TWO,), standby=True),
        way(6, (b"3" * 32,)),
        way(8, DIRECT, state=PROBING),
        way(1, (b"4" * 32,), ours=False),
        way(3, DIRECT, ours=False, state=PROBING),
        way(5, DIRECT, ours=False, state=DEAD),
        way(7, DIRECT, ours=False),
    )
    assert {w.path for w in made.to_give_up(5.0, idle_s=60, trial_s=4)} == {3, 5, 8}
    assert {w.path for w in made.to_give_up(61.0, idle_s=60, trial_s=4)} == {3, 5, 6, 8}
    assert made.least_used() is made.ways[8]


def test_what_was_tried_in_place_of_a_way_goes_when_that_is_back():
    """Nothing is chosen by it, and it is closed soon; not while it carries for either end."""
    others = (
        way(4, endpoint=("192.0.2.8", 7), rtt_s=0.04),
        way(6, leaves=("198.51.100.1", 0), rtt_s=0.04),
        way(8, leaves=("192.0.2.1", 3), rtt_s=0.04),
    )
    made = course(way(0, state=DEAD), way(2, rtt_s=0.01), *others)
    assert best_of(made.ways.values())[DIRECT] is made.ways[2]
    assert made.to_give_up(5.0, idle_s=60, trial_s=4) == []
    made.ways[0].look(stats(0, state=BROWNED), 5.0)
    assert best_of(made.ways.values())[DIRECT] is made.ways[2]
    assert made.to_give_up(5.0, idle_s=60, trial_s=4) == []
    made.ways[0].look(stats(0), 5.0)
    assert best_of(made.ways.values())[DIRECT] is made.ways[0]
    made.ways[2].look(stats(2, carried_s=0.5), 5.0)
    assert made.to_give_up(8.0, idle_s=60, trial_s=4) == []
    assert made.to_give_up(9.0, idle_s=60, trial_s=4) == [made.ways[2]]
    made.ways[2].look(stats(2, share=1.0), 9.0)
    assert made.to_give_up(9.0, idle_s=60, trial_s=4) == []


def test_what_a_twin_told_before_a_way_died_is_no_sign_of_life():
    """Straight to one host, or over one relay; an answer that comes later is one."""
    made = way(2)
    assert made.is_twin(way(4, endpoint=(ADDRESS[0], 8)))
    assert not made.is_twin(way(4, endpoint=("2001:db8::7", 7)))
    assert not made.is_twin(way(4, (ONE,)))
    assert way(4, (ONE,), endpoint=(CIRCUIT[0], 2)).is_twin(way(6, (ONE,)))
    made.samples(0.0)
    made.probe_answered(0.01)
    made.look(stats(2, probes_answered=1), 0.5)
    made.forget_told()
    assert made.samples(1.0) == []
    made.probe_answered(0.01)
    (sample,) = made.samples(2.0)
    assert sample.rtt_s == 0.01


def test_what_the_peer_uses_is_not_given_up():
    """Its packets would come to nobody."""
    made = course(way(0), way(2, (ONE,)))
    made.ways[2].look(stats(2, carried_s=1.0), 61.0)
    assert made.to_give_up(61.0, idle_s=60, trial_s=4) == []
    assert made.to_give_up(121.0, idle_s=60, trial_s=4) == [made.ways[2]]


@pytest.mark.parametrize("ours", [True, False])
def test_a_way_that_died_is_given_up_later_than_a_try(ours):
    """It was true once; it may come back within the idle time."""
    made = course(way(0), way(2, DIRECT, ours=ours))
    made.ways[2].look(stats(2), 10.0)
    made.ways[2].look(stats(2, state=DEAD), 20.0)
    made.ways[2].used_s = 100.0
    assert made.to_give_up(69.0, idle_s=60, trial_s=4) == []
    assert made.to_give_up(71.0, idle_s=60, trial_s=4) == [made.ways[2]]


def test_a_peers_tries_have_a_budget_of_their_own():
    """Ours do not pay for it, nor it for ours."""
    made = course(way(0))
    assert sum(made.may_be_tried(0.0) for _ in range(100)) == TRIES_BURST
    assert made.may_open(0.0)
    assert sum(made.may_be_tried(float(second)) for second in range(1, 61)) == 12


def test_a_proven_address_is_not_tried_again():
    """One under trial may be the peer's choice too."""
    other = ("192.0.2.8", 8)
    made = course(way(0, (ONE,)), way(2, DIRECT, state=PROBING))
    assert made.tryable([ADDRESS, other]) == [ADDRESS, other]
    made.ways[2].look(stats(2), 1.0)
    assert made.tryable([ADDRESS, other]) == [other]


# --- bounds --------------------------------------------------------------------------------------


def test_openings_have_a_budget():
    """A policy that wants another relay every second gets a few, then one in five seconds."""
    made = course(way(0))
    at_once = sum(made.may_open(0.0) for _ in range(100))
    assert at_once == OPENINGS_BURST
    assert sum(made.may_open(float(second)) for second in range(1, 101)) == 20


def test_an_arm_that_fails_is_left_alone_ever_longer():
    """Until it works once."""
    made, arm, now = course(way(0)), (ONE,), 0.0
    pauses = []
    for _ in range(8):
        made.shun(arm, now)
        began = now
        while made.shuns(arm, now):
            now += 1
        pauses.append(now - began)
    assert pauses == [5, 10, 20, 40, 80, 160, 300, 300]
    made.welcome(arm)
    assert not made.shuns(arm, now)


def test_what_is_kept_of_relays_is_bounded():
    """However many relays a peer speaks of."""
    made = course(way(0))
    for number in range(1000):
        relay = number.to_bytes(32)
        made.hinted(relay, 0.1, 0.0)
        made.shun((relay,), 0.0)
    assert len(made.hints) == HINTS_MAX
    assert sum(made.shuns((n.to_bytes(32),), 1.0) for n in range(1000)) == SHUNNED_MAX


@pytest.mark.parametrize(
    ("endpoint", "prefixes"),
    [
        (("8.8.4.4", 1), {"8.8.4.0/24"}),
        (("2606:4700:1:2::3", 1), {"2606:4700:1::/48"}),
        (("192.168.1.7", 1), set()),
        (("fd00::1", 1), set()),
    ],
)
def test_the_place_that_an_endpoint_shares(endpoint, prefixes):
    """A /24 or /48 of the Internet fails together; a private range says nothing."""
    assert prefixes_of(endpoint) == prefixes


def test_a_circuits_endpoint_names_its_link():
    """And no address of a host is one."""
    assert is_circuit(("100:0:1:2::3:4", 1))
    assert link_of(("100:0:1:2::3:4", 1)) == 0x0001_0002
    assert not any(map(is_circuit, [ADDRESS, ("100:1::1", 1), ("fe80::1%eth0", 1), ("::1", 1)]))
