"""How fast a tunnel is: raw veth, wireguard-go, Nebula and VeilNet side by side, in turns.

    python bench/throughput.py [--quick] [--json FILE] [--rounds N] [--seconds S]
                               [--systems raw,wireguard-go,...] [--rows tcp1,loss,...]

A shared machine's speed swings by half within minutes.  So every system is up all the time between
the same hosts; each round measures every row with every system, one after the other in an order
shuffled anew; and what is reported is the median of the ratios within the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from subprocess import SubprocessError
from typing import TYPE_CHECKING, Any

import measure
import peers
from plot import draw
from report import Bound, Goal, Series, commit, goals_table, machine, spread_text, table, write
from stages import Stage
from systems import SYSTEMS, System, need
from veilnet.errors import PrivilegeError
from veilnet.testing import enter, inside

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Row:
    """One thing that is measured with every system."""

    key: str
    title: str
    stage: str
    congestion_control: str
    run: Callable[[System, float], measure.Sample]
    metrics: dict[str, str]  # and their units
    segmentation: bool = True
    loss: float = 0.0
    main: bool = False

    def prepare(self, stage: Stage) -> None:
        """Bring *stage* into the state that this row is measured in."""
        stage.congestion_control(self.congestion_control)
        stage.segmentation(on=self.segmentation, gro=self.stage == "veth" and not self.segmentation)
        if stage.name == "router":
            stage.loss(self.loss)


def _tcp(streams: int = 1, *, both_ways: bool = False) -> Callable[[System, float], measure.Sample]:
    return lambda s, t: measure.tcp(s, seconds=t, streams=streams, both_ways=both_ways)


_GBPS = {"gbps": "Gbit/s", "cpu_s_per_gbit": "CPU-s per Gbit"}
_PPS = {"pps": "datagrams/s", "lost": "share lost"}
_RTT = {"p50_us": "us, p50", "p99_us": "us, p99"}
_NO_RATIO = ("lost",)

ROWS = (
    Row("tcp1", "TCP 1 stream, plain veth", "veth", "bbr", _tcp(), _GBPS, main=True),
    Row("reno", "TCP 1 stream, plain veth", "veth", "reno", _tcp(), _GBPS),
    Row(
        "notso", "TCP 1 stream, TSO and tx-udp-segmentation off, gro on", "veth", "bbr", _tcp(),
        _GBPS, segmentation=False,
    ),
    Row("router", "TCP 1 stream, through a router", "router", "bbr", _tcp(), _GBPS),
    Row(
        "loss", "TCP 1 stream, router loses 1 %, TSO off", "router", "bbr", _tcp(), _GBPS,
        segmentation=False, loss=0.01, main=True,
    ),
    Row("tcp8", "TCP 8 streams, plain veth", "veth", "bbr", _tcp(8), _GBPS),
    Row("bidir", "TCP both ways at once, plain veth", "veth", "bbr", _tcp(both_ways=True), _GBPS),
    Row(
        "udp64", "UDP 64 B, plain veth", "veth", "bbr",
        lambda s, t: measure.udp_flood(s, seconds=t), _PPS, main=True,
    ),
    Row(
        "rtt", "UDP round trip, idle, plain veth", "veth", "bbr",
        lambda s, t: measure.idle_rtt(s, count=int(t * 100)), _RTT, main=True,
    ),
)  # fmt: skip

_WG = "wireguard-go"

# Word for word from the design's table of goals; those that another bench measures are not here.
GOALS = (
    Goal(
        "TCP 1 stream, plain veth", "ratio", ">= 3.0x wireguard-go, >= 0.45 raw",
        ">= 4.2x, >= 0.60 raw",
        (Bound("tcp1", "gbps", _WG, 3.0, 4.2), Bound("tcp1", "gbps", "raw", 0.45, 0.60)),
    ),
    Goal("same, reno", "ratio", ">= 4.0x", ">= 5.5x", (Bound("reno", "gbps", _WG, 4.0, 5.5),)),
    Goal(
        "TSO and tx-udp-segmentation off, gro on", "ratio", ">= 2.5x, >= 0.45 raw",
        ">= 3.5x, >= 0.60 raw",
        (Bound("notso", "gbps", _WG, 2.5, 3.5), Bound("notso", "gbps", "raw", 0.45, 0.60)),
    ),
    Goal(
        "through a router, no loss / 1 % loss", "ratio", ">= 3.5x / >= 2.8x, >= 0.75 raw",
        ">= 4.5x / >= 3.5x, >= 0.9 raw",
        (
            Bound("router", "gbps", _WG, 3.5, 4.5), Bound("loss", "gbps", _WG, 2.8, 3.5),
            Bound("loss", "gbps", "raw", 0.75, 0.9),
        ),
    ),
    Goal(
        "TCP 8 streams", "ratio", ">= 3.0x", ">= 4.0x, >= 0.58 raw",
        (Bound("tcp8", "gbps", _WG, 3.0, 4.0), Bound("tcp8", "gbps", "raw", 0.0, 0.58)),
    ),
    Goal(
        "UDP 64 B pps", "ratio", ">= 5x, >= 0.6 raw", ">= 8x, >= 0.85 raw",
        (Bound("udp64", "pps", _WG, 5, 8), Bound("udp64", "pps", "raw", 0.6, 0.85)),
    ),
    Goal(
        "idle RTT p50 / p99 against wireguard-go", "ratio", "<= 0.45 / <= 0.8", "<= 0.25 / <= 0.35",
        (
            Bound("rtt", "p50_us", _WG, 0.45, 0.25, at_least=False),
            Bound("rtt", "p99_us", _WG, 0.8, 0.35, at_least=False),
        ),
    ),
    Goal(
        "CPU-s per Gbit, both ends: bbr / reno", "CPU-s per Gbit", "<= 0.16 / <= 0.12",
        "<= 0.11 / <= 0.085",
        (
            Bound("tcp1", "cpu_s_per_gbit", None, 0.16, 0.11, at_least=False),
            Bound("reno", "cpu_s_per_gbit", None, 0.12, 0.085, at_least=False),
        ),
    ),
)  # fmt: skip


class Run:
    """One run of this bench: its stages, its samples, and what could not be had."""

    def __init__(self, rows: list[Row], systems: list[str], folder: Path, seed: int) -> None:
        self.rows, self.names = rows, systems
        self.series = Series()
        self.failures: list[dict[str, Any]] = []
        self.seen: dict[str, set[str]] = {row.key: set() for row in rows}
        self._random = random.Random(seed)
        names = list(dict.fromkeys(row.stage for row in rows))
        self.stages: dict[str, Stage] = {}
        for name in names:
            print(f"bringing up {', '.join(systems)} on stage {name}", file=sys.stderr, flush=True)
            self.stages[name] = Stage(name, systems, folder)
        self.rss: dict[str, int] = {}

    def round(self, number: int, rounds: int, seconds: float) -> None:
        """Measure every row with every system once."""
        for row in self.rows:
            stage = self.stages[row.stage]
            try:
                row.prepare(stage)
            except peers.Unavailable as error:
                self._failed(row, "all", number, error)
                continue
            order = list(stage.systems.values())
            self._random.shuffle(order)
            for system in order:
                self._one(row, system, number, rounds, seconds)

    def _one(self, row: Row, system: System, number: int, rounds: int, seconds: float) -> None:
        where = f"round {number + 1}/{rounds}  {row.key} ({row.congestion_control})  {system.name}"
        try:
            sample = row.run(system, seconds)
        except (peers.Unavailable, SubprocessError, OSError, ValueError, KeyError) as error:
            self._failed(row, system.name, number, error)
            return
        for metric in row.metrics:
            if metric in sample.values:
                self.series.add(row.key, metric, system.name, number, sample.values[metric])
        if sample.congestion_control:
            self.seen[row.key].add(sample.congestion_control)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in sample.values.items())
        print(f"{where}  {shown}", file=sys.stderr, flush=True)

    def _failed(self, row: Row, system: str, number: int, error: Exception) -> None:
        self.failures.append(
            {"row": row.key, "system": system, "round": number, "reason": str(error)}
        )
        print(f"FAILED {row.key} {system}: {error}", file=sys.stderr, flush=True)

    def note_memory(self) -> None:
        """Keep the resident memory of the systems, after all they were put through."""
        for stage in self.stages.values():
            for name, system in stage.systems.items():
                size = system.rss_bytes()
                if size is not None:
                    self.rss[name] = max(size, self.rss.get(name, 0))

    def missing(self) -> dict[str, str]:
        """Return the systems that did not come up, and why."""
        return {n: why for stage in self.stages.values() for n, why in stage.missing.items()}

    def close(self) -> None:
        """Take all stages down."""
        for stage in self.stages.values():
            stage.close()

    def document(self, command: str, rounds: int, seconds: float) -> dict[str, Any]:
        """Return the results under the benches' contract."""
        versions = {n: s.version for st in self.stages.values() for n, s in st.systems.items()}
        return {
            "commit": commit(),
            "machine": machine(),
            "command": command,
            "rounds": rounds,
            "seconds": seconds,
            "systems": versions,
            "missing": self.missing(),
            "failures": self.failures,
            "rss_bytes": self.rss,
            "rows": [self._row(row, metric) for row in self.rows for metric in row.metrics],
            "goals": [
                goal.judge(self.series)
                for goal in GOALS
                if any(bound.row in self.seen for bound in goal.bounds)
            ],
        }

    def _row(self, row: Row, metric: str) -> dict[str, Any]:
        systems: dict[str, dict[str, Any]] = {}
        for name in self.names:
            found = self.series.spread(row.key, metric, name)
            if found is None:
                continue
            systems[name] = {**found}
            for to in ("raw", _WG):
                ratio = self.series.ratio(row.key, metric, name, to)
                if ratio is not None and name != to and metric not in _NO_RATIO:
                    systems[name][f"to_{to}"] = ratio
        return {
            "row": row.key,
            "title": row.title,
            "metric": metric,
            "unit": row.metrics[metric],
            "congestion_control": sorted(self.seen[row.key]) or [row.congestion_control],
            "systems": systems,
        }


