"""Many pairs, few relays with little room: does the traffic spread, and does it rest? Experiment G.

    python bench/crowd.py [--quick] [--json FILE] [--pairs N] [--relays N] [--seconds S]
                          [--policies LIST]

```
s1 ... sN --+              +-- r1 ... rM      relays; towards each no more than `capacity`
            +--- router ---+
t1 ... tN --+                                 ends; no two of them reach each other directly
```
Every s sends a few paced TCP flows to its t.  Nothing tells the pairs of each other: they see only
what their own packets go through.  With several policies each has its turn, new nodes every
time, and everybody follows it.  All demand together, as it arrives at the relays' links with its
headers and acknowledgements, is three quarters of what these carry.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circle import Circle, pause_until
from plot_paths import crowd as draw
from report import document, goals_table, table, write
from veilnet.config import PATH_POLICIES
from veilnet.control import client
from veilnet.errors import VeilError
from veilnet.testing import Flow, enter
from veilnet.testing.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from veilnet.testing import Node

FLOWS = 4
PAIR_BPS = 2.4e6
PERIOD_S = 0.04
"""As often as a film has pictures: what wakes more often at 80 ends leaves two cores no room."""
UTILISATION = 0.75
BACK_S = 30.0
WINDOW_S = 30.0
STEP = 2
NOISE = 0.1
"""A flow is a quarter of its pair's traffic; less than half of one has not moved."""

SHIPPED = PATH_POLICIES[0]

_LEG_S = 0.004
_SETTLE_S = 60.0
"""From a room without walls to one with; as long as experiment C lets its crowd settle."""
_READY_S = 120.0
_BEGIN_S, _WEIGH_S = 15.0, 5.0
"""Forty programs start and TCP catches up; then what is asked for is weighed."""

Shares = dict[str, float]
"""How much of its traffic a pair sends by each way, by the relays' names."""


@dataclass
class Watch:
    """What was seen while it ran: shares of every pair and loads of every relay, second by second.

    Shape: every list has one entry per look, at ``times``.
    Units: *loads* bytes forwarded so far; *carried* the same for a pair, by relay.
    """

    times: list[float] = field(default_factory=list)
    shares: dict[str, list[Shares]] = field(default_factory=lambda: defaultdict(list))
    loads: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    carried: dict[str, list[dict[str, int]]] = field(default_factory=lambda: defaultdict(list))

    def ways(self) -> dict[str, list[Shares]]:
        """Return where every pair's packets really went, in each `STEP` looks.

        A flow keeps its path when shares move, so that this changes less than the shares do.
        """
        found: dict[str, list[Shares]] = {}
        for pair, series in self.carried.items():
            found[pair] = []
            for before, after in itertools.pairwise(series[::STEP]):
                # A circuit that was closed has taken its count with it.
                sizes = {r: max(0, after[r] - before.get(r, 0)) for r in after}
                if total := sum(sizes.values()):
                    found[pair].append({relay: size / total for relay, size in sizes.items()})
        return found


def jain(values: Sequence[float]) -> float:
    """Return Jain's index of fairness: 1 if all are equal, 1/n if one has all.

    Source: Jain, Chiu, Hawe 1984, equation 1.
    """
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 0.0


def moved(series: Mapping[str, Sequence[Shares]], span_s: float, *, least: float = 0.0) -> float:
    """Return the share of all traffic that changed its way, per second, on average.

    Every pair sends the same, so that the mean over the pairs is the share of all.  Changes of
    less than *least* are noise of the counting.
    """
    total = sum(
        change / 2
        for shares in series.values()
        for before, after in itertools.pairwise(shares)
        for arm in before.keys() | after.keys()
        if (change := abs(after.get(arm, 0.0) - before.get(arm, 0.0))) >= least
    )
    return total / max(1, len(series)) / span_s


def moved_back(watch: Watch) -> float:
    """Return how much of what was moved went back to where it came from within `BACK_S`."""
    total = back = 0.0
    for series in watch.shares.values():
        taken: dict[str, list[list[float]]] = defaultdict(list)  # arm -> [when, how much]
        for number, (before, after) in enumerate(itertools.pairwise(series)):
            now = watch.times[number + 1]
            for arm in before.keys() | after.keys():
                change = after.get(arm, 0.0) - before.get(arm, 0.0)
                if change < 0:
                    taken[arm].append([now, -change])
                    total -= change
                for entry in taken[arm]:
                    if change > 0 and now - entry[0] <= BACK_S:
                        returned = min(change, entry[1])
                        entry[1] -= returned
                        change -= returned
                        back += returned
    return back / total if total else 0.0


def windows(watch: Watch) -> list[Mapping[str, int]]:
    """Return each relay's bytes in every whole `WINDOW_S`."""
    cuts, start = [0], watch.times[0]
    for number, at in enumerate(watch.times):
        if at >= start + WINDOW_S * len(cuts) - 0.5:
            cuts.append(number)
    return [
        {relay: series[after] - series[before] for relay, series in watch.loads.items()}
        for before, after in itertools.pairwise(cuts)
    ]


