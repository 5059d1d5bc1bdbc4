"""Whatever arms, samples and times a policy meets, what it says is sound."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.paths.streets import HOME, relay
from veilnet.paths import MAX_SHARES, Arm, Guard, Sample, make_policy, policy_names
from veilnet.paths.guard import Budgets

IDS = [(), *((relay(n),) for n in range(1, 6)), (relay(1), relay(2)), (relay(6), relay(3))]
PREFIXES = [frozenset(), frozenset({"198.51.100.0/24"}), frozenset({"203.0.113.0/24"})]
wild = st.floats(allow_nan=True, allow_infinity=True, width=32)
seconds = st.one_of(st.floats(0.0, 3.0), wild)
arms = st.builds(
    Arm,
    id=st.sampled_from(IDS),
    own_leg_s=seconds,
    far_leg_s=seconds,
    prefixes=st.sampled_from(PREFIXES),
)
samples = st.builds(
    Sample,
    arm=st.sampled_from(IDS),
    rtt_s=st.one_of(st.none(), seconds),
    loss=st.one_of(st.floats(0.0, 1.0), wild),
    jitter_s=seconds,
    rtt_min_s=seconds,
    demand_bps=st.one_of(st.floats(0.0, 1e9), wild),
    goodput_bps=st.one_of(st.floats(0.0, 1e9), wild),
    probe=st.booleans(),
    busy=st.booleans(),
)
steps = st.lists(
    st.tuples(
        st.one_of(st.none(), st.lists(arms, max_size=8)),
        st.lists(samples, max_size=6),
        st.floats(0.0, 100.0),
        st.booleans(),
    ),
    max_size=25,
)


def check(decision, present):
    """Assert that *decision* is sound for the arms *present*."""
    if not present:
        assert decision.shares == ()
        return
    used = [present[arm_id] for arm_id, _ in decision.shares]
    assert 1 <= len(used) <= MAX_SHARES
    assert all(math.isfinite(share) and share > 0 for _, share in decision.shares)
    assert math.isclose(sum(share for _, share in decision.shares), 1.0, abs_tol=1e-3)
    assert decision.probe is None or decision.probe in present
    if decision.standby is not None:
        used.append(present[decision.standby])
    for number, one in enumerate(used):
        assert not any(one.overlaps(other) for other in used[:number])


@settings(deadline=None, max_examples=60)
@given(story=steps, seed=st.integers(0, 99), name=st.sampled_from(policy_names()))
def test_what_a_guarded_policy_says_is_sound(story, seed, name):
    """Any story: shares sum to 1 over at most three arms that stand apart; probes in budget."""
    policy = Guard(make_policy(name, rng=np.random.default_rng(seed)), Budgets())
    present, now_s, probes = {}, 0.0, 0
    for new_arms, found, passed_s, quiet in story:
        if new_arms is not None:
            present = {one.id: one for one in new_arms}
            policy.set_arms(HOME, new_arms, now_s)
        policy.update(HOME, found, now_s)
        decision = policy.decide(HOME, now_s, quiet=quiet)
        check(decision, present)
        assert not decision.reason.startswith("fallback")
        probes += decision.probe is not None
        assert probes <= Budgets().probes_burst + Budgets().probes_per_s * now_s + 1e-6
        for view in policy.explain(HOME, now_s):
            assert math.isfinite(view.forecast_ms)
        now_s += passed_s


@settings(deadline=None, max_examples=30)
@given(story=steps, seed=st.integers(0, 99))
def test_any_state_that_a_policy_reaches_can_be_loaded(story, seed):
    """What `state` returns is never refused, and never grows beyond its bound."""
    policy = Guard(make_policy("veil", rng=np.random.default_rng(seed)))
    now_s = 0.0
    for new_arms, found, passed_s, quiet in story:
        if new_arms is not None:
            policy.set_arms(HOME, new_arms, now_s)
        policy.update(HOME, found, now_s)
        policy.decide(HOME, now_s, quiet=quiet)
        now_s += passed_s
    again = make_policy("veil", rng=np.random.default_rng(0))
    before = again._model
    again.load_state(policy.state())
    assert again._model is not before


@settings(deadline=None, max_examples=100)
@given(data=st.binary(max_size=200))
def test_no_bytes_can_do_harm(data):
    """Arbitrary bytes as a state change nothing and raise nothing."""
    policy = make_policy("veil", rng=np.random.default_rng(0))
    before = policy._model
    policy.load_state(data)
    assert policy._model is before
