"""Circuits over one relay and over two, in virtual time: who agrees to what, and how it ends."""

from __future__ import annotations

import pytest

from tests.unit.protocol.relays import NET, World
from veilnet.errors import PeerUnreachable
from veilnet.protocol import (
    messages,
    relay,
    relay_client,
    relay_quota,
    relay_service,
    relay_steps,
    relay_table,
)
from veilnet.protocol import relay_messages as said
from veilnet.protocol.relay import Closing, Refusal

KB64 = 65_536


@pytest.fixture
def world():
    """origin ---- relay ---- target"""
    made = World()
    made.origin, made.relay, made.target = map(made.peer, ("origin", "relay", "target"))
    made.link(made.origin, made.relay)
    made.link(made.relay, made.target)
    return made.run()


@pytest.fixture
def chain():
    """origin ---- near ---- far ---- target"""
    made = World()
    made.origin, made.near, made.far, made.target = (
        made.peer(name) for name in ("origin", "near", "far", "target")
    )
    made.link(made.origin, made.near)
    made.link(made.far, made.near)
    made.link(made.far, made.target)
    return made.run()


def opened(world, origin=None):
    """Open a circuit over the one relay and confirm it at both ends."""
    origin = origin or world.origin
    circuit = origin.open(world.relay, world.target)
    world.run()
    origin.confirm(circuit)
    world.target.confirm(circuit)
    world.run()
    assert world.carries(origin, world.target, circuit)
    return circuit


# --- how it opens -----------------------------------------------------------------------------


def test_one_relay_carries_both_ways(world):
    """The origin asks, the target accepts, and the relay joins their labels."""
    circuit = world.origin.open(world.relay, world.target)
    world.run()
    assert world.carries(world.origin, world.target, circuit)
    end = world.target.joined[circuit]
    assert (end.peer, end.incoming) == (world.origin.id, True)


def test_two_relays_carry_both_ways(chain):
    """The first relay asks the second with a hop less; the target hears who asked first."""
    circuit = chain.origin.open(chain.near, chain.target, chain.far)
    chain.run()
    assert chain.carries(chain.origin, chain.target, circuit)
    assert chain.target.joined[circuit].peer == chain.origin.id
    onward = next(
        m for a, b, m in chain.said if (a, b) == ("near", "far") and m != said.RelayReserve()
    )
    assert (onward.hops, onward.through) == (1, ())


def test_64_kb_until_both_ends_confirm(world):
    """One end's word lifts nothing."""
    circuit = world.origin.open(world.relay, world.target)
    world.run()
    assert world.relay.forwards[circuit].limit_bytes == KB64
    world.origin.confirm(circuit)
    world.origin.confirm(circuit)
    world.run()
    assert world.relay.forwards[circuit].limit_bytes == KB64
    world.target.confirm(circuit)
    world.run()
    assert world.relay.forwards[circuit].limit_bytes == relay_quota.FREE_BYTES


def test_both_relays_of_a_chain_hear_both_ends(chain):
    """Each has a limit of its own to lift."""
    circuit = chain.origin.open(chain.near, chain.target, chain.far)
    chain.run()
    chain.target.confirm(circuit)
    chain.run()
    assert {p.forwards[circuit].limit_bytes for p in (chain.near, chain.far)} == {KB64}
    chain.origin.confirm(circuit)
    chain.run()
    assert {p.forwards[circuit].limit_bytes for p in (chain.near, chain.far)} == {
        relay_quota.FREE_BYTES
    }


def test_reservation_and_question_go_out_together(world):
    """A relay that was never asked costs one round trip, and a second circuit one message."""
    circuit = world.origin.open(world.relay, world.target)
    assert len(world.queue) == 2
    world.run()
    assert circuit in world.origin.joined
    world.origin.open(world.relay, world.peer("nobody"))
    assert len(world.queue) == 1


def test_both_ends_may_relay_on_one_link(world):
    """Labels that the initiator of a link gives have the high bit, those of the other have not."""
    circuit = opened(world)
    forward = world.relay.forwards[circuit]
    (_, to_origin), (_, to_target) = forward.a, forward.b
    assert (to_origin >> 31, to_target >> 31) == (0, 1)


