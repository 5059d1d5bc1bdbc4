"""The plot of a throughput run: every system against wireguard-go, as an SVG without libraries."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from pathlib import Path

_COLOURS = {"raw": "#b8b8b8", "nebula": "#d9a441", "veilnet": "#2a6f97"}
_METRICS = ("gbps", "pps")
_BAR, _GAP, _LEFT, _WIDE, _TOP = 14, 22, 330, 420, 56


def _x(ratio: float, low: float, high: float) -> float:
    return _LEFT + _WIDE * math.log(ratio / low) / math.log(high / low)


def draw(path: Path, document: dict[str, Any]) -> None:
    """Write *document*'s throughput ratios to *path*: bars are medians, whiskers the spread."""
    rows = [row for row in document["rows"] if row["metric"] in _METRICS]
    groups = [(row, _ratios(row)) for row in rows]
    values = [
        v for _, group in groups for r in group.values() for v in (r["min"], r["max"]) if v > 0
    ]
    if not values:
        return
    low = 2.0 ** math.floor(math.log2(min([*values, 0.5])))
    high = 2.0 ** math.ceil(math.log2(max([*values, 2.0])))
    y, body = float(_TOP), []
    for row, group in groups:
        title = f"{row['title']} ({'/'.join(row['congestion_control'])})"
        middle = y + _BAR * max(1, len(group)) / 2 + 4
        body.append(f'<text x="{_LEFT - 10}" y="{middle}" text-anchor="end">{escape(title)}</text>')
        for name, ratio in group.items():
            body += _bar(name, ratio, y, low, high)
            y += _BAR
        y += _GAP
    height = y + 20
    body = [*_axis(low, high, height), *body]
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDE + 120}" height="{height}" '
        'font-family="sans-serif" font-size="12">'
        '<rect width="100%" height="100%" fill="white"/>'
        f'<text x="10" y="20" font-size="15">Throughput over that of wireguard-go, '
        f"median of {document['rounds']} rounds</text>" + "\n".join(body) + "</svg>\n"
    )


def _ratios(row: dict[str, Any]) -> dict[str, dict[str, float]]:
    found = {name: s.get("to_wireguard-go") for name, s in row["systems"].items()}
    return {name: found[name] for name in _COLOURS if found.get(name)}


def _bar(name: str, ratio: dict[str, float], y: float, low: float, high: float) -> list[str]:
    one, end = _x(1.0, low, high), _x(ratio["median"], low, high)
    first, last = (_x(max(ratio[side], low), low, high) for side in ("min", "max"))
    middle = y + _BAR / 2 - 1
    place = f'x="{min(one, end):.1f}" y="{y}" width="{abs(end - one):.1f}" height="{_BAR - 2}"'
    words = f"{escape(name)} {ratio['median']:.3g}x"
    return [
        f'<rect {place} fill="{_COLOURS[name]}"/>',
        f'<path d="M{first:.1f} {middle}H{last:.1f}" stroke="#333"/>',
        f'<text x="{max(one, end, last) + 6:.1f}" y="{y + _BAR - 4}" font-size="10">{words}</text>',
    ]


def _axis(low: float, high: float, height: float) -> list[str]:
    lines, tick = [], low
    while tick <= high:
        x = _x(tick, low, high)
        colour = "#333" if tick == 1 else "#e4e4e4"
        lines.append(f'<path d="M{x:.1f} 44V{height - 10}" stroke="{colour}"/>')
        lines.append(f'<text x="{x:.1f}" y="40" text-anchor="middle">{tick:g}x</text>')
        tick *= 2
    return lines
