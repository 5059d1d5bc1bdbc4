import numpy as np
import pytest
from attrs import evolve

from tests.unit.paths.streets import HOME, arm, over, relay, sample, street
from veilnet.paths import DIRECT, MAX_SHARES, make_policy
from veilnet.paths.cost import KappaGate
from veilnet.paths.ledger import MAX_GONE, MAX_GRUDGE, Ledger
from veilnet.paths.policy import MAX_ARMS
from veilnet.paths.settings import VeilSettings
from veilnet.paths.veil import Veil


def veil(seed=1, **settings):
    """Return the shipped policy with other coefficients."""
    return Veil(np.random.default_rng(seed), VeilSettings(**settings))


def test_no_arm_no_shares():
    """A destination without arms, or unknown, gets an empty decision that says so."""
    policy = veil()
    assert policy.decide(HOME, 0.0).shares == ()
    policy.set_arms(HOME, [], 0.0)
    assert policy.decide(HOME, 1.0).shares == ()
    assert policy.explain(HOME, 1.0) == ()


def test_begins_on_the_direct_path():
    """The handshake took the direct path, so data begins there, however good relays look."""
    scene = street(direct_ms=300.0)
    assert scene.second().shares == ((DIRECT, 1.0),)


@pytest.mark.parametrize(("first_ms", "taken"), [(3.0, True), (9.0, True), (20.0, False)])
def test_a_direct_path_that_is_found_is_taken_at_once(first_ms, taken):
    """Unless its first word is clearly worse than what carries; from then on it is as any arm."""
    policy = veil()
    policy.set_arms(HOME, [arm(over(1))], 0.0)
    for second in range(20):
        policy.update(HOME, [sample(over(1), 5.0)], float(second))
        assert policy.decide(HOME, float(second)).shares == ((over(1), 1.0),)
    policy.set_arms(HOME, [arm(DIRECT), arm(over(1))], 20.0)
    policy.update(HOME, [sample(DIRECT, first_ms, probe=True)], 21.0)
    decision = policy.decide(HOME, 21.0)
    assert (decision.shares == ((DIRECT, 1.0),)) == taken
    if taken:
        assert decision.reason == "a direct path was found"
        for second in range(22, 60):
            policy.update(HOME, [sample(DIRECT, 90.0)], float(second))
            decision = policy.decide(HOME, float(second))
        assert dict(decision.shares)[over(1)] > 0.9


def test_a_direct_path_that_was_known_is_judged_by_that():
    """One that was lost and comes back is no find."""
    policy = veil()
    both = [arm(DIRECT), arm(over(1))]
    policy.set_arms(HOME, both, 0.0)
    for second in range(30):
        policy.update(HOME, [sample(DIRECT, 60.0), sample(over(1), 5.0, probe=True)], float(second))
        policy.decide(HOME, float(second))
    policy.set_arms(HOME, both[1:], 30.0)
    policy.decide(HOME, 30.0)
    policy.set_arms(HOME, both, 31.0)
    policy.update(HOME, [sample(DIRECT, 5.0, probe=True)], 31.0)
    assert policy.decide(HOME, 31.0).shares == ((over(1), 1.0),)


def test_ties_at_a_cold_start_are_broken_by_lot():
    """Twenty nodes that see the same five relays do not all begin on one of them."""
    arms = [arm(over(n)) for n in range(1, 6)]
    firsts = {street(veil(seed), arms=arms).second().shares[0][0] for seed in range(20)}
    assert len(firsts) >= 4


def test_moves_to_a_relay_that_is_faster():
    """Within a minute nearly everything goes over relays that halve the round trip."""
    scene = street(direct_ms=200.0)
    scene.seconds(60)
    assert scene.share(DIRECT) < 0.05


def test_stays_where_nothing_is_better():
    """Arms that are dearer than the direct path get nothing, ever."""
    scene = street(direct_ms=30.0)
    scene.seconds(120)
    assert all(shares == {DIRECT: 1.0} for shares in scene.history)


def test_a_dead_arm_is_left_at_once():
    """The second after nothing came back no share is on that arm."""
    scene = street(direct_ms=30.0)
    scene.seconds(40)
    scene.true_ms[DIRECT] = None
    scene.second()
    scene.second()
    assert scene.share(DIRECT) == 0.0