def rates(watch: Watch, step: int = 5) -> tuple[list[float], dict[str, list[float]]]:
    """Return moments and what every relay carried in the *step* looks before each.

    Units: seconds, Mbit/s.
    """
    times = watch.times[::step]
    series = {
        relay: [
            (after - before) * 8 / 1e6 / (end - begin)
            for (before, after), (begin, end) in zip(
                itertools.pairwise(loads[::step]), itertools.pairwise(times), strict=True
            )
        ]
        for relay, loads in watch.loads.items()
    }
    return [round(at - times[0], 1) for at in times[1:]], series


class Crowd:
    """The nodes, their flows, and a look at all of them once a second."""

    def __init__(self, circle: Circle, pairs: int, relays: int, policy: str) -> None:
        self.circle = circle
        self.relays = [
            circle.add(f"r{n + 1}", zone=1, delay_s=_LEG_S, path_policy=policy)
            for n in range(relays)
        ]
        backbone = circle.backbone
        self.room_bps = 0.0
        self.pairs: list[tuple[Node, Node]] = []
        for number in range(pairs):
            source, sink = (
                circle.add(f"{letter}{number + 1}", zone=zone, relay="off", path_policy=policy)
                for letter, zone in (("s", 2), ("t", 3))
            )
            self.pairs.append((source, sink))
            _say(f"{len(circle.nodes)} nodes")
        for one, other in ((2, 2), (2, 3), (3, 3)):
            backbone.part_zones(one, other)

    def connect(self) -> None:
        """Connect every pair.  Raises: VeilError: one cannot."""
        for source, sink in self.pairs:
            source.connect(sink.name, "--timeout", "60")
            _say(f"{source.name} -> {sink.name}")

    def run(self, seconds: float) -> tuple[Watch, bool]:
        """Let all flows run and return what was seen, and whether every flow ended intact."""
        with ExitStack() as stack:
            flows = [
                stack.enter_context(
                    Flow(
                        source.host,
                        sink.host,
                        sink.address(),
                        rate_bps=PAIR_BPS / FLOWS,
                        period_s=PERIOD_S,
                    )
                )
                for source, sink in self.pairs
                for _ in range(FLOWS)
            ]
            wait_until(self._all_carry, "every pair has a relay", timeout_s=_READY_S)
            self._narrow()
            pause_until(time.monotonic() + _SETTLE_S)
            watch = self._watch(seconds)
            intact = [self._ended(flow) for flow in flows]
        return watch, all(intact)

    def _narrow(self) -> None:
        """Leave the relays as much room as all flows together ask for, and a third more."""
        backbone = self.circle.backbone
        pause_until(time.monotonic() + _BEGIN_S)
        begun, before = time.monotonic(), self._passed_bytes()
        pause_until(begun + _WEIGH_S)
        asked_bps = (self._passed_bytes() - before) * 8 / (time.monotonic() - begun)
        self.room_bps = asked_bps / UTILISATION / len(self.relays)
        for relay in self.relays:
            backbone.narrow(relay.host, self.room_bps)
        _say(f"the flows ask for {asked_bps / 1e6:.1f} Mbit/s: {self.room_bps / 1e6:.1f} per relay")

    def _passed_bytes(self) -> int:
        return sum(self.circle.backbone.passed_bytes(relay.host) for relay in self.relays)

    def _ended(self, flow: Flow) -> bool:
        try:
            return flow.finish(timeout_s=60).intact
        except VeilError as error:
            _say(f"a flow did not end well: {error}")
            return False

    def _all_carry(self) -> bool:
        return all(self._shares(*pair) for pair in self.pairs)

    def _shares(self, source: Node, sink: Node) -> Shares:
        found: Shares = defaultdict(float)
        for path in source.paths(sink.name):
            if path["share"] > 0:
                found["+".join(self.circle.via(path)) or "direct"] += float(path["share"])
        return dict(found)

    def _watch(self, seconds: float) -> Watch:
        watch, begun = Watch(), time.monotonic()
        for number in range(round(seconds) + 1):
            pause_until(begun + number)
            watch.times.append(time.monotonic())
            for source, sink in self.pairs:
                watch.shares[source.name].append(self._shares(source, sink))
            said = {relay.name: client.ask(relay.socket, "relay") for relay in self.relays}
            for name, lent in said.items():
                watch.loads[name].append(int(lent["bytes_total"]))
            for source, sink in self.pairs:
                ends = {source.name, sink.name}
                watch.carried[source.name].append(
                    {name: _carried(lent["carries"], ends) for name, lent in said.items()}
                )
            if number and number % 30 == 0:
                _say(f"{number} s  {_loads(windows(watch)[-1])}")
        return watch


def _carried(circuits: Sequence[Mapping[str, Any]], ends: set[str]) -> int:
    """Return the bytes of all circuits between two ends."""
    return sum(int(c["bytes"]) for c in circuits if {c["from"]["name"], c["to"]["name"]} == ends)


