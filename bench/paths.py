"""How well path policies choose: experiments A to E, each with every baseline and the oracle.

    python bench/paths.py [--quick] [--json FILE] [--experiments A,B,C,D,E] [--seeds N|LIST]
                          [--policy NAME[,NAME...]] [--plot DIR] [--jobs N]
    python bench/paths.py --trace FILE [--policy NAME[,NAME...]] [--seeds N|LIST] [--json [FILE|-]]

The second form evaluates any trace of round trips (``rtt_ms`` or ``rtt_eighth_ms``, shape (slots,
nodes, nodes), 0 off the diagonal: missing).  Traces come from ``../shared/data/rtt`` or from where
VEILNET_RTT points; where there are none, generated ones stand in, and the output says so.
Reported seeds start at 2401; those below 100 and from 7000 on are for tuning.  The policies run in
the very guard and class that the daemon runs; see ``python/veilnet/sim`` for the environments.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paths_goals import goals_of, is_behind_goal
from paths_kernel import load_bytes_per_s, sizes_and_times
from plot_policies import draw
from report import commit, goals_table, machine, table, write
from veilnet.errors import UsageError, VeilError
from veilnet.sim.experiments import (
    EXPERIMENTS,
    FIRST_SEED,
    Outcome,
    Plan,
    experiment_a,
    experiment_b,
    experiment_c,
    experiment_d,
    experiment_e,
    plan,
)
from veilnet.sim.traces import VARIABLE, Trace, find_trace, load_trace

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "rtt"

METRICS = {
    "excess_percent": ("excess", "%"),
    "mean_ms": ("mean", "ms"),
    "early_ms": ("mean after 30 to 50 s", "ms"),
    "cost_excess_percent": ("excess with loss priced", "%"),
    "lost_percent": ("lost", "%"),
    "moved_percent_per_s": ("moved per s", "%"),
    "spike_percent": ("30 s after a relay is lost", "%"),
    "peak_percent": ("worst second of them", "%"),
    "attacked_percent": ("traffic over attackers", "%"),
    "probes_per_s": ("probes", "1/s"),
}
TITLES = {
    "A": "A {}",
    "B": "B hybrid, {}",
    "C": "C crowd, {}",
    "D": "D growth, {}",
    "E": "E attack: {}",
}

Collected = dict[tuple[str, str], dict[str, dict[str, list[float]]]]


def collect(outcomes: Iterator[Outcome]) -> Collected:
    """Run them all; by experiment and setting, then metric, then policy: one value per seed."""
    found: Collected = {}
    started = time.monotonic()
    for outcome in outcomes:
        metrics = found.setdefault((outcome.experiment, outcome.setting), {})
        for metric, value in outcome.values.items():
            by_policy = metrics.setdefault(metric, {})
            by_policy.setdefault(outcome.policy, []).append(value)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in outcome.values.items())
        where = f"{outcome.experiment} {outcome.setting}, seed {outcome.seed}, {outcome.policy}"
        took = time.monotonic() - started
        print(f"{took:5.0f} s  {where}: {shown}", file=sys.stderr, flush=True)
    return found


def spread(values: list[float]) -> dict[str, float]:
    """Return mean, sd, median, least and greatest."""
    sd = statistics.stdev(values) if len(values) > 1 else 0.0
    found = {"mean": statistics.fmean(values), "sd": sd, "median": statistics.median(values)}
    found |= {"min": min(values), "max": max(values)}
    return {name: float(f"{value:.5g}") for name, value in found.items()} | {"n": len(values)}


def rows_of(found: Collected) -> list[dict[str, Any]]:
    """Return one row for each experiment, setting and metric."""
    rows = []
    for (experiment, setting), metrics in found.items():
        for metric, by_policy in metrics.items():
            words, unit = METRICS[metric]
            title = TITLES[experiment].format(setting)
            rows.append(
                {
                    "row": f"{experiment}/{setting}",
                    "title": f"{title}: {words}",
                    "metric": metric,
                    "unit": unit,
                    "behind_goal": is_behind_goal(f"{experiment}/{setting}", metric),
                    "systems": {name: spread(values) for name, values in by_policy.items()},
                }
            )
    return rows


def lines_of(found: Collected) -> list[list[str]]:
    """Return the table's lines: one for each experiment, setting and policy."""
    lines = []
    for (experiment, setting), metrics in found.items():
        policies = dict.fromkeys(name for by_policy in metrics.values() for name in by_policy)
        for number, name in enumerate(policies):
            cells = [_cell(metrics.get(metric, {}).get(name)) for metric in METRICS]
            title = TITLES[experiment].format(setting)
            lines.append(["" if number else title, name, *cells])
    return lines