def lines_of(document: dict[str, Any]) -> list[list[str]]:
    """Return the table's lines: one per row, metric and system."""
    lines = []
    for row in document["rows"]:
        for number, (name, found) in enumerate(row["systems"].items()):
            title = f"{row['title']} ({'/'.join(row['congestion_control'])})"
            ratios = [found.get(f"to_{to}") for to in ("raw", _WG)]
            cells = [
                spread_text(found, 4),
                row["unit"],
                *(spread_text(r, 3) if r else "" for r in ratios),
            ]
            lines.append(["" if number else title, name, *cells])
    return lines


def main() -> int:
    """Run the bench and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="3 rounds of 3 s, the main rows")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument("--rounds", type=int, help="how many rounds (7; --quick: 3)")
    parser.add_argument("--seconds", type=float, help="length of one measurement (5; --quick: 3)")
    parser.add_argument("--systems", default=",".join(SYSTEMS), help="some of: %(default)s")
    parser.add_argument("--rows", help=f"some of: {','.join(row.key for row in ROWS)}")
    parser.add_argument("--seed", type=int, default=1, help="of the shuffled order")
    options = parser.parse_args()
    rounds = options.rounds or (3 if options.quick else 7)
    seconds = options.seconds or (3.0 if options.quick else 5.0)
    picked = options.rows.split(",") if options.rows else None
    rows = [row for row in ROWS if (row.key in picked if picked else row.main or not options.quick)]
    if not inside():
        peers.fetch()
        _enter()
    try:
        need("iperf3", "iperf3")
    except peers.Unavailable as error:
        print(f"{error}", file=sys.stderr)
        return 4
    with tempfile.TemporaryDirectory(prefix="veilnet-bench-") as folder:
        run = Run(rows, options.systems.split(","), Path(folder), options.seed)
        try:
            for number in range(rounds):
                run.round(number, rounds, seconds)
            run.note_memory()
        finally:
            run.close()
    command = f"python bench/throughput.py {' '.join(sys.argv[1:])}".strip()
    document = run.document(command, rounds, seconds)
    if options.json:
        write(options.json, document)
        draw(options.json.with_suffix(".svg"), document)
    _show(document)
    return 0


def _enter() -> None:
    # Root's own namespaces where they can be had: there every system gets the buffers it asks for,
    # as it would on a machine where it is installed.
    if os.geteuid() == 0:
        with contextlib.suppress(PrivilegeError):
            enter(privilege="root")
    enter()


def _show(document: dict[str, Any]) -> None:
    head = ["row (congestion control)", "system", "median [min .. max]", "unit"]
    print(table([*head, "ratio to raw", "ratio to wireguard-go"], lines_of(document)))
    for name, size in document["rss_bytes"].items():
        print(f"RSS of both ends, {name}: {size / 2**20:.0f} MiB")
    for name, why in document["missing"].items():
        print(f"not measured: {name}: {why}")
    if document["failures"]:
        print(f"{len(document['failures'])} measurements failed; see the JSON")
    print()
    print(goals_table(document["goals"]))


if __name__ == "__main__":
    sys.exit(main())
