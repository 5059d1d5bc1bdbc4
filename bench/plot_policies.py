"""The plot of the experiments A to E: a bar to every policy's mean, without libraries."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from pathlib import Path

_LEFT, _WIDE, _TOP, _BAR, _GAP = 330, 460, 56, 13, 16
_LEAST, _MOST = 0.1, 1_000.0
_SHOWN = ("excess_percent", "spike_percent")
_GROWTH = "mean_ms"
"""Shown of experiment D, whose question is what more relays do to it."""


def _x(value: float) -> float:
    bounded = min(max(value, _LEAST), _MOST)
    return _LEFT + _WIDE * math.log(bounded / _LEAST) / math.log(_MOST / _LEAST)


def draw(path: Path, document: dict[str, Any]) -> None:
    """Write the excess of every policy in every experiment to *path*; whiskers are the sd."""
    y, body = float(_TOP), []
    for row in document["rows"]:
        shown = {name: found for name, found in row["systems"].items() if found["mean"] > 0}
        is_growth = row["metric"] == _GROWTH and row["row"].startswith("D/")
        if not (row["metric"] in _SHOWN or is_growth) or not shown:
            continue
        middle = y + _BAR * len(shown) / 2 + 4
        title = escape(row["title"])
        body.append(f'<text x="{_LEFT - 10}" y="{middle}" text-anchor="end">{title}</text>')
        for name, found in shown.items():
            body += _bar(name, found, y, row["unit"])
            y += _BAR
        y += _GAP
    height = y + 10
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDE + 190}" '
        f'height="{height:.0f}" font-family="sans-serif" font-size="12">'
        '<rect width="100%" height="100%" fill="white"/><text x="10" y="20" font-size="15">'
        "Path policies: percent above the oracle or the system optimum (D: the mean in ms, and "
        "percent above it after the loss of a relay)</text>"
        + "\n".join([*_axis(height), *body])
        + "</svg>\n"
    )


def _bar(name: str, found: dict[str, Any], y: float, unit: str) -> list[str]:
    mean, sd = found["mean"], found["sd"]
    end, last = _x(mean), _x(mean + sd)
    colour = "#2a6f97" if name == "veil" else "#b8b8b8" if "," not in name else "#8fb8cf"
    middle = y + _BAR / 2 - 1
    place = f'x="{_LEFT}" y="{y}" width="{end - _LEFT:.1f}" height="{_BAR - 2}"'
    words = f"{escape(name)} {mean:.3g} {unit}"
    text = f'x="{max(end, last) + 6:.1f}" y="{y + _BAR - 3}" font-size="10"'
    return [
        f'<rect {place} fill="{colour}"/>',
        f'<path d="M{_x(mean - sd):.1f} {middle}H{last:.1f}" stroke="#333"/>',
        f"<text {text}>{words}</text>",
    ]


def _axis(height: float) -> list[str]:
    lines = []
    for power in range(-1, 4):
        x = _x(10.0**power)
        lines.append(f'<path d="M{x:.1f} 44V{height - 8:.0f}" stroke="#e4e4e4"/>')
        lines.append(f'<text x="{x:.1f}" y="40" text-anchor="middle">{10.0**power:g} %</text>')
    return lines
