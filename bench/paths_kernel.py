"""The design's policy as its prototype was: plain numpy, one destination, nothing around it.

It is the yardstick for what a decision of the shipped policy may cost: both are timed in turns, in
one process.
"""

from __future__ import annotations

import gc
import statistics
import time
import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from veilnet.paths import DIRECT, Arm, Guard, Sample, make_policy
from veilnet.paths.veil import Veil
from veilnet.sim.environment import peer_id

if TYPE_CHECKING:
    from collections.abc import Callable

Floats = NDArray[np.float64]

ARMS = 21
ROUNDS, CALLS = 15, 200
REPORT_BYTES = 28 + 1 + 12 + 16 + 28
"""Body, type, header, tag, UDP over IPv4."""
PROBE_BYTES = 2 * (9 + 1 + 12 + 16 + 28)
"""There and back."""
REPORTS_PER_S = 10


class Kernel:
    """Forecast, update, probe and split as the design writes them."""

    def __init__(self, rng: np.random.Generator, own: Floats, far: Floats) -> None:
        self.rng, self.arms = rng, len(own)
        self.theta = np.array([0, 0, 1, 1, 1, 0.7, 0.5, 0.5])
        self.covariance, self.sigma = np.eye(8) / 4, 30.0
        self.direct = np.arange(self.arms) == 0
        self.own, self.far, self.own_mean, self.far_mean = own, far, own.copy(), far.copy()
        self.level, self.swing, self.bias = np.zeros((3, self.arms))
        self.count, self.share = np.zeros((2, self.arms))
        self.spread, self.seen = np.full(self.arms, 900.0), np.full(self.arms, -1e3)

    def features(self, now: float) -> tuple[Floats, Floats]:
        """Return z of every arm, and phi."""
        w, phi = self.count / (self.count + 1), np.exp((self.seen - now) / 15)
        rest = (w * self.level, w * self.swing * phi)
        slow = (w * (self.own - self.own_mean), w * (self.far - self.far_mean))
        first = (1 - w, self.direct, (1 - w) * self.own, (1 - w) * self.far)
        return np.stack((*first, *rest, *slow), axis=1), phi

    def decide(self, now: float) -> tuple[Floats, int]:
        """Return shares and the probe."""
        z, phi = self.features(now)
        cost = np.clip(z @ self.theta + self.bias, 1, 2000)
        probe = -1
        if self.rng.random() < 0.25:
            idle, age = np.flatnonzero(self.share == 0), now - self.seen
            v = self.spread * (1 - phi**2 + 0.003 * age) + 900 / (1 + self.count)
            guess = cost + self.rng.normal(size=self.arms) * np.sqrt(v)
            stalest = self.rng.random() < 0.2
            probe = int(idle[age[idle].argmax() if stalest else guess[idle].argmin()])
        least = cost.min()
        weight = np.exp((least - cost) / (0.05 * least + 1)) * (cost <= 1.15 * least + 2)
        target = int(self.rng.choice(self.arms, p=weight / weight.sum()))
        if not self.share.any():
            self.share[target] = 1
        gain = cost - cost[target]
        ease = 0.3 if self.share[target] > 0 else 1.0
        moving = (self.share > 0) & (gain > ease * np.maximum(3, 0.03 * cost))
        moved = np.where(moving, self.share * np.where(cost >= 2000, 1, gain / cost), 0)
        self.share -= moved
        self.share[target] += moved.sum()
        self.share[self.share < 0.05] = 0
        self.share[np.argsort(self.share)[:-3]] = 0
        self.share /= self.share.sum()
        self.count *= 0.997
        return self.share, probe

    def update(self, arm: int, cost: float, now: float) -> None:
        """Learn from one sample."""
        z = self.features(now)[0][arm]
        pz = self.covariance @ z
        residual = float(np.clip(cost - z @ self.theta, -5 * self.sigma, 5 * self.sigma))
        self.theta = self.theta + residual * pz / (0.998 + z @ pz)
        self.covariance = (self.covariance - np.outer(pz, pz) / (0.998 + z @ pz)) / 0.998
        off = float(np.clip(cost - self.level[arm], -400, 400))
        self.level[arm] += max(0.05, 1 / (self.count[arm] + 1)) * off
        self.swing[arm] = cost - self.level[arm]
        self.spread[arm] += 0.1 * (off * off - self.spread[arm])
        self.count[arm], self.seen[arm] = min(self.count[arm] + 1, 40), now


