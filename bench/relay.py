"""How fast one relay forwards on one core: VeilNet, the kernel, coturn and Tailscale's two relays.

    python bench/relay.py [--quick] [--json FILE] [--rounds N] [--seconds S]
                          [--systems kernel,veilnet,...] [--rows many,each,...]

One generator offers the same pattern to whatever relays: 32 ends on each side, one circuit or a
thousand.  It is a closed loop: what arrives lets more out, as real senders' windows do, so that
nobody is measured in a state of collapse.  Every datagram is counted and one in 32 is compared
byte by byte (VeilNet's: opened first); before each run every circuit is tried both ways.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from subprocess import SubprocessError
from typing import Any

import relay_build
from peers import Unavailable
from relay_stage import OTHERS, Clock, Stage, pause
from relay_systems import RELAYS, Relay
from report import Bound, Goal, Series, commit, goals_table, machine, spread_text, table, write
from veilnet.errors import PrivilegeError
from veilnet.testing import enter, inside

BULK_BYTES, SMALL_BYTES = 1448, 100
MANY = 1000
_SUPER_PACKETS = (16, 44)
_CHECKED_EACH = 2
_QUIET = 0.05


@dataclass(frozen=True)
class Row:
    """One offered pattern."""

    key: str
    title: str
    circuits: int
    size: int
    burst: tuple[int, int]
    window: int  # datagrams under way at most
    single: bool = False  # the wires carry one datagram at a time
    main: bool = False
    pings: bool = False

    @property
    def metrics(self) -> dict[str, str]:
        """What is measured, and its unit."""
        return _RTT if self.pings else _RATES


_RATES = {
    "gbps": "Gbit/s",
    "pps": "datagrams/s",
    "full_core_gbps": "Gbit/s at a full core",
    "core_busy": "share of the core",
    "cpu_s_per_gbit": "CPU-s per Gbit, process",
    "core_s_per_gbit": "CPU-s per Gbit, whole core",
    "lost": "share lost",
}
_RTT = {"p50_us": "us, p50", "p99_us": "us, p99", "added_us": "us added, p50"}
_NO_RATIO = ("lost", "core_busy", "added_us")

ROWS = (
    Row(
        "one", "1,448 B, 1 circuit, bursts of 16-44", 1, BULK_BYTES, _SUPER_PACKETS, 2816,
    ),
    Row(
        "many", "1,448 B, 1,000 circuits over 32 + 32 links, bursts of 16-44", MANY, BULK_BYTES,
        _SUPER_PACKETS, 2816, main=True,
    ),
    Row(
        "each", "1,448 B, 1,000 circuits over 32 + 32 links, datagram by datagram", MANY,
        BULK_BYTES, (1, 1), 240, main=True,
    ),
    Row(
        "wire", "1,448 B, 1,000 circuits, bursts of 16-44, wires without segmentation offload",
        MANY, BULK_BYTES, _SUPER_PACKETS, 240, single=True,
    ),
    Row(
        "small", "100 B, 1,000 circuits over 32 + 32 links, bursts of 16-44", MANY, SMALL_BYTES,
        _SUPER_PACKETS, 2816,
    ),
    Row(
        "smalleach", "100 B, 1,000 circuits over 32 + 32 links, datagram by datagram", MANY,
        SMALL_BYTES, (1, 1), 240, main=True,
    ),
    Row(
        "rtt", "round trip through the relay, 100 B, idle", 1, SMALL_BYTES, (1, 1), 1, main=True,
        pings=True,
    ),
)  # fmt: skip

# Word for word from the design's table of goals.  Interleaved means datagram by datagram: in bursts
# the kernel forwards whole super-packets without touching a byte, and a row of its own shows how
# far a relay that opens and seals every datagram is from that.
GOALS = (
    Goal(
        "relay forwarding, one core, 1000 circuits over >= 32 links in and out, interleaved",
        "ratio", ">= 0.4 of the kernel's own forwarding in the same run", ">= 0.7",
        (Bound("each", "gbps", "kernel", 0.4, 0.7),),
    ),
)  # fmt: skip


class Run:
    """One run of this bench: what relays, the samples, and what could not be had."""

    def __init__(self, rows: list[Row], names: list[str], folder: Path, seed: int) -> None:
        self.rows, self.names = rows, names
        self.series = Series()
        self.failures: list[dict[str, Any]] = []
        self.missing: dict[str, str] = {}
        self.notes: dict[str, Any] = {}
        self.noise: list[float] = []
        self._random = random.Random(seed)
        self.stage = Stage()
        self.relays: dict[tuple[str, int], Relay] = {}
        for name in names:
            for count in sorted({row.circuits for row in rows}):
                relay = RELAYS[name](self.stage, count, folder)
                try:
                    relay.start()
                except Unavailable as error:
                    self.missing[name] = str(error)
                    print(f"missing: {name}: {error}", file=sys.stderr, flush=True)
                else:
                    self.relays[name, count] = relay

    def background(self, seconds: float = 1.0) -> float:
        """Return which share of the relay's core is busy while nothing is offered."""
        before = Clock.read([])
        pause(seconds)
        after = Clock.read([])
        return after.busy_s(before) / (after.wall - before.wall)

    def round(self, number: int, rounds: int, seconds: float) -> None:
        """Measure every row with every relay once, in an order of its own."""
        self.noise.append(round(self.background(), 4))
        if self.noise[-1] > _QUIET:
            print(f"the relay's core is {self.noise[-1]:.0%} busy with others", file=sys.stderr)
        for row in self.rows:
            self.stage.single(on=row.single)
            self.stage.moderate(on=not row.pings)
            order = [r for (_, count), r in self.relays.items() if count == row.circuits]
            self._random.shuffle(order)
            for relay in order:
                where = f"round {number + 1}/{rounds}  {row.key}  {relay.name}"
                try:
                    values = self._one(row, relay, seconds)
                except (Unavailable, SubprocessError, OSError, ValueError, KeyError) as error:
                    self.failures.append(
                        {
                            "row": row.key,
                            "system": relay.name,
                            "round": number,
                            "reason": str(error),
                        }
                    )
                    print(f"FAILED {where}: {error}", file=sys.stderr, flush=True)
                    continue
                for metric, value in values.items():
                    self.series.add(row.key, metric, relay.name, number, value)
                shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
                print(f"{where}  {shown}", file=sys.stderr, flush=True)
            if row.pings:
                self._added(row, number)

    def _one(self, row: Row, relay: Relay, seconds: float) -> dict[str, float]:
        relay.open(row.size)
        try:
            relay.ask(f"check {_CHECKED_EACH} {row.size}")
            if row.pings:
                return _pings(relay, row, int(seconds * 60))
            before = relay.clock()
            least, most = row.burst
            said = relay.ask(f"run {seconds:g} {row.size} {least} {most} {row.window}")
            after = relay.clock()
            self.notes[f"{row.key} {relay.name}"] = {
                "generator": said,
                "relay": relay.notes(row.size),
            }
        finally:
            relay.rest()
        took = said["seconds"]
        gbit = said["arrived"] * row.size * 8 / 1e9
        spent, program = after.busy_s(before), after.program_s(before)
        values = {
            "gbps": gbit / took,
            "pps": said["arrived"] / took,
            "lost": 1 - said["arrived"] / max(1, said["sent"]),
        }
        if relay.relays:
            values["full_core_gbps"] = gbit / spent
            values["core_busy"] = spent / (after.wall - before.wall)
            values["core_s_per_gbit"] = spent / gbit
        if program is not None:
            values["cpu_s_per_gbit"] = program / gbit
        return values

    def _added(self, row: Row, number: int) -> None:
        bare = self.series.value(row.key, "p50_us", "direct", number)
        for name in self.names:
            found = self.series.value(row.key, "p50_us", name, number)
            if bare is not None and found is not None and name != "direct":
                self.series.add(row.key, "added_us", name, number, found - bare)

    def document(self, command: str, rounds: int, seconds: float) -> dict[str, Any]:
        """Return the results under the benches' contract."""
        return {
            "commit": commit(),
            "machine": machine(),
            "command": command,
            "rounds": rounds,
            "seconds": seconds,
            "systems": {
                name: relay.version or os.uname().release
                for (name, _), relay in self.relays.items()
            },
            "missing": self.missing,
            "failures": self.failures,
            "background": self.noise,
            "notes": self.notes,
            "rows": [self._row(row, metric) for row in self.rows for metric in row.metrics],
            "goals": [
                goal.judge(self.series)
                for goal in GOALS
                if any(bound.row == row.key for bound in goal.bounds for row in self.rows)
            ],
        }

    def _row(self, row: Row, metric: str) -> dict[str, Any]:
        systems: dict[str, dict[str, Any]] = {}
        for name in self.names:
            found = self.series.spread(row.key, metric, name)
            if found is None:
                continue
            systems[name] = {**found}
            ratio = self.series.ratio(row.key, metric, name, "kernel")
            if ratio is not None and name != "kernel" and metric not in _NO_RATIO:
                systems[name]["to_kernel"] = ratio
        return {
            "row": row.key,
            "title": row.title,
            "metric": metric,
            "unit": row.metrics[metric],
            "systems": systems,
        }