# --- who may not ------------------------------------------------------------------------------


def refusal(world, asker=None, by=None, target=None, through=None):
    """Ask for a circuit that will not be, and say why not."""
    asker, by = asker or world.origin, by or world.relay
    circuit = asker.open(by, target or world.target, through)
    world.run()
    assert not world.relay.forwards
    return asker.failed[circuit]


def test_off_means_nobody(world):
    """A relay that is off refuses and says so."""
    world.relay.set(for_own=False)
    assert refusal(world) is Refusal.OFF
    assert world.relay.offers[-1] == said.RelayOffer()


@pytest.mark.parametrize(("strangers", "expected"), [(False, Refusal.OFF), (True, None)])
def test_strangers_only_where_the_operator_said_so(strangers, expected):
    """Own networks are the default; strangers need a word."""
    world = World()
    world.origin, world.target = world.peer("origin"), world.peer("target")
    world.relay = world.peer("relay", for_strangers=strangers)
    for end in (world.origin, world.target):
        world.link(end, world.relay, own=False)
    circuit = world.origin.open(world.relay, world.target)
    world.run()
    assert world.origin.failed.get(circuit) is expected
    assert world.carries(world.origin, world.target, circuit) is strangers


def test_a_stranger_does_not_reach_into_a_private_network(world):
    """Between one of ours and a stranger nothing is joined, whatever is allowed."""
    world.relay.set(for_strangers=True)
    stranger = world.peer("stranger")
    world.link(stranger, world.relay, own=False)
    assert refusal(world, stranger) is Refusal.NO_LINK


def test_the_target_must_have_a_link_already(world):
    """A relay opens no link for anybody and dials nobody."""
    absent = world.peer("absent")
    assert refusal(world, target=absent) is Refusal.NO_LINK


def test_the_target_may_decline(world):
    """Without its yes nothing is joined."""
    world.target.welcomes = False
    assert refusal(world) is Refusal.DECLINED
    assert not world.target.joined


def test_a_target_that_says_nothing_costs_three_seconds(world):
    """Then the origin hears no, the place is free again, and a late yes joins nothing."""
    world.deaf.add(world.target)
    circuit = world.origin.open(world.relay, world.target)
    world.run()
    assert len(world.relay.service) == 1
    world.wait(relay.ASK_S)
    assert world.origin.failed[circuit] is Refusal.TIMEOUT
    assert len(world.relay.service) == 0
    world.deaf.clear()
    late = said.CircuitAccepted(circuit=circuit)
    world.send(world.target, world.target.key_of(world.relay), late)
    world.run()
    assert not world.relay.forwards
    assert world.said[-1][2] == said.CircuitClosed(circuit=circuit, code=Closing.UNKNOWN)


def test_without_a_reservation_there_is_no_circuit(world):
    """The relay refuses; a client asks once more with one, and no third time."""
    bare = said.CircuitOpen(circuit=b"c" * 16, target=world.target.id)
    world.send(world.origin, world.origin.key_of(world.relay), bare)
    world.run()
    assert world.said[-1][2].code == Refusal.NO_RESERVATION
    # A client that believes in a reservation which the relay has not.
    world.origin.reserve(world.relay)
    world.run()
    world.relay.service._reserved.clear()
    circuit = world.origin.open(world.relay, world.target)
    world.run()
    assert world.carries(world.origin, world.target, circuit)


def test_a_third_relay_is_one_too_many(chain):
    """A hop budget of one buys the target, not another relay."""
    chain.origin.reserve(chain.near)
    chain.run()
    asked = said.CircuitOpen(
        circuit=b"c" * 16, target=chain.target.id, hops=1, through=(chain.far.id,)
    )
    chain.send(chain.origin, chain.origin.key_of(chain.near), asked)
    chain.run()
    assert chain.said[-1][2].code == Refusal.HOPS
    assert not chain.far.service.circuits


