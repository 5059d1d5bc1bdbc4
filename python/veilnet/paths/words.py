"""Why an arm stands where it stands, in plain words."""

from __future__ import annotations

from attrs import frozen

from veilnet.paths.policy import Arm

_NOTABLE_BIAS_MS = 1.0
_STALE_S = 60.0


@frozen
class Standing:
    """What `say` has to know of an arm."""

    arm: Arm
    forecast_ms: float
    share: float
    bias_ms: float
    age_s: float
    measured: bool
    dead: bool
    standby: bool
    behind_ms: float
    """How much dearer than the cheapest."""

    rival: Arm | None
    """An active arm that it cannot stand beside."""


def kind(arm: Arm) -> str:
    """Return what sort of way *arm* is."""
    return ("direct", "one relay", "a chain of two relays")[min(len(arm.id), 2)]


def say(standing: Standing) -> str:
    """Return one line: what the arm does, and why no more than that."""
    return "; ".join((_part(standing), *_remarks(standing)))


def _part(standing: Standing) -> str:
    if standing.share > 0.0:
        return f"carries {standing.share:.0%}{_although(standing)}"
    if standing.dead:
        return "dead: its last sample brought nothing back"
    if standing.standby:
        return "standby: takes over at once when an active path fails"
    return f"idle: {_idle(standing)}"


def _although(standing: Standing) -> str:
    if standing.dead:
        return ", although nothing comes back: no better arm is known"
    if standing.behind_ms <= 0.0:
        return ": the cheapest"
    return f": {standing.behind_ms:.0f} ms behind the cheapest"


def _idle(standing: Standing) -> str:
    if standing.rival is not None:
        return "shares a relay or a prefix with an active path"
    if not standing.measured:
        return f"never measured, forecast {standing.behind_ms:.0f} ms behind the cheapest"
    if standing.behind_ms <= 0.0:
        return "the cheapest now, traffic moves to it step by step"
    return f"{standing.behind_ms:.0f} ms dearer than the cheapest"


def _remarks(standing: Standing) -> list[str]:
    remarks = []
    if not standing.measured:
        remarks.append("forecast from its legs alone")
    elif standing.age_s > _STALE_S:
        remarks.append(f"last heard of {standing.age_s:.0f} s ago")
    if standing.bias_ms > _NOTABLE_BIAS_MS:
        remarks.append(
            f"was better to probes than to data: charged {standing.bias_ms:.0f} ms, fading"
        )
    return remarks