def test_a_dead_arm_stays_left_until_it_is_heard():
    """No data returns to a dead arm merely because time passes."""
    scene = street(direct_ms=30.0)
    scene.seconds(40)
    scene.true_ms[DIRECT] = None
    scene.seconds(2)
    scene.seconds(300)
    assert all(shares.get(DIRECT, 0.0) == 0.0 for shares in scene.history[42:])


def test_a_dead_arm_that_answers_again_is_used_again():
    """Once a probe comes back, the best arm regains its share."""
    scene = street(direct_ms=30.0)
    scene.seconds(40)
    scene.true_ms[DIRECT] = None
    scene.seconds(10)
    scene.true_ms[DIRECT] = 30.0
    scene.seconds(400)
    assert scene.share(DIRECT) > 0.9


def test_a_first_sample_that_timed_out_teaches_nothing():
    """The level of an arm is not learned from a timeout, the model neither."""
    policy = veil()
    policy.set_arms(HOME, [arm(DIRECT), arm(over(1))], 0.0)
    theta = policy._model.theta.copy()
    policy.update(HOME, [sample(over(1), None, probe=True)], 1.0)
    policy.decide(HOME, 1.0)
    assert (policy._model.theta == theta).all()
    assert policy._ledgers[HOME].table[3, 1] == 0.0
    assert policy.explain(HOME, 1.0)[-1].reason.startswith("dead")


def test_where_all_are_dead_traffic_stays():
    """With no arm alive the shares still sum to 1."""
    scene = street(relays=2, true_ms={DIRECT: None, over(1): None, over(2): None})
    decision = scene.seconds(60)
    assert sum(share for _, share in decision.shares) == pytest.approx(1.0)
    assert decision.reason == "no arm answers"


def test_one_active_path_per_relay():
    """Two chains over one relay never carry together, nor is one the other's standby."""
    arms = [arm(over(1, 2), 20), arm(over(1, 3), 20), arm(over(4, 1), 21), arm(DIRECT, 300)]
    scene = street(arms=arms)
    for _ in range(200):
        decision = scene.second()
        used = [one for one, _ in decision.shares if one]
        if decision.standby:
            used.append(decision.standby)
        assert sum(relay(1) in one for one in used) <= 1


def test_one_active_path_per_prefix():
    """Relays in one /24 never carry together: who rents many addresses is one relay."""
    arms = [arm(over(n), 20 + n / 10, prefixes=["198.51.100.0/24"]) for n in range(1, 6)]
    arms += [arm(over(9), 21, prefixes=["203.0.113.0/24"])]
    scene = street(arms=arms)
    here = {over(n) for n in range(1, 6)}
    for _ in range(200):
        decision = scene.second()
        named = [one for one, _ in decision.shares] + [decision.standby]
        assert sum(one in here for one in named) <= 1


def test_the_standby_of_a_direct_path_is_the_best_relay():
    """While direct carries everything, a relay of the best stands by; it carries nothing."""
    scene = street(direct_ms=30.0, true_ms={over(3): 33.0})
    decision = scene.seconds(200)
    assert decision.standby == over(3)


def test_there_is_no_standby_when_nothing_stands_apart():
    """A single arm has no standby."""
    scene = street(arms=[arm(DIRECT)])
    assert scene.seconds(5).standby is None


@pytest.mark.parametrize(("quiet", "rate"), [(False, 0.25), (True, 0.1)])
def test_probes_keep_to_their_rate(quiet, rate):
    """Over ten minutes there are as many probes as the rate allows, give or take a tenth."""
    scene = street()
    scene.seconds(600, quiet=quiet)
    assert 0.9 * rate * 600 <= scene.probes <= 1.1 * rate * 600 + 2


def test_every_arm_is_probed_some_time():
    """The stalest arm has its quota: none of twenty is forgotten in ten minutes."""
    scene = street(relays=20, true_ms={over(20): 1_500.0})
    asked = set()
    for _ in range(600):
        decision = scene.second()
        asked |= {decision.probe, *dict(decision.shares)}
    assert {one.id for one in scene.arms} <= asked


def bad_to_data(scene, arm_id, cost_ms):
    """Let *arm_id* carry data badly and probes as it did before."""
    scene.probe_ms[arm_id] = scene.true_ms[arm_id]
    scene.true_ms[arm_id] = cost_ms