def sizes_and_times() -> dict[str, Any]:
    """Time the kernel and the shipped policy in turns; weigh what a destination takes.

    Units: microseconds (median of rounds), bytes.
    """
    rng = np.random.default_rng(1)
    own, far = rng.uniform(10, 80, (2, ARMS))
    far[0] = 0.0
    kernel = Kernel(np.random.default_rng(2), own, far)
    policy = Veil(np.random.default_rng(2))
    guard = Guard(policy)
    ids = [DIRECT, *((peer_id("relay", r),) for r in range(1, ARMS))]
    arms = [Arm(ids[k], own[k] / 1e3, far[k] / 1e3) for k in range(ARMS)]
    guard.set_arms(b"d", arms, 0.0)
    costs = (own + far).tolist()
    samples = [_sample(ids[k], costs[k]) for k in range(ARMS)]
    for k in range(ARMS):
        kernel.update(k, costs[k], 0.5)
        guard.update(b"d", [samples[k]], 0.5)
    calls: dict[str, Callable[[int, float], object]] = {
        "kernel_decide_us": lambda _k, now: kernel.decide(now),
        "decide_us": lambda _k, now: guard.decide(b"d", now),
        "kernel_update_us": lambda k, now: kernel.update(k, costs[k], now),
        "update_us": lambda k, now: guard.update(b"d", [samples[k]], now),
    }
    took: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(ROUNDS):
        for name, call in calls.items():
            started = time.perf_counter()
            for number in range(CALLS):
                call(number % ARMS, 1.0 + round_ * CALLS + number)
            took[name].append((time.perf_counter() - started) / CALLS * 1e6)
    found: dict[str, Any] = {name: statistics.median(values) for name, values in took.items()}
    pairs = zip(took["decide_us"], took["kernel_decide_us"], strict=True)
    found["decide_to_kernel"] = statistics.median(ours / theirs for ours, theirs in pairs)
    found["table_bytes"] = int(policy._ledgers[b"d"].table.nbytes)  # noqa: SLF001 - it is weighed
    found["allocated_bytes"] = _allocated(arms, samples)
    return found


def _allocated(arms: list[Arm], samples: list[Sample], destinations: int = 200) -> int:
    """Return what Python allocates for one destination, guard and all, arms not counted."""
    guard = Guard(make_policy("veil", rng=np.random.default_rng(3)))
    gc.collect()
    tracemalloc.start()
    for number in range(destinations):
        key = number.to_bytes(4, "big")
        guard.set_arms(key, arms, 0.0)
        guard.update(key, samples, 1.0)
        guard.decide(key, 1.0)
    gc.collect()
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return used // destinations


def load_bytes_per_s(*, probes_per_s: float, paths: float) -> float:
    """Return what probes and reports send for one busy destination, from the wire's sizes."""
    return probes_per_s * PROBE_BYTES + paths * (REPORTS_PER_S * REPORT_BYTES + PROBE_BYTES)


def _sample(arm: tuple[Any, ...], cost_ms: float) -> Sample:
    rtt_s = cost_ms / 1e3
    return Sample(
        arm=arm, rtt_s=rtt_s, loss=0.0, jitter_s=0.0, rtt_min_s=rtt_s, demand_bps=5e6,
        goodput_bps=5e6, probe=False,
    )  # fmt: skip
