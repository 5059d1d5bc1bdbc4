"""Two ends behind any two translators, with any delays: they meet, within what it may cost."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.nat.world import EASY, Nat, World
from veilnet.nat import budget
from veilnet.nat.attempt import AGAIN_S, GAP_MAX_S

easy = st.sampled_from(EASY)
delays = st.floats(0.0005, 0.3)
jitters = st.floats(0.0, 0.04)


@st.composite
def worlds(draw):
    """An Internet: how far everything is, and how much that changes from one packet to the next."""
    return World(
        draw(st.integers(0, 2**32)),
        delay_s=draw(delays),
        relay_s=(draw(delays), draw(delays)),
        core=draw(st.integers(1, 12)),
        jitter_s=draw(jitters),
    )


@settings(max_examples=150, deadline=None)
@given(worlds(), easy, easy)
def test_who_keeps_its_port_meets_at_the_first_attempt(world, left, right):
    """Whatever the delays: openers die in between, and both are open before anything arrives."""
    world.pair(world.machine(left), world.machine(right))
    assert world.run(2 * GAP_MAX_S + AGAIN_S[-1] + 5.0)
    assert world.machines[0].attempt == 1


@settings(max_examples=60, deadline=None)
@given(
    worlds(),
    st.sampled_from(["full", "address", "open"]),
    st.sampled_from(["random", "sequential"]),
)
def test_an_open_end_meets_any_other(world, left, right):
    """Who lets any port of an address in needs no guessing."""
    world.pair(world.machine(left), world.machine(right))
    assert world.run(10.0)


@settings(max_examples=40, deadline=None)
@given(worlds(), easy, easy)
def test_two_translators_in_a_row_are_like_one(world, inner, outer):
    """At one end or the other."""
    nats = [Nat(inner, "10.0.0.2", world.rng), Nat(outer, "100.77.0.1", world.rng)]
    nats = [nat for nat in nats if nat.kind != "open"]
    world.pair(world.machine("open", nats=nats), world.machine("port"))
    assert world.run(60.0)


@settings(max_examples=15, deadline=None)
@given(worlds(), st.sampled_from(["port", "leaky"]), st.sampled_from(["random", "sequential"]))
def test_nobody_is_flooded(world, left, right):
    """Met or not: no address gets more than its budget, and no port outside of the few but once."""
    world.pair(world.machine(left), world.machine(right))
    world.run(40.0)
    for machine in world.machines:
        hosts = [to for _, to, _ in machine.sent]
        assert all(hosts.count(host) <= budget.PER_HOST + 64 for host in set(hosts))
        assert len(hosts) <= budget.PER_HOST + 64


@settings(max_examples=60, deadline=None)
@given(worlds(), st.booleans(), st.floats(-2.0, 3.0))
def test_two_calls_become_one(world, first, wait_s):
    """Whoever calls when, both take the same path."""
    left, right = world.machine("port"), world.machine("port")
    world.pair(*((left, right) if first else (right, left)), wait_s=wait_s)
    assert world.run(15.0)
    assert left.path == right.path
