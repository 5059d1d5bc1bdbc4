"""The experiments A to E: which environments, which policies, and what is kept of each run.

| | what |
|-|------|
| A | a recorded trace, one decision and at most one probe per slot |
| B | simulated weather on real bases, steps of 1 s, at most 0.1 probes/s |
| C | 200 sources, 20 relays with capacity; in a square, on real bases, with deep buffers |
| D | the same with 3 to 40 relays and 10 sources for each; the second-largest relay dies |
| E | B with a fifth of the relays malicious, and C with relays that never say "busy" |

Seeds below 100 and from 7000 on are for tuning; what is reported is drawn with seeds from 2401 on.
Those from 1000 to 2400 were reported before the policy's last change, and are no longer unseen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
from attrs import field, frozen

from veilnet.errors import UsageError
from veilnet.paths import Guard, policy_names
from veilnet.paths.settings import VeilSettings
from veilnet.paths.veil import Veil
from veilnet.sim.attackers import ATTACKS, attacked
from veilnet.sim.crowd import Conditions, Crowd, Death, town
from veilnet.sim.environment import Tally
from veilnet.sim.hybrid import hybrid_scenario
from veilnet.sim.play import Maker, guarded, play, play_full_information, play_oracle
from veilnet.sim.replay import pairs_for, replay_scenario
from veilnet.sim.traces import Trace
from veilnet.sim.world import World

FIRST_SEED: Final = 2_401
EXPERIMENTS: Final = ("A", "B", "C", "D", "E")
SHIPPED: Final = "veil"
ORACLE, FULL, TRUSTING = "oracle", "full information", "veil, undefended"
KNOWING: Final = (ORACLE, FULL)
"""Baselines that know what no policy can."""

SETTINGS: Final = {
    "a square": Conditions(),
    "real bases": Conditions(side_ms=0.0),
    "deep buffers": Conditions(side_ms=0.0, distance=1.0, buffer_ms=1_000.0),
}
GROWING: Final = Conditions(load=0.65, side_ms=100.0, line_ms=(0.5, 2.5))
"""A continent with short lines: how long the way is depends on where the relays are.

The third town that was tried: in the first two even the optimum fell by less than the goal asks.
"""
_LIARS: Final = 0.2
_RELAYS_IN_ALL: Final = 600
"""D draws so many towns that each size has this many relays: where three relays lie is chance.

Even the optimum of a town of three has a deviation of 12 %, that of a town of forty 2 %.
"""
_AFTER_S: Final = 30.0
"""Of the time after a relay died: the spike is its mean, the peak its worst second.

The design does not say which it means; the mean matches its +161 % at 3 relays, so it is judged.
"""


@frozen
class Outcome:
    """One run of one policy with one seed.

    Units: in the names; ``*_percent`` of the oracle or of what was sent.
    """

    experiment: str
    setting: str
    policy: str
    seed: int
    values: dict[str, float] = field(factory=dict)


@frozen
class Plan:
    """How much is run: numbers of seeds, lengths, sizes."""

    seeds: dict[str, tuple[int, ...]]
    policies: tuple[str, ...]
    slots: int | None = None
    steps: int = 600
    crowd_s: float = 90.0
    growth_s: float = 300.0
    """D, until a relay dies: so long everybody learns, who all came at once and knew nothing."""
    warm_up_s: float = 40.0
    settings: tuple[str, ...] = ("a square", "real bases", "deep buffers")
    sizes: tuple[int, ...] = (3, 10, 20, 40)
    attacks: tuple[str, ...] = (*ATTACKS, "silent")
    attacked_steps: int = 300
    more_small_towns: bool = False
    """D, without seeds of one's own: the shipped policy in more towns of few relays."""


