"""Experiment A: a recorded trace, a direct path and up to 20 relays, one decision per slot.

The cost of an arm over relay r in slot t is ``rtt[t, s, r] + rtt[t, r, d]``, at most 2000 ms.
Known to a policy: a node's own legs as they were in the slot before (its links to relays are kept
alive anyway), the far legs as they were when it began, and what its paths and one probe per slot
show.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from veilnet.errors import ConfigError
from veilnet.sim.environment import DEAD_MS, Allowance
from veilnet.sim.traces import Flags, Floats, Trace
from veilnet.sim.world import Scenario

RELAYS: Final = 20
SOURCES: Final = 5
LEAST_COVERAGE: Final = 0.5
"""Pairs measured in fewer slots than this are no leg of any path."""

Ints = np.ndarray[Any, np.dtype[np.int64]]


def replay_scenario(
    trace: Trace,
    *,
    seed: int,
    pairs: int = 20,
    relays: int = RELAYS,
    slots: int | None = None,
) -> Scenario:
    """Return a trace as a scenario: *pairs* of 5 sources and their destinations, drawn by seed.

    Raises: ConfigError: the trace has no pair that was measured often enough.
    """
    rng = np.random.default_rng([seed, 0x4153])
    held, found = trace.held(), np.isfinite(trace.rtt_ms)
    usable = trace.coverage() >= LEAST_COVERAGE
    relays = min(relays, trace.nodes - 2)
    drawn = _draw(rng, trace.name, usable, pairs=pairs, relays=relays)
    source, far_end, via = drawn[:, 0], drawn[:, 1], drawn[:, 2:]
    if slots is not None:
        held, found = held[:slots], found[:slots]
    here, there = np.broadcast_arrays(source[:, None], via)[0], far_end[:, None]
    direct = held[:, source, far_end][..., None]
    near, far = held[:, here, via], held[:, via, there]
    present = np.concatenate(
        [usable[source, far_end][:, None], usable[here, via] & usable[via, there]], axis=1
    )
    measured = np.concatenate(
        [found[:, source, far_end][..., None], found[:, here, via] & found[:, via, there]], axis=2
    )
    rtt = np.minimum(np.concatenate([direct, near + far], axis=2), DEAD_MS)
    own = np.concatenate([direct, near], axis=2)
    steps = rtt.shape[0] - 1
    rtt = np.where(present, rtt, DEAD_MS)
    own = np.where(present, own, DEAD_MS)
    far_then = np.where(present[:, 1:], far[0], 0.0)
    return Scenario(
        step_s=trace.slot_s,
        nodes=tuple(np.unique(source, return_inverse=True)[1].tolist()),
        present=present,
        relays=np.concatenate([np.full((len(via), 1), -1), via], axis=1),
        rtt_ms=rtt[1:],
        loss=np.zeros_like(rtt[1:]),
        seen_ms=np.where(measured, rtt, np.nan)[1:],
        probe_ms=np.zeros((steps, len(via))),
        lots=np.ones((steps, len(via))),
        own_ms=own[:-1],
        far_ms=np.concatenate([np.zeros((len(via), 1)), far_then], axis=1),
        fresh=np.ones(steps, bool),
        allowance=Allowance(1.0 / trace.slot_s),
    )


def _draw(rng: np.random.Generator, name: str, usable: Flags, *, pairs: int, relays: int) -> Ints:
    """Return rows of source, destination and relays."""
    nodes = usable.shape[0]
    rows: list[list[int]] = []
    wanted = min(SOURCES, nodes - 2, pairs)
    for source in rng.permutation(nodes).tolist():
        ends = [d for d in rng.permutation(nodes).tolist() if usable[source, d]]
        ends = ends[: -(-pairs // wanted)]
        for end in ends:
            others = [int(r) for r in rng.permutation(nodes) if r not in (source, end)]
            # Relays that can be measured first: the width is the same for every pair.
            others.sort(key=lambda r, s=source, d=end: not (usable[s, r] and usable[r, d]))  # type: ignore[misc]
            rows.append([source, end, *others[:relays]])
        if len({row[0] for row in rows}) >= wanted:
            break
    if not rows:
        raise ConfigError(
            f"no pair of the trace {name} was measured in half of the slots",
            hint="Give a trace with fewer zeros.",
        )
    return np.array(rows[:pairs], dtype=np.int64)


def pairs_for(trace: Trace, *, decisions: int = 8_000) -> int:
    """Return how many pairs make a run of about *decisions*: long traces need fewer."""
    return int(np.clip(decisions // trace.slots, 20, 100))


def full_information(costs: Floats) -> Ints:
    """Return the arm that was cheapest in the slot before: who sees everything, a slot late."""
    return np.asarray(costs.argmin(axis=1))
