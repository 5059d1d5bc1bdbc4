"""What `doctor` says of the ways to first contacts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from veilnet.cli.doctor import Check


def checks(ladder: Mapping[str, Any]) -> list[Check]:
    """Return a finding for the ladder and one for each step, of `Ladder.to_json`.

    None of them is bad: a node runs without, and each way may work later.
    """
    first = ladder.get("first")
    if first is None:
        whole = Check(
            "first contact",
            None,
            "none yet",
            "One of the ways below has to work; the guide's finding.md tells about each.",
        )
    else:
        whole = Check("first contact", True, f"by {first} after {ladder.get('after_s', 0):g} s")
    return [whole, *(_step(step) for step in ladder["steps"])]


def _step(step: Mapping[str, Any]) -> Check:
    name = f"contacts by {step['name']}"
    state, failed, remedy = step["state"], step.get("failed", ""), step.get("remedy", "")
    if state == "off":
        return Check(name, None, f"off: {failed}", remedy)
    words = [step["note"]] if step.get("note") else []
    if step["found"]:
        words.append(f"found {step['found']}, of which {step['worked']} answered")
        if step.get("took_s") is not None:
            words.append(f"the first after {step['took_s']:g} s")
    if failed:
        words.append(failed)
    if state == "failed":
        return Check(name, None, "; ".join(words), remedy)
    said = "; ".join(words) or f"nothing found in {step['tried']} tries"
    return Check(name, True if words else None, said)