def plan(
    *, quick: bool = False, seeds: tuple[int, ...] | None = None, policies: Iterable[str] = ()
) -> Plan:
    """Return what a full or a quick run does.

    Raises: UsageError: a policy is not known.
    """
    named = tuple(dict.fromkeys(policies)) or (*KNOWING, *policy_names(), TRUSTING)
    unknown = [name for name in named if name not in (*KNOWING, *policy_names(), TRUSTING)]
    if unknown:
        raise UsageError(
            f"there is no policy called {unknown[0]!r}",
            hint=f"There are: {', '.join((*KNOWING, *policy_names()))}.",
        )
    numbers = {"A": 1, "B": 1, "C": 1, "D": 1, "E": 1} if quick else dict(_SEEDS)
    drawn = {
        name: seeds or tuple(range(FIRST_SEED, FIRST_SEED + number))
        for name, number in numbers.items()
    }
    if not quick:
        return Plan(drawn, named, more_small_towns=seeds is None)
    return Plan(
        drawn,
        named,
        slots=100,
        steps=150,
        crowd_s=30.0,
        growth_s=50.0,
        warm_up_s=15.0,
        settings=("a square",),
        sizes=(3, 10),
        attacks=("probes", "later"),
        attacked_steps=100,
    )


_SEEDS: Final = {"A": 10, "B": 10, "C": 4, "D": 2, "E": 4}


def maker(name: str) -> Maker:
    """Return the maker of the policy *name* as the daemon runs it; or of veil without defence."""
    if name != TRUSTING:
        return guarded(name)
    trusting = VeilSettings(suspect_limit=float("inf"))
    return lambda rng: Guard(Veil(rng, trusting))


def run_world(name: str, world: World, seed: int) -> Tally:
    """Run *name* in *world*, which must be fresh."""
    if name == ORACLE:
        return play_oracle(world)
    if name == FULL:
        return play_full_information(world)
    return play(world, maker(name), seed=seed, quiet=world.quiet)


def summary(tally: Tally) -> dict[str, float]:
    """Return a world's tally as figures."""
    return {
        "excess_percent": 100 * tally.excess(),
        "mean_ms": tally.cost_ms / tally.sent,
        "lost_percent": 100 * tally.lost / tally.sent,
        "moved_percent_per_s": 100 * tally.moved / tally.elapsed_s,
        "probes_per_s": tally.probes / tally.elapsed_s,
        "attacked_percent": 100 * tally.attacked / tally.sent,
    }


def experiment_a(trace: Trace, wanted: Plan) -> Iterator[Outcome]:
    """Replay *trace* with every policy."""
    for seed in wanted.seeds["A"]:
        scenario = replay_scenario(trace, seed=seed, pairs=pairs_for(trace), slots=wanted.slots)
        for name in _without(wanted, TRUSTING):
            tally = run_world(name, World(scenario), seed)
            yield Outcome("A", trace.name, name, seed, summary(tally))


def experiment_b(bases: Trace, wanted: Plan) -> Iterator[Outcome]:
    """Send every policy through the weather."""
    for seed in wanted.seeds["B"]:
        scenario = hybrid_scenario(bases, seed=seed, steps=wanted.steps)
        for name in _without(wanted, TRUSTING):
            tally = run_world(name, World(scenario), seed)
            yield Outcome("B", bases.name, name, seed, summary(tally))


def experiment_c(bases: Trace, wanted: Plan) -> Iterator[Outcome]:
    """Let every policy be everybody's in a crowd."""
    for setting in wanted.settings:
        seeds = wanted.seeds["C"]
        # The stress rows stand beside the goal's: one seed less keeps a run below ten minutes.
        for seed in seeds if setting == wanted.settings[0] else seeds[: max(1, len(seeds) - 1)]:
            place = town(bases, seed=seed, conditions=SETTINGS[setting])
            bound_ms = place.optimum().bound_ms
            yield Outcome("C", setting, ORACLE, seed, {"mean_ms": bound_ms, "excess_percent": 0.0})
            for name in _crowds(wanted):
                crowd = Crowd(place, seed=seed, seconds=wanted.crowd_s, warm_up_s=wanted.warm_up_s)
                play(crowd, maker(name), seed=seed)
                yield Outcome("C", setting, name, seed, crowd_summary(crowd, bound_ms))


def crowd_summary(crowd: Crowd, bound_ms: float) -> dict[str, float]:
    """Return a crowd's tally as figures; *bound_ms*: the system optimum."""
    tally = crowd.tally
    latency_ms = tally.latency_ms / tally.sent
    return {
        "excess_percent": 100 * (latency_ms / bound_ms - 1),
        "cost_excess_percent": 100 * (tally.cost_ms / tally.sent / bound_ms - 1),
        "mean_ms": latency_ms,
        "lost_percent": 100 * tally.lost / tally.sent,
        "moved_percent_per_s": 100 * tally.moved / tally.elapsed_s,
        "probes_per_s": tally.probes / crowd.agents / crowd.now_s,
    }


