"""The plot of bench/scale: hops, success, state and traffic against N, without libraries."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from pathlib import Path

_WIDE, _HIGH, _LEFT, _TOP, _GAP_X, _GAP_Y = 340, 200, 60, 60, 90, 80
_COLOURS = {"machines": "#2a6f97", "model": "#d9a441"}
_PANELS = (
    ("growth", "hops", "hops (grey: log2(N)/2 + 1)"),
    ("growth", "success_percent", "% of lookups that found it"),
    ("state", "table_bytes", "bytes of routing state"),
    ("growth", "lookup_bytes", "bytes per lookup, both ways"),
    ("living", "leaf_bytes_per_s", "bytes/s of a leaf, both ways, coming and going"),
    ("living", "server_bytes_per_s", "bytes/s of a node that stores, the same"),
)
_LEAST, _MOST = 2.0, 6.0


def _points(document: dict[str, Any], title: str, metric: str) -> dict[str, list[list[float]]]:
    """Return N, median, least and greatest of each system."""
    found: dict[str, list[list[float]]] = {}
    for row in document["rows"]:
        name, _, size = row["row"].partition("/")
        if name != title or row["metric"] != metric:
            continue
        for system, spread in row["systems"].items():
            point = [float(size), spread["median"], spread["min"], spread["max"]]
            found.setdefault(system, []).append(point)
    return {system: sorted(points) for system, points in found.items()}


def draw(path: Path, document: dict[str, Any]) -> None:
    """Write the panels over the number of nodes to *path*."""
    body = []
    for number, (title, metric, words) in enumerate(_PANELS):
        left = _LEFT + number % 2 * (_WIDE + _GAP_X)
        top = _TOP + number // 2 * (_HIGH + _GAP_Y)
        body += _panel(_points(document, title, metric), metric, words, left, top)
    width, height = _LEFT + 2 * (_WIDE + _GAP_X), _TOP + len(_PANELS) // 2 * (_HIGH + _GAP_Y)
    legend = "".join(
        f'<circle cx="{_LEFT + 4 + 110 * i}" cy="36" r="4" fill="{colour}"/>'
        f'<text x="{_LEFT + 14 + 110 * i}" y="40">{name}</text>'
        for i, (name, colour) in enumerate(_COLOURS.items())
    )
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
        '<text x="10" y="20" font-size="15">Discovery against the number of nodes, 38 % of all '
        "listed away</text>" + legend + "\n".join(body) + "</svg>\n"
    )


def _panel(
    found: dict[str, list[list[float]]], metric: str, words: str, left: float, top: float
) -> list[str]:
    points = [point for line in found.values() for point in line]
    if not points:
        return []
    most = max(point[3] for point in points)
    low = 100 - max(1.0, 1.5 * (100 - min(p[2] for p in points))) if "percent" in metric else 0.0
    most = 100.0 if "percent" in metric else most
    bound = [[10.0**p, math.log2(10.0**p) / 2 + 1] for p in range(2, 7)]
    if metric == "hops":
        most = max(most, bound[-1][1])

    def x(size: float) -> float:
        return left + _WIDE * (math.log10(size) - _LEAST) / (_MOST - _LEAST)

    def y(value: float) -> float:
        return top + _HIGH * (1 - (value - low) / (most - low))

    lines = [f'<text x="{left}" y="{top - 10}">{escape(words)}</text>']
    for power in range(int(_LEAST), int(_MOST) + 1):
        at = x(10.0**power)
        lines.append(f'<path d="M{at:.1f} {top}V{top + _HIGH}" stroke="#e4e4e4"/>')
        label = f"{10**power:,}"
        lines.append(
            f'<text x="{at:.1f}" y="{top + _HIGH + 16}" text-anchor="middle">{label}</text>'
        )
    for part in range(5):
        value = low + (most - low) * part / 4
        at = y(value)
        lines.append(f'<path d="M{left} {at:.1f}h{_WIDE}" stroke="#e4e4e4"/>')
        place = f'x="{left - 6}" y="{at + 4:.1f}" text-anchor="end"'
        lines.append(f"<text {place}>{value:.4g}</text>")
    if metric == "hops":
        drawn = " ".join(f"{x(size):.1f},{y(value):.1f}" for size, value in bound)
        lines.append(f'<polyline points="{drawn}" fill="none" stroke="#b8b8b8"/>')
    for system, line in found.items():
        colour = _COLOURS.get(system, "#888")
        drawn = " ".join(f"{x(p[0]):.1f},{y(p[1]):.1f}" for p in line)
        lines.append(f'<polyline points="{drawn}" fill="none" stroke="{colour}"/>')
        lines += [
            f'<path d="M{x(p[0]):.1f} {y(p[2]):.1f}V{y(p[3]):.1f}" stroke="{colour}"/>'
            f'<circle cx="{x(p[0]):.1f}" cy="{y(p[1]):.1f}" r="4" fill="{colour}"/>'
            for p in line
        ]
    return lines
