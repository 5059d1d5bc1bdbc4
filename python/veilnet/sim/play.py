"""Policies in an environment: the loop, the oracle, and the baseline that sees everything."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from veilnet.paths import Decision, Guard, make_policy

if TYPE_CHECKING:
    from veilnet.paths import Policy
    from veilnet.sim.environment import Environment, Tally

Maker = Callable[[np.random.Generator], "Policy"]
"""Makes the policy of one node."""


def guarded(name: str) -> Maker:
    """Return what the daemon runs under *name*: that very class in that very guard."""
    return lambda rng: Guard(make_policy(name, rng=rng))


class Ensemble:
    """One policy per node, for every agent but those that somebody else decides for.

    Invariant: a policy sees its arms, its samples and the clock, nothing else of the environment.
    """

    def __init__(
        self,
        env: Environment,
        make: Maker,
        *,
        seed: int,
        quiet: bool = False,
        apart_from: frozenset[int] = frozenset(),
    ) -> None:
        self._env, self._quiet, self._apart = env, quiet, apart_from
        ours = {node for agent, node in enumerate(env.nodes) if agent not in apart_from}
        self._policies = {node: make(np.random.default_rng([seed, node])) for node in sorted(ours)}
        self._keys = [number.to_bytes(4, "big") for number in range(env.agents)]
        self._heard = [False] * env.agents

    def decide(self) -> None:
        """Let every agent that is due learn, and decide."""
        env, now_s = self._env, self._env.now_s
        for agent in env.due():
            if agent in self._apart:
                continue
            policy, key = self._policies[env.nodes[agent]], self._keys[agent]
            if self._heard[agent]:
                policy.update(key, env.samples(agent), now_s)
            if env.stale(agent):
                policy.set_arms(key, env.arms(agent), now_s)
            env.act(agent, policy.decide(key, now_s, quiet=self._quiet))
            self._heard[agent] = True


def play(env: Environment, make: Maker, *, seed: int, quiet: bool = False) -> Tally:
    """Run *env* to its end with one policy per node and return what it cost."""
    ensemble = Ensemble(env, make, seed=seed, quiet=quiet)
    while not env.done:
        ensemble.decide()
        env.step()
    return env.tally


def play_oracle(env: Environment) -> Tally:
    """Run *env* with the arm that will be cheapest in the coming step."""
    return _play_known(env, late=False)


def play_full_information(env: Environment) -> Tally:
    """Run *env* with the arm that was cheapest in the last step: all is seen, one step late."""
    return _play_known(env, late=True)


def _play_known(env: Environment, *, late: bool) -> Tally:
    before = env.costs_ms()
    while not env.done:
        costs = env.costs_ms()
        best = (before if late else costs).argmin(axis=1)
        for agent in env.due():
            env.act(agent, Decision(((env.ids[agent][int(best[agent])], 1.0),)))
        before = costs
        env.step()
    return env.tally