def test_circles_make_no_sense(world):
    """Nobody is twice in a circuit."""
    for target in (world.origin, world.relay):
        asked = said.CircuitOpen(circuit=b"c" * 16, target=target.id)
        world.origin.reserve(world.relay)
        world.send(world.origin, world.origin.key_of(world.relay), asked)
        world.run()
        assert world.said[-1][2].code == Refusal.NO_SENSE
    assert refusal(world, target=world.relay) is Refusal.NO_SENSE


def test_an_id_in_use_is_refused(world):
    """Another peer cannot take a circuit over by its id."""
    circuit = opened(world)
    thief = world.peer("thief")
    world.link(thief, world.relay)
    thief.reserve(world.relay)
    for message in (
        said.CircuitOpen(circuit=circuit, target=world.target.id),
        said.CircuitClosed(circuit=circuit),
        said.CircuitConfirm(circuit=circuit),
    ):
        world.send(thief, thief.key_of(world.relay), message)
    world.run()
    answers = [m for _, to, m in world.said if to == "thief" and hasattr(m, "code")]
    assert [m.code for m in answers] == [Refusal.TAKEN, Closing.UNKNOWN]
    assert world.carries(world.origin, world.target, circuit)


# --- strangers and members --------------------------------------------------------------------


@pytest.fixture
def open_house(world):
    """Like `world`, but its relay serves strangers, and one of them can be asked for: sink."""
    world.relay.set(for_strangers=True)
    world.sink = stranger(world, "sink")
    return world


def stranger(world, name, place=b""):
    """A node of the commons with a link to the relay."""
    made = world.peer(name)
    world.link(made, world.relay, own=False, place=place)
    return made


def carried(world, origin):
    """Open a circuit between strangers and confirm it; None if it was refused or is closed."""
    circuit = origin.open(world.relay, world.sink)
    world.run()
    for end in (origin, world.sink):
        end.confirm(circuit)
    world.run()
    return circuit if world.carries(origin, world.sink, circuit) else None


def test_strangers_have_half_of_the_circuits_and_members_take_them_back(open_house):
    """Who came in from the street never keeps a member out."""
    world = open_house
    world.relay.set(for_strangers=True, circuits=4)
    guests = [stranger(world, f"guest{n}") for n in range(4)]
    assert [carried(world, guest) is not None for guest in guests] == [True, True, False, False]
    assert guests[2].failed.popitem()[1] is Refusal.FULL
    other = world.peer("other")
    world.link(other, world.relay)
    members = [opened(world, end) for end in (world.origin, other, world.origin, other)]
    assert set(world.relay.forwards) == set(members)
    assert [*guests[0].left.values(), *guests[1].left.values()] == [Closing.FULL] * 2
    assert carried(world, guests[3]) is None


def reserves(world, peer):
    """Whether a peer that asks for a reservation gets one."""
    peer.reserve(world.relay)
    world.run()
    return isinstance(world.said[-1][2], said.RelayReserved)


def test_strangers_have_half_of_the_reservations(open_house, monkeypatch):
    """Of one prefix a few; many of one prefix make room for another; members for nobody."""
    monkeypatch.setattr(relay_service, "RESERVATIONS_MAX", 8)
    monkeypatch.setattr(relay_service, "RESERVATIONS_OF_PLACE_MAX", 3)
    world, service = open_house, open_house.relay.service
    greedy = [stranger(world, f"greedy{n}", b"greedy") for n in range(4)]
    assert [reserves(world, each) for each in greedy] == [True, True, True, False]
    assert all(reserves(world, stranger(world, f"a{n}", b"a%d" % n)) for n in range(3))
    assert service.reservations == 4
    assert [service.needs(world.relay.key_of(each)) for each in greedy] == [False] * 2 + [True] + [
        False
    ]
    assert not reserves(world, stranger(world, "late", b"late"))
    for number in range(8):
        member = world.peer(f"member{number}")
        world.link(member, world.relay)
        assert reserves(world, member)
    assert service.reservations == 8
    assert not reserves(world, stranger(world, "later", b"later"))
    late = world.peer("late member")
    world.link(late, world.relay)
    assert not reserves(world, late)