def _loads(window: Mapping[str, int]) -> str:
    rates = (f"{relay} {size * 8 / WINDOW_S / 1e6:.1f}" for relay, size in window.items())
    return f"Mbit/s: {'  '.join(rates)}  Jain {jain(list(window.values())):.3f}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# -- the results ----------------------------------------------------------------------------------


def measures(watch: Watch, *, intact: bool) -> dict[str, float]:
    """Return what was seen in figures, by the keys of `TITLES`."""
    parts = windows(watch)
    totals = [series[-1] - series[0] for series in watch.loads.values()]
    swings = [
        statistics.pstdev(loads) / statistics.mean(loads)
        for relay in watch.loads
        if (loads := [part[relay] for part in parts]) and statistics.mean(loads)
    ]
    span_s = watch.times[-1] - watch.times[0]
    return {
        "jain": jain(totals),
        "jain_worst": min((jain(list(part.values())) for part in parts), default=0.0),
        "moved": moved(watch.ways(), span_s, least=NOISE),
        "moved_shares": moved(watch.shares, span_s),
        "moved_back": moved_back(watch),
        "swing": max(swings, default=0.0),
        "intact": float(intact),
    }


TITLES = {
    "jain": ("Jain index of relay load, whole run", ""),
    "jain_worst": (f"Jain index, worst {WINDOW_S:g} s", ""),
    "moved": ("traffic moved per second, by the relays' counts", "share"),
    "moved_shares": ("shares moved per second", "share"),
    "moved_back": (f"of these, back within {BACK_S:g} s", "share"),
    "swing": (f"a relay's load over {WINDOW_S:g} s: deviation over mean, worst relay", ""),
    "intact": ("all flows intact", ""),
}


def rows(found: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """Return one row per measure; *found* is by policy."""
    return [
        {
            "row": name,
            "title": title,
            "metric": name,
            "unit": unit,
            "congestion_control": ["paced"],
            "systems": {
                policy: {"median": round(value[name], 5)} for policy, value in found.items()
            },
        }
        for name, (title, unit) in TITLES.items()
    ]


def goal(value: Mapping[str, float], nodes: int, seconds: float) -> dict[str, Any]:
    """Return experiment G's goal, word for word, and what the shipped policy measured of it."""
    index, share = value["jain"], value["moved"]
    whole = nodes >= 20 and seconds >= 300 and value["intact"] == 1.0
    met = whole and index >= 0.8 and share <= 0.015
    return {
        "goal": "G real nodes: 20+ nodes, several relays and flows, 5 min",
        "unit": "",
        "measured": f"Jain {index:.3f}; {share:.2%} of traffic moved per second; {nodes} nodes, "
        f"{seconds:g} s",
        "must": "Jain index of relay load >= 0.8, <= 1.5 % of traffic moved per second",
        "moonshot": "",
        "met": met,
        "moonshot_met": met,
    }


def main() -> int:
    """Run the bench and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument("--pairs", type=int, default=10, help="of ends (%(default)s)")
    parser.add_argument("--relays", type=int, default=5, help="(%(default)s)")
    parser.add_argument("--policies", default=SHIPPED, help="one after another (%(default)s)")
    parser.add_argument("--seconds", type=float, help="to watch (300; --quick: 60)")
    options = parser.parse_args()
    enter()
    seconds = options.seconds or (60.0 if options.quick else 300.0)
    found: dict[str, dict[str, float]] = {}
    failures: list[dict[str, str]] = []
    goals: list[dict[str, Any]] = []
    drawn: dict[str, Any] = {}
    for policy in options.policies.split(","):
        with (
            tempfile.TemporaryDirectory(prefix="veilnet-bench-") as folder,
            Circle(Path(folder)) as circle,
        ):
            try:
                crowd = Crowd(circle, options.pairs, options.relays, policy)
                crowd.connect()
                watch, intact = crowd.run(seconds)
            except (VeilError, OSError) as error:
                failures.append({"what": policy, "reason": f"{error}\n{circle.logs()}"})
                _say(f"FAILED {failures[-1]['reason']}")
                continue
            found[policy] = measures(watch, intact=intact)
            if policy == SHIPPED:
                goals = [goal(found[policy], len(circle.nodes), seconds)]
                times, series = rates(watch)
                drawn = {"times_s": times, "mbps": series, "room_mbps": crowd.room_bps / 1e6}
    size = {"pairs": options.pairs, "relays": options.relays, "seconds": seconds}
    result = document(rows(found), goals, failures, **size, loads=drawn)
    if options.json:
        write(options.json, result)
        if drawn:
            draw(options.json.with_suffix(".svg"), drawn["times_s"], drawn["mbps"])
    lines = [
        [title, *(f"{value[name]:.4g}" for value in found.values()), unit]
        for name, (title, unit) in TITLES.items()
    ]
    print(table(["measure", *found, "unit"], lines))
    print()
    print(goals_table(goals))
    return 0


if __name__ == "__main__":
    sys.exit(main())
