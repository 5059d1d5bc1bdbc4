"""Discovery against the number of nodes: hops, success, state and traffic, in virtual time.

    python bench/scale.py [--quick] [--json FILE] [--experiments NAME[,NAME...]] [--seeds N]
                          [--nodes N] [--add]

Up to 10,000 nodes every one is the shipped `Kademlia` ("machines").  Beyond, those who answer are
a model of their tables ("model") and only who asks and who publishes is a machine; at 10,000 both
run, and how far they differ is a row.  Round trips are those of ``../shared/data/rtt`` or of where
VEILNET_RTT points; where there are none, generated ones stand in, and the output says so.

| experiment | what |
|------------|------|
| growth     | lookups in networks of 100 to 1,000,000 nodes, 38 % of all listed away |
| living     | machines for hours: they come and go, join, refresh, publish and expire |
| sybils     | a fifth of all are liars; 20 liars next to a locator |
| lost       | 30 % and 50 % of all vanish at once |
| cache      | a node returns after a week, with nothing but its old contacts |
| byte       | the first byte to a stranger through a relay, nothing warm |
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plot_scale import draw
from report import added, commit, goals_table, machine, table, write
from scale_goals import METRICS, TITLES, goals_of
from veilnet.errors import VeilError
from veilnet.sim.discovery.experiments import EXPERIMENTS, Plan, Sample, check, run
from veilnet.sim.traces import VARIABLE, Trace, find_trace

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "rtt"
FIRST_SEED = 1_000

Collected = dict[tuple[str, str], dict[str, list[float]]]


def collect(samples: Iterator[Sample], found: Collected) -> None:
    """Run them all, into *found*: by row and metric, then system, one value per seed."""
    started = time.monotonic()
    for sample in samples:
        for metric, value in sample.values.items():
            systems = found.setdefault((sample.row, metric), {})
            systems.setdefault(sample.system, []).append(value)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in sample.values.items())
        took = time.monotonic() - started
        where = f"{sample.row}, {sample.system}, seed {sample.seed}"
        print(f"{took:5.0f} s  {where}: {shown}", file=sys.stderr, flush=True)


def spread(values: list[float]) -> dict[str, float]:
    """Return median, least and greatest."""
    kept = sorted(values)
    middle = (kept[(len(kept) - 1) // 2] + kept[len(kept) // 2]) / 2
    found = {"median": middle, "min": kept[0], "max": kept[-1]}
    return {name: float(f"{value:.5g}") for name, value in found.items()} | {"n": len(kept)}


def rows_of(found: Collected) -> list[dict[str, Any]]:
    """Return one row for each setting and metric."""
    rows = []
    for (row, metric), systems in found.items():
        words, unit = METRICS[metric]
        title, _, size = row.partition("/")
        named = f"{TITLES[title]}{f', {int(size):,} nodes' if size else ''}"
        rows.append(
            {
                "row": row,
                "title": f"{named}: {words}",
                "metric": metric,
                "unit": unit,
                "systems": {name: spread(values) for name, values in systems.items()},
            }
        )
    return rows


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--quick", action="store_true", help="up to 1,000 machines: about a minute")
    made.add_argument("--json", metavar="FILE", type=Path)
    made.add_argument(
        "--add", action="store_true",
        help="keep the rows of FILE that this run does not measure, with their command",
    )  # fmt: skip
    made.add_argument("--experiments", metavar="LIST", default=",".join(EXPERIMENTS))
    made.add_argument(
        "--nodes", metavar="N", type=int, default=10_000,
        help="size of the networks of sybils, lost and byte (10000)",
    )  # fmt: skip
    made.add_argument("--seeds", metavar="N", type=int, default=1, help="how many, from 1000 on")
    return made


def evaluate(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Run what *options* ask for; yield the document after each experiment.

    Raises: VeilError: an option or a file cannot be used.
    """
    trace = trace_of()
    missing = {trace.name: f"stands in: {trace.why}"} if trace.why else {}
    if trace.why:
        print(f"no recorded trace: {trace.why}", file=sys.stderr)
    seeds = tuple(range(FIRST_SEED, FIRST_SEED + max(1, options.seeds)))
    names = [part.strip() for part in options.experiments.split(",") if part.strip()]
    head = {
        "commit": commit(),
        "machine": machine(),
        "command": f"python bench/scale.py {' '.join(sys.argv[1:])}".strip(),
        "trace": {"name": trace.name, "nodes": trace.nodes},
        "seeds": list(seeds),
        "missing": missing,
    }
    known: dict[str, Any] | None = None
    if options.add and options.json and options.json.exists():
        known = json.loads(options.json.read_text())
        head["command"] = f"{known['command']} && {head['command']}"
    found: Collected = {}
    plan = Plan(quick=options.quick, seeds=seeds, attacked=max(100, options.nodes))
    check(names)
    for name in names:
        collect(run(name, plan, trace), found)
        rows = rows_of(found)
        if known is not None:
            rows = added(known, rows)
        yield head | {"rows": rows, "goals": goals_of(rows)}


def trace_of() -> Trace:
    """Return the recorded round trips, or generated ones."""
    return find_trace("planetlab", folder=Path(os.environ.get(VARIABLE) or FOLDER))


def show(document: dict[str, Any]) -> None:
    """Print the table and the goals."""
    lines = [
        [row["title"], name, f"{found['median']:.4g}", row["unit"]]
        for row in document["rows"]
        for name, found in row["systems"].items()
    ]
    print(table(["row", "system", "median", "unit"], lines))
    for who, why in document["missing"].items():
        print(f"not measured: {who}: {why}")
    if document["goals"]:
        print()
        print(goals_table(document["goals"]))


def main() -> int:
    """Run the bench and return its exit code."""
    options = parser().parse_args()
    document: dict[str, Any] = {}
    try:
        for document in evaluate(options):
            # Whoever stops a long run keeps what there is.
            if options.json:
                write(options.json, document)
                draw(options.json.with_suffix(".svg"), document)
    except VeilError as error:
        print(f"scale: {error.message}. {error.hint}", file=sys.stderr)
        return error.code
    if document:
        show(document)
    return 0


if __name__ == "__main__":
    sys.exit(main())
