import itertools

import numpy as np
import pytest
from attrs import evolve
from structlog.testing import capture_logs

from tests.unit.paths.streets import HOME, arm, guarded, over, sample, street
from veilnet.paths import DIRECT, Budgets, Decision, Guard
from veilnet.paths.plain import Direct


class Says(Direct):
    """A policy that says what a test tells it to."""

    def __init__(self, *decisions):
        super().__init__(np.random.default_rng(1))
        self.decisions = list(decisions)

    def decide(self, destination, now_s, *, quiet=False):
        """Return the next of the decisions; the last again and again."""
        super().decide(destination, now_s, quiet=quiet)
        said = self.decisions.pop(0) if len(self.decisions) > 1 else self.decisions[0]
        if isinstance(said, Exception):
            raise said
        return said


ARMS = [arm(DIRECT, 100.0), arm(over(1)), arm(over(2)), arm(over(1, 2)), arm(over(3))]


def guard_of(*decisions, **budgets):
    """Return a guard around a policy that says *decisions*."""
    guard = Guard(Says(*decisions), Budgets(**budgets))
    guard.set_arms(HOME, ARMS, 0.0)
    return guard


def on(arm_id, **rest):
    """Return a decision for one arm."""
    return Decision(((arm_id, 1.0),), **rest)


NAN = float("nan")
FLAWED = {
    "no shares": Decision(()),
    "not a number": Decision(((DIRECT, NAN),)),
    "half": Decision(((DIRECT, 0.5),)),
    "more than all": Decision(((DIRECT, 1.5), (over(3), -0.5))),
    "four arms": Decision(tuple((one, 0.25) for one in (DIRECT, over(1), over(2), over(3)))),
    "unknown arm": on(over(9)),
    "unknown probe": on(DIRECT, probe=over(9)),
    "one relay twice": Decision(((over(1), 0.5), (over(1, 2), 0.5))),
    "standby over the same relay": on(over(1), standby=over(1, 2)),
    "an arm twice": Decision(((DIRECT, 0.5), (DIRECT, 0.5))),
    "raises": ZeroDivisionError("oops"),
}


@pytest.mark.parametrize("flaw", FLAWED)
def test_greedy_takes_over_from_a_policy_that_fails(flaw):
    """Whatever is wrong with a decision, the guard's is greedy's, sound, and logged once."""
    guard = guard_of(FLAWED[flaw])
    with capture_logs() as logs:
        first = guard.decide(HOME, 1.0)
        guard.decide(HOME, 2.0)
    assert first.reason.startswith("fallback")
    assert first.shares[0][0] in {over(1), over(2), over(1, 2), over(3)}
    assert [entry["log_level"] for entry in logs] == ["error"]


def test_the_fallback_is_deterministic():
    """Two guards that fall back, given the same samples, decide alike."""
    said = []
    for _ in range(2):
        guard = guard_of(FLAWED["half"])
        found = []
        for second in range(50):
            decision = guard.decide(HOME, float(second))
            found.append(decision)
            guard.update(HOME, [sample(decision.shares[0][0], 40.0 + second)], second + 0.5)
        said.append(found)
    assert said[0] == said[1]


def test_a_failed_policy_gets_another_chance():
    """After a minute the policy decides again."""
    guard = guard_of(FLAWED["half"], on(DIRECT, reason="sound"))
    assert guard.decide(HOME, 0.0).reason.startswith("fallback")
    assert guard.decide(HOME, 59.0).reason.startswith("fallback")
    assert guard.decide(HOME, 60.0).reason == "sound"


def test_probes_have_a_budget():
    """A policy that wants a probe every second gets the burst and then the rate."""
    guard = guard_of(on(DIRECT, probe=over(1)), probes_per_s=0.1, probes_burst=2.0)
    got = sum(guard.decide(HOME, float(second)).probe is not None for second in range(100))
    assert 10 <= got <= 12


def swinging(count):
    """Return decisions that move everything to and fro."""
    return [on((DIRECT, over(1))[i % 2]) for i in range(count)]


def test_moves_have_a_budget():
    """A policy that swings is held still once its budget is used up."""
    guard = guard_of(*swinging(101), moved_per_s=0.1, moved_burst=1.0)
    shares = [guard.decide(HOME, float(second)).shares for second in range(100)]
    moved = sum(new != old for old, new in itertools.pairwise(shares))
    assert 1 <= moved <= 11


def test_openings_have_a_budget():
    """A policy that opens another path each second is slowed down to the rate."""
    guard = guard_of(*swinging(121), openings_per_min=6.0, openings_burst=1.0)
    shares = [guard.decide(HOME, float(second)).shares for second in range(120)]
    opened = sum(new != old for old, new in itertools.pairwise(shares))
    assert 1 <= opened <= 13


def test_leaving_a_dead_arm_is_free():
    """No budget holds traffic on an arm that brings nothing back."""
    guard = guard_of(on(over(1)), on(over(2)), moved_per_s=0.0, moved_burst=0.0)
    assert guard.decide(HOME, 0.0).shares == ((over(1), 1.0),)
    guard.update(HOME, [sample(over(1), None)], 0.5)
    assert guard.decide(HOME, 1.0).shares == ((over(2), 1.0),)


def test_leaving_an_arm_that_is_gone_is_free():
    """No budget holds traffic on an arm that is no longer there."""
    guard = guard_of(on(over(1)), on(over(2)), moved_per_s=0.0, moved_burst=0.0)
    guard.decide(HOME, 0.0)
    guard.set_arms(HOME, [one for one in ARMS if one.id != over(1)], 0.5)
    assert guard.decide(HOME, 1.0).shares == ((over(2), 1.0),)


@pytest.mark.parametrize(
    "broken",
    [
        {"rtt_s": NAN},
        {"rtt_s": -1.0},
        {"rtt_s": float("inf")},
        {"loss": 1.5},
        {"loss": NAN},
        {"jitter_s": NAN},
        {"rtt_min_s": NAN},
        {"demand_bps": float("inf")},
        {"goodput_bps": -1.0},
    ],
)
def test_impossible_samples_teach_nothing(broken):
    """A sample with a number that cannot be never reaches the policy."""
    scene = street(guarded("veil"))
    scene.seconds(10)
    before = scene.policy.explain(HOME, 10.0)
    bad = evolve(sample(DIRECT, 50.0), **broken)
    scene.policy.update(HOME, [bad], 10.0)
    assert scene.policy.explain(HOME, 10.0) == before


def test_impossible_legs_count_as_unknown():
    """Infinite, negative or absurd legs do not reach a forecast."""
    policy = guarded("veil")
    arms = [arm(DIRECT, 50.0), arm(over(1), float("inf"), -5.0), arm(over(2), 1e9)]
    policy.set_arms(HOME, arms, 0.0)
    assert all(np.isfinite(view.forecast_ms) for view in policy.explain(HOME, 0.0))


def test_unknown_destination():
    """Who was never given arms gets no shares, and samples for it are dropped."""
    guard = guarded("veil")
    guard.update(b"x", [sample(DIRECT, 5.0)], 0.0)
    assert guard.decide(b"x", 0.0).shares == ()
    assert guard.explain(b"x", 0.0) == ()


def test_the_guard_passes_on_what_is_sound():
    """A sound policy's shares, probe, standby and reason come out as they went in."""
    said = Decision(((over(1), 0.6), (DIRECT, 0.4)), probe=over(2), standby=over(3), reason="so")
    assert guard_of(said).decide(HOME, 0.0) == said
