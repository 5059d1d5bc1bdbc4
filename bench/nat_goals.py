"""The goals of discovery.md that NATs decide, word for word, and whether a matrix meets them."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

from veilnet.testing import KINDS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nat import Pair, Trial

    Done = Mapping[Pair, Sequence[Trial]]

TRIALS = 30
PROBES_MAX = 2048
_CONE = ("full", "address", "port")
_SYMMETRIC = ("symmetric_random", "symmetric_sequential")
EASY = [
    *itertools.combinations_with_replacement(_CONE, 2),
    *itertools.product(("full", "address"), _SYMMETRIC),
]
HARD = ("port", "symmetric_random")


def _of(done: Done, pair: Pair) -> list[Trial]:
    """Return the trials of a pair, whoever of the two called."""
    return [trial for both in {pair, pair[::-1]} for trial in done.get((both[0], both[1]), ())]


def goals(done: Done, *, failed: int, real_rtts: bool) -> list[dict[str, Any]]:
    """Return the goals under the benches' contract.

    *failed*: how many trials could not be made; *real_rtts*: times mean something.
    """
    cold = [_cold(done)] if real_rtts else []
    return [_easy(done), _hard(done), _usable(done, failed), *cold]


def _goal(metric: str, goal: str, measured: str, *, met: bool) -> dict[str, Any]:
    return {"goal": metric, "unit": "%", "measured": measured, "must": goal, "moonshot": "-",
            "met": met, "moonshot_met": met}  # fmt: skip


def _easy(done: Done) -> dict[str, Any]:
    by_pair = [_of(done, pair) for pair in EASY]
    n = sum(map(len, by_pair))
    direct = sum(trial.direct for trials in by_pair for trial in trials)
    least = min(map(len, by_pair))
    return _goal(
        "direct: {full, address, port}^2 and {full, address} x symmetric",
        "100 % of >= 30 trials per pair (publish n; CI runs one)",
        f"{direct} of {n} within 35 s; {sum(map(bool, by_pair))} of {len(EASY)} pairs, "
        f"n >= {least} per pair",
        met=least >= TRIALS and direct == n,
    )


def _hard(done: Done) -> dict[str, Any]:
    trials = _of(done, HARD)
    kept = [trial for trial in trials if trial.direct and trial.datagrams <= PROBES_MAX]
    most = max((trial.datagrams for trial in kept), default=0)
    measured = f"{len(kept)} of {len(trials)} within 35 s, at most {most} datagrams"
    return _goal(
        "direct: port x symmetric random",
        ">= 95 % within 35 s and 2048 probes",
        measured if trials else "not measured",
        met=len(trials) >= TRIALS and len(kept) >= 0.95 * len(trials),
    )


def _usable(done: Done, failed: int) -> dict[str, Any]:
    pairs = [(one, other) for one in KINDS for other in KINDS]
    by_pair = [done.get(pair, ()) for pair in pairs]
    whole = [trials for trials in by_pair if trials and all(trial.usable for trial in trials)]
    n = sum(map(len, by_pair))
    usable = sum(trial.usable for trials in by_pair for trial in trials)
    broken = f"; {failed} trials could not be made" if failed else ""
    return _goal(
        "usable (any path) in every NAT pair, UDP-blocked included",
        "100 %",
        f"{usable} of {n} trials; {len(whole)} of {len(pairs)} ordered pairs always{broken}",
        met=len(whole) == len(pairs) and not failed,
    )


def _cold(done: Done) -> dict[str, Any]:
    times = sorted(
        trial.first_byte_s
        for trials in done.values()
        for trial in trials
        if trial.first_path == "relayed" and trial.first_byte_s is not None
    )
    p50, p95 = (times[max(0, math.ceil(len(times) * q) - 1)] if times else 0.0 for q in (0.5, 0.95))
    return _goal(
        "cold first byte through a relay, real RTTs",
        "p50 <= 1.2 s, p95 <= 3 s; warm resume <= 1.2 RTT",
        f"p50 {p50:.2f} s, p95 {p95:.2f} s of {len(times)}; warm: bench/join",
        met=bool(times) and p50 <= 1.2 and p95 <= 3,
    ) | {"unit": "s"}
