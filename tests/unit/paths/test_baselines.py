import numpy as np
import pytest

from tests.unit.paths.streets import HOME, arm, guarded, over, street
from veilnet.errors import ConfigError
from veilnet.paths import DIRECT, make_policy, policy_names

LEARNERS = ("veil", "greedy", "linucb", "dts", "via")


def test_the_names():
    """All the policies that the design names are there, the shipped one first."""
    assert policy_names() == (
        "veil", "greedy", "linucb", "random", "direct", "dts", "exp3", "via",
    )  # fmt: skip


def test_an_unknown_name_is_the_operators_fault():
    """The error says which names there are."""
    with pytest.raises(ConfigError) as caught:
        make_policy("magic", rng=np.random.default_rng(1))
    assert "greedy" in caught.value.hint


@pytest.mark.parametrize("name", LEARNERS)
def test_learners_find_the_best_arm(name):
    """Where one arm is five times as good and all stand still, most traffic ends up there."""
    scene = street(guarded(name), true_ms={over(3): 20.0})
    scene.seconds(300)
    used = [shares.get(over(3), 0.0) for shares in scene.history[200:]]
    assert sum(used) / len(used) > 0.75


def test_exp3_prefers_the_best_arm_within_its_exploration():
    """Exp3 comes to choose the best arm more often than any other, and never stops trying."""
    scene = street(guarded("exp3"), relays=3, direct_ms=400.0, true_ms={over(3): 20.0})
    scene.seconds(4_000)
    late = scene.history[2_000:]
    used = {one.id: sum(shares.get(one.id, 0.0) for shares in late) for one in scene.arms}
    assert max(used, key=used.get) == over(3)
    assert min(used.values()) > 0


@pytest.mark.parametrize("name", [*LEARNERS, "exp3"])
def test_learners_leave_a_dead_arm(name):
    """The arm that was best and died carries little afterwards."""
    scene = street(guarded(name), true_ms={over(3): 20.0})
    scene.seconds(200)
    scene.true_ms[over(3)] = None
    scene.seconds(200)
    used = [shares.get(over(3), 0.0) for shares in scene.history[300:]]
    assert sum(used) / len(used) < (0.35 if name == "exp3" else 0.1)


def test_random_goes_everywhere():
    """Random uses every arm about equally."""
    scene = street(guarded("random"), relays=3)
    scene.seconds(400)
    for one in scene.arms:
        assert 60 < sum(shares.get(one.id, 0.0) for shares in scene.history) < 140


def test_direct_stays_direct():
    """Direct never leaves the direct path, whatever it costs."""
    scene = street(guarded("direct"), direct_ms=900.0)
    scene.seconds(50)
    assert all(shares == {DIRECT: 1.0} for shares in scene.history)


def test_direct_without_a_direct_path_takes_the_shortest():
    """Where there is no direct path, the arm with the shortest legs carries."""
    arms = [arm(over(1), 50.0), arm(over(2), 10.0)]
    assert street(guarded("direct"), arms=arms).second().shares == ((over(2), 1.0),)


@pytest.mark.parametrize("name", policy_names())
def test_every_policy_explains_and_forgets(name):
    """Each names all its arms, cheapest first, with a reason; forgotten, none."""
    scene = street(guarded(name))
    scene.seconds(30)
    views = scene.policy.explain(HOME, scene.now_s)
    assert {view.id for view in views} == {one.id for one in scene.arms}
    assert all(view.reason and 0.0 <= view.confidence <= 1.0 for view in views)
    forecasts = [view.forecast_ms for view in views]
    assert forecasts == sorted(forecasts)
    scene.policy.forget(HOME)
    assert scene.policy.explain(HOME, scene.now_s) == ()


@pytest.mark.parametrize("name", ["greedy", "linucb", "dts", "via"])
def test_baselines_probe_as_often_as_the_shipped_policy(name):
    """One probe in four seconds, one in ten when quiet: information is what differs least."""
    for quiet, rate in ((False, 0.25), (True, 0.1)):
        scene = street(guarded(name))
        scene.seconds(1_000, quiet=quiet)
        assert 0.7 * rate * 1_000 < scene.probes < 1.3 * rate * 1_000
