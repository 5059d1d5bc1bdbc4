"""Experiment E: relays that misbehave, a fifth of all.

| attack  | what they do |
|---------|--------------|
| probes  | good to probes, and drop a fifth of all data |
| later   | good until an agent used one for 30 s, then 60 s bad to its data and probes; again |
| collude | as *later*, to data alone and all at once: the 30 s are those of all together |
| liars   | carry honestly, but are said to be five times as near to the destination as they are |
| sybils  | as *collude*, by two fifths of all relays, all of them in one /24 |

They sit where it hurts: of all relays those that are most often the best for somebody.  The oracle
of these rows never uses an attacker; a policy that uses one while it is good may be
better than that for a moment.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from attrs import evolve

from veilnet.errors import LocalProtocolError
from veilnet.sim.environment import equivalent_ms
from veilnet.sim.replay import Ints
from veilnet.sim.traces import Flags, Floats
from veilnet.sim.world import Scenario, Treatment, World

ATTACKS: Final = ("probes", "later", "collude", "liars", "sybils")
DROPPED: Final = 0.2
_GOOD_S: Final = 30.0
_BAD_S: Final = 60.0
_LIE: Final = 0.2
_PREFIX: Final = "198.51.100.0/24"


def attacked(scenario: Scenario, kind: str, *, seed: int) -> World:
    """Return *scenario* with attackers of *kind* in it.

    Raises: LocalProtocolError: there is no such attack.
    """
    if kind not in ATTACKS:
        raise LocalProtocolError(f"no attack is called {kind!r}; there are {', '.join(ATTACKS)}")
    relays = np.unique(scenario.relays[scenario.relays >= 0])
    part = 0.4 if kind == "sybils" else 0.2
    evil = _best_placed(scenario, seed)[: max(1, round(part * len(relays)))]
    bad = np.isin(scenario.relays, evil)
    if kind == "liars":
        far = np.where(bad, _LIE * scenario.far_ms, scenario.far_ms)
        return World(evolve(scenario, far_ms=far), Honest(bad))
    if kind == "sybils":
        own = [frozenset({f"203.0.{r}.0/24"}) for r in range(int(relays.max()) + 1)]
        for r in evil.tolist():
            own[r] = frozenset({_PREFIX})
        scenario = evolve(scenario, prefixes=tuple(own))
    if kind == "probes":
        return World(scenario, TwoFaced(bad))
    later = Later(bad, scenario.step_s, together=kind != "later", to_probes=kind == "later")
    return World(scenario, later)


def _best_placed(scenario: Scenario, seed: int) -> Ints:
    """Return all relays, those first that are most often best for somebody; ties by lot."""
    rng = np.random.default_rng([seed, 0x4541])
    costs = equivalent_ms(scenario.rtt_ms, scenario.loss)
    costs = np.where(scenario.relays >= 0, costs, np.inf)
    best = np.take_along_axis(scenario.relays, costs.argmin(axis=2).T, axis=1)
    relays = rng.permutation(np.unique(scenario.relays[scenario.relays >= 0]))
    often = (best[None] == relays[:, None, None]).sum(axis=(1, 2))
    return np.asarray(relays[np.argsort(-often, kind="stable")])


class Honest:
    """They are counted, and carry like everybody else."""

    shunned = False

    def __init__(self, bad: Flags) -> None:
        self.bad = bad

    def treat(self, shares: Floats, rtt_ms: Floats, loss: Floats) -> Treatment:
        """Return the step as it is."""
        del shares
        return Treatment(rtt_ms, loss, rtt_ms, loss)


class TwoFaced:
    """Good to probes, bad to data."""

    shunned = True

    def __init__(self, bad: Flags) -> None:
        self.bad = bad

    def treat(self, shares: Floats, rtt_ms: Floats, loss: Floats) -> Treatment:
        """Return what becomes of this step."""
        del shares
        return Treatment(rtt_ms, _dropping(loss, self.bad), rtt_ms, loss)


class Later:
    """Good until it is relied on."""

    shunned = True

    def __init__(self, bad: Flags, step_s: float, *, together: bool, to_probes: bool) -> None:
        self.bad = bad
        self._step_s, self._together, self._to_probes = step_s, together, to_probes
        self._used_s = np.zeros(bad.shape)
        self._bad_for_s = np.zeros(bad.shape)

    def treat(self, shares: Floats, rtt_ms: Floats, loss: Floats) -> Treatment:
        """Return what becomes of this step."""
        now_bad = self.bad & (self._bad_for_s > 0)
        used = self.bad & (shares > 0)
        if self._together:
            used = self.bad & used.any(axis=1, keepdims=True)
        self._used_s[used & ~now_bad] += self._step_s
        self._bad_for_s[now_bad] -= self._step_s
        turning = self._used_s >= _GOOD_S
        self._bad_for_s[turning] = _BAD_S
        self._used_s[turning] = 0.0
        dropping = _dropping(loss, now_bad)
        return Treatment(rtt_ms, dropping, rtt_ms, dropping if self._to_probes else loss)


def _dropping(loss: Floats, where: Flags) -> Floats:
    return np.where(where, 1.0 - (1.0 - loss) * (1.0 - DROPPED), loss)