def _cell(values: list[float] | None) -> str:
    if not values:
        return ""
    found = spread(values)
    sd = f" +- {found['sd']:.2g}" if found["n"] > 1 else ""
    return f"{found['mean']:.4g}{sd}"


def run(names: list[str], wanted: Plan, traces: dict[str, Trace]) -> Iterator[Outcome]:
    """Run the experiments *names*."""
    bases = traces["planetlab"]
    for name in names:
        if name == "A":
            yield from experiment_a(traces["seattle"], wanted)
        elif name == "B":
            yield from experiment_b(bases, wanted)
        elif name == "C":
            yield from experiment_c(bases, wanted)
        elif name == "D":
            yield from experiment_d(bases, wanted)
        else:
            yield from experiment_e(bases, wanted)


def collect_apart(names: list[str], wanted: Plan, traces: dict[str, Trace], jobs: int) -> Collected:
    """Run the experiments *names*, *jobs* of them at once, each in a process of its own."""
    if jobs < 2:
        return collect(run(names, wanted, traces))
    found: Collected = {}
    with ProcessPoolExecutor(jobs) as pool:
        started = [pool.submit(_collect_one, name, wanted, traces) for name in names]
        for one in started:
            found |= one.result()
    return found


def _collect_one(name: str, wanted: Plan, traces: dict[str, Trace]) -> Collected:
    return collect(run([name], wanted, traces))


def decision_rows(found: Collected) -> list[dict[str, Any]]:
    """Measure what a decision costs, beside the kernel of the design's formula."""
    print("timing decisions", file=sys.stderr, flush=True)
    cost = sizes_and_times()
    rates = found.get(("B", next((s for e, s in found if e == "B"), "")), {}).get("probes_per_s")
    probes = statistics.fmean(rates["veil"]) if rates and "veil" in rates else 0.25
    # Three paths is the most that a destination has.
    load = load_bytes_per_s(probes_per_s=probes, paths=3.0)
    kernel = {"decide": cost["kernel_decide_us"], "update": cost["kernel_update_us"]}
    rows = [
        _plain(call, f"one {call}", "us", {"veil": cost[f"{call}_us"], "numpy kernel": theirs})
        for call, theirs in kernel.items()
    ]
    rows[0]["to_kernel"] = cost["decide_to_kernel"]
    rows.append(
        _plain("memory", "memory of a destination, 21 arms", "bytes", {"veil": cost["table_bytes"]})
    )
    whole = {"veil": cost["allocated_bytes"]}
    rows.append(_plain("allocated", "the same with all Python objects around it", "bytes", whole))
    title = "probes and reports of a busy destination, 3 paths (from the wire's sizes)"
    rows.append(_plain("load", title, "bytes/s", {"veil": load}))
    return rows


def _plain(metric: str, title: str, unit: str, values: dict[str, float]) -> dict[str, Any]:
    systems = {name: spread([float(value)]) for name, value in values.items()}
    return {
        "row": "decision", "title": title, "metric": metric, "unit": unit,
        "behind_goal": is_behind_goal("decision", metric), "systems": systems,
    }  # fmt: skip


def seeds_of(text: str | None) -> tuple[int, ...] | None:
    """Return the seeds that *text* names: how many, or a list with a comma in it.

    Raises: UsageError: it is neither.
    """
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() or not part for part in parts) or not any(parts):
        hint = "Say how many (`--seeds 5`) or which (`--seeds 7,8,9`, `--seeds 7,`)."
        raise UsageError(f"--seeds {text!r} is no number and no list", hint=hint)
    seeds = tuple(int(part) for part in parts if part)
    if len(parts) == 1:
        seeds = tuple(range(FIRST_SEED, FIRST_SEED + max(1, min(seeds[0], 10_000))))
    return seeds