def _pings(relay: Relay, row: Row, count: int) -> dict[str, float]:
    said = relay.ask(f"ping {count} {row.size}")
    if len(said["rtt_ns"]) < count / 2:
        raise Unavailable(f"{relay.name} lost {said['lost']} of {count} pings")
    cuts = statistics.quantiles(said["rtt_ns"], n=100)
    return {"p50_us": cuts[49] / 1e3, "p99_us": cuts[98] / 1e3}


def lines_of(document: dict[str, Any]) -> list[list[str]]:
    """Return the table's lines: one per row, metric and system."""
    lines = []
    for row in document["rows"]:
        for number, (name, found) in enumerate(row["systems"].items()):
            ratio = found.get("to_kernel")
            cells = [spread_text(found, 4), row["unit"], spread_text(ratio, 3) if ratio else ""]
            lines.append(["" if number else row["title"], name, *cells])
    return lines


def main() -> int:
    """Run the bench and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="3 rounds of 2 s, the main rows")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument("--rounds", type=int, help="how many rounds (7; --quick: 3)")
    parser.add_argument("--seconds", type=float, help="length of one measurement (4; --quick: 2)")
    parser.add_argument("--systems", default=",".join(RELAYS), help="some of: %(default)s")
    parser.add_argument("--rows", help=f"some of: {','.join(row.key for row in ROWS)}")
    parser.add_argument("--built", action="store_true", help="build nothing, use what is there")
    parser.add_argument("--seed", type=int, default=1, help="of the shuffled order")
    options = parser.parse_args()
    rounds = options.rounds or (3 if options.quick else 7)
    seconds = options.seconds or (2.0 if options.quick else 4.0)
    picked = options.rows.split(",") if options.rows else None
    rows = [row for row in ROWS if (row.key in picked if picked else row.main or not options.quick)]
    if (os.cpu_count() or 1) <= OTHERS:
        print("This bench needs two cores: one relays, one offers load.", file=sys.stderr)
        return 4
    if not inside():
        if not options.built:
            relay_build.fetch()
        try:
            enter(privilege="root")
        except PrivilegeError as error:
            print(f"Only root may say which core forwards: {error}", file=sys.stderr)
            return 4
    os.sched_setaffinity(0, {OTHERS})
    with tempfile.TemporaryDirectory(prefix="veilnet-relay-") as folder:
        run = Run(rows, options.systems.split(","), Path(folder), options.seed)
        try:
            for number in range(rounds):
                run.round(number, rounds, seconds)
        finally:
            run.stage.close()
    command = f"python bench/relay.py {' '.join(sys.argv[1:])}".strip()
    document = run.document(command, rounds, seconds)
    if options.json:
        write(options.json, document)
    _show(document)
    return 1 if any(failure["system"] == "veilnet" for failure in run.failures) else 0


def _show(document: dict[str, Any]) -> None:
    head = ["row", "system", "median [min .. max]", "unit", "ratio to the kernel"]
    print(table(head, lines_of(document)))
    for name, why in document["missing"].items():
        print(f"not measured: {name}: {why}")
    if document["failures"]:
        print(f"{len(document['failures'])} measurements failed; see the JSON")
    print()
    print(goals_table(document["goals"]))


if __name__ == "__main__":
    sys.exit(main())
