"""Two ends and two translators, in virtual time: who meets whom, how soon, at what price."""

from __future__ import annotations

import random

import pytest

from tests.unit.nat.world import EASY, KINDS, Machine, Nat, World
from veilnet.nat import attempt, budget, punching
from veilnet.nat.attempt import Side
from veilnet.nat.budget import ProbeBudget
from veilnet.nat.classify import Mapping
from veilnet.nat.punching import Punching, Shut, State
from veilnet.protocol.nat_messages import Call, CallRefused

DIRECT = [(a, b) for a in KINDS for b in KINDS if not {a, b} <= {"random", "sequential"}]


def meeting(left, right, *, seed=1, until_s=35.0, **world):
    """Two machines behind translators of these kinds, run until they meet."""
    made = World(seed, **world)
    made.pair(made.machine(left), made.machine(right))
    return made, made.run(until_s)


@pytest.mark.parametrize(("left", "right"), DIRECT)
def test_pairs_meet(left, right):
    """Every pair whose ports anybody can know, or find among many, within 35 s."""
    for seed in range(3):
        _, met = meeting(left, right, seed=seed)
        assert met, f"{left} and {right}, seed {seed}"


def test_two_translators_that_draw_ports_give_up():
    """Nobody can know where to send: few probes, two attempts, then a long pause."""
    made, met = meeting("random", "random", until_s=300.0)
    assert not met
    assert max(machine.probes for machine in made.machines) < 200


@pytest.mark.parametrize("left", EASY)
@pytest.mark.parametrize("right", EASY)
def test_one_attempt_is_enough_where_ports_stay(left, right):
    """Openers keep a packet that comes too early from moving the mapping it is meant for."""
    made, met = meeting(left, right, until_s=3.0)
    assert met
    assert made.machines[0].attempt == 1


def test_without_an_opener_a_leaky_translator_fails(monkeypatch):
    """The case that openers are for: an early packet of the peer moves the mapping."""
    monkeypatch.setattr(World, "_obey", _without_ttl(World._obey))
    made = World(2, delay_s=0.0005, relay_s=(0.06, 0.01), jitter_s=0.0)
    made.pair(made.machine("leaky"), made.machine("leaky"))
    assert not made.run(3.0)


def _without_ttl(obey):
    def changed(self, made, action):
        if isinstance(action, attempt.Punch):
            action = attempt.Punch(action.endpoints)
        obey(self, made, action)

    return changed


def test_a_short_way_needs_a_smaller_ttl():
    """With one router between, five hops are too many; the hops are counted, and fewer used."""
    made = World(3, core=1, delay_s=0.0005, relay_s=(0.06, 0.01), jitter_s=0.0)
    made.pair(made.machine("leaky"), made.machine("leaky"))
    assert made.run(3.0)
    assert {ttl for _, _, ttl in made.machines[0].sent} == {2, None}


def test_what_came_too_early_is_forgotten_by_the_third_attempt():
    """Hops unknown and a short way: two attempts spoil the mapping, a silence heals it."""
    made = World(3, core=4, delay_s=0.0005, relay_s=(0.06, 0.01), jitter_s=0.0)
    left, right = made.machine("leaky"), made.machine("leaky")
    made.pair(left, right)
    for machine, other in ((left, right), (right, left)):
        machine.nats[0].blocked[other.side.public[0], machine.inner[1]] = made.now
    assert not made.run(20.0)
    assert made.run(60.0)
    assert left.attempt == 3


def test_two_in_one_household_meet_on_its_network():
    """Same public address: what is on the spot answers before the router is asked."""
    made = World(4)
    shared = Nat("port", "100.1.0.1", made.rng, hairpin=False)
    left = made.machine("port", lan=("192.168.0.2", 41_000), nats=[shared])
    right = made.machine("port", lan=("192.168.0.3", 41_000), nats=[shared])
    made.pair(left, right)
    assert made.run(2.0)
    assert all(to[0].startswith("192.168.") for _, to, _ in left.sent)


def test_two_networks_of_one_household_meet_by_hairpin():
    """Same public address, other local networks: the router sends it back in."""
    made = World(4)
    outer = Nat("full", "100.1.0.1", made.rng)
    left = made.machine("port", nats=[Nat("port", "10.0.0.2", made.rng), outer])
    right = made.machine("port", nats=[Nat("port", "10.0.0.3", made.rng), outer])
    made.pair(left, right)
    assert made.run(5.0)


