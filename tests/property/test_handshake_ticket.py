"""Returns with a ticket, whole: both machines, real KEM and signatures, the engine's own gate."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.property.vnh1 import FULL, IDENTITIES, NETWORK, TICKET, Node, World, flip
from veilnet.errors import PeerMisbehaved, PeerUnreachable
from veilnet.protocol import handshake as hs
from veilnet.protocol.tickets import Shown, holder_of


def test_one_round_trip_until_data():
    """With a ticket the session begins after one round trip instead of three."""
    for terms, trips in ((FULL, 3), (TICKET, 1)):
        world = World(seed=1)
        world.r.open_door(FULL)
        ticket = world.i.ticket_of(world.r) if terms is TICKET else None
        started = world.now
        world.i.call(world.r.identity, terms, world.r.address, ticket=ticket)
        kind = hs.Begun if terms is TICKET else hs.Confirmed
        while not world.i.ends[kind]:
            world.step()
        assert world.now - started == pytest.approx(trips * 0.02)
        world.run(1.0)
        assert len(world.i.confirmed) == len(world.r.accepted) == 1
        world.check_agreement()


rates = st.sampled_from([0.0, 0.1, 0.3])


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    faults=st.tuples(rates, rates, rates),
    spread_s=st.sampled_from([0.0, 0.05, 1.0]),
    fault=st.sampled_from(["none", "replayed", "elsewhere", "late", "restarted"]),
)
def test_never_a_session_unless_both_agree(seed, faults, spread_s, fault):
    """Whatever befalls the wire and the ticket, a session has two equal ends or none."""
    random = Random(seed)
    loss, doubled, flipped = faults

    def tamper(_sender: Node, _number: int, datagram: bytes) -> list[bytes]:
        copies = (random.random() >= loss) + (random.random() < doubled)
        return [
            flip(datagram, random.randrange(8 * len(datagram)))
            if random.random() < flipped
            else datagram
            for _ in range(copies)
        ]

    world = World(seed=seed, tamper=tamper, spread_s=spread_s)
    world.r.open_door(FULL)
    ticket = world.i.ticket_of(world.r, life_s=60.0)
    expected = 1
    if fault == "replayed":
        world.i.call(world.r.identity, TICKET, world.r.address, ticket=ticket)
        world.run()
        expected = 2
    elif fault == "elsewhere":
        other = world.node(IDENTITIES[2], ("192.0.2.3", 1003))
        holder = holder_of(NETWORK, world.i.identity.peer_id)
        world.r.gate.expire(int(world.now * 1e9))
        given_ = world.r.gate.issue_ticket(other.address[0], holder=holder, life_s=60.0)
        ticket = Shown(world.r.address, *given_)
    elif fault == "late":
        world.run(61.0)
    elif fault == "restarted":
        other = world.node(IDENTITIES[2], ("192.0.2.3", 1003))
        ticket = Shown(world.r.address, *_of(other, world))
    world.i.call(world.r.identity, TICKET, world.r.address, ticket=ticket)
    world.run()
    world.check_agreement()
    if loss == flipped == 0.0 and spread_s < 1.0:
        assert len(world.i.confirmed) == len(world.r.accepted) == expected


def _of(issuer: Node, world: World) -> tuple[bytes, bytes]:
    """A ticket that another gate made, as of the responder before it restarted."""
    holder = holder_of(NETWORK, world.i.identity.peer_id)
    made: tuple[bytes, bytes] = issuer.gate.issue_ticket("192.0.2.1", holder=holder, life_s=60.0)
    return made


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    toward=st.booleans(),
    first=st.integers(1, 10),
    at=st.floats(0, 1, exclude_max=True),
)
def test_a_bit_flipped_in_every_copy_leaves_no_session(seed, toward, first, at):
    """From the first damaged datagram on nothing gets through: no downgrade, no half session."""
    world: World

    def tamper(sender: Node, number: int, datagram: bytes) -> list[bytes]:
        if (sender is world.i) == toward and number >= first:
            return [flip(datagram, int(at * 8 * len(datagram)))]
        return [datagram]

    world = World(seed=seed, tamper=tamper)
    world.r.open_door(FULL)
    ticket = world.i.ticket_of(world.r)
    world.i.call(world.r.identity, TICKET, world.r.address, ticket=ticket)
    world.run()
    world.check_agreement()
    if first == 1:
        assert world.i.confirmed == world.r.accepted == []
        assert isinstance(world.i.errors[0], PeerUnreachable)


def test_a_ticket_of_another_member_is_refused():
    """A member that got hold of another's ticket and key, at the same address, gets no session."""
    world = World(seed=3)
    world.r.open_door(FULL)
    holder = holder_of(NETWORK, IDENTITIES[2].peer_id)
    world.r.gate.expire(int(world.now * 1e9))
    stolen = world.r.gate.issue_ticket(world.i.address[0], holder=holder, life_s=60.0)
    shown = Shown(world.r.address, *stolen)
    world.i.call(world.r.identity, TICKET, world.r.address, ticket=shown)
    world.run()
    assert world.r.accepted == world.i.confirmed == []
    assert isinstance(world.r.errors[0], PeerMisbehaved)
