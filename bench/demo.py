"""What `veilnet demo` reports, run after run.

    python bench/demo.py [--quick] [--json FILE] [--runs N]

The demo is no benchmark: one stream each, with whatever else the machine does.  But it is what
people see first, so what it tells is kept here.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from report import document, row, show, write

LIMIT_MS = 1_000.0
TITLES = {
    "handshake_ms": ("the handshake", "ms"),
    "direct_mbps": ("one TCP stream, direct", "Mbit/s"),
    "relayed_mbps": ("one TCP stream, relayed", "Mbit/s"),
    "failover_ms": ("the direct way is cut: silence until the relay carries", "ms"),
}


def run() -> dict[str, Any]:
    """Run the demo once.   Raises: CalledProcessError: it failed."""
    done = subprocess.run(
        [sys.executable, "-m", "veilnet", "demo", "--json"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def rows(done: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Return one row per figure of the demo."""
    return [
        row(name, TITLES[name][0], name, TITLES[name][1], values) for name, values in done.items()
    ]


def goal(done: dict[str, list[float]]) -> dict[str, Any]:
    """Return the goal of the demo's second act."""
    gaps, rates = done.get("failover_ms", []), done.get("relayed_mbps", [])
    met = bool(gaps) and bool(rates) and max(gaps) < LIMIT_MS and min(rates) > 0
    measured = (
        f"{statistics.median(rates):.0f} Mbit/s; {statistics.median(gaps):.0f} ms, at most "
        f"{max(gaps):.0f} of {len(gaps)}"
        if gaps and rates
        else "not measured"
    )
    return {
        "goal": "veilnet demo --json reports relayed_mbps and failover_ms",
        "unit": "Mbit/s; ms",
        "measured": measured,
        "must": "failover_ms < 1000",
        "moonshot": "-",
        "met": met,
        "moonshot_met": False,
    }


def main() -> int:
    """Run the bench and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument("--runs", type=int, help="(10; --quick: 2)")
    options = parser.parse_args()
    done: dict[str, list[float]] = defaultdict(list)
    failures: list[dict[str, str]] = []
    for number in range(options.runs or (2 if options.quick else 10)):
        try:
            found = run()
        except subprocess.CalledProcessError as error:
            failures.append({"what": f"run {number + 1}", "reason": error.stderr[-2_000:]})
            print(f"FAILED {error.stderr}", file=sys.stderr)
            continue
        for name in TITLES:
            done[name].append(float(found[name]))
        print(f"{number + 1}  {found['failover_ms']:.0f} ms", file=sys.stderr, flush=True)
    found_rows = rows(done)
    result = document(found_rows, [goal(done)], failures)
    if options.json:
        write(options.json, result)
    show(found_rows, result["goals"])
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
