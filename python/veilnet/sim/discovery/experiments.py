"""What bench/scale measures: settings, and what is kept of each run.

A `Sample` is one seed of one row with one system: "machines" or "model" (see the package).
"""

from __future__ import annotations

import hashlib
import math
import random
import statistics
from typing import TYPE_CHECKING, Final

from attrs import frozen

from veilnet.daemon.ladder.saved import SAMPLE
from veilnet.discovery.cache import MAX_CONTACTS, ContactCache
from veilnet.discovery.contact import RELAYS, STORES, UNKNOWN_ID, Contact
from veilnet.discovery.kademlia import Kademlia
from veilnet.errors import UsageError
from veilnet.sim.discovery.churn import AWAY, HOUR_S, Churn
from veilnet.sim.discovery.first_byte import FirstByte, first_byte, relays_of
from veilnet.sim.discovery.living import Life, Living
from veilnet.sim.discovery.machine import filled
from veilnet.sim.discovery.network import Lookup, Network, Setting, System
from veilnet.sim.discovery.population import Population

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from veilnet.sim.traces import Trace

EXPERIMENTS: Final = ("state", "growth", "living", "sybils", "lost", "cache", "byte")
MACHINES: Final = (100, 1_000, 10_000)
MODELS: Final = (10_000, 100_000, 1_000_000)
LIVING: Final = (100, 300, 1_000)
STALE: Final = 0.1
"""Of the contacts in the tables of a living network fewer are away: its machines look."""
GONE: Final = 0.11
"""Of all who are up, so many have left 45 minutes later: a descriptor may be that old."""


