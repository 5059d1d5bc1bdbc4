"""From samples to medians, ratios, a table and a JSON file under the benches' contract."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

HERE = Path(__file__).parent
Spread = dict[str, float]


@dataclass(frozen=True)
class Key:
    """What a series of samples is about."""

    row: str
    metric: str
    system: str


@dataclass
class Series:
    """All samples of a run, by what they are about and by round: ratios stay within a round."""

    samples: dict[Key, dict[int, float]] = field(default_factory=lambda: defaultdict(dict))

    def add(self, row: str, metric: str, system: str, round_: int, value: float) -> None:
        """Keep one value."""
        self.samples[Key(row, metric, system)][round_] = value

    def value(self, row: str, metric: str, system: str, round_: int) -> float | None:
        """Return what was measured in one round."""
        return self.samples.get(Key(row, metric, system), {}).get(round_)

    def spread(self, row: str, metric: str, system: str) -> Spread | None:
        """Return median, least and greatest, or nothing if it was never measured."""
        return _spread(self.samples.get(Key(row, metric, system), {}).values())

    def ratio(self, row: str, metric: str, system: str, to: str) -> Spread | None:
        """Return the spread of the ratios of *system* to *to*, each within one round."""
        ours = self.samples.get(Key(row, metric, system), {})
        theirs = self.samples.get(Key(row, metric, to), {})
        return _spread(ours[r] / theirs[r] for r in ours if theirs.get(r))


def _spread(values: Iterable[float]) -> Spread | None:
    kept = list(values)
    if not kept:
        return None
    spread = {"median": statistics.median(kept), "min": min(kept), "max": max(kept)}
    return {name: float(f"{value:.5g}") for name, value in spread.items()}


@dataclass(frozen=True)
class Bound:
    """One part of a goal: a figure of VeilNet, as it is or over that of *to*, and its limits."""

    row: str
    metric: str
    to: str | None
    must: float
    moonshot: float | None
    at_least: bool = True

    def figure(self, series: Series) -> float | None:
        """Return the median that this bound is about."""
        if self.to is None:
            found = series.spread(self.row, self.metric, "veilnet")
        else:
            found = series.ratio(self.row, self.metric, "veilnet", self.to)
        return None if found is None else found["median"]

    def holds(self, figure: float | None, limit: float | None) -> bool:
        """Say whether *figure* keeps *limit*; what was not measured keeps none."""
        if limit is None:
            return True
        if figure is None:
            return False
        return figure >= limit if self.at_least else figure <= limit

    def text(self, figure: float | None) -> str:
        """Return *figure* with its unit, as people read it."""
        if figure is None:
            return "not measured"
        unit = {None: "", "raw": " raw"}.get(self.to, f"x {self.to}")
        return f"{figure:.3g}{unit}"


@dataclass(frozen=True)
class Goal:
    """One row of a goals table, word for word, and what decides it."""

    goal: str
    unit: str
    must: str
    moonshot: str
    bounds: tuple[Bound, ...]

    def judge(self, series: Series) -> dict[str, Any]:
        """Return this goal under the benches' contract."""
        figures = [bound.figure(series) for bound in self.bounds]
        pairs = list(zip(self.bounds, figures, strict=True))
        return {
            "goal": self.goal,
            "unit": self.unit,
            "measured": ", ".join(bound.text(figure) for bound, figure in pairs),
            "must": self.must,
            "moonshot": self.moonshot,
            "met": all(bound.holds(figure, bound.must) for bound, figure in pairs),
            "moonshot_met": all(bound.holds(figure, bound.moonshot) for bound, figure in pairs),
        }


def machine() -> dict[str, Any]:
    """Say what this ran on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((ln.split(":")[1].strip() for ln in lines if ln.startswith("model name")), "?")
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gib": round(pages / 2**30, 1),
        "kernel": os.uname().release,
        "namespaces": os.environ.get("VEILNET_LAB", "none"),
    }


def commit() -> str:
    """Return the commit that is measured, marked if the tree differs from it."""
    said = []
    for argv in (["git", "rev-parse", "HEAD"], ["git", "status", "--porcelain", "-uno"]):
        done = subprocess.run(argv, cwd=HERE, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return "unknown"
        said.append(done.stdout.strip())
    return said[0] + (" and changes" if said[1] else "")


def row(name: str, title: str, metric: str, unit: str, values: list[float]) -> dict[str, Any]:
    """Return the row of a figure that is ours alone: median, least and most of *values*."""
    ends = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {
        "row": name,
        "title": title,
        "metric": metric,
        "unit": unit,
        "n": len(values),
        "congestion_control": [],
        "systems": {"veilnet": ends},
    }


def document(
    rows: list[dict[str, Any]],
    goals: list[dict[str, Any]],
    failures: list[dict[str, str]],
    **more: object,
) -> dict[str, Any]:
    """Return what a bench writes, under their contract; *more* is its own."""
    head = {
        "commit": commit(),
        "machine": machine(),
        "command": f"python bench/{Path(sys.argv[0]).name} {' '.join(sys.argv[1:])}".strip(),
    }
    return head | more | {"missing": {}, "failures": failures, "rows": rows, "goals": goals}


def spread_text(spread: dict[str, float], digits: int) -> str:
    """Return a median with *digits* significant digits, and the range around it."""
    low, high = (f"{spread[end]:.{digits - 1}g}" for end in ("min", "max"))
    return f"{spread['median']:.{digits}g} [{low} .. {high}]"


def table(head: list[str], lines: list[list[str]]) -> str:
    """Return an aligned text table."""
    widths = [max(len(line[i]) for line in [head, *lines]) for i in range(len(head))]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in [head, rule, *lines]
    )


def goals_table(goals: list[dict[str, Any]]) -> str:
    """Return the goals with their figures as a text table."""
    head = ["goal", "measured", "must", "met", "moonshot", "met"]
    mark = {True: "yes", False: "no"}
    return table(
        head,
        [
            [
                goal["goal"],
                goal["measured"],
                goal["must"],
                mark[goal["met"]],
                goal["moonshot"],
                mark[goal["moonshot_met"]],
            ]
            for goal in goals
        ],
    )


def show(rows: list[dict[str, Any]], goals: list[dict[str, Any]]) -> None:
    """Print figures that are ours alone, as `row` makes them, and the goals."""
    ends = ("median", "min", "max")
    lines = [
        [each["title"], each["unit"], *(f"{each['systems']['veilnet'][end]:.4g}" for end in ends)]
        for each in rows
    ]
    print(table(["what", "unit", "median", "least", "most"], lines))
    print()
    print(goals_table(goals))


def added(known: dict[str, Any], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return *rows* behind those of the results *known* that were not measured again.

    Each of these tells its commit.
    """
    here = {(row["row"], row["metric"]) for row in rows}
    kept = [row for row in known["rows"] if (row["row"], row["metric"]) not in here]
    return [{"commit": known["commit"]} | row for row in kept] + rows


def write(path: Path, document: dict[str, Any]) -> None:
    """Write the results, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(document, indent=1) + "\n")
    draft.replace(path)