def traces_of(options: argparse.Namespace) -> dict[str, Trace]:
    """Return the two traces, generated where there is no file."""
    folder = Path(os.environ.get(VARIABLE) or FOLDER)
    if folder.is_file():
        # One file is a trace to replay; bases for B to E are generated beside it.
        seattle = load_trace(folder)
        bases = find_trace("planetlab", folder=folder.parent)
        return {"seattle": seattle, "planetlab": bases}
    del options
    return {name: find_trace(name, folder=folder) for name in ("seattle", "planetlab")}


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--quick", action="store_true", help="one seed, shorter: under a minute")
    made.add_argument("--json", metavar="FILE", nargs="?", const="-", help="-: standard output")
    made.add_argument("--experiments", metavar="LIST", default=",".join(EXPERIMENTS))
    made.add_argument("--policy", metavar="NAMES", default="", help="default: all, and the oracle")
    made.add_argument("--seeds", metavar="N|LIST", help="how many (from 2401), or which: 7,8")
    made.add_argument("--jobs", metavar="N", type=int, default=1, help="experiments at once")
    made.add_argument("--plot", metavar="DIR", type=Path, help="write paths.svg there")
    made.add_argument("--trace", metavar="FILE", type=Path, help="evaluate this trace alone")
    return made


def evaluate(options: argparse.Namespace) -> dict[str, Any]:
    """Run what *options* ask for and return the document.

    Raises: VeilError: an option or a file cannot be used.
    """
    names = [part for part in options.policy.split(",") if part]
    wanted = plan(quick=options.quick, seeds=seeds_of(options.seeds), policies=names)
    picked = [part.strip() for part in options.experiments.split(",") if part.strip()]
    for name in picked:
        if name not in EXPERIMENTS:
            raise UsageError(f"no experiment is called {name!r}", hint="There are: A,B,C,D,E.")
    if options.trace is not None:
        trace = load_trace(options.trace)
        picked, traces, missing = ["A"], {"seattle": trace}, {}
        found = collect(experiment_a(trace, wanted))
        rows = rows_of(found)
    else:
        traces = traces_of(options)
        missing = {t.name: f"stands in: {t.why}" for t in traces.values() if t.why}
        for why in missing.values():
            print(f"no recorded trace: {why}", file=sys.stderr)
        found = collect_apart(picked, wanted, traces, options.jobs)
        rows = rows_of(found) + decision_rows(found)
    if options.trace is None and "C" in picked:
        missing["direct in C and D"] = "there is no direct path in a crowd"
    return {
        "commit": commit(),
        "machine": machine(),
        "command": f"python bench/paths.py {' '.join(sys.argv[1:])}".strip(),
        "traces": {t.name: {"slots": t.slots, "nodes": t.nodes} for t in traces.values()},
        "seeds": {name: list(wanted.seeds[name]) for name in picked},
        "missing": missing,
        "rows": rows,
        "goals": [] if options.trace is not None else goals_of(rows, trace=traces["seattle"].name),
        "table": lines_of(found),
    }


def main() -> int:
    """Run the bench and return its exit code."""
    options = parser().parse_args()
    try:
        document = evaluate(options)
    except VeilError as error:
        print(f"paths: {error.message}. {error.hint}", file=sys.stderr)
        return error.code
    lines = document.pop("table")
    if options.json == "-":
        write_out(document)
    elif options.json:
        write(Path(options.json), document)
        if options.trace is None:
            draw(Path(options.json).with_suffix(".svg"), document)
    if options.plot:
        options.plot.mkdir(parents=True, exist_ok=True)
        draw(options.plot / "paths.svg", document)
    if options.json != "-":
        show(document, lines)
    return 0


def write_out(document: dict[str, Any]) -> None:
    """Print *document* and nothing else."""
    import json

    print(json.dumps(document, indent=1))


def show(document: dict[str, Any], lines: list[list[str]]) -> None:
    """Print the table and the goals."""
    head = [f"{words}, {unit}" for words, unit in METRICS.values()]
    used = [i for i in range(len(METRICS)) if any(line[i + 2] for line in lines)]
    head = ["experiment", "policy", *(head[i] for i in used)]
    print(table(head, [[*line[:2], *(line[i + 2] for i in used)] for line in lines]))
    for row in document["rows"]:
        if row["row"] == "decision":
            values = ", ".join(f"{n} {v['mean']:.4g}" for n, v in row["systems"].items())
            print(f"{row['title']}: {values} {row['unit']}")
    for who, why in document["missing"].items():
        print(f"not measured: {who}: {why}")
    if document["goals"]:
        print()
        print(goals_table(document["goals"]))


if __name__ == "__main__":
    sys.exit(main())
