"""A tiny world for path policies: arms whose true costs a test sets, and a clock it moves."""

import numpy as np
from attrs import define, field

from veilnet.paths import DIRECT, Arm, ArmId, Guard, Sample, make_policy
from veilnet.units import PeerId

HOME = b"home"


def relay(number):
    """Return the peer id of a relay."""
    return PeerId(bytes([number]) * 32)


def over(*numbers):
    """Return the id of the arm over these relays."""
    return tuple(relay(number) for number in numbers)


def arm(arm_id, own_ms=20.0, far_ms=30.0, prefixes=()):
    """Return an arm with legs in milliseconds."""
    if not arm_id:
        far_ms = 0.0
    return Arm(arm_id, own_ms / 1e3, far_ms / 1e3, frozenset(prefixes))


def sample(arm_id, rtt_ms, *, probe=False, loss=0.0, busy=False, rtt_min_ms=None, goodput=None):
    """Return a sample of a second; *rtt_ms* None: nothing came back."""
    demand = 0.0 if probe else 1e6
    delivered = demand * (1 - loss) if goodput is None else goodput
    return Sample(
        arm=arm_id,
        rtt_s=None if rtt_ms is None else rtt_ms / 1e3,
        loss=1.0 if rtt_ms is None else loss,
        jitter_s=0.0,
        rtt_min_s=(rtt_ms or 0.0) / 1e3 if rtt_min_ms is None else rtt_min_ms / 1e3,
        demand_bps=demand,
        goodput_bps=0.0 if rtt_ms is None else delivered,
        probe=probe,
        busy=busy,
    )


@define
class Street:
    """One policy, one destination; `true_ms` says what each arm costs now (None: dead)."""

    policy: object
    arms: list[Arm]
    true_ms: dict[ArmId, float | None]
    probe_ms: dict[ArmId, float | None] = field(factory=dict)
    """Where a probe fares otherwise than data."""
    now_s: float = 0.0
    decision: object = None
    probes: int = 0
    history: list[dict[ArmId, float]] = field(factory=list)

    def second(self, *, quiet=False):
        """Let one second pass: decide, send, learn."""
        self.decision = self.policy.decide(HOME, self.now_s, quiet=quiet)
        found = [sample(one, self.true_ms[one]) for one, _ in self.decision.shares]
        probe = self.decision.probe
        if probe is not None:
            self.probes += 1
            truth = self.probe_ms.get(probe, self.true_ms[probe])
            found.append(sample(probe, truth, probe=True))
        self.now_s += 1.0
        self.policy.update(HOME, found, self.now_s)
        self.history.append(dict(self.decision.shares))
        return self.decision

    def seconds(self, count, **kwargs):
        """Let *count* seconds pass and return the last decision."""
        for _ in range(count):
            self.second(**kwargs)
        return self.decision

    def share(self, arm_id):
        """Return what *arm_id* carries now."""
        return dict(self.decision.shares).get(arm_id, 0.0)


def street(policy="veil", *, seed=1, relays=5, direct_ms=100.0, true_ms=None, arms=None):
    """Return a street with a direct path and relays that are as fast as their legs say."""
    made = (
        make_policy(policy, rng=np.random.default_rng(seed)) if isinstance(policy, str) else policy
    )
    if arms is None:
        arms = [arm(DIRECT, direct_ms)]
        arms += [arm(over(n), 20.0 + 2 * n, 30.0) for n in range(1, relays + 1)]
    truth = {one.id: 1e3 * (one.own_leg_s + one.far_leg_s) for one in arms}
    truth.update(true_ms or {})
    made.set_arms(HOME, arms, 0.0)
    return Street(made, arms, truth)


def guarded(policy, *, seed=1):
    """Return the policy as the daemon runs it."""
    return Guard(make_policy(policy, rng=np.random.default_rng(seed)))
