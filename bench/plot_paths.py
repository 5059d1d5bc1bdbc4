"""Plots of the experiments on real nodes, as SVG without libraries: failovers and crowds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_LEFT, _WIDE, _TOP, _BAR = 330, 460, 50, 20
_COLOURS = ("#2a6f97", "#d9a441", "#7a9e57", "#b5524d", "#7b6ba8", "#5b5b5b", "#44a1a0", "#c77d9b")


def _page(width: float, height: float, title: str, body: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
        f'<text x="10" y="20" font-size="15">{escape(title)}</text>' + "\n".join(body) + "</svg>\n"
    )


def failovers(path: Path, rows: Sequence[Mapping[str, Any]], limits: Mapping[str, float]) -> None:
    """Draw a bar to the median of each row, with marks at p95 and p99 and the row's limit.

    Units: seconds; *limits* by the name of the row.
    """
    shown = [row for row in rows if row["judged"]]
    most: float = max([row["systems"]["veilnet"]["p99"] for row in shown] + [1.0])

    def at(value: float) -> float:
        return _LEFT + _WIDE * min(value / most, 1.0)

    body = []
    height = _TOP + (_BAR + 8) * len(shown) + 20
    for tenth in range(0, 11, 2):
        value = most * tenth / 10
        body.append(f'<path d="M{at(value):.1f} 44V{height - 14}" stroke="#e4e4e4"/>')
        body.append(f'<text x="{at(value):.1f}" y="40" text-anchor="middle">{value:.2g} s</text>')
    for number, row in enumerate(shown):
        found, y = row["systems"]["veilnet"], _TOP + (_BAR + 8) * number
        middle = y + _BAR / 2
        words = f"p50 {found['median']:.3f}  p95 {found['p95']:.3f}  p99 {found['p99']:.3f} s"
        body += [
            (
                f'<text x="{_LEFT - 10}" y="{middle + 4}" text-anchor="end">{escape(row["title"])}'
                "</text>"
            ),
            (
                f'<rect x="{_LEFT}" y="{y}" width="{at(found["median"]) - _LEFT:.1f}" '
                f'height="{_BAR}" fill="{_COLOURS[0]}"/>'
            ),
            (
                f'<path d="M{at(found["median"]):.1f} {middle}H{at(found["p99"]):.1f}M'
                f'{at(found["p95"]):.1f} {y + 3}V{y + _BAR - 3}" stroke="#333"/>'
            ),
            f'<text x="{_LEFT + _WIDE + 10}" y="{middle + 4}" font-size="10">{words}</text>',
        ]
        limit = limits[row["row"]]
        if limit <= most:
            mark = f'<path d="M{at(limit):.1f} {y - 3}V{y + _BAR + 3}"'
            body.append(f'{mark} stroke="#b5524d" stroke-width="2"/>')
    title = "A path fails under a TCP stream: how long it is silent (loss, throttling: not on time)"
    path.write_text(_page(_LEFT + _WIDE + 230, height, title, body))


def crowd(path: Path, times: Sequence[float], rates: Mapping[str, Sequence[float]]) -> None:
    """Draw what each relay carried over time.

    Units: *times* seconds, *rates* Mbit/s.   Shape: one rate per time.
    """
    left, wide, high, top = 60, 700, 300, 40
    most = max([rate for series in rates.values() for rate in series] + [1.0])
    span = max(times[-1], 1.0)
    body = []
    for fifth in range(6):
        value, y = most * fifth / 5, top + high - high * fifth / 5
        body.append(f'<path d="M{left} {y}H{left + wide}" stroke="#e4e4e4"/>')
        body.append(f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{value:.1f}</text>')
        x = left + wide * fifth / 5
        body.append(
            f'<text x="{x}" y="{top + high + 18}" text-anchor="middle">{span * fifth / 5:.0f} s'
            "</text>"
        )
    for number, (name, series) in enumerate(rates.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        points = " ".join(
            f"{left + wide * time / span:.1f},{top + high - high * rate / most:.1f}"
            for time, rate in zip(times, series, strict=True)
        )
        body.append(f'<polyline points="{points}" fill="none" stroke="{colour}"/>')
        y = top + 14 * number
        body.append(f'<text x="{left + wide + 10}" y="{y}" fill="{colour}">{escape(name)}</text>')
    path.write_text(_page(left + wide + 80, top + high + 40, "Mbit/s carried by each relay", body))
