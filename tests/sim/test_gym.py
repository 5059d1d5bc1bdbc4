import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from veilnet.sim.crowd import Crowd, town
from veilnet.sim.gym import PathEnv
from veilnet.sim.hybrid import hybrid_scenario
from veilnet.sim.world import World


@pytest.fixture
def make_world(bases):
    """A small world for any seed."""
    return lambda seed: World(
        hybrid_scenario(bases, seed=seed, steps=30, sources=1, destinations=2, relays=5)
    )


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_gymnasiums_checker_is_content(make_world, bases):
    """Both kinds of environment pass Gymnasium's own checker."""
    check_env(PathEnv(make_world), skip_render_check=True)

    def make_crowd(seed):
        place = town(bases, seed=seed, sources=6, relays=4)
        return Crowd(place, seed=seed, seconds=10, warm_up_s=0)

    check_env(PathEnv(make_crowd), skip_render_check=True)


def test_it_steps_the_experiments_own_object(make_world):
    """The adapter has no dynamics: what its step reports is what the environment's tally says."""
    env = PathEnv(make_world, others="greedy")
    observation, _ = env.reset(seed=4)
    assert isinstance(env, gymnasium.Env)
    assert type(env.environment) is World
    assert observation[:, 7].tolist() == [1.0] * 6
    shares = np.zeros(6, np.float32)
    shares[0] = shares[2] = 0.5
    expected = 0.0
    for _ in range(30):
        costs = env.environment.costs_ms()[0]
        _, reward, _, truncated, info = env.step({"shares": shares, "probe": 3, "standby": 2})
        assert reward == pytest.approx(-info["cost_ms"] / 1e3)
        expected += float(0.5 * (costs[0] + costs[2]))
        mine = env.environment.shares[0]
        assert mine.tolist() == [0.5, 0, 0.5, 0, 0, 0]
    assert truncated
    assert env.environment.done
    with_others = env.environment.tally.cost_ms
    assert with_others > expected > 0
