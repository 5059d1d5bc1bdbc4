"""The shipped policy: a probe-assisted, discounted linear Thompson bandit with a replicator split.

```
each sample    what it cost -> the arm's level L, swing F, spread R, count n; the node's theta
each second    forecast c^ = theta.z + b of every arm
               split   from each active arm that is worse, part of its share to one drawn from
                       those within 8 % of the best; from a dead one all of it
               probe   with probability 0.25 one arm: the stalest, else by Thompson sampling
               standby the best that carries nothing and stands apart from what does
```
Data never explores: it moves only to what is forecast to be better, never to find out.

Invariant: shares of the active columns sum to 1, no two of them share a relay or a prefix, and
there are at most `MAX_SHARES` of them.

What each rule is for was found in simulation: ADR 7 has the figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, inf
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from veilnet.paths import ledger as rows
from veilnet.paths import persistence
from veilnet.paths.cost import DEAD_MS, WORST_MS, cost_ms, is_priced
from veilnet.paths.ledger import Ledger
from veilnet.paths.policy import (
    MAX_ARMS,
    MAX_DESTINATIONS,
    MAX_SAMPLES,
    MAX_SHARES,
    Arm,
    ArmView,
    Decision,
    Destination,
    Sample,
)
from veilnet.paths.regression import ONE_MS, Regression
from veilnet.paths.settings import VeilSettings
from veilnet.paths.words import Standing, say

Costs = NDArray[np.float64]


class Veil:
    """The policy "veil"."""

    name: ClassVar[str] = "veil"

    def __init__(self, rng: np.random.Generator, settings: VeilSettings | None = None) -> None:
        self.settings = settings or VeilSettings()
        self._rng = rng
        self._model = Regression()
        self._ledgers: dict[Destination, Ledger] = {}
        self._restored: persistence.Memory = {}
        """Of destinations that were not asked for since the restart."""

    def set_arms(self, destination: Destination, arms: Sequence[Arm], now_s: float) -> None:
        """Say which arms there are now; what is known of those that stay is kept."""
        ledger = self._ledgers.pop(destination, None)
        if ledger is None:
            ledger = Ledger(now_s)
            ledger.gone.update(self._restored.pop(destination, {}))
            if len(self._ledgers) >= MAX_DESTINATIONS:
                del self._ledgers[next(iter(self._ledgers))]
        self._ledgers[destination] = ledger
        ledger.set_arms(arms)

    def forget(self, destination: Destination) -> None:
        """Drop all that is known of *destination* alone."""
        self._ledgers.pop(destination, None)
        self._restored.pop(destination, None)

    def update(self, destination: Destination, samples: Sequence[Sample], now_s: float) -> None:
        """Learn from *samples*; those of arms that are not there are ignored."""
        ledger = self._ledgers.get(destination)
        if ledger is None:
            return
        self._fade(ledger, now_s)
        # Data first: the probe of the same second is what it is held against.
        for sample in sorted(samples[:MAX_SAMPLES], key=lambda sample: sample.probe):
            index = ledger.column(sample.arm)
            if index >= 0:
                self._learn(ledger, index, sample, now_s)

    def _learn(self, ledger: Ledger, index: int, sample: Sample, now_s: float) -> None:
        settings = self.settings
        column = ledger.table[:, index].tolist()
        priced = is_priced(sample, settings.gate)
        cost = cost_ms(sample, kappa=settings.kappa if priced else 0.0)
        (ledger.priced.add if priced else ledger.priced.discard)(index)
        count, level = column[rows.COUNT], column[rows.LEVEL]
        since_s = now_s - ledger.born_s
        w = count / (count + 1.0)
        swing = column[rows.SWING] if column[rows.SWING] < DEAD_MS else 0.0
        z = np.array(
            (
                ONE_MS * (1.0 - w),
                ONE_MS if index == ledger.direct else 0.0,
                (1.0 - w) * column[rows.OWN],
                (1.0 - w) * column[rows.FAR],
                w * level,
                w * swing * exp((column[rows.SEEN] - since_s) / settings.tau_s),
                w * (column[rows.OWN] - column[rows.OWN_THEN]),
                w * (column[rows.FAR] - column[rows.FAR_THEN]),
            )
        )
        forecast = float(self._model.theta @ z)
        if count > 0.0 and not sample.probe:
            expected = forecast + column[rows.BIAS]
            suspected = ledger.suspicion is not None and ledger.suspicion[0] == index
            if suspected or cost > expected + settings.suspect_sigmas * self._sigma(column):
                # A probe has to stand beside it: if it can, of the same second.
                ledger.suspicion, ledger.asked = (index, cost), 0
            else:
                column[rows.SUSPECT] = max(0.0, column[rows.SUSPECT] - settings.suspect_relief)
                arm = ledger.arms[index].id
                # What data costs now says more than what it was charged for once; less so the
                # oftener that was, and nothing of one that calls itself busy: it may only repel.
                over = max(0.0, cost - forecast)
                if over < column[rows.BIAS] and not priced:
                    part = settings.bias_relief / max(ledger.grudges.get(arm, 1.0), 1.0)
                    column[rows.BIAS] += part * (over - column[rows.BIAS])
                if arm in ledger.grudges:
                    direct = index == ledger.direct
                    forgiving = settings.direct_forgiving if direct else settings.relay_forgiving
                    ledger.grudges[arm] *= forgiving
        elif ledger.suspicion is not None and ledger.suspicion[0] == index:
            self._compare(ledger, index, column, cost)
        if cost < DEAD_MS:
            self._model.learn(z, cost - forecast)
        ledger.table[:, index] = column
        ledger.unsettled.append((index, cost, since_s, sample.probe))
        if len(ledger.unsettled) > MAX_ARMS:
            self._settle(ledger)

    def _settle(self, ledger: Ledger, *, apart: bool = False) -> None:
        """Move the numbers of arms that were sampled towards what they cost.

        Only when the next decision is due: by then the legs of the same second are known, and
        what they explain is no change of the arm's level.
        """
        settings = self.settings
        clip = settings.level_clip_ms
        for index, cost, since_s, probe in ledger.unsettled:
            column = ledger.table[:, index].tolist()
            column[rows.SEEN] = since_s
            if cost >= DEAD_MS:
                # Silence says nothing of the level: it only keeps data away until the arm is heard.
                column[rows.SWING] = DEAD_MS
                ledger.table[:, index] = column
                continue
            count, spread = column[rows.COUNT], column[rows.SPREAD]
            own, far = column[rows.OWN], column[rows.FAR]
            legs = own - column[rows.OWN_THEN] + far - column[rows.FAR_THEN]
            gain = max(settings.level_gain, 1.0 / (count + 1.0))
            if count > 0.0:
                bound = settings.outlier_ms + settings.outlier * column[rows.LEVEL]
                bound = clip if apart else max(bound, settings.outlier_sigmas * spread**0.5)
                bound = min(bound, clip)
                off = min(max(cost - column[rows.LEVEL] - legs, -bound), bound)
                column[rows.LEVEL] += gain * (off + legs)
            else:
                off = 0.0
                column[rows.LEVEL] = cost
            column[rows.OWN_THEN] += gain * (own - column[rows.OWN_THEN])
            column[rows.FAR_THEN] += gain * (far - column[rows.FAR_THEN])
            # Below the mark of a dead arm, whatever the level.
            swing = cost - column[rows.LEVEL] - (1.0 - gain) * legs
            before = ledger.swings.get(index, 0.0)
            ledger.swings[index] = swing
            if swing < settings.abrupt_ms and not apart:
                # Only as far as the sample before says the same: a lone spike is no swing.
                swing = min(max(swing, min(before, 0.0)), max(before, 0.0))
            elif not probe:
                ledger.burnt[index] = since_s
            if not probe or ledger.is_over(index, since_s - settings.burnt_s):
                column[rows.SWING] = swing
            column[rows.SPREAD] = spread + 0.1 * (off * off - spread)
            column[rows.COUNT] = min(count + 1.0, settings.count_max)
            ledger.table[:, index] = column
        ledger.unsettled.clear()

    def _sigma(self, column: list[float]) -> float:
        return float(max(column[rows.SPREAD], self._model.sigma2, 1.0) ** 0.5)

    def _compare(self, ledger: Ledger, index: int, column: list[float], probe_cost: float) -> None:
        """Hold the bad second of data that is waiting for it against a probe of the same arm."""
        settings = self.settings
        if ledger.suspicion is None:
            return
        difference = ledger.suspicion[1] - probe_cost
        ledger.suspicion = None
        score = min(max(difference / self._sigma(column), -3.0), 3.0) - settings.suspect_drift
        column[rows.SUSPECT] = max(0.0, column[rows.SUSPECT] + score)
        if column[rows.SUSPECT] > settings.suspect_limit:
            column[rows.SUSPECT] = 0.0
            known = column[rows.BIAS] > 0.0 and index != ledger.direct
            ledger.bear_grudge(ledger.arms[index].id, least=self._slowest if known else 0.0)
            if index != ledger.direct and difference >= settings.abrupt_ms:
                # All alike: of relays that were found out, the one of the last time is the worst.
                difference = settings.bias_max_ms
            column[rows.BIAS] = min(max(column[rows.BIAS], difference), settings.bias_max_ms)

    @property
    def _slowest(self) -> float:
        """The grudge with which a relay's charge fades as slowly as any."""
        return self.settings.bias_half_life_s / self.settings.relay_half_life_s

    def _fade(self, ledger: Ledger, now_s: float) -> None:
        """Let confidence and bias fade for the time that has passed."""
        passed_s = now_s - ledger.clock_s
        if passed_s <= 0.0:
            return
        ledger.clock_s = now_s
        ledger.table[rows.COUNT] *= self.settings.count_keep**passed_s
        settings = self.settings
        ledger.table[rows.SUSPECT] *= 0.5 ** (passed_s / settings.bias_half_life_s)
        for index in np.flatnonzero(ledger.table[rows.BIAS]).tolist():
            first_s = settings.relay_half_life_s
            if index == ledger.direct:
                first_s = settings.direct_half_life_s
            # Of a relay that is charged since before a restart nobody knows how often it was.
            unknown = 0.0 if index == ledger.direct else self._slowest
            grudge = ledger.grudges.get(ledger.arms[index].id, unknown)
            half_life_s = min(first_s * max(grudge, 1.0), settings.bias_half_life_s)
            ledger.table[rows.BIAS, index] *= 0.5 ** (passed_s / half_life_s)

    def forecast_ms(self, ledger: Ledger, now_s: float) -> tuple[Costs, Costs]:
        """Return what data and what a probe would cost on every arm, in the order of the arms.

        They differ in an arm that was found dead: that frightens data off until it is heard of,
        probes only as long as any other swing lasts.
        """
        table = ledger.table
        theta = self._model.theta.tolist()
        count = table[rows.COUNT]
        unknown = 1.0 / (count + 1.0)
        known = 1.0 - unknown
        swing = table[rows.SWING]
        fresh = np.exp((table[rows.SEEN] - (now_s - ledger.born_s)) / self.settings.tau_s)
        own, far = table[rows.OWN], table[rows.FAR]
        base = (
            unknown * (theta[2] * own + theta[3] * far + ONE_MS * theta[0])
            + known
            * (
                theta[4] * table[rows.LEVEL]
                + theta[6] * (own - table[rows.OWN_THEN])
                + theta[7] * (far - table[rows.FAR_THEN])
            )
            + table[rows.BIAS]
        )
        if ledger.direct >= 0:
            base[ledger.direct] += ONE_MS * theta[1]
        probe = base + (theta[5] * known) * swing * fresh
        data = np.minimum(np.maximum(probe, 0.1), WORST_MS)
        data[swing >= DEAD_MS] = DEAD_MS
        return data, probe

    def decide(self, destination: Destination, now_s: float, *, quiet: bool = False) -> Decision:
        """Return what to do next; called about once a second for each active destination."""
        ledger = self._ledgers.get(destination)
        if ledger is None or not ledger.arms:
            return Decision((), reason="there is no arm")
        passed_s = 1.0 if ledger.decided_s is None else max(0.0, now_s - ledger.decided_s)
        ledger.decided_s = now_s
        self._settle(ledger, apart=passed_s > self.settings.together_s)
        self._fade(ledger, now_s)
        data, probing = self.forecast_ms(ledger, now_s)
        costs = data.tolist()
        shares = ledger.table[rows.SHARE].tolist()
        if not ledger.active:
            self._begin(ledger, costs, shares)
        elif not self._take_found(ledger, costs, shares):
            self._split(ledger, costs, shares, passed_s)
        ledger.table[rows.SHARE] = shares
        self._choose_standby(ledger, costs)
        probe = self._choose_probe(ledger, probing, now_s, passed_s, quiet=quiet)
        arms = ledger.arms
        order = sorted(ledger.active, key=lambda index: -shares[index])
        return Decision(
            shares=tuple((arms[index].id, shares[index]) for index in order),
            probe=arms[probe].id if probe >= 0 else None,
            standby=arms[ledger.standby].id if ledger.standby >= 0 else None,
            reason=ledger.opinion,
        )

    def _begin(self, ledger: Ledger, costs: list[float], shares: list[float]) -> None:
        """Put everything on one arm: the direct one, which the handshake took, else by lot."""
        counts = ledger.table[rows.COUNT].tolist()
        candidates = [i for i, count in enumerate(counts) if count > 0.0 and costs[i] < DEAD_MS]
        if not candidates and ledger.direct >= 0 and costs[ledger.direct] < DEAD_MS:
            candidates = [ledger.direct]
        if not candidates:
            candidates = list(range(len(costs)))
        first = self._draw(candidates, costs)
        shares[first] = 1.0
        ledger.active = [first]
        ledger.opinion = "a first choice"

    def _draw(self, candidates: list[int], costs: list[float]) -> int:
        """Return one of *candidates*, by lot among those near the best, the better the likelier.

        Everybody who sees the same would otherwise make the same choice.
        """
        settings = self.settings
        best = min(costs[i] for i in candidates)
        limit = settings.window * best + settings.window_ms
        heat = settings.temperature * best + settings.temperature_ms
        near = [i for i in candidates if costs[i] <= limit]
        if len(near) == 1:
            return near[0]
        weights = [exp((best - costs[i]) / heat) for i in near]
        lot = float(self._rng.random()) * sum(weights)
        for i, weight in zip(near, weights, strict=True):
            lot -= weight
            if lot <= 0.0:
                return i
        return near[-1]

    def _take_found(self, ledger: Ledger, costs: list[float], shares: list[float]) -> bool:
        """Put everything on a direct path that was just found, unless it is clearly worse.

        Relays are others' and carry until there is one.  The first word on it may be spoilt by the
        very search that found it; data says soon what it is like, and is free to leave.
        """
        direct = ledger.direct
        if not ledger.direct_is_new or ledger.table[rows.COUNT, direct] == 0:
            return False
        ledger.direct_is_new, ledger.direct_was_judged = False, True
        carried = sum(shares[i] * costs[i] for i in ledger.active)
        # What was heard of it, without what is expected of arms that nobody knows.
        heard = float(ledger.table[rows.LEVEL, direct] + ledger.table[rows.BIAS, direct])
        too_dear = costs[direct] >= DEAD_MS or heard > carried + self.settings.found_ms
        if direct in ledger.active or too_dear:
            return False
        for i in ledger.active:
            shares[i] = 0.0
        shares[direct], ledger.active = 1.0, [direct]
        ledger.opinion = "a direct path was found"
        return True

    def _split(
        self, ledger: Ledger, costs: list[float], shares: list[float], passed_s: float
    ) -> None:
        """Move part of what worse arms carry to one that is drawn from the best."""
        active = ledger.active
        ledger.moved *= exp(-passed_s / self.settings.restless_s)
        candidates = self._candidates(ledger, costs, shares)
        if not candidates:
            ledger.opinion = "no arm answers"
            return
        ledger.opinion = "as before"
        target = self._draw(candidates, costs)
        arm = ledger.arms[target]
        rivals = [i for i in active if i != target and arm.overlaps(ledger.arms[i])]
        if any(costs[i] <= costs[target] for i in rivals):
            return
        is_open = shares[target] > 0.0 or target == ledger.standby
        ease = self.settings.open_already if is_open else 1.0
        pace = min(max(passed_s, 0.5), 10.0)
        restless = max(ledger.moved - self.settings.restless_free, 0.0)
        for i in active:
            # The direct path is nobody else's, a dead one nobody's.
            shared = ledger.direct not in (i, target) and costs[i] < DEAD_MS
            part = self._part_that_moves(
                ledger, i, target, costs, ease=ease, pace=pace, restless=restless if shared else 0.0
            )
            if i == target or part <= 0.0:
                continue
            moved = shares[i] * part
            if shared:
                most = self.settings.restless_free + self.settings.restless_most
                ledger.moved = min(ledger.moved + moved, most)
            shares[i] -= moved
            shares[target] += moved
            ledger.opinion = "a cheaper arm" if costs[i] < DEAD_MS else "an arm is dead"
        if shares[target] > 0.0:
            # Two arms over one relay fall together: not worth two paths.
            for i in rivals:
                shares[target] += shares[i]
                shares[i] = 0.0
        self._trim(ledger, shares)

    def _part_that_moves(
        self,
        ledger: Ledger,
        index: int,
        target: int,
        costs: list[float],
        *,
        ease: float,
        pace: float,
        restless: float,
    ) -> float:
        settings, cost = self.settings, costs[index]
        if cost >= DEAD_MS:
            return 1.0
        gain = cost - costs[target]
        if gain <= ease * max(settings.gain_ms, settings.gain * cost):
            return 0.0
        if restless > 0.0:
            # Of where it would go: unrest of its own must keep nothing on an arm.
            deviation = float(ledger.table[rows.SPREAD, target]) ** 0.5
            if gain < min(settings.restless_sigmas * restless * deviation, settings.restless_ms):
                return 0.0
        alpha = settings.alpha / (1.0 + settings.restless_slow * restless)
        if index in ledger.priced:
            alpha = min(alpha, settings.alpha_priced)
        return min(1.0, alpha * pace * gain / cost)

    def _candidates(self, ledger: Ledger, costs: list[float], shares: list[float]) -> list[int]:
        """Return the arms that data may move to.

        Where all that were measured are dead, one that never was is better than none.
        """
        counts = ledger.table[rows.COUNT].tolist()
        alive = [i for i, cost in enumerate(costs) if cost < DEAD_MS]
        if not self.settings.heard_only:
            return alive
        return [i for i in alive if counts[i] > 0.0 or shares[i] > 0.0] or alive

    def _trim(self, ledger: Ledger, shares: list[float]) -> None:
        """Drop crumbs and what is beyond the largest three; make the rest sum to 1."""
        holders = sorted(
            (i for i, share in enumerate(shares) if share > 0.0), key=lambda i: -shares[i]
        )
        kept = [i for i in holders[:MAX_SHARES] if shares[i] >= self.settings.least_share]
        kept = kept or holders[:1]
        total = sum(shares[i] for i in kept)
        for i in holders:
            shares[i] = shares[i] / total if i in kept else 0.0
        ledger.active = kept

    def _choose_standby(self, ledger: Ledger, costs: list[float]) -> None:
        arms, active = ledger.arms, ledger.active
        counts = ledger.table[rows.COUNT].tolist()
        apart = [
            i
            for i, arm in enumerate(arms)
            if i not in active
            and costs[i] < DEAD_MS
            and not any(arm.overlaps(arms[j]) for j in active)
        ]
        measured = [i for i in apart if counts[i] > 0.0] or apart
        if not measured:
            ledger.standby = -1
            return
        best = min(costs[i] for i in measured)
        settings = self.settings
        # It stays while it is nearly the best: being warm is what it is for.
        if ledger.standby in measured and costs[ledger.standby] <= (
            settings.window * best + settings.window_ms
        ):
            return
        ledger.standby = self._draw(measured, costs)

    def _choose_probe(
        self, ledger: Ledger, probing: Costs, now_s: float, passed_s: float, *, quiet: bool
    ) -> int:
        settings = self.settings
        if ledger.suspicion is not None and ledger.asked >= settings.suspect_patience:
            ledger.suspicion = None
        if ledger.suspicion is not None:
            # Even if its data has left by now: that is when it would go unnoticed.
            ledger.credit -= 1.0
            ledger.asked += 1
            return ledger.suspicion[0]
        burnt_s = now_s - ledger.born_s - ledger.burnt.get(ledger.direct, inf)
        if burnt_s >= settings.burnt_s and ledger.direct not in ledger.active:
            # What was left in a hurry is asked once it has had time to mend.
            ledger.credit -= 1.0
            return ledger.direct
        rate = settings.probe_rate_quiet if quiet else settings.probe_rate
        ledger.credit = min(ledger.credit + rate * passed_s, 1.5)
        if ledger.credit < 1.0 - rate * float(self._rng.random()):
            return -1
        ledger.credit -= 1.0
        table = ledger.table
        if len(ledger.active) >= len(ledger.arms):
            return -1
        age = (now_s - ledger.born_s) - table[rows.SEEN]
        age[ledger.active] = -1.0
        if float(self._rng.random()) < settings.stalest:
            # Among those never seen, by lot.
            return int(np.argmax(age + self._rng.random(len(age))))
        age = np.minimum(age, 1_000.0)
        fresh = np.exp(age * (-2.0 / settings.tau_s))
        spread = table[rows.SPREAD]
        variance = (
            spread * (1.0 - fresh)
            + settings.s0_ms**2 / (1.0 + table[rows.COUNT])
            + settings.q * spread * age
        )
        drawn = probing + self._rng.standard_normal(len(age)) * np.sqrt(np.maximum(variance, 0.0))
        drawn[ledger.active] = inf
        return int(np.argmin(drawn))

    def explain(self, destination: Destination, now_s: float) -> tuple[ArmView, ...]:
        """Return every arm as the policy sees it, cheapest first; changes nothing."""
        ledger = self._ledgers.get(destination)
        if ledger is None or not ledger.arms:
            return ()
        data, _ = self.forecast_ms(ledger, now_s)
        best = float(data.min())
        views = []
        for index, arm in enumerate(ledger.arms):
            column = ledger.table[:, index].tolist()
            forecast = float(data[index])
            heard = column[rows.SEEN] > -1e5
            age_s = (now_s - ledger.born_s) - column[rows.SEEN] if heard else inf
            confidence = column[rows.COUNT] / (column[rows.COUNT] + 1.0)
            standing = Standing(
                arm=arm,
                forecast_ms=forecast,
                share=column[rows.SHARE],
                bias_ms=column[rows.BIAS],
                age_s=age_s,
                measured=column[rows.COUNT] > 0.0,
                dead=forecast >= DEAD_MS,
                standby=index == ledger.standby,
                behind_ms=forecast - best,
                rival=next(
                    (ledger.arms[i] for i in ledger.active if arm.overlaps(ledger.arms[i])), None
                )
                if index not in ledger.active
                else None,
            )
            views.append(
                ArmView(
                    id=arm.id,
                    forecast_ms=forecast,
                    confidence=confidence,
                    share=column[rows.SHARE],
                    bias_ms=column[rows.BIAS],
                    age_s=age_s,
                    reason=say(standing),
                )
            )
        return tuple(sorted(views, key=lambda view: view.forecast_ms))

    def state(self) -> bytes:
        """Return what deserves to outlive a restart: theta, and of each arm its level and bias."""
        memory = dict(self._restored)
        memory.update((key, ledger.memory()) for key, ledger in self._ledgers.items())
        return persistence.encode(self._model, memory)

    def load_state(self, data: bytes) -> None:
        """Take back what `state` returned; anything else is logged once and changes nothing."""
        loaded = persistence.decode(data)
        if loaded is not None:
            self._model, self._restored = loaded