def test_strangers_have_half_of_the_rate_together(open_house):
    """However many there are; a member's share is what it was."""
    world = open_house
    world.relay.set(for_strangers=True, rate_bps=96_000_000)
    guests = [stranger(world, f"guest{n}") for n in range(4)]
    circuits, rates = [], []
    for guest in guests:
        circuits.append(carried(world, guest))
        shares = {world.relay.forwards[circuit].rate_bps for circuit in circuits}
        rates.append(shares)
    assert rates == [{24_000_000}, {24_000_000}, {16_000_000}, {12_000_000}]
    member = opened(world)
    assert world.relay.forwards[member].rate_bps == 48_000_000
    for guest, circuit in zip(guests[:2], circuits[:2], strict=True):
        guest.close(circuit)
    world.run()
    assert [world.relay.forwards[circuit].rate_bps for circuit in circuits[2:]] == [24_000_000] * 2


def test_strangers_have_half_of_the_volume(open_house):
    """A quarter each; then theirs close, and members have the other half."""
    world = open_house
    world.relay.set(for_strangers=True, volume_bytes=4_000_000)
    guests = [stranger(world, f"guest{n}") for n in range(3)]
    circuits = [carried(world, guest) for guest in guests]
    member = opened(world)
    assert [world.relay.forwards[each].limit_bytes for each in circuits] == [1_000_000] * 3
    world.relay.count(dict.fromkeys(circuits[:2], 1_000_000))
    world.run()
    assert set(world.relay.forwards) == {member}
    assert [list(guest.left.values()) for guest in guests] == [[Closing.VOLUME]] * 3
    assert world.relay.forwards[member].limit_bytes == 2_000_000
    assert carried(world, guests[2]) is None


# --- caps -------------------------------------------------------------------------------------


def test_one_peer_has_at_most_half_of_the_circuits(world):
    """The others find room, up to the cap; then it is full, and says that it is busy."""
    world.relay.set(circuits=4)
    other, third = world.peer("other"), world.peer("third")
    for end in (other, third):
        world.link(end, world.relay)
    for end in (world.origin, other):
        opened(world, end)
        opened(world, end)
        if end is world.origin:
            late = end.open(world.relay, world.target)
            world.run()
            assert end.failed == {late: Refusal.PEER_FULL}
            assert not world.relay.offers
    late = third.open(world.relay, world.target)
    world.run()
    assert third.failed == {late: Refusal.FULL}
    assert world.relay.offers[-1].busy


@pytest.mark.parametrize("deaf", [False, True])
def test_circuits_that_lead_nowhere_keep_nobody_out(world, deaf):
    """Two who never confirm have a few each, and the relay is neither full nor busy for others."""
    world.relay.set(circuits=3)
    other, sink = world.peer("other"), world.peer("sink")
    for end in (other, sink):
        world.link(end, world.relay)
    if deaf:
        world.deaf.add(sink)
    for origin in (world.origin, other):
        for _ in range(10):
            origin.open(world.relay, sink)
            world.run()
        key = world.relay.key_of(origin)
        assert len(world.relay.service._table.of(key)) == relay_table.UNCONFIRMED_OF_PAIR_MAX
    third = world.peer("third")
    world.link(third, world.relay)
    opened(world, third)
    opened(world, world.origin)
    assert not any(offer.busy for offer in world.relay.offers)


def test_a_peer_has_few_unconfirmed_circuits_and_the_oldest_goes(world):
    """Whatever their targets; one that is confirmed stays."""
    kept = opened(world)
    targets = [world.peer(f"target{number}") for number in range(4)]
    circuits = []
    for target in targets:
        world.link(target, world.relay)
        for _ in range(3):
            circuits.append(world.origin.open(world.relay, target))
            world.run()
    newest = circuits[-relay_table.UNCONFIRMED_OF_PEER_MAX :]
    assert list(world.relay.forwards) == [kept, *newest]
    gone = circuits[: -len(newest)]
    assert {world.origin.left[each] for each in gone} == {Closing.UNCONFIRMED}
    assert not any(each in target.joined for target in targets for each in gone)


