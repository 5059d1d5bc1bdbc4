"""Lookup sessions whole: both machines, a real KEM, and the engine's own gate."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.property.vnh1 import DOOR, FULL, LOOKUP, NETWORK, NOWHERE, Node, World, flip
from veilnet.errors import PeerUnreachable
from veilnet.protocol import handshake as hs
from veilnet.units import NetworkId


def test_a_quiet_wire_gives_one_lookup_session():
    """Two round trips, six datagrams: nobody knows whom he talks to, both hold the same keys."""
    world = World(seed=1)
    world.r.open_door(LOOKUP, public=True)
    world.i.call(None, LOOKUP, world.r.address)
    world.run(0.05)
    (confirmed,), (accepted,) = world.i.confirmed, world.r.accepted
    assert confirmed.peer is accepted.peer is None
    assert confirmed.endpoint == world.r.address
    assert accepted.endpoint == world.i.address
    assert (world.i.sent, world.r.sent) == (3, 3)
    world.check_agreement()
    assert world.i.errors == world.r.errors == []


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    loss=st.sampled_from([0.0, 0.1, 0.3]),
    doubled=st.sampled_from([0.0, 0.3]),
    flipped=st.sampled_from([0.0, 0.1, 0.3]),
    spread_s=st.sampled_from([0.0, 0.05, 1.0]),
)
def test_never_a_lookup_session_unless_both_agree(seed, loss, doubled, flipped, spread_s):
    """Whatever is dropped, doubled, delayed or flipped, who holds a session holds the peer's."""
    random = Random(seed)

    def tamper(_sender: Node, _number: int, datagram: bytes) -> list[bytes]:
        copies = (random.random() >= loss) + (random.random() < doubled)
        return [
            flip(datagram, random.randrange(8 * len(datagram)))
            if random.random() < flipped
            else datagram
            for _ in range(copies)
        ]

    world = World(seed=seed, tamper=tamper, spread_s=spread_s)
    world.r.open_door(LOOKUP, public=True)
    world.i.call(None, LOOKUP, NOWHERE, world.r.address)
    world.run()
    for confirmed in world.i.confirmed:
        mine = world.i.established[confirmed.sid]
        theirs = world.r.established[mine.remote_sid]
        assert mine.fingerprint == theirs.fingerprint
        assert (theirs.local_sid, theirs.remote_sid) == (mine.remote_sid, mine.local_sid)
    assert len(world.r.accepted) <= 1
    assert len(world.i.confirmed) + len(world.i.errors) == 1
    if loss == flipped == 0.0:
        assert len(world.i.confirmed) == 1


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    toward=st.booleans(),
    first=st.integers(1, 3),
    at=st.floats(0, 1, exclude_max=True),
)
def test_a_bit_flipped_in_every_copy_leaves_no_lookup_session(seed, toward, first, at):
    """From the first damaged datagram on the initiator gets no session."""
    world: World

    def tamper(sender: Node, number: int, datagram: bytes) -> list[bytes]:
        if (sender is world.i) == toward and number >= first:
            return [flip(datagram, int(at * 8 * len(datagram)))]
        return [datagram]

    world = World(seed=seed, tamper=tamper)
    world.r.open_door(LOOKUP, public=True)
    world.i.call(None, LOOKUP, world.r.address)
    world.run()
    assert world.i.confirmed == []
    assert isinstance(world.i.errors[0], PeerUnreachable)
    assert len(world.r.accepted) == (not toward and first > 1)


@pytest.mark.parametrize(
    ("terms", "door"),
    [
        pytest.param(LOOKUP, b"x" * 32, id="no door key"),
        pytest.param(
            hs.Terms(suite=1, mode=hs.Mode.LOOKUP, network_id=NETWORK, secret=b"x" * 32),
            DOOR,
            id="another secret",
        ),
        pytest.param(
            hs.Terms(suite=1, mode=hs.Mode.LOOKUP, network_id=NetworkId(b"x" * 32), secret=b"x"),
            DOOR,
            id="another commons",
        ),
    ],
)
def test_who_looks_up_elsewhere_gets_nothing(terms, door):
    """A lookup that does not agree to the commons ends with no session at the initiator."""
    world = World(seed=2)
    world.r.open_door(LOOKUP, public=True)
    world.i.call(None, terms, world.r.address, door=door)
    world.run()
    assert world.i.established == {}
    assert isinstance(world.i.errors[0], PeerUnreachable)


def test_a_lookup_at_a_door_of_members_meets_silence():
    """Nobody gets an anonymous session where membership is asked for."""
    world = World(seed=3)
    world.r.open_door(FULL)
    world.i.call(None, LOOKUP, world.r.address)
    world.run()
    assert world.r.established == world.i.established == {}
    assert world.r.accepted == []


def test_recorded_lookups_open_nothing():
    """At the public door HELLO is answered again and again, but no INIT makes a second session."""
    record: list[tuple[Node, bytes]] = []

    def tamper(sender: Node, _number: int, datagram: bytes) -> list[bytes]:
        record.append((sender, datagram))
        return [datagram]

    world = World(seed=5, tamper=tamper)
    world.r.open_door(LOOKUP, public=True)
    world.i.call(None, LOOKUP, world.r.address)
    world.run()
    for sender, datagram in record:
        receiver = world.r if sender is world.i else world.i
        for source in (sender.address, NOWHERE):
            receiver.receive(datagram, source)
    world.run()
    assert len(world.r.accepted) == len(world.i.confirmed) == 1
