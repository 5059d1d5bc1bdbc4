"""The matrix of NATs as an SVG without libraries: who meets whom directly, and how soon."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from veilnet.testing import KINDS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from nat import Pair, Trial

_LEFT, _TOP, _WIDE, _HIGH = 150, 130, 78, 40
_DIRECT, _PARTLY, _RELAYED, _DEAD = "#7fb58a", "#c9d98f", "#e8c98a", "#d98880"


def matrix(path: Path, done: Mapping[Pair, Sequence[Trial]]) -> None:
    """Write the matrix to *path*: who calls on the left, who is called above."""
    body = []
    for number, kind in enumerate(KINDS):
        x, y = _LEFT + _WIDE * number, _TOP + _HIGH * number
        body.append(f'<text x="{_LEFT - 8}" y="{y + 24}" text-anchor="end">{escape(kind)}</text>')
        place = f"{x + 20} {_TOP - 8}"
        body.append(f'<text transform="translate({place}) rotate(-40)">{escape(kind)}</text>')
    for down, a in enumerate(KINDS):
        for across, b in enumerate(KINDS):
            trials = done.get((a, b), ())
            body += _cell(trials, _LEFT + _WIDE * across, _TOP + _HIGH * down)
    width, height = _LEFT + _WIDE * len(KINDS) + 80, _TOP + _HIGH * len(KINDS) + 40
    legend = (
        (_DIRECT, "direct within 35 s, always"),
        (_PARTLY, "direct, but not always"),
        (_RELAYED, "relayed"),
        (_DEAD, "not always usable"),
    )
    for number, (colour, words) in enumerate(legend):
        x, y = 10 + 210 * number, height - 26
        body.append(f'<rect x="{x}" y="{y}" width="14" height="14" fill="{colour}"/>')
        body.append(f'<text x="{x + 20}" y="{y + 12}">{words}</text>')
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
        '<text x="10" y="20" font-size="15">Two members behind NATs: the left one calls; direct '
        "of all trials, median time until it is</text>" + "\n".join(body) + "</svg>\n"
    )


def _cell(trials: Sequence[Trial], x: int, y: int) -> list[str]:
    if not trials:
        return [f'<rect x="{x}" y="{y}" width="{_WIDE - 2}" height="{_HIGH - 2}" fill="#f0f0f0"/>']
    n, usable = len(trials), sum(trial.usable for trial in trials)
    direct = [t.direct_s for t in trials if t.direct and t.direct_s is not None]
    if usable < n:
        colour, first = _DEAD, f"{usable}/{n} usable"
    elif not direct:
        colour, first = _RELAYED, f"{n}/{n} relayed"
    else:
        colour, first = (_DIRECT if len(direct) == n else _PARTLY), f"{len(direct)}/{n}"
    second = f"{statistics.median(direct):.1f} s" if direct else ""
    words = f'x="{x + _WIDE / 2 - 1:.0f}" text-anchor="middle" font-size="10"'
    return [
        f'<rect x="{x}" y="{y}" width="{_WIDE - 2}" height="{_HIGH - 2}" fill="{colour}"/>',
        f'<text {words} y="{y + 16}">{first}</text>',
        f'<text {words} y="{y + 30}">{second}</text>',
    ]