def test_among_the_origins_behind_a_relay_the_greediest_gives_way(chain):
    """Who asks much over the first relay takes nothing from another who asks little."""
    modest, others = chain.peer("modest"), [chain.peer(f"other{n}") for n in range(3)]
    chain.link(modest, chain.near)
    for each in others:
        chain.link(each, chain.far)
    mine = modest.open(chain.near, chain.target, chain.far)
    chain.run()
    for target in others:
        for _ in range(3):
            chain.origin.open(chain.near, target, chain.far)
            chain.run()
    assert chain.carries(modest, chain.target, mine)
    assert len(chain.far.forwards) == relay_table.UNCONFIRMED_OF_PEER_MAX


def test_who_is_confirmed_when_the_last_place_is_taken_hears_so(world):
    """The caps count what is confirmed, and hold then too."""
    world.relay.set(circuits=2)
    first, second = (world.origin.open(world.relay, world.target) for _ in range(2))
    world.run()
    for circuit in (first, second):
        for end in (world.origin, world.target):
            end.confirm(circuit)
        world.run()
    assert list(world.relay.forwards) == [first]
    assert world.origin.left == world.target.left == {second: Closing.FULL}


def test_a_peer_opens_circuits_at_a_bounded_pace(world):
    """Closing them at once brings no more: each has a burst of its own; others are not held up."""
    world.relay.set(circuits=4096)
    opens = 0
    for _ in range(2 * relay_quota.OPENINGS_MAX):
        circuit = world.origin.open(world.relay, world.target)
        world.run()
        opens += circuit in world.relay.forwards
        world.origin.close(circuit)
        world.run()
    assert opens == relay_quota.OPENINGS_MAX
    assert world.origin.failed[circuit] is Refusal.TOO_OFTEN
    world.cut(world.origin, world.relay)
    world.link(world.origin, world.relay)
    again = world.origin.open(world.relay, world.target)
    world.run()
    assert world.origin.failed[again] is Refusal.TOO_OFTEN
    other = world.peer("other")
    world.link(other, world.relay)
    opened(world, other)
    world.wait(relay_quota.OPENING_S)
    opened(world)


def test_the_pace_of_many_peers_is_bounded(monkeypatch):
    """Those that nothing holds back are forgotten first."""
    monkeypatch.setattr(relay_quota, "PEERS_MAX", 2)
    pace = relay_quota.Pace()
    assert all(pace.take((NET, bytes([each])), 0.0) for each in range(5))
    assert len(pace._free_s) == 2
    assert pace.take((NET, b"late"), 100.0)
    assert len(pace._free_s) == 1


def test_a_target_is_filled_by_nobody(world):
    """Of one origin, and of one relay, few unconfirmed circuits come in, and the oldest goes."""
    key = world.target.key_of(world.relay)

    def comes(number, origin):
        message = said.CircuitIncoming(
            circuit=number.to_bytes(16, "big"), origin=origin, label=number
        )
        world.target.act(world.target.switch.heard(relay.Heard(key, message), world.now))

    first = b"1".ljust(16)
    world.target.act(
        world.target.switch.heard(
            relay.Heard(key, said.CircuitIncoming(circuit=first, origin=b"f" * 32, label=9999)),
            world.now,
        )
    )
    world.target.confirm(first)
    for number in range(10):
        comes(number, b"a" * 32)
    waiting = [each for each in world.target.joined if each != first]
    assert waiting == [number.to_bytes(16, "big") for number in range(6, 10)]
    for number in range(100, 400):
        comes(number, number.to_bytes(32, "big"))
    assert len(world.target.joined) == 1 + relay_client.UNCONFIRMED_OF_RELAY_MAX
    assert first in world.target.joined
    gone = [m for m in world.queue if isinstance(messages.decode(m[2]).message, said.CircuitClosed)]
    assert len(gone) == 310 - relay_client.UNCONFIRMED_OF_RELAY_MAX


def test_a_peers_rate_is_shared_among_its_circuits(world):
    """Half of the relay's rate for one peer, in equal parts, given back when one closes."""
    world.relay.set(rate_bps=100_000_000)
    first = opened(world)
    assert world.relay.forwards[first].rate_bps == 50_000_000
    second = opened(world)
    assert [world.relay.forwards[c].rate_bps for c in (first, second)] == [25_000_000] * 2
    world.origin.close(first)
    world.run()
    assert world.relay.forwards[second].rate_bps == 50_000_000
    assert world.relay.cap_bps == 100_000_000


