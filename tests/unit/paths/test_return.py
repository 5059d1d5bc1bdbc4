"""A direct path fails under data and comes back: how soon the policy is back on it.

```
direct  1 ms, fails from second 60 for a while     relays  24 and 25 ms, always well
```
The scene is what the daemon shows its policy: a path that carries tells of itself, one that the
engine gave up is asked every other second and tells by its answers.
"""

import numpy as np
import pytest
from attrs import define, field

from tests.unit.paths.streets import HOME, arm, over, sample
from veilnet.paths import DIRECT, Guard, make_policy

FAILS_AT_S = 60
KINDS = {
    # What is lost of data, and of probes.
    "cut": (1.0, 1.0),
    "lossy": (0.3, 0.3),
    "throttled": (0.75, 0.0),
}


@define
class Line:
    """A direct path and two relays under one policy, second by second."""

    kind: str
    fails_for_s: int
    quiet: bool
    seed: int
    rng: np.random.Generator = field(init=False)
    policy: Guard = field(init=False)
    second: int = 0
    direct: list[float] = field(factory=list)
    """Its share in each second."""
    given_up_s: float | None = None
    """When the engine last found it bad."""

    def __attrs_post_init__(self):
        self.rng = np.random.default_rng([self.seed, 7])
        self.policy = Guard(make_policy("veil", rng=np.random.default_rng(self.seed)))
        arms = [arm(DIRECT, 1), arm(over(1), 12, 12), arm(over(2), 12, 13)]
        self.policy.set_arms(HOME, arms, 0.0)

    def run(self, seconds):
        """Let *seconds* pass."""
        for _ in range(seconds):
            self._second()
        return self

    def _second(self):
        failed = 0 <= self.second - FAILS_AT_S < self.fails_for_s
        data_loss, probe_loss = KINDS[self.kind] if failed else (0.0, 0.0)
        decision = self.policy.decide(HOME, float(self.second), quiet=self.quiet)
        shares = dict(decision.shares)
        self.direct.append(shares.get(DIRECT, 0.0))
        found = []
        for used in shares:
            loss = data_loss if used == DIRECT else 0.0
            rtt_ms = None if loss == 1.0 else 24.0 if used else 1.0 + self.rng.random()
            found.append(sample(used, rtt_ms, loss=loss))
        if DIRECT in shares and data_loss > 0.1:
            self.given_up_s = self.second
        asked = {decision.probe}
        if self.given_up_s is not None and (self.second - self.given_up_s) % 2 == 1:
            asked.add(DIRECT)
        for probed in asked - {None}:
            lost = probed == DIRECT and self.rng.random() < probe_loss
            found.append(sample(probed, None if lost else 24.0 if probed else 1.0, probe=True))
            if probed == DIRECT and not lost:
                self.given_up_s = None
        self.second += 1
        self.policy.update(HOME, found, float(self.second))

    def returned_s(self):
        """Return after how long, from the mending on, it carries nearly everything again."""
        mended = FAILS_AT_S + self.fails_for_s
        return next(i for i, share in enumerate(self.direct[mended:]) if share > 0.9)


@pytest.mark.parametrize("quiet", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fails_for_s", [4, 12])
def test_back_on_a_direct_path_within_ten_seconds(kind, fails_for_s, quiet):
    """Cut, lossy or throttled for some seconds, it carries again ten seconds after it is mended.

    Fifteen where lots fall badly: each time that praise of probes proves wrong costs a pause.
    """
    after = []
    for seed in range(5):
        line = Line(kind, fails_for_s, quiet, seed).run(FAILS_AT_S + fails_for_s + 60)
        assert line.direct[FAILS_AT_S - 1] == 1.0
        assert min(line.direct[FAILS_AT_S : FAILS_AT_S + 4]) == 0.0
        after.append(line.returned_s())
    assert max(after) <= 15, after
    assert sorted(after)[2] <= 10, after


def test_a_long_outage_leaves_no_grudge():
    """After two minutes of silence, too, the first answers are enough."""
    for seed in range(5):
        line = Line("cut", 120, quiet=True, seed=seed).run(FAILS_AT_S + 160)
        assert sum(line.direct[FAILS_AT_S + 3 : FAILS_AT_S + 119]) == 0.0
        assert line.returned_s() <= 10


@pytest.mark.parametrize("kind", ["lossy", "throttled"])
def test_a_path_that_is_bad_to_data_alone_is_tried_ever_more_seldom(kind):
    """Probes praise it for five minutes: data is led there few times, and the pauses double."""
    for seed in range(5):
        line = Line(kind, 300, quiet=False, seed=seed).run(FAILS_AT_S + 300)
        used = sum(share > 0.0 for share in line.direct[FAILS_AT_S:])
        assert used <= 30, (seed, used)
        assert sum(share > 0.0 for share in line.direct[FAILS_AT_S + 150 :]) <= 10
