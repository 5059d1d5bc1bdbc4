"""Every goal of the benches with its last figure, met or not: `just goals`.

    python bench/goals.py             print them
    python bench/goals.py --write     and write the tables into README.md and bench/README.md
    python bench/goals.py --check     fail if those tables are not those of bench/results

A table stands between ``<!-- goals:begin -->`` and ``<!-- goals:end -->`` (``results`` likewise);
a README without the marks is left alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from report import goals_table

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PARTS = {
    "state: RSS slope": ("scale", "state"),
    "idle traffic of a leaf": ("idle", "scale"),
    "cold first byte": ("join", "scale"),
    "decision; memory": ("overhead", "paths"),
}
"""Goals that are met only by several benches together."""
MORE = ("mean", "sd", "p95", "p99")
"""What some benches tell beside the median."""
READMES = (HERE.parent / "README.md", HERE / "README.md")


def documents() -> dict[str, dict[str, Any]]:
    """Return the committed results by the name of their bench."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}


def markdown(head: list[str], lines: list[list[str]]) -> str:
    """Return a Markdown table."""
    cells = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def goals(found: dict[str, dict[str, Any]]) -> str:
    """Return the goals of all benches as Markdown."""
    lines = [
        [goal["goal"], goal["measured"], goal["must"], goal["moonshot"], _met(goal), goal["bench"]]
        for goal in decided(found)
    ]
    if not lines:
        return "Nothing was measured yet."
    return markdown(["goal", "measured", "must", "moonshot", "met", "bench"], lines)


def decided(found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the goals, each once: one that several benches measure parts of has all of them."""
    goals: dict[str, dict[str, Any]] = {}
    for name, document in found.items():
        for goal in document["goals"]:
            part = goal | {"bench": name}
            before = goals.get(goal["goal"])
            if before is not None:
                part["measured"] = f"{before['measured']}; {goal['measured']}"
                part["bench"] = f"{before['bench']}, {name}"
                part |= {key: before[key] and goal[key] for key in ("met", "moonshot_met")}
            goals[goal["goal"]] = part
    for words, benches in PARTS.items():
        for goal in goals.values():
            missing = [bench for bench in benches if bench not in found]
            if goal["goal"].startswith(words) and missing:
                goal["measured"] += f"; bench/{' and bench/'.join(missing)}: not measured"
                goal["met"] = goal["moonshot_met"] = False
    return list(goals.values())


def _met(goal: dict[str, Any]) -> str:
    if goal.get("moonshot_met") and goal["moonshot"] not in {"", "-"}:
        return "moonshot"
    return "yes" if goal["met"] else "no"


def results(found: dict[str, dict[str, Any]]) -> str:
    """Return the rows of all benches as Markdown, each bench under what it ran on.

    Rows that say that no goal stands on them are in the JSON alone.
    """
    parts = []
    for name, document in found.items():
        machine = document["machine"]
        parts.append(
            f"`{name}`: commit {_commits(document)}, {machine['cores']} cores of "
            f"{machine['cpu']}, kernel {machine['kernel']}, `{document['command']}`"
        )
        if (RESULTS / f"{name}.svg").exists():
            parts.append(f"![{name}]({(RESULTS / name).relative_to(HERE.parent)}.svg)")
        to = _ratios(document)
        more = [name for name in MORE if any(name in one for one in _systems(document))]
        rows = [row for row in document["rows"] if row.get("behind_goal", True)]
        lines = [_line(row, system, more, to) for row in rows for system in row["systems"]]
        head = ["row", "system", "median", "unit", *more]
        head += [name.replace("_", " ", 1) for name in to]
        parts.append(markdown(head, lines))
        parts += [f"Not measured: {who}: {why}" for who, why in document["missing"].items()]
    return "\n\n".join(parts) or "Nothing was measured yet."


def _commits(document: dict[str, Any]) -> str:
    """Return of which commits the rows are, the oldest run's first."""
    found = dict.fromkeys(row.get("commit", document["commit"]) for row in document["rows"])
    return " and ".join(commit[:12] for commit in found)


def _ratios(document: dict[str, Any]) -> list[str]:
    """Return what this bench compares with: the keys of its ratios."""
    found = {key for one in _systems(document) for key in one}
    return sorted(key for key in found if key.startswith("to_"))


def _systems(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [found for row in document["rows"] for found in row["systems"].values() if found]


def _line(row: dict[str, Any], system: str, more: list[str], to: list[str]) -> list[str]:
    found = row["systems"][system]
    ratios = [found.get(name) for name in to]
    congestion_control = "/".join(row.get("congestion_control", ()))
    return [
        row["title"] + (f" ({congestion_control})" if congestion_control else ""),
        system,
        f"{found['median']:.4g}",
        row["unit"],
        *(f"{found[name]:.4g}" if name in found else "" for name in more),
        *(f"{ratio['median']:.3g}" if ratio else "" for ratio in ratios),
    ]


def filled(text: str, name: str, table: str) -> str:
    """Return *text* with *table* between the marks of *name*; unchanged if it has none."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, first, rest = text.partition(begin)
    _, last, after = rest.partition(end)
    return f"{before}{begin}\n{table}\n{end}{after}" if first and last else text


def main() -> int:
    """Print, write or check the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write the tables into the READMEs")
    parser.add_argument("--check", action="store_true", help="fail if the READMEs are stale")
    options = parser.parse_args()
    found = documents()
    for name, document in found.items():
        print(f"{name} ({document['command']}, commit {_commits(document)})\n")
        print(goals_table(document["goals"]), end="\n\n")
    if not found:
        print(f"No results in {RESULTS}: run a bench with --json first.")
    stale = []
    for path in READMES:
        text = path.read_text() if path.exists() else ""
        wanted = filled(text, "goals", goals(found))
        if path.parent == HERE:
            # The picture is found from the folder that its README stands in.
            wanted = filled(wanted, "results", results(found).replace("(bench/", "("))
        if wanted != text:
            stale.append(path.name if path.parent != HERE else f"bench/{path.name}")
            if options.write:
                path.write_text(wanted)
    if options.check and stale:
        print(f"Stale tables in {', '.join(stale)}: python bench/goals.py --write", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