def test_the_volume_of_a_day_is_never_exceeded(world):
    """What the engine may forward for a peer is never more than is left; then circuits close."""
    world.relay.set(volume_bytes=4_000_000)
    first, second = opened(world), opened(world)
    limits = [world.relay.forwards[c].limit_bytes for c in (first, second)]
    assert limits == [1_000_000, 1_000_000]
    world.relay.count({first: 1_000_000, second: 0})
    assert (
        sum(
            forward.limit_bytes - done
            for forward, done in zip(world.relay.forwards.values(), (1_000_000, 0), strict=True)
        )
        <= 1_000_000
    )
    world.relay.count({first: 1_500_000, second: 500_000})
    world.run()
    assert not world.relay.forwards
    assert set(world.origin.left.values()) == {Closing.VOLUME}
    assert refusal(world) is Refusal.VOLUME
    world.wait(86_400)
    opened(world)


def test_a_smaller_cap_closes_the_newest(world):
    """What the operator takes back is taken back at once."""
    circuits = [opened(world) for _ in range(4)]
    world.relay.set(circuits=4)
    world.run()
    assert list(world.relay.forwards) == circuits[:2]
    assert set(world.origin.left.values()) == {Closing.OFF}


def test_off_closes_everything_at_once(world):
    """Circuits that carry, and those that are being asked for."""
    carries = opened(world)
    world.deaf.add(world.target)
    pending = world.origin.open(world.relay, world.target)
    world.run()
    world.deaf.clear()
    world.relay.set(for_own=False)
    assert not world.relay.forwards
    assert len(world.relay.service) == 0
    world.run()
    assert world.origin.left == {carries: Closing.OFF}
    assert pending in world.origin.failed
    assert not world.origin.joined
    assert not world.target.joined


def test_busy_is_told_once_and_taken_back(world):
    """It repels, refuses nobody, and ends five seconds after the last drop."""
    circuit = opened(world)
    for _ in range(3):
        world.relay.count({circuit: 1}, busy=True)
    assert [offer.busy for offer in world.relay.offers] == [True]
    opened(world)
    world.wait(relay_service.BUSY_S)
    assert [offer.busy for offer in world.relay.offers] == [True, False]


def test_busy_follows_the_nodes_drops_and_is_damped(world):
    """What a circuit's own rate drops says nothing of the node; drops now and then are one word."""
    circuit = opened(world)
    for total in range(60):
        world.relay.count({circuit: total})
        world.wait(1.0)
    assert not world.relay.offers
    for total in range(60, 120, 3):
        world.relay.count({circuit: total}, busy=True)
        world.wait(1.0)
        world.relay.count({circuit: total + 1})
        world.wait(relay_service.BUSY_S - 2.0)
    assert [offer.busy for offer in world.relay.offers] == [True]


def test_the_tables_are_bounded(world, monkeypatch):
    """Reservations at a relay, and circuits that come in at a target."""
    monkeypatch.setattr(relay_service, "RESERVATIONS_MAX", 1)
    world.origin.reserve(world.relay)
    world.run()
    late = world.peer("late")
    world.link(late, world.relay)
    late.reserve(world.relay)
    world.run()
    assert world.said[-1][2] == said.RelayRefused(code=Refusal.FULL)
    monkeypatch.setattr(relay_client, "INCOMING_OF_RELAY_MAX", 1)
    opened(world)
    circuit = world.origin.open(world.relay, world.target)
    world.run()
    assert world.origin.failed[circuit] is Refusal.DECLINED
    monkeypatch.setattr(relay_client, "OUTGOING_MAX", 1)
    circuit = world.origin.open(world.relay, world.target)
    assert world.origin.failed[circuit] is Refusal.FULL


