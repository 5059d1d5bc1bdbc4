"""The goals of the experiments A to E, word for word from the design, and what decides them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from veilnet.sim.experiments import TRUSTING

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Figure:
    """One figure of the shipped policy and its limits."""

    text: str
    value: float | None
    must: float
    moonshot: float | None = None
    at_least: bool = False

    def holds(self, limit: float | None) -> bool:
        """Say whether the figure keeps *limit*; what was not measured keeps none."""
        if limit is None:
            return True
        if self.value is None:
            return False
        return self.value >= limit if self.at_least else self.value <= limit

    def words(self) -> str:
        """Return the figure as people read it."""
        if self.value is None:
            return f"{self.text.split('{}', maxsplit=1)[0]}not measured"
        return self.text.format(f"{self.value:.3g}")


@dataclass(frozen=True)
class Goal:
    """One row of the design's table."""

    goal: str
    unit: str
    must: str
    moonshot: str
    figures: list[Figure] = field(default_factory=list)

    def judge(self) -> dict[str, Any]:
        """Return this goal under the benches' contract."""
        return {
            "goal": self.goal,
            "unit": self.unit,
            "measured": "; ".join(figure.words() for figure in self.figures),
            "must": self.must,
            "moonshot": self.moonshot,
            "met": all(figure.holds(figure.must) for figure in self.figures),
            "moonshot_met": all(figure.holds(figure.moonshot) for figure in self.figures),
        }


def _mean(rows: Rows, row: str, metric: str, policy: str = "veil") -> float | None:
    for found in rows:
        if found["row"] == row and found["metric"] == metric and policy in found["systems"]:
            return float(found["systems"][policy]["mean"])
    return None


def _first(rows: Rows, experiment: str) -> str:
    prefix = f"{experiment}/"
    return next((row["row"] for row in rows if row["row"].startswith(prefix)), prefix)


_JUDGED = {
    "C": ("cost_excess_percent", "lost_percent", "moved_percent_per_s"),
    "D": ("mean_ms", "early_ms", "spike_percent"),
    "E": ("excess_percent", "attacked_percent"),
    "decision": ("decide", "update", "memory", "load"),
}
"""By experiment, what its goal is about; of the others the excess alone."""


def is_behind_goal(row: str, metric: str) -> bool:
    """Say whether goals of this kind of row stand on *metric*: those are shown, all are kept."""
    experiment = row.partition("/")[0]
    return metric in _JUDGED.get(experiment, ("excess_percent",))


def goals_of(rows: Rows, *, trace: str) -> list[dict[str, Any]]:
    """Return the goals of all experiments that *rows* are of."""
    goals = {
        "A": _replayed(rows, trace),
        "B": Goal(
            "B hybrid at 1 s steps (PlanetLab bases; shifts, drift, congestion, 1.5 % spikes, "
            "crashes), <= .1 probe/s", "%", "<= 3 %", "2 %",
            [Figure("{} %", _mean(rows, _first(rows, "B"), "excess_percent"), 3, 2)],
        ),
        "C": _crowd(rows),
        "D": _growth(rows),
        "E": _attacked(rows),
        "decision": _decision(rows),
    }  # fmt: skip
    here = {row["row"].split("/")[0] for row in rows}
    return [goal.judge() for name, goal in goals.items() if name in here]


def _replayed(rows: Rows, trace: str) -> Goal:
    on = "" if trace == "seattle" else f" (on {trace})"
    return Goal(
        "A real Seattle trace, direct + 20 relays, <= 1 probe per slot: excess over the "
        "clairvoyant oracle", "%", "<= 42 %", "36 %",
        [Figure("{} %" + on, _mean(rows, _first(rows, "A"), "excess_percent"), 42, 36)],
    )  # fmt: skip


def _crowd(rows: Rows) -> Goal:
    row = "C/a square"
    return Goal(
        "C 200 sources x 20 relays with capacity: excess over the system optimum; loss; traffic "
        "moved per s", "%", "<= 15 % (10), fresh seeds; <= .5 %; <= 1.5 %", "10 %",
        [
            Figure("{} %", _mean(rows, row, "cost_excess_percent"), 15, 10),
            Figure("{} % lost", _mean(rows, row, "lost_percent"), 0.5),
            Figure("{} % moved per s", _mean(rows, row, "moved_percent_per_s"), 1.5),
        ],
    )  # fmt: skip


def _growth(rows: Rows) -> Goal:
    names = {int(r["row"][2:].split()[0]) for r in rows if r["row"].startswith("D/")}
    sizes = sorted(names)
    lower, possible = _gain(rows, sizes, "veil"), _gain(rows, sizes, "oracle")
    early = _gain(rows, sizes, "veil", metric="early_ms")
    # Said beside what is judged: after five minutes, and when all have just begun.
    others = {"the optimum": possible, "after 50 s": early}
    beside = "; ".join(f"{name}: {value:.3g} %" for name, value in others.items() if value)
    spikes = [_mean(rows, f"D/{size} relays", "spike_percent") for size in sizes if size >= 20]
    known = [spike for spike in spikes if spike is not None]
    return Goal(
        "D growth, 3 -> 40 relays at 10 sources per relay: mean latency; spike after losing the "
        "second-largest relay", "%", ">= 25 % lower; <= 20 % at >= 20 relays", "-",
        [
            Figure("{} % lower" + (f" ({beside})" if beside else ""), lower, 25, at_least=True),
            Figure("+{} %", max(known) if known else None, 20),
        ],
    )  # fmt: skip


def _gain(rows: Rows, sizes: list[int], policy: str, *, metric: str = "mean_ms") -> float | None:
    """Return by how many percent the mean is lower in the largest town than in the smallest."""
    if len(sizes) < 2:
        return None
    least, most = (_mean(rows, f"D/{sizes[i]} relays", metric, policy) for i in (0, -1))
    return None if least is None or most is None else 100 * (1 - most / least)


def _attacked(rows: Rows) -> Goal:
    honest = _mean(rows, "E/no attackers", "excess_percent")
    trusting = _mean(rows, "E/no attackers", "excess_percent", TRUSTING)
    cost = None if honest is None or trusting is None else honest - trusting
    return Goal(
        "E 20 % malicious relays", "%",
        "good to probes, bad to data: <= 3 % excess, <= 1 % of time on attackers; turn bad after "
        "30 s of use, and collusion: <= 6 %, shown as rows of their own; honest cost <= .5 point",
        "-",
        [
            Figure("probes: {} %", _mean(rows, "E/probes", "excess_percent"), 3),
            Figure("{} % of time", _mean(rows, "E/probes", "attacked_percent"), 1),
            Figure("later: {} %", _mean(rows, "E/later", "excess_percent"), 6),
            Figure("collusion: {} %", _mean(rows, "E/collude", "excess_percent"), 6),
            Figure("honest cost {} points", cost, 0.5),
        ],
    )  # fmt: skip


def _decision(rows: Rows) -> Goal:
    ratio = next((row["to_kernel"] for row in rows if "to_kernel" in row), None)
    load = _mean(rows, "decision", "load")
    return Goal(
        "decision; memory; probe and report load", "ratio; bytes; %",
        "<= 2x the prototype's numpy cost measured in the same run; <= 1 KB per destination; <= 1 "
        "% of bytes at >= 5 Mb/s, else <= 1 kB/s", "-",
        [
            Figure("{}x", ratio, 2),
            Figure("{} bytes", _mean(rows, "decision", "memory"), 1024),
            Figure("{} % of 5 Mb/s", None if load is None else 100 * load / 625_000, 1),
        ],
    )  # fmt: skip
