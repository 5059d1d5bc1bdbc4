"""The build fails if the shipped policy is not better than greedy and LinUCB in B and C.

Better by as much as it is on these seeds, less a tenth: constants that made it a third worse once
passed a gate that asked for "better" alone.
"""

import numpy as np
import pytest

from veilnet.sim.crowd import Crowd, town
from veilnet.sim.hybrid import hybrid_scenario
from veilnet.sim.play import guarded, play
from veilnet.sim.world import World

BASELINES = ("greedy", "linucb")
SEEDS = tuple(range(5_101, 5_113))
"""No constant was chosen on these."""


@pytest.mark.slow
def test_better_through_the_weather(bases):
    """B: over twelve seeds it costs two thirds of LinUCB's excess, and half of greedy's.

    On recorded bases; on generated ones, whose weather nobody chose, it is better by whatever.
    """
    of_linucb, of_greedy = (1.0, 1.0) if bases.why else (0.67, 0.5)
    excess = {name: [] for name in ("veil", *BASELINES)}
    for seed in SEEDS:
        scenario = hybrid_scenario(bases, seed=seed, steps=300, sources=4, destinations=3)
        for name, found in excess.items():
            found.append(play(World(scenario), guarded(name), seed=seed, quiet=True).excess())
    means = {name: float(np.mean(found)) for name, found in excess.items()}
    assert means["veil"] < of_greedy * means["greedy"], means
    assert means["veil"] < of_linucb * means["linucb"], means


@pytest.mark.slow
def test_better_in_a_crowd(bases):
    """C: everybody running it costs everybody less than either baseline would."""
    costs = {name: [] for name in ("veil", *BASELINES)}
    for seed in SEEDS[:3]:
        place = town(bases, seed=seed, sources=80, relays=8)
        bound_ms = place.optimum().bound_ms
        for name, found in costs.items():
            crowd = Crowd(place, seed=seed, seconds=50, warm_up_s=20)
            tally = play(crowd, guarded(name), seed=seed)
            found.append(tally.cost_ms / tally.sent / bound_ms - 1)
            assert found[-1] > 0
    means = {name: float(np.mean(found)) for name, found in costs.items()}
    assert means["veil"] < 0.7 * means["greedy"], means
    assert means["veil"] < 0.7 * means["linucb"], means