# --- how it ends ------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["origin", "target"])
def test_either_end_closes(world, who):
    """Both ends and the relay forget the circuit, and why is told."""
    circuit = opened(world)
    closer = getattr(world, who)
    closer.close(circuit)
    world.run()
    assert not world.relay.forwards
    assert world.origin.left == world.target.left == {circuit: Closing.DONE}


def test_a_lost_link_closes_the_circuits_over_it(chain):
    """Both ends of a chain hear that one of its links is gone."""
    circuit = chain.origin.open(chain.near, chain.target, chain.far)
    chain.run()
    chain.cut(chain.near, chain.far)
    chain.run()
    assert chain.origin.left == chain.target.left == {circuit: Closing.LINK_LOST}
    assert not chain.near.forwards
    assert not chain.far.forwards


def test_a_target_that_goes_while_it_is_asked(world):
    """The origin hears at once, not after the timeout."""
    world.deaf.add(world.target)
    circuit = world.origin.open(world.relay, world.target)
    world.run()
    world.cut(world.relay, world.target)
    world.run()
    assert world.origin.failed[circuit] is Refusal.NO_LINK


def test_what_nobody_confirms_is_closed(world):
    """At the relay and at both ends."""
    circuit = world.origin.open(world.relay, world.target)
    world.run()
    world.origin.confirm(circuit)
    world.wait(relay.CONFIRM_S)
    assert not world.relay.forwards
    assert not world.origin.joined
    assert not world.target.joined


def test_a_circuit_in_use_outlives_its_first_reservation(world):
    """Who has circuits asks again in time; who has gone away does not, and loses them."""
    circuit = opened(world)
    world.wait(3 * relay.RESERVATION_S)
    assert world.carries(world.origin, world.target, circuit)
    world.origin.client._held._ask_s.clear()
    world.wait(relay.RESERVATION_S)
    assert world.origin.left == {circuit: Closing.EXPIRED}
    assert not world.relay.service.reservations


def test_both_relays_of_a_chain_are_asked_again(chain):
    """The first relay renews what it reserved at the second."""
    circuit = chain.origin.open(chain.near, chain.target, chain.far)
    chain.run()
    chain.origin.confirm(circuit)
    chain.target.confirm(circuit)
    chain.wait(3 * relay.RESERVATION_S)
    assert chain.carries(chain.origin, chain.target, circuit)


def test_a_reservation_that_nobody_needs_runs_out(world):
    """And with it what keeps the link up."""
    circuit = opened(world)
    key = world.relay.key_of(world.origin)
    world.origin.close(circuit)
    world.run()
    assert world.relay.service.needs(key)
    world.wait(relay.RESERVATION_S)
    assert not world.relay.service.needs(key)
    world.origin.reserve(world.relay)
    world.wait(3 * relay.RESERVATION_S)
    assert world.relay.service.needs(key)


# --- sessions that replace others -------------------------------------------------------------


def test_circuits_outlive_the_session_of_their_link(world):
    """The hourly handshake moves them, whichever end began it."""
    circuit = opened(world)
    world.link(world.relay, world.origin)
    world.link(world.relay, world.target)
    world.run()
    assert world.carries(world.origin, world.target, circuit)
    opened(world)


def test_what_was_being_asked_is_asked_again(world):
    """A question that was lost with the session before is answered on the next."""
    world.deaf.add(world.relay)
    circuit = world.origin.open(world.relay, world.target)
    world.run()
    world.deaf.clear()
    world.link(world.origin, world.relay)
    world.run()
    assert world.carries(world.origin, world.target, circuit)


def test_an_answer_that_was_lost_is_given_again(world):
    """The relay answers the same question with the same circuit, as the target does."""
    world.deaf.add(world.origin)
    circuit = world.origin.open(world.relay, world.target)
    world.run()
    world.deaf.clear()
    assert circuit not in world.origin.joined
    world.link(world.origin, world.relay)
    world.run()
    assert world.carries(world.origin, world.target, circuit)
    assert len(world.relay.forwards) == 1