def test_good_to_probes_and_bad_to_data_is_found_out():
    """A relay that looks best to probes alone is charged a bias and loses its data."""
    scene = street(direct_ms=120.0, relays=3, true_ms={over(1): 40.0})
    scene.seconds(60)
    assert scene.share(over(1)) > 0.9
    bad_to_data(scene, over(1), 600.0)
    scene.seconds(60)
    views = {view.id: view for view in scene.policy.explain(HOME, scene.now_s)}
    assert views[over(1)].bias_ms > 100.0
    assert "better to probes than to data" in views[over(1)].reason
    used = [shares.get(over(1), 0.0) for shares in scene.history[70:]]
    assert sum(used) / len(used) < 0.05


def test_an_arm_that_is_bad_to_both_gets_no_bias():
    """Congestion that probes see as well is no deceit."""
    scene = street(direct_ms=120.0, relays=3, true_ms={over(1): 40.0})
    scene.seconds(60)
    scene.true_ms[over(1)] = 600.0
    scene.seconds(60)
    assert all(view.bias_ms == 0.0 for view in scene.policy.explain(HOME, scene.now_s))


def test_lone_spikes_get_no_bias():
    """A spike a minute, which no probe meets, is weather and not deceit."""
    scene = street(direct_ms=120.0, relays=3, true_ms={over(1): 40.0})
    for second in range(900):
        scene.true_ms[over(1)] = 400.0 if second % 60 == 59 else 40.0
        scene.probe_ms[over(1)] = 40.0
        scene.second()
    assert all(view.bias_ms == 0.0 for view in scene.policy.explain(HOME, scene.now_s))


def test_a_bias_fades():
    """The first time half of the charge is left after 30 s."""
    scene = street(direct_ms=120.0, relays=1, true_ms={over(1): 40.0})
    scene.seconds(60)
    bad_to_data(scene, over(1), 600.0)
    for _ in range(120):
        scene.second()
        if (before := _charge(scene)) >= 900.0:
            break
    assert before >= 900.0
    # Nothing is learned meanwhile: it only fades.
    scene.now_s += 30.0
    scene.policy.update(HOME, [], scene.now_s)
    assert _charge(scene) == pytest.approx(before / 2, rel=0.05)


def test_a_charge_fades_half_as_fast_each_time():
    """Up to where nothing is slower; how often one of before a restart was, is not known."""
    ledger = Ledger(0.0)
    for expected in (1.0, 2.0, 4.0):
        ledger.bear_grudge(over(1))
        assert ledger.grudges[over(1)] == expected
    ledger.bear_grudge(over(2), least=20.0)
    assert ledger.grudges[over(2)] == 20.0
    for _ in range(200):
        ledger.bear_grudge(over(1))
    assert ledger.grudges[over(1)] == MAX_GRUDGE
    for number in range(200):
        ledger.bear_grudge(over(number))
    assert len(ledger.grudges) <= MAX_GONE + MAX_ARMS


def _charge(scene):
    return max(view.bias_ms for view in scene.policy.explain(HOME, scene.now_s))


def test_a_bias_survives_an_absence():
    """A relay that leaves and comes back is not forgiven for it."""
    scene = street(direct_ms=120.0, relays=3, true_ms={over(1): 40.0})
    scene.seconds(60)
    bad_to_data(scene, over(1), 600.0)
    scene.seconds(60)
    policy = scene.policy
    others = [one for one in scene.arms if one.id != over(1)]
    policy.set_arms(HOME, others, scene.now_s)
    policy.set_arms(HOME, scene.arms, scene.now_s)
    views = {view.id: view for view in policy.explain(HOME, scene.now_s)}
    assert views[over(1)].bias_ms > 100.0


def forecast_after(gate, *, busy):
    """Return what an arm with 60 ms of queueing is forecast to cost."""
    policy = veil(gate=gate)
    policy.set_arms(HOME, [arm(DIRECT, 100), arm(over(1))], 0.0)
    for second in range(1, 20):
        seen = sample(over(1), 110.0, rtt_min_ms=50.0, busy=busy)
        policy.update(HOME, [seen], float(second))
        policy.decide(HOME, float(second))
    views = {view.id: view for view in policy.explain(HOME, 19.0)}
    return views[over(1)].forecast_ms


