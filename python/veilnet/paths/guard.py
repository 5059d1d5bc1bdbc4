"""The guard around every policy: what it hears is clean, what it says is bounded.

```
samples, arms -> made sane ->  policy  -> shares finite, over arms that there are, none of them
                                          twice over one relay or prefix, at most 3, summing to 1
                                       -> within the budgets: probes, moved share, openings
     the policy raises, or says what it must not -> greedy decides for that destination,
                                          deterministically; after a minute the policy starts anew
```
The budgets are a fuse against a policy that runs wild; a sound one never meets them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf, isfinite, nan
from typing import Final

import numpy as np
import structlog
from attrs import evolve, frozen

from veilnet.paths.greedy import Greedy
from veilnet.paths.policy import (
    MAX_ARMS,
    MAX_DESTINATIONS,
    MAX_SAMPLES,
    MAX_SHARES,
    Arm,
    ArmId,
    ArmView,
    Decision,
    Destination,
    Policy,
    Sample,
)

_log = structlog.get_logger("veilnet.paths")

_RETRY_S: Final = 60.0
_MAX_RTT_S: Final = 60.0
_MAX_BPS: Final = 1e15
_TOLERANCE: Final = 1e-3


@frozen
class Budgets:
    """What a policy may ask for, per destination."""

    probes_per_s: float = 0.5
    probes_burst: float = 4.0
    moved_per_s: float = 1.0
    """Share of the traffic that changes its path; leaving a dead arm is free."""
    moved_burst: float = 4.0
    openings_per_min: float = 60.0
    """Arms that begin to carry data."""
    openings_burst: float = 16.0


class _Bucket:
    """Tokens that come at a rate and do not pile up beyond a burst."""

    __slots__ = ("_at_s", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._tokens = burst
        self._at_s = -inf

    def has(self, tokens: float, now_s: float) -> bool:
        """Whether so many are there now."""
        if now_s > self._at_s:
            passed_s = min(now_s - self._at_s, 1e6)
            self._tokens = min(self._burst, self._tokens + self._rate * passed_s)
            self._at_s = now_s
        return self._tokens >= tokens - 1e-9

    def take(self, tokens: float) -> None:
        """Use so many up."""
        self._tokens -= tokens


class _Watch:
    """What the guard keeps of one destination."""

    __slots__ = ("arms", "broken_s", "dead", "moves", "openings", "probes", "said")

    def __init__(self, budgets: Budgets) -> None:
        self.arms: dict[ArmId, Arm] = {}
        self.said: Decision | None = None
        self.dead: set[ArmId] = set()
        """Arms whose last sample brought nothing back."""
        self.broken_s: float | None = None
        self.probes = _Bucket(budgets.probes_per_s, budgets.probes_burst)
        self.moves = _Bucket(budgets.moved_per_s, budgets.moved_burst)
        self.openings = _Bucket(budgets.openings_per_min / 60.0, budgets.openings_burst)


class Guard:
    """Any policy, bounded; itself a `Policy`."""

    def __init__(self, policy: Policy, budgets: Budgets | None = None) -> None:
        self._policy = policy
        self._budgets = budgets or Budgets()
        # Its only draw of lots breaks ties, always alike.
        self._fallback = Greedy(np.random.default_rng(0))
        self._watches: dict[Destination, _Watch] = {}

    @property
    def name(self) -> str:
        """The name of the policy inside."""
        return self._policy.name

    @property
    def policy(self) -> Policy:
        """The policy inside."""
        return self._policy

    def set_arms(self, destination: Destination, arms: Sequence[Arm], now_s: float) -> None:
        """Say which arms there are now; what is known of those that stay is kept."""
        watch = self._watches.pop(destination, None)
        if watch is None:
            watch = _Watch(self._budgets)
            while len(self._watches) >= MAX_DESTINATIONS:
                self.forget(next(iter(self._watches)))
        self._watches[destination] = watch
        watch.arms = {arm.id: _sane_arm(arm) for arm in arms[:MAX_ARMS]}
        watch.dead.intersection_update(watch.arms)
        sane = tuple(watch.arms.values())
        self._dare(
            destination, watch, now_s, lambda: self._policy.set_arms(destination, sane, now_s)
        )
        if watch.broken_s is not None:
            self._fallback.set_arms(destination, sane, now_s)

    def update(self, destination: Destination, samples: Sequence[Sample], now_s: float) -> None:
        """Learn from *samples*; those of arms that are not there, or impossible, are ignored."""
        watch = self._watches.get(destination)
        if watch is None:
            return
        sane = [
            sample for raw in samples[:MAX_SAMPLES] if (sample := _sane_sample(raw)) is not None
        ]
        for sample in sane:
            (watch.dead.add if sample.rtt_s is None else watch.dead.discard)(sample.arm)
        watch.dead.intersection_update(watch.arms)
        self._dare(destination, watch, now_s, lambda: self._policy.update(destination, sane, now_s))
        if watch.broken_s is not None:
            self._fallback.update(destination, sane, now_s)

    def decide(self, destination: Destination, now_s: float, *, quiet: bool = False) -> Decision:
        """Return what to do next, within bounds whatever the policy says."""
        watch = self._watches.get(destination)
        if watch is None or not watch.arms:
            return Decision((), reason="there is no arm")
        if watch.broken_s is not None and now_s - watch.broken_s >= _RETRY_S:
            self._retry(destination, watch, now_s)
        decision: Decision | None = None
        if watch.broken_s is None:
            try:
                decision = self._policy.decide(destination, now_s, quiet=quiet)
                flaw = _flaw(decision, watch.arms)
            except Exception as error:  # noqa: BLE001 - a policy's bug must not stop the node
                flaw = repr(error)
            if flaw:
                self._break(destination, watch, now_s, flaw)
                decision = None
        if decision is None:
            decision = self._fallback.decide(destination, now_s, quiet=quiet)
            decision = evolve(decision, reason="fallback: the policy failed, greedy decides")
        decision = self._within_budgets(watch, decision, now_s)
        watch.said = decision
        return decision

    def explain(self, destination: Destination, now_s: float) -> tuple[ArmView, ...]:
        """Return every arm as whoever decides sees it, cheapest first."""
        watch = self._watches.get(destination)
        if watch is None:
            return ()
        if watch.broken_s is None:
            try:
                return self._policy.explain(destination, now_s)
            except Exception as error:  # noqa: BLE001 - as in decide
                self._break(destination, watch, now_s, repr(error))
        return self._fallback.explain(destination, now_s)

    def forget(self, destination: Destination) -> None:
        """Drop all that is known of *destination*."""
        self._watches.pop(destination, None)
        self._policy.forget(destination)
        self._fallback.forget(destination)

    def state(self) -> bytes:
        """Return what deserves to outlive a restart."""
        return self._policy.state()

    def load_state(self, data: bytes) -> None:
        """Take back what `state` returned."""
        self._policy.load_state(data)

    def _dare(
        self,
        destination: Destination,
        watch: _Watch,
        now_s: float,
        call: Callable[[], None],
    ) -> None:
        if watch.broken_s is not None:
            return
        try:
            call()
        except Exception as error:  # noqa: BLE001 - a policy's bug must not stop the node
            self._break(destination, watch, now_s, repr(error))

    def _break(self, destination: Destination, watch: _Watch, now_s: float, flaw: str) -> None:
        _log.error("path policy failed, greedy decides", policy=self.name, reason=flaw)
        watch.broken_s = now_s
        self._policy.forget(destination)
        self._fallback.set_arms(destination, tuple(watch.arms.values()), now_s)

    def _retry(self, destination: Destination, watch: _Watch, now_s: float) -> None:
        watch.broken_s = None
        self._fallback.forget(destination)
        arms = tuple(watch.arms.values())
        self._dare(
            destination, watch, now_s, lambda: self._policy.set_arms(destination, arms, now_s)
        )

    def _within_budgets(self, watch: _Watch, decision: Decision, now_s: float) -> Decision:
        probe = decision.probe
        if probe is not None:
            if watch.probes.has(1.0, now_s):
                watch.probes.take(1.0)
            else:
                decision = evolve(decision, probe=None)
        said = watch.said
        if said is None or said.shares == decision.shares:
            return decision
        before, after = dict(said.shares), dict(decision.shares)
        if any(arm in watch.dead or arm not in watch.arms for arm in before):
            return decision
        moved = sum(max(0.0, share - before.get(arm, 0.0)) for arm, share in after.items())
        opened = float(sum(arm not in before for arm in after))
        if not (watch.moves.has(moved, now_s) and watch.openings.has(opened, now_s)):
            return evolve(
                decision,
                shares=said.shares,
                standby=said.standby,
                reason="as before: the budget is used up",
            )
        watch.moves.take(moved)
        watch.openings.take(opened)
        return decision


def _sane_arm(arm: Arm) -> Arm:
    own, far = _sane_leg(arm.own_leg_s), _sane_leg(arm.far_leg_s)
    if own is arm.own_leg_s and far is arm.far_leg_s:
        return arm
    return evolve(arm, own_leg_s=own, far_leg_s=far)


def _sane_leg(leg_s: float) -> float:
    return leg_s if 0.0 <= leg_s <= _MAX_RTT_S else nan


def _sane_sample(sample: Sample) -> Sample | None:
    """Return *sample* if its numbers can be, None if not."""
    # Every comparison is false for what is no number.
    rtt_s = sample.rtt_s
    if (
        (rtt_s is None or 0.0 <= rtt_s <= _MAX_RTT_S)
        and 0.0 <= sample.loss <= 1.0
        and 0.0 <= sample.jitter_s <= _MAX_RTT_S
        and 0.0 <= sample.demand_bps <= _MAX_BPS
        and 0.0 <= sample.goodput_bps <= _MAX_BPS
        and (rtt_s is None or 0.0 <= sample.rtt_min_s <= _MAX_RTT_S)
    ):
        return sample
    return None


def _flaw(decision: Decision, arms: dict[ArmId, Arm]) -> str:
    """Return what is wrong with *decision*, an empty text if nothing is."""
    shares = decision.shares
    if not 1 <= len(shares) <= MAX_SHARES:
        return f"{len(shares)} arms share the traffic"
    if not all(isfinite(share) and 0.0 < share <= 1.0 + _TOLERANCE for _, share in shares):
        return "a share is none"
    if abs(sum(share for _, share in shares) - 1.0) > _TOLERANCE:
        return "the shares do not sum to 1"
    ids = [arm for arm, _ in shares]
    named = (*ids, *(arm for arm in (decision.probe, decision.standby) if arm is not None))
    if any(arm not in arms for arm in named):
        return "it names an arm that is not there"
    active = [arms[arm] for arm in ids]
    if decision.standby is not None:
        active.append(arms[decision.standby])
    for i, arm in enumerate(active):
        if any(arm.overlaps(other) for other in active[:i]):
            return "two active arms, or one and the standby, share a relay or a prefix"
    return ""
