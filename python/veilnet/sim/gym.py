"""Any environment of the experiments as a Gymnasium environment (``pip install 'veilnet[rl]'``).

One agent is yours, every other agent of the environment is driven by a policy of ours.  The adapter
holds no dynamics of its own: it steps the very object that the experiments step.

```
observation  (arms, 8)   own leg s | far leg s | last round trip s | last loss | age of it s
                         share | 1: that was a probe | 1: there is such an arm
action       {"shares": (arms,) weights >= 0, "probe": 0 none, k + 1: arm k, "standby": likewise}
reward       - mean cost of the arms used, in equivalent seconds, weighted by share
```
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import numpy as np

try:
    import gymnasium
except ModuleNotFoundError:
    raise ModuleNotFoundError(
        "veilnet.sim.gym needs Gymnasium: pip install 'veilnet[rl]'", name="gymnasium"
    ) from None

from veilnet.paths import MAX_SHARES, Decision, Sample
from veilnet.sim.environment import DEAD_MS, LOSS_MS, Environment
from veilnet.sim.play import Ensemble, guarded

if TYPE_CHECKING:
    from numpy.typing import NDArray

Observation = np.ndarray[Any, np.dtype[np.float32]]
Action = dict[str, Any]

FEATURES: Final = 8
_LONGEST_S: Final = 1e6


class PathEnv(gymnasium.Env[Observation, Action]):
    """One agent's second: shares and a probe in, what they showed out.

    *make* returns a fresh environment for a seed, as `World` or `Crowd` of a scenario.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - Gymnasium's own spelling

    def __init__(
        self,
        make: Callable[[int], Environment],
        *,
        agent: int = 0,
        others: str = "veil",
        quiet: bool = False,
    ) -> None:
        self._make, self._agent, self._others, self._quiet = make, agent, others, quiet
        self.environment: Environment = make(0)
        width = len(self.environment.ids[agent])
        self.observation_space = gymnasium.spaces.Box(
            0.0, _LONGEST_S, (width, FEATURES), np.float32
        )
        self.action_space = gymnasium.spaces.Dict(
            {
                "shares": gymnasium.spaces.Box(0.0, 1.0, (width,), np.float32),
                "probe": gymnasium.spaces.Discrete(width + 1),
                "standby": gymnasium.spaces.Discrete(width + 1),
            }
        )
        self._ensemble = Ensemble(self.environment, guarded(others), seed=0, quiet=quiet)
        self._table: NDArray[np.float32] = np.zeros((width, FEATURES), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin a fresh environment; without *seed* one drawn from the generator so far."""
        super().reset(seed=seed, options=options)
        drawn = int(self.np_random.integers(2**31)) if seed is None else seed
        self.environment = self._make(drawn)
        self._ensemble = Ensemble(
            self.environment,
            guarded(self._others),
            seed=drawn,
            quiet=self._quiet,
            apart_from=frozenset({self._agent}),
        )
        self._table[:] = 0.0
        self._table[:, 4] = _LONGEST_S
        self._advance()
        return self._observe([]), {}

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Act until it is this agent's turn again."""
        env = self.environment
        env.act(self._agent, self.decision(action))
        self._ensemble.decide()
        env.step()
        self._advance()
        samples = env.samples(self._agent)
        cost_ms = self._cost_ms(samples)
        info = {"cost_ms": cost_ms, "now_s": env.now_s}
        return self._observe(samples), -cost_ms / 1e3, False, env.done, info

    def decision(self, action: Action) -> Decision:
        """Return *action* as a decision: the three largest weights, made to sum to 1."""
        ids = self.environment.ids[self._agent]
        weights = np.nan_to_num(np.asarray(action["shares"], np.float64)).clip(0.0, 1.0)
        weights[self._table[:, 7] == 0.0] = 0.0
        weights[np.argsort(-weights, kind="stable")[MAX_SHARES:]] = 0.0
        if not weights.any():
            weights[int(np.flatnonzero(self._table[:, 7])[0])] = 1.0
        weights /= weights.sum()
        shares = tuple((ids[k], float(weights[k])) for k in np.flatnonzero(weights).tolist())
        probe, standby = int(action["probe"]) - 1, int(action["standby"]) - 1
        return Decision(
            shares,
            probe=ids[probe] if probe >= 0 else None,
            standby=ids[standby] if standby >= 0 else None,
        )

    def _advance(self) -> None:
        """Step until this agent is due: in a crowd others have their turns in between."""
        env = self.environment
        while not env.done and self._agent not in env.due():
            self._ensemble.decide()
            env.step()

    def _observe(self, samples: list[Sample]) -> Observation:
        env, table = self.environment, self._table
        columns = {arm: k for k, arm in enumerate(env.ids[self._agent])}
        step_s = env.step_s
        table[:, 4] = np.minimum(table[:, 4] + step_s, _LONGEST_S)
        table[:, 7] = 0.0
        for arm in env.arms(self._agent):
            k = columns[arm.id]
            table[k, :2] = arm.own_leg_s, arm.far_leg_s
            table[k, 7] = 1.0
        table[:, 5:7] = 0.0
        for sample in samples:
            k = columns[sample.arm]
            rtt_s = DEAD_MS / 1e3 if sample.rtt_s is None else sample.rtt_s
            table[k, 2:5] = rtt_s, sample.loss, 0.0
            table[k, 6] = float(sample.probe)
            if not sample.probe:
                table[k, 5] = sample.demand_bps
        total = float(table[:, 5].sum())
        if total > 0:
            table[:, 5] /= total
        return table.copy()

    @staticmethod
    def _cost_ms(samples: list[Sample]) -> float:
        """Return the cost of data, weighted by what was sent."""
        data = [sample for sample in samples if not sample.probe]
        sent = sum(sample.demand_bps for sample in data)
        if sent <= 0:
            return 0.0
        costs = [
            DEAD_MS if s.rtt_s is None else min(DEAD_MS, 1e3 * s.rtt_s + LOSS_MS * s.loss)
            for s in data
        ]
        weighted = zip(costs, data, strict=True)
        return float(sum(cost * s.demand_bps for cost, s in weighted) / sent)