def test_queueing_is_charged_only_while_a_relay_says_busy():
    """Gate "busy": 60 ms of queueing count twice if the relay is busy, else once."""
    assert forecast_after(KappaGate.BUSY, busy=False) == pytest.approx(110.0, rel=0.05)
    assert forecast_after(KappaGate.BUSY, busy=True) == pytest.approx(170.0, rel=0.05)
    assert forecast_after(KappaGate.OFF, busy=True) == pytest.approx(110.0, rel=0.05)
    assert forecast_after(KappaGate.ALWAYS, busy=False) == pytest.approx(170.0, rel=0.05)


def test_two_sources_on_two_relays_do_not_swing():
    """Each relay slows with its load: two sources split, and then hardly anything moves."""
    arms = [arm(over(1)), arm(over(2))]
    scenes = [street(veil(seed), arms=arms) for seed in (3, 4)]
    moved = 0.0
    for second in range(300):
        before = [dict(scene.history[-1]) if scene.history else {} for scene in scenes]
        for scene in scenes:
            scene.second()
        load = {one.id: sum(scene.share(one.id) for scene in scenes) for one in arms}
        for scene in scenes:
            for one in arms:
                scene.true_ms[one.id] = 50.0 + 50.0 * load[one.id]
        if second >= 100:
            for scene, old in zip(scenes, before, strict=True):
                new = scene.history[-1]
                moved += sum(max(0.0, new.get(k, 0.0) - old.get(k, 0.0)) for k in new) / 2
    assert moved / 200 < 0.01
    assert 0.6 < load[over(1)] < 1.4


def test_arms_that_stay_keep_what_is_known():
    """A new relay in the list changes neither the shares nor the levels of the others."""
    scene = street(direct_ms=200.0)
    before = scene.seconds(60)
    views = {view.id: view for view in scene.policy.explain(HOME, scene.now_s)}
    scene.policy.set_arms(HOME, [arm(over(9), 500.0), *reversed(scene.arms)], scene.now_s)
    after = {view.id: view for view in scene.policy.explain(HOME, scene.now_s)}
    assert {one: after[one].share for one, _ in before.shares} == {
        one: views[one].share for one, _ in before.shares
    }
    assert all(after[one].confidence == views[one].confidence for one in views)


def test_the_share_of_an_arm_that_goes_is_given_to_the_rest():
    """Without the arm that carried everything, the next decision still sums to 1."""
    scene = street(direct_ms=30.0)
    scene.seconds(30)
    scene.policy.set_arms(HOME, scene.arms[1:], scene.now_s)
    shares = scene.policy.decide(HOME, scene.now_s).shares
    assert sum(share for _, share in shares) == pytest.approx(1.0)
    assert DIRECT not in dict(shares)


def test_legs_that_nobody_knows():
    """Arms without known legs are forecast from the others', and no number is lost."""
    nan = float("nan")
    arms = [arm(DIRECT, 50), arm(over(1), nan, nan), arm(over(2), 20, nan)]
    scene = street(arms=arms, true_ms={over(1): 40.0, over(2): 45.0})
    scene.seconds(100)
    assert all(np.isfinite(view.forecast_ms) for view in scene.policy.explain(HOME, 100.0))


def test_confidence_fades():
    """What was measured long ago counts less than what was measured now."""
    scene = street(direct_ms=30.0)
    scene.seconds(60)
    now = scene.policy.explain(HOME, scene.now_s)[0].confidence
    scene.policy.update(HOME, [], scene.now_s + 1_000.0)
    assert scene.policy.explain(HOME, scene.now_s)[0].confidence < now