def test_two_translators_in_a_row():
    """The opener goes through both of its own and dies before the peer's."""
    made = World(5)
    nats = [Nat("port", "10.0.0.2", made.rng), Nat("leaky", "100.9.0.1", made.rng)]
    made.pair(made.machine("port", nats=nats), made.machine("leaky"))
    assert made.run(5.0)


def test_many_ports_only_where_a_relay_vouches():
    """A peer that names a stranger's address has nothing sent there but a few probes."""
    made = World(6)
    made.vouches = False
    left, right = made.machine("port"), made.machine("random")
    made.pair(left, right)
    assert not made.run(35.0)
    assert left.probes < 64


def test_a_birthday_costs_no_more_than_its_budget():
    """At most 2,048 probes in the hour, and nearly all meet within 35 s."""
    met = 0
    for seed in range(20):
        made, there = meeting("port", "random", seed=seed)
        met += there
        hosts = [to for _, to, _ in made.machines[0].sent if to[0] == "100.2.0.1"]
        assert len(hosts) <= budget.PER_HOST + 64
    assert met >= 19


def test_a_climbing_port_is_foretold():
    """Of a sequential translator the first few hundred guesses are enough."""
    made, met = meeting("port", "sequential")
    assert met
    assert made.machines[0].probes < attempt.FORETOLD + 100


@pytest.mark.parametrize("stride", [0, 1, -1, 7, 2**15 - 1, -(2**15)])
def test_a_stride_that_a_peer_made_up_costs_what_any_costs(stride):
    """Guesses are real ports of the vouched address, each once, and no more than for anybody."""
    guesses = attempt_with(stride=stride)
    ports = [port for _, port in guesses]
    assert {host for host, _ in guesses} == {"100.2.0.1"}
    assert len(ports) == len(set(ports)) <= attempt.BURST
    assert all(attempt.FIRST_PORT <= port < 2**16 for port in ports)


def attempt_with(*, stride):
    """Return all that a third attempt sends to a sequential translator said to be of *stride*."""
    place = ("100.2.0.1", 50_000)
    made = attempt.Attempt(
        number=3, caller=True, own=Side(mapping=Mapping.INDEPENDENT),
        peer=Side(public=(place,), mapping=Mapping.SEQUENTIAL, stride=stride),
        vouched=place, ttl=5, rtt_s=0.1, rng=random.Random(1), budget=ProbeBudget(), at_s=0.0,
    )  # fmt: skip
    sent = []
    while not made.over(now := made.deadline()):
        sent += [each for step in made.tick(now) for each in step.endpoints]
    return sent


@pytest.mark.parametrize("caller", [True, False])
def test_the_ends_take_turns_at_being_first(caller):
    """Who of the two sends for real first in one attempt sends second in the next."""
    began = []
    for number in (1, 2):
        made = attempt.Attempt(
            number=number, caller=caller, own=Side(), peer=Side(public=(("100.2.0.1", 4_000),)),
            vouched=None, ttl=5, rtt_s=0.1, rng=random.Random(1), budget=ProbeBudget(), at_s=0.0,
        )  # fmt: skip
        while not made.over(now := made.deadline()):
            if any(step.ttl is None for step in made.tick(now)):
                began.append(now)
                break
    assert (began[0] < began[1]) == caller
    assert began[0] != began[1]


def test_both_call_at_once():
    """One goes on, the other answers: there is one call."""
    made = World(7)
    left, right = made.machine("port"), made.machine("port")
    made.pair(left, right, wait_s=-2.0)
    assert made.run(4.0)
    assert left.path == right.path


def test_pauses_grow_to_an_hour():
    """60 s, doubling; a change of address begins anew at once."""
    machine = Punching(prior=True, rng=random.Random(1), budget=ProbeBudget(), now=0.0)
    pauses = [machine._pause_s]
    for _ in range(8):
        machine._call = punching._Now(caller=True, number=punching.LAST)
        machine._plan_next(0.0)
        pauses.append(machine.due_s)
    assert pauses[1:] == [60, 120, 240, 480, 960, 1920, 3600, 3600]
    machine.moved(10.0)
    assert (machine.number, machine.due_s) == (1, 10.0 + punching.SOON_S)