@frozen
class Plan:
    """How much is run."""

    quick: bool
    seeds: tuple[int, ...]
    attacked: int = 10_000
    """Nodes of the networks that do not grow."""

    def of(self, much: int) -> int:
        """Return how many of *much* are run."""
        return max(20, much // 5) if self.quick else much

    @property
    def size(self) -> int:
        """The most machines that there are at once."""
        return 1_000 if self.quick else 10_000

    @property
    def nodes(self) -> int:
        """Nodes of the networks that are attacked, or lose many, or carry a first byte."""
        return min(self.size, self.attacked)


@frozen
class Sample:
    """What one run yielded, by metric."""

    row: str
    system: str
    seed: int
    values: dict[str, float]


def check(names: Sequence[str]) -> None:
    """See to it that there are experiments called *names*.

    Raises: UsageError: there is no such experiment.
    """
    for name in names:
        if name not in EXPERIMENTS:
            raise UsageError(
                f"no experiment is called {name!r}", hint=f"There are: {','.join(EXPERIMENTS)}."
            )


def run(name: str, plan: Plan, trace: Trace) -> Iterator[Sample]:
    """Run one experiment with every seed of *plan*."""
    for seed in plan.seeds:
        yield from _RUN[name](plan, trace, seed)


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the nearest-rank percentile."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def summary(lookups: Sequence[Lookup], began: int) -> dict[str, float]:
    """Return the figures of *lookups*, of which *began*; those that never ended failed."""
    found = [one for one in lookups if one.found]
    values = {"success_percent": 100.0 * len(found) / max(1, began)}
    if found:
        values |= {
            "hops": statistics.fmean(one.hops for one in found),
            "hops_p99": percentile([one.hops for one in found], 99),
            "asked": statistics.fmean(one.asked for one in found),
            "took_p50_s": statistics.median(one.seen_s for one in found),
            "took_p95_s": percentile([one.seen_s for one in found], 95),
            "lookup_bytes": statistics.fmean(one.cost_bytes for one in found),
        }
    return values


def lookups_in(
    trace: Trace,
    setting: Setting,
    *,
    seed: int,
    system: System,
    published: int,
    count: int,
    lost: float = GONE,
    after_s: float = 0.0,
) -> tuple[Network, dict[str, float]]:
    """Publish, let *lost* of all leave, wait for *after_s*, look up; return the figures."""
    network = Network(setting, trace, seed=seed, system=system)
    storers = network.publish(published, setting.ground)
    network.lose(lost)
    network.loop.run(network.loop.now + after_s)
    values = summary(network.lookups(count), count)
    return network, values | {"storers": storers / published}


def growth(plan: Plan, trace: Trace, seed: int) -> Iterator[Sample]:
    """Lookups against N, machines and model."""
    found: dict[tuple[str, int], dict[str, float]] = {}
    runs: list[tuple[System, int]] = [("machines", n) for n in MACHINES if n <= plan.size]
    runs += [("model", n) for n in MODELS if not plan.quick] or [("model", plan.size)]
    for system, nodes in runs:
        _, values = lookups_in(
            trace,
            Setting(nodes),
            seed=seed,
            system=system,
            published=plan.of(200 if nodes > 100 else 50),
            count=plan.of(1_000),
        )
        found[system, nodes] = values
        yield Sample(f"growth/{nodes}", system, seed, values)
    machines, model = (found.get((system, plan.size)) for system in ("machines", "model"))
    if machines and model:
        differ = {
            "differ_hops_percent": 100 * abs(model["hops"] / machines["hops"] - 1),
            "differ_success_percent": abs(model["success_percent"] - machines["success_percent"]),
        }
        yield Sample(f"growth/{plan.size}", "model", seed, differ)


def state(plan: Plan, trace: Trace, seed: int) -> Iterator[Sample]:
    """The table of a real machine in a network of N, as full as it can be."""
    del trace, plan
    for nodes in (1_000, 10_000, 100_000, 1_000_000):
        people = Population(seed=seed, honest=nodes)
        rng = random.Random(seed)  # noqa: S311 - a simulation
        sizes, counts = [], []
        for number in rng.sample(range(nodes), 20):
            kademlia = Kademlia(people.id(number), rng=rng, now=0.0)
            for bucket in people.table(number):
                packed = (
                    Contact(people.id(n), people.endpoint(n), STORES | RELAYS).packed
                    for n in bucket
                )
                filled(kademlia, packed, 1.0)
            sizes.append(kademlia.table.memory_bytes)
            counts.append(len(kademlia.table))
        values = {"table_bytes": statistics.fmean(sizes), "contacts": statistics.fmean(counts)}
        yield Sample(f"state/{nodes}", "machines", seed, values)


def living(plan: Plan, trace: Trace, seed: int) -> Iterator[Sample]:
    """Machines that come, join, keep up and go; the second half of the time is measured."""
    for nodes in LIVING[:1] if plan.quick else LIVING:
        yield Sample(f"living/{nodes}", "machines", seed, _lived(plan, trace, seed, nodes))


def _lived(plan: Plan, trace: Trace, seed: int, nodes: int) -> dict[str, float]:
    hours = 1.0 if plan.quick else 1.5
    network = Living(Life(nodes), trace, seed=seed)
    network.loop.run(network.loop.now + hours / 2 * HOUR_S)
    for meter in network.world.meters.values():
        meter.clear()
    began = network.loop.now
    network.loop.run(began + hours / 2 * HOUR_S)
    took = network.loop.now - began
    leaf = statistics.fmean(network.world.meters[n].total() for n in network.leaves)
    present = [n for n, m in network.machines.items() if m.began <= began]
    server = statistics.fmean(network.world.meters[n].total() for n in present)
    kept = statistics.fmean(m.kademlia.storage.size_bytes for m in network.machines.values())
    values = {
        "leaf_bytes_per_s": leaf / took,
        "server_bytes_per_s": server / took,
        "kept_bytes": kept,
        "stale_percent": 100 * network.stale(),
        "contacts": statistics.fmean(len(m.known()) for m in network.machines.values()),
    }
    return values | summary(*network.lookups(plan.of(1_000)))


def sybils(plan: Plan, trace: Trace, seed: int) -> Iterator[Sample]:
    """A fifth of all lie; and twenty lie next to one locator."""
    settings = {
        "sybils": Setting(plan.nodes, sybils=0.2),
        "forgers": Setting(plan.nodes, sybils=0.2, kind="forger"),
    }
    for name, setting in settings.items():
        _, values = lookups_in(
            trace, setting, seed=seed, system="machines",
            published=plan.of(100), count=plan.of(1_000),
        )  # fmt: skip
        yield Sample(f"{name}/{plan.nodes}", "machines", seed, values)
    aimed_at = tuple(
        hashlib.sha256(f"victim {seed} {n}".encode()).digest()
        for n in range(max(2, plan.nodes // 500))
    )
    _, values = lookups_in(
        trace, Setting(plan.nodes, ground=aimed_at), seed=seed, system="machines",
        published=len(aimed_at), count=plan.of(500),
    )  # fmt: skip
    yield Sample(f"eclipse/{plan.nodes}", "machines", seed, values)


def lost(plan: Plan, trace: Trace, seed: int) -> Iterator[Sample]:
    """Much of the network vanishes at once."""
    for name, share, after_s in (("lost30", 0.3, 60.0), ("lost50", 0.5, 180.0)):
        _, values = lookups_in(
            trace, Setting(plan.nodes, upkeep=True), seed=seed, system="machines",
            published=plan.of(100), count=plan.of(1_000), lost=share, after_s=after_s,
        )  # fmt: skip
        yield Sample(f"{name}/{plan.nodes}", "machines", seed, values)


WEEK_S: Final = 7 * 86_400
KEPT_ADDRESS: Final = 0.25
"""Of all who were met a week ago, so many still have that address; of these 38 % are away."""


def cache(plan: Plan, trace: Trace, seed: int) -> Iterator[Sample]:
    """Nodes return that know what a cache of a week ago gives in one climb, and nothing else."""
    network = Network(Setting(1_000), trace, seed=seed, system="machines")
    network.publish(plan.of(100))
    rng = random.Random(f"cache {seed}")  # noqa: S311 - a simulation
    churn = Churn()
    results: list[tuple[bool, float, float]] = []
    count = plan.of(100)
    for _ in range(count):
        newcomer = network.newcomer(_week_old(network, rng, churn))
        results.append(network.rejoin(newcomer))
    back = [result for result in results if result[0]]
    values = {"rejoined_percent": 100 * len(back) / count}
    if back:
        values["rejoin_p50_s"] = statistics.median(result[1] for result in back)
        values["rejoin_bytes"] = statistics.median(result[2] for result in back)
    values["least_kept_percent"] = 100 * (1 - 0.05 ** (1 / SAMPLE)) / (1 - churn.away)
    yield Sample("cache/1000", "machines", seed, values)


def _week_old(network: Network, rng: random.Random, churn: Churn) -> list[Contact]:
    """Return what a cache of a week ago gives: few are where they were, and under other ids."""
    alive = sorted(network.up)
    cache = ContactCache()
    for _ in range(MAX_CONTACTS):
        if rng.random() < KEPT_ADDRESS * (1 - churn.away):
            packed = network.packed(rng.choice(alive))
            contact = Contact.unpack(rng.randbytes(32) + packed[32:])
        else:
            contact = network.nobody(rng)
        cache.note((contact,), rng.randrange(WEEK_S))
    saved = ContactCache.decode(cache.encode()).contacts(SAMPLE, rng)
    # The places are what the ladder passes on: who restarts has another id.
    return [Contact(UNKNOWN_ID, contact.endpoint) for contact in saved]


def byte(plan: Plan, trace: Trace, seed: int) -> Iterator[Sample]:
    """The first byte to a stranger through a relay: tables as they are kept, and neglected ones."""
    for name, away in (("byte", STALE), ("byte-stale", AWAY)):
        network, _ = lookups_in(
            trace, Setting(plan.nodes, away=away), seed=seed, system="machines",
            published=plan.of(100), count=0,
        )  # fmt: skip
        stages = _first_bytes(network, plan.of(500), random.Random(f"byte {seed}"))  # noqa: S311
        whole = [one.whole_s for one in stages]
        yield Sample(
            f"{name}/{plan.nodes}",
            "machines",
            seed,
            {
                "byte_p50_s": statistics.median(whole),
                "byte_p95_s": percentile(whole, 95),
                "find_p50_s": statistics.median(one.find_s for one in stages),
                "link_p50_s": statistics.median(one.link_s for one in stages),
                "circuit_p50_s": statistics.median(one.circuit_s for one in stages),
                "channel_p50_s": statistics.median(one.channel_s for one in stages),
            },
        )


def _first_bytes(network: Network, count: int, rng: random.Random) -> list[FirstByte]:
    rtt_s = network.world.internet.rtt_s
    up = sorted(network.up)
    stages = []
    for one in network.lookups(count):
        if one.found:
            target = rng.choice(up)
            relays = relays_of(target, up, rtt_s, rng, gone=GONE / 2)
            stages.append(first_byte(one.seen_s, one.asker, target, relays, rtt_s))
    return stages


_RUN: Final[dict[str, Callable[[Plan, Trace, int], Iterator[Sample]]]] = {
    "growth": growth,
    "state": state,
    "living": living,
    "sybils": sybils,
    "lost": lost,
    "cache": cache,
    "byte": byte,
}