def test_at_most_three_arms_carry():
    """Six equal relays: never more than three carry, none less than a twentieth."""
    scene = street(arms=[arm(over(n)) for n in range(1, 7)])
    for second in range(300):
        scene.true_ms = {
            one.id: 50.0 + 10.0 * ((second // 7 + i) % 6) for i, one in enumerate(scene.arms)
        }
        shares = scene.second().shares
        assert 1 <= len(shares) <= MAX_SHARES
        assert all(share >= 0.05 for _, share in shares)


def test_forget():
    """A forgotten destination has no arms."""
    scene = street()
    scene.seconds(5)
    scene.policy.forget(HOME)
    assert scene.policy.explain(HOME, 5.0) == ()


def test_the_oldest_destination_goes_first(monkeypatch):
    """There is room for a bounded number of destinations."""
    monkeypatch.setattr("veilnet.paths.veil.MAX_DESTINATIONS", 3)
    policy = make_policy("veil", rng=np.random.default_rng(1))
    for number in range(4):
        policy.set_arms(bytes([number]), [arm(DIRECT)], 0.0)
    assert policy.explain(bytes([0]), 0.0) == ()
    assert policy.explain(bytes([3]), 0.0) != ()


def test_a_destination_takes_less_than_a_kilobyte():
    """The table of a direct path and twenty relays fits 1 KB."""
    scene = street(relays=20)
    assert scene.policy._ledgers[HOME].table.nbytes <= 1_024


def test_explain_tells_each_arm_in_words():
    """Every arm has a reason; the one that carries says so, the unseen ones say why not."""
    scene = street(direct_ms=30.0, relays=2)
    scene.second()
    reasons = {view.id: view.reason for view in scene.policy.explain(HOME, scene.now_s)}
    assert reasons[DIRECT].startswith("carries 100%")
    assert all("forecast from its legs alone" in reasons[over(n)] for n in (1, 2))


def test_samples_of_unknown_arms_are_ignored():
    """A sample of an arm that is not there changes nothing."""
    scene = street()
    scene.seconds(3)
    before = scene.policy.explain(HOME, 3.0)
    scene.policy.update(HOME, [evolve(sample(DIRECT, 5.0), arm=over(77))], 3.0)
    scene.policy.update(b"nobody", [sample(DIRECT, 5.0)], 3.0)
    assert scene.policy.explain(HOME, 3.0) == before


# --- rest ----------------------------------------------------------------------------------------


def swinging(policy, *arms, seconds=300, gap_ms=12.0):
    """Let two arms become cheaper in turn, eight seconds each, and return the street."""
    scene = street(policy, arms=[arm(one) for one in arms])
    for second in range(seconds):
        for number, one in enumerate(arms):
            scene.true_ms[one] = 40.0 + gap_ms * ((second // 8 + number) % 2)
        scene.second()
    return scene


def moved(scene, since=0):
    """Return how much of the traffic changed its arm, in wholes."""
    pairs = zip(scene.history[since:], scene.history[since + 1 :], strict=False)
    return sum(
        abs(after.get(one, 0.0) - before.get(one, 0.0)) / 2
        for before, after in pairs
        for one in before.keys() | after.keys()
    )


def test_who_has_moved_much_between_relays_comes_to_rest():
    """Each swing of two relays is followed at first, and later hardly any."""
    restless = swinging(veil(restless_most=0.0), over(1), over(2))
    calm = swinging(veil(), over(1), over(2))
    assert moved(calm, since=100) < moved(restless, since=100) / 4


def test_between_the_direct_path_and_a_relay_nothing_is_held_back():
    """Nobody else moves on the direct path: what is seen of it is no echo of one's own moves."""
    arms = (DIRECT, over(1))
    free = swinging(veil(restless_most=0.0), *arms)
    assert moved(free) > 3
    assert swinging(veil(), *arms).history == free.history


def test_a_restless_one_leaves_a_dead_relay_at_once_and_a_bad_one_within_seconds():
    """What holds it back is no more than `restless_ms`, and slows it only."""
    for bad_ms, seconds in ((None, 3), (400.0, 15)):
        scene = swinging(veil(), over(1), over(2), gap_ms=60.0)
        worst = max(scene.decision.shares, key=lambda pair: pair[1])[0]
        scene.true_ms = dict.fromkeys(scene.true_ms, 40.0)
        scene.true_ms[worst] = bad_ms
        scene.seconds(seconds)
        assert scene.share(worst) < 0.2, bad_ms


def test_rest_is_forgotten_and_bounded():
    """After ten quiet minutes a better relay is taken as by one who never moved."""
    policy = veil()
    scene = swinging(policy, over(1), over(2), gap_ms=100.0)
    ledger = policy._ledgers[HOME]
    settings = VeilSettings()
    assert ledger.moved <= settings.restless_free + settings.restless_most
    scene.true_ms = {over(1): 40.0, over(2): 40.0}
    scene.seconds(600)
    assert ledger.moved < settings.restless_free