def test_what_comes_out_of_turn_is_nothing():
    """Answers and starts of calls that there are not change nothing and cost nothing."""
    machine = Punching(prior=True, rng=random.Random(1), budget=ProbeBudget(), now=0.0)
    for message in (
        punching.CallAnswer(path=2),
        punching.CallGo(path=2, rtt_us=1),
        CallRefused(path=2),
    ):
        assert machine.heard(message, 0.0) == []
    assert machine.state is State.REST


def test_a_second_call_while_one_is_answered_is_refused():
    """One call at a time: a flood of them costs a refusal each."""
    machine = Punching(prior=True, rng=random.Random(1), budget=ProbeBudget(), now=0.0)
    call = Call(path=3, attempt=1, local=(("192.0.2.1", 5),))
    assert machine.heard(call, 0.0)
    (said,) = machine.heard(call, 0.1)
    assert said.message == CallRefused(path=3, code=punching.Refusal.BUSY)


def test_a_caller_that_never_says_go_is_forgotten():
    """The path that was opened for it is closed after a while."""
    machine = Punching(prior=True, rng=random.Random(1), budget=ProbeBudget(), now=0.0)
    machine.heard(Call(path=3, attempt=1, local=(("192.0.2.1", 5),)), 0.0)
    machine.gathered(attempt.Side(), None, 0.1)
    assert machine.state is State.READY
    assert machine.tick(machine.deadline()) == [Shut(3)]
    assert machine.state is State.REST


def test_the_budget_counts_addresses_and_their_neighbours(monkeypatch):
    """One address, its /24, and no more addresses than the table has places for."""
    monkeypatch.setattr(budget, "HOSTS_MAX", 64)
    made = ProbeBudget()
    assert made.take("100.1.0.1", 5_000, 0.0) == budget.PER_HOST
    assert made.take("100.1.0.1", 1, 1.0) == 0
    total = sum(made.take(f"100.1.0.{n}", 2_048, 0.0) for n in range(2, 20))
    assert total == budget.PER_PLACE - budget.PER_HOST
    for number in range(100):
        made.take(f"10.0.{number}.1", 1, 0.0)
    assert len(made) <= budget.HOSTS_MAX
    assert made.take("9.9.9.9", 1, 0.0) == 0
    assert made.take("100.1.0.1", 1, budget.HOUR_S) == 1


def test_the_world_knows_who_is_where():
    """The model itself: a machine without translators is seen as it is."""
    made = World(1).machine("open")
    assert isinstance(made, Machine)
    assert made.side.public == ()


VICTIM = ("20.66.0.1", 53)


@pytest.mark.parametrize("member", [True, False])
def test_a_strangers_relay_aims_many_ports_nowhere(member, monkeypatch):
    """It may choose among hosts that the peer names itself; a member of ours is believed."""
    made = World(1)
    left, right = made.machine("port"), made.machine("random")
    made.pair(left, right)
    right.vouched_for = VICTIM
    told = Punching.told
    monkeypatch.setattr(Punching, "told", lambda self, at, now: told(self, at, now, member=member))
    made.run(30.0)
    assert any(to[0] == VICTIM[0] for _, to, _ in left.sent) == member


def test_a_strangers_relay_is_believed_where_the_peer_says_the_same(monkeypatch):
    """The port is what nobody else knows."""
    told = Punching.told
    monkeypatch.setattr(Punching, "told", lambda self, at, now: told(self, at, now, member=False))
    for kinds in (("port", "random"), ("sequential", "full")):
        assert meeting(*kinds)[1]


def test_what_a_stranger_says_does_not_replace_a_members_word():
    """Whoever comes last must not decide."""
    machine = Punching(prior=True, rng=random.Random(1), budget=ProbeBudget(), now=0.0)
    machine.told(("20.1.0.1", 9), 1.0, member=False)
    assert machine.vouched is None, "the peer has said nothing yet"
    machine.told(("20.2.0.1", 9), 1.0)
    machine.told(("20.1.0.1", 9), 1.0, member=False)
    assert machine.vouched == ("20.2.0.1", 9)


@pytest.mark.parametrize("host", ["192.168.7.7", "10.0.0.1", "127.0.0.1", "fe80::1", "fd00::1"])
def test_private_hosts_never_get_many_ports(host):
    """Whoever vouches for them: a LAN is not searched."""
    made = World(1)
    left, right = made.machine("port"), made.machine("random")
    made.pair(left, right)
    right.vouched_for = (host, 500)
    made.run(30.0)
    assert not any(to[0] == host for _, to, _ in left.sent)
