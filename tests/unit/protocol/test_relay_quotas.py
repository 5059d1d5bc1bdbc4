"""What a relay gives to whom: strangers, members, caps, and a pace, in virtual time."""

from __future__ import annotations

import pytest

from tests.unit.protocol.relays import NET, opened, refusal
from veilnet.protocol import (
    messages,
    relay,
    relay_client,
    relay_quota,
    relay_service,
    relay_table,
)
from veilnet.protocol import relay_messages as said
from veilnet.protocol.relay import Closing, Refusal

KB64 = 65_536


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