def experiment_d(bases: Trace, wanted: Plan) -> Iterator[Outcome]:
    """Let the crowd grow with its relays, and take the second largest away."""
    at_s = wanted.growth_s
    for size in wanted.sizes:
        for number, seed in enumerate(_seeds_of_size(wanted, size)):
            place = town(bases, seed=seed, sources=10 * size, relays=size, conditions=GROWING)
            bound_ms = place.optimum().bound_ms
            yield Outcome("D", f"{size} relays", ORACLE, seed, {"mean_ms": bound_ms})
            for name in _crowds(wanted):
                if number >= len(wanted.seeds["D"]) and name != SHIPPED:
                    continue
                crowd = Crowd(place, seed=seed, seconds=at_s + _AFTER_S, death=Death(at_s))
                tally = play(crowd, maker(name), seed=seed)
                values = _shock(tally, crowd.step_s, int(at_s))
                yield Outcome("D", f"{size} relays", name, seed, values)


def _seeds_of_size(wanted: Plan, size: int) -> tuple[int, ...]:
    """Return more seeds for small towns: three relays lie well or badly by chance."""
    seeds = wanted.seeds["D"]
    more = max(1, _RELAYS_IN_ALL // size) if wanted.more_small_towns else 0
    return seeds + tuple(range(seeds[-1] + 1, seeds[-1] + 1 + more))


def _shock(tally: Tally, step_s: float, at_s: int) -> dict[str, float]:
    """Return the mean before a relay died, and how far the time after lay above that.

    The mean of the time from 30 to 50 s, too: what somebody had who had just begun.
    """
    means = np.array(tally.series_ms).reshape(-1, round(1.0 / step_s)).mean(axis=1)
    before, after = float(means[at_s - 20 : at_s].mean()), means[at_s : at_s + int(_AFTER_S)]
    return {
        "mean_ms": before,
        "early_ms": float(means[30:50].mean()),
        "spike_percent": 100 * (float(after.mean()) / before - 1),
        "peak_percent": 100 * (float(after.max()) / before - 1),
    }


def experiment_e(bases: Trace, wanted: Plan) -> Iterator[Outcome]:
    """Put attackers in the way: see `veilnet.sim.attackers`."""
    for seed in wanted.seeds["E"]:
        scenario = hybrid_scenario(
            bases, seed=seed, steps=wanted.attacked_steps, sources=4, destinations=3
        )
        for name in wanted.policies:
            tally = run_world(name, World(scenario), seed)
            yield Outcome("E", "no attackers", name, seed, summary(tally))
            for kind in wanted.attacks:
                if kind in ATTACKS:
                    tally = run_world(name, attacked(scenario, kind, seed=seed), seed)
                    yield Outcome("E", kind, name, seed, summary(tally))
        if "silent" in wanted.attacks:
            yield from _silent(bases, wanted, seed)


def _silent(bases: Trace, wanted: Plan, seed: int) -> Iterator[Outcome]:
    """A crowd in which a fifth of the relays never say that they are full."""
    place = town(bases, seed=seed, sources=100, relays=10)
    bound_ms = place.optimum().bound_ms
    liars = frozenset(range(round(_LIARS * 10)))
    yield Outcome("E", "silent", ORACLE, seed, {"mean_ms": bound_ms, "excess_percent": 0.0})
    for name in _crowds(wanted):
        crowd = Crowd(
            place, seed=seed, seconds=wanted.crowd_s, warm_up_s=wanted.warm_up_s, liars=liars
        )
        play(crowd, maker(name), seed=seed)
        yield Outcome("E", "silent", name, seed, crowd_summary(crowd, bound_ms))


def _without(wanted: Plan, *names: str) -> list[str]:
    return [name for name in wanted.policies if name not in names]


def _crowds(wanted: Plan) -> list[str]:
    """Return who can play in a crowd: there is no direct path, and no clairvoyance about others."""
    return _without(wanted, TRUSTING, *KNOWING, "direct")
