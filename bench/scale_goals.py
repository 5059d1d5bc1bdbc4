"""Words for what bench/scale measures, and the goals of the design, word for word."""

from __future__ import annotations

import math
from typing import Any

from paths_goals import Figure, Goal

Rows = list[dict[str, Any]]

METRICS = {
    "success_percent": ("lookups that found it", "%"),
    "hops": ("hops, mean", "hops"),
    "hops_p99": ("hops, 99th percentile", "hops"),
    "asked": ("questions per lookup", ""),
    "took_p50_s": ("time of a lookup, median", "s"),
    "took_p95_s": ("time of a lookup, 95th percentile", "s"),
    "lookup_bytes": ("bytes per lookup, both ways", "bytes"),
    "storers": ("storers per descriptor", ""),
    "contacts": ("contacts in a table", ""),
    "table_bytes": ("routing state of a node", "bytes"),
    "kept_bytes": ("descriptors kept for others, per node", "bytes"),
    "stale_percent": ("contacts in tables that are away", "%"),
    "server_bytes_per_s": ("traffic of a node that stores, both ways", "bytes/s"),
    "leaf_bytes_per_s": ("traffic of a leaf, both ways", "bytes/s"),
    "rejoined_percent": ("nodes that found their way back", "%"),
    "rejoin_p50_s": ("time until its first lookup succeeds, median", "s"),
    "rejoin_bytes": ("bytes until then", "bytes"),
    "least_kept_percent": ("least share of lasting addresses for 95 %", "%"),
    "byte_p50_s": ("first byte, median", "s"),
    "byte_p95_s": ("first byte, 95th percentile", "s"),
    "find_p50_s": ("of it the lookup, median", "s"),
    "link_p50_s": ("of it the link to the relay, median", "s"),
    "circuit_p50_s": ("of it the circuit, median", "s"),
    "channel_p50_s": ("of it the handshake, median", "s"),
    "differ_hops_percent": ("model against machines, hops", "%"),
    "differ_success_percent": ("model against machines, success", "%"),
}
TITLES = {
    "growth": "38 % of all listed away",
    "state": "tables",
    "living": "coming and going for hours",
    "sybils": "20 % Sybils that name each other",
    "forgers": "20 % Sybils under ids made up",
    "eclipse": "20 Sybils ground next to a locator",
    "lost30": "30 % lost at once, 60 s later",
    "lost50": "50 % lost at once, 180 s later",
    "cache": "cache of 7 days ago",
    "byte": "first byte through a relay, all cold, 10 % of all listed away",
    "byte-stale": "the same, 38 % away",
}


def _median(rows: Rows, row: str, metric: str, system: str | None = None) -> float | None:
    for found in rows:
        if found["row"] == row and found["metric"] == metric:
            systems = found["systems"]
            spread = systems.get(system) if system else next(iter(systems.values()))
            if spread is not None:
                return float(spread["median"])
    return None


def _sizes(rows: Rows, title: str) -> list[int]:
    return sorted({int(r["row"].split("/")[1]) for r in rows if r["row"].startswith(f"{title}/")})


def _only(rows: Rows, title: str, metric: str) -> float | None:
    """Return a metric of the largest network of *title*."""
    sizes = _sizes(rows, title)
    row = f"{title}/{sizes[-1]}" if sizes else title
    return _median(rows, row, metric)


def goals_of(rows: Rows) -> list[dict[str, Any]]:
    """Return the goals that *rows* decide."""
    here = {row["row"].split("/")[0] for row in rows}
    goals = {
        "growth": _lookups(rows),
        "sybils": Goal(
            "20 % random Sybils; targeted 20-node eclipse", "%",
            ">= 99 %; >= 95 % lookups succeed", "-",
            [
                Figure("{} %", _only(rows, "sybils", "success_percent"), 99, at_least=True),
                Figure("{} %", _only(rows, "eclipse", "success_percent"), 95, at_least=True),
            ],
        ),
        "state": _state(rows),
        "living": Goal(
            "idle traffic of a leaf", "bytes/s", "<= 100 B/s", "-",
            [Figure("{} B/s (DHT alone)", _only(rows, "living", "leaf_bytes_per_s"), 100)],
        ),
        "lost30": Goal(
            "30 % / 50 % of all nodes lost at once", "%",
            ">= 99 % / 97 % lookups back in 60 / 180 s", "-",
            [
                Figure("{} %", _only(rows, "lost30", "success_percent"), 99, at_least=True),
                Figure("{} %", _only(rows, "lost50", "success_percent"), 97, at_least=True),
            ],
        ),
        "cache": Goal(
            "every bootstrap dead, cache 7 days old", "%", "rejoin >= 95 %", "-",
            [Figure("{} %", _only(rows, "cache", "rejoined_percent"), 95, at_least=True)],
        ),
        "byte": Goal(
            "cold first byte through a relay, real RTTs", "s", "p50 <= 1.2 s, p95 <= 3 s; warm "
            "resume <= 1.2 RTT", "-",
            [
                Figure("p50 {} s", _only(rows, "byte", "byte_p50_s"), 1.2),
                Figure("p95 {} s", _only(rows, "byte", "byte_p95_s"), 3.0),
            ],
        ),
    }  # fmt: skip
    # None of these has a moonshot, so none reached it.
    return [goal.judge() | {"moonshot_met": False} for name, goal in goals.items() if name in here]


def _lookups(rows: Rows) -> Goal:
    """Judge the size that is worst against its own bound, and the least success."""
    figures = []
    for size in _sizes(rows, "growth"):
        hops = _median(rows, f"growth/{size}", "hops")
        bound = math.log2(size) / 2 + 1
        figures.append(Figure(f"{{}} of {bound:.3g} hops at {size:,}", hops, bound))
    rates = [
        rate
        for title in ("growth", "living")
        for size in _sizes(rows, title)
        if (rate := _median(rows, f"{title}/{size}", "success_percent")) is not None
    ]
    least = min(rates, default=None)
    figures.append(Figure("least success {} %", least, 99.5, at_least=True))
    return Goal(
        "lookup hops / success under IPFS churn", "hops; %",
        "<= log2(N)/2 + 1 to 1 M nodes / >= 99.5 %", "-", figures,
    )  # fmt: skip


def _state(rows: Rows) -> Goal:
    small = _median(rows, "state/1000", "table_bytes")
    large = _median(rows, "state/1000000", "table_bytes")
    growth = large / small if small and large else None
    # The slope is measured on real nodes: bench/state.
    return Goal(
        "state: RSS slope per known idle peer from 1k to 10k peers (packed storage, descriptor on "
        "disk) / routing 1k -> 1M nodes", "bytes; x", "<= 400 B / < 2x growth", "-",
        [Figure("routing: {}x", growth, 2.0)],
    )  # fmt: skip