@pytest.mark.parametrize("who", ["relay", "target", "origin"])
def test_who_restarted_has_forgotten_and_says_so(world, who):
    """A circuit that one side does not have any more is closed at the others, after one round."""
    circuit = opened(world)
    lost = getattr(world, who)
    fresh = world.peer(who)
    others = [p for p in (world.origin, world.relay, world.target) if p is not lost]
    for other in others:
        if who == "relay" or other is world.relay:
            world.link(other, fresh)
    world.run()
    for other in others:
        assert circuit not in other.joined
        assert circuit not in other.forwards


# --- what cannot be done ----------------------------------------------------------------------


def test_what_the_engine_does_not_take_is_closed(world):
    """A circuit that the engine refuses is closed at both ends."""
    circuit = opened(world)
    actions = world.relay.service.handle(relay_steps.Unforwarded(circuit), world.now)
    world.relay.act(actions)
    world.run()
    assert world.origin.left == world.target.left == {circuit: Closing.FAILED}


def test_a_label_that_is_in_use_is_not_taken(chain):
    """A second relay that gives one label twice gets no second circuit."""
    first = chain.origin.open(chain.near, chain.target, chain.far)
    chain.run()
    label = chain.near.forwards[first].b[1]
    chain.deaf.add(chain.far)
    second = chain.origin.open(chain.near, chain.target, chain.far)
    chain.run()
    again = said.CircuitOpened(circuit=second, label=label)
    chain.send(chain.far, chain.far.key_of(chain.near), again)
    chain.run()
    assert second in chain.origin.failed
    assert list(chain.near.forwards) == [first]


def test_a_link_that_nobody_knows_says_nothing(world):
    """Events of a link that is not up change nothing."""
    stranger = (NET, b"s" * 32)
    for message in (
        said.RelayReserve(),
        said.CircuitIncoming(circuit=b"c" * 16, origin=b"o" * 32, label=1),
    ):
        heard = relay.Heard(stranger, message)
        assert world.relay.switch.heard(heard, world.now) == []
    assert world.relay.switch.handle(relay.LinkDown(stranger), world.now) == []


def test_every_refusal_has_words():
    """Known reasons, unknown ones, and which of them mean that nobody is there."""
    for code in (*Refusal, 999):
        error = relay.refused(code, "hub")
        assert "the relay hub " in error.message
        assert error.hint
    assert isinstance(relay.refused(Refusal.NO_LINK, "hub"), PeerUnreachable)
    assert relay.refused(Refusal.FULL, "hub").refusal is Refusal.FULL


# --- where an end is --------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["origin", "target"])
def test_a_relay_tells_where_it_sees_an_end_that_wants_it(world, who):
    """The other end hears the address that the relay has seen, and nobody else does."""
    circuit = opened(world)
    here = getattr(world, who)
    there = world.target if here is world.origin else world.origin
    here.vouch(circuit)
    world.run()
    assert there.seen == {circuit: world.places[here.id]}
    assert here.seen == {}


def test_a_relay_vouches_at_most_once_a_second(world):
    """Whoever asks without end makes it say no more than that."""
    circuit = opened(world)
    for _ in range(20):
        world.origin.vouch(circuit)
    world.run()
    told = [m for _, _, m in world.said if isinstance(m, said.CircuitSeen)]
    assert len(told) == 1
    world.wait(relay_service.VOUCH_S)
    world.origin.vouch(circuit)
    world.run()
    assert sum(isinstance(m, said.CircuitSeen) for _, _, m in world.said) == 2


def test_no_relay_vouches_before_both_ends_know_each_other(world):
    """Or anybody could have a stranger told where somebody is."""
    circuit = world.origin.open(world.relay, world.target)
    world.run()
    world.origin.vouch(circuit)
    world.run()
    assert world.target.seen == {}


def test_a_chain_vouches_for_nobody(chain):
    """Neither relay sees both ends, and neither believes the other."""
    circuit = chain.origin.open(chain.near, chain.target, chain.far)
    chain.run()
    for end in (chain.origin, chain.target):
        end.confirm(circuit)
    chain.run()
    chain.origin.vouch(circuit)
    chain.target.vouch(circuit)
    chain.run()
    assert chain.origin.seen == chain.target.seen == {}
    assert not any(isinstance(m, said.CircuitSeen) for _, _, m in chain.said)
