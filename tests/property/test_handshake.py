"""VNH1 whole: both machines, real KEM and signatures, and the engine's own gate."""

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.property.vnh1 import (
    DOOR,
    FULL,
    IDENTITIES,
    JOIN,
    K_NET,
    NETWORK,
    NOWHERE,
    Node,
    World,
    credential_of,
    flip,
)
from veilnet.errors import PeerMisbehaved, PeerUnreachable
from veilnet.protocol import handshake as hs
from veilnet.protocol.rekey import CloseSession, Install, Rekey, SendMessage
from veilnet.protocol.work import perform
from veilnet.units import NetworkId


@pytest.mark.parametrize("terms", [FULL, JOIN], ids=["full", "join"])
def test_a_quiet_wire_gives_one_session(terms):
    """Both ends hold one session, know each other, and are done within four one-way delays."""
    world = World(seed=1)
    world.r.open_door(terms)
    world.i.call(world.r.identity, terms, world.r.address)
    world.run(0.2)
    (confirmed,), (accepted,) = world.i.confirmed, world.r.accepted
    assert confirmed.peer.peer_id == world.r.identity.peer_id
    assert accepted.peer.peer_id == world.i.identity.peer_id
    assert (accepted.peer.membership is None) == (terms.mode is hs.Mode.JOIN)
    world.check_agreement()
    assert world.i.errors == world.r.errors == []


rates = st.tuples(
    st.sampled_from([0.0, 0.1, 0.3]), st.sampled_from([0.0, 0.3]), st.sampled_from([0.0, 0.1, 0.3])
)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    faults=rates,
    spread_s=st.sampled_from([0.0, 0.05, 1.0]),
    both=st.booleans(),
)
def test_never_a_session_unless_both_agree(seed, faults, spread_s, both):
    """Whatever is dropped, doubled, delayed or flipped, a session has two equal ends or none."""
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
    world.i.open_door(FULL)
    world.i.call(world.r.identity, FULL, NOWHERE, world.r.address)
    if both:
        world.r.call(world.i.identity, FULL, world.i.address)
    world.run()
    world.check_agreement()
    if loss == flipped == 0.0 and spread_s < 1.0:
        assert len(world.i.confirmed) == len(world.r.accepted) == 1
        assert len(world.r.confirmed) == len(world.i.accepted) == both
    assert len(world.i.confirmed) + len(world.i.errors) >= 1


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    toward=st.booleans(),
    first=st.integers(1, 14),
    at=st.floats(0, 1, exclude_max=True),
)
def test_a_bit_flipped_in_every_copy_leaves_no_session(seed, toward, first, at):
    """From the first damaged datagram on nothing gets through: no downgrade, no half session."""
    world: World
    damaged = 0

    def tamper(sender: Node, number: int, datagram: bytes) -> list[bytes]:
        nonlocal damaged
        if (sender is world.i) == toward and number >= first:
            damaged += 1
            return [flip(datagram, int(at * 8 * len(datagram)))]
        return [datagram]

    world = World(seed=seed, tamper=tamper)
    world.r.open_door(FULL)
    world.i.call(world.r.identity, FULL, world.r.address)
    world.run()
    world.check_agreement()
    if first == 1:
        assert damaged > 0
        assert world.i.confirmed == []
        assert world.r.accepted == []
        assert isinstance(world.i.errors[0], PeerUnreachable)


def test_recorded_datagrams_open_nothing():
    """Everything that ever crossed the wire, sent again, makes no session and gets no reply."""
    record: list[tuple[Node, bytes]] = []

    def tamper(sender: Node, _number: int, datagram: bytes) -> list[bytes]:
        record.append((sender, datagram))
        return [datagram]

    world = World(seed=5, tamper=tamper)
    world.r.open_door(FULL)
    world.i.call(world.r.identity, FULL, world.r.address)
    world.run()
    assert len(world.i.confirmed) == 1
    before = (world.i.sent, world.r.sent)
    for sender, datagram in record:
        receiver = world.r if sender is world.i else world.i
        for source in (sender.address, NOWHERE):
            receiver.receive(datagram, source)
    world.run()
    assert (world.i.sent, world.r.sent) == before
    assert len(world.r.accepted) == len(world.i.confirmed) == 1


@pytest.mark.parametrize(
    ("terms", "door"),
    [
        pytest.param(FULL, b"x" * 32, id="no door key"),
        pytest.param(
            hs.Terms(suite=1, mode=hs.Mode.FULL, network_id=NETWORK, secret=b"x" * 32),
            DOOR,
            id="another K_net",
        ),
        pytest.param(
            hs.Terms(suite=1, mode=hs.Mode.FULL, network_id=NetworkId(b"x" * 32), secret=K_NET),
            DOOR,
            id="another network",
        ),
        pytest.param(JOIN, DOOR, id="join at a door of members"),
    ],
)
def test_who_does_not_agree_gets_nothing(terms, door):
    """Any difference in the terms ends in silence or an unopened answer, never in a session."""
    world = World(seed=2)
    world.r.open_door(FULL)
    world.i.call(world.r.identity, terms, world.r.address, door=door)
    world.run()
    assert world.i.established == world.r.established == {}
    assert isinstance(world.i.errors[0], PeerUnreachable)
    assert world.i.sent > 0
    assert (world.r.sent == 0) == (door != DOOR)


@pytest.mark.parametrize("key_of", [1, 2], ids=["own key", "the peer's key"])
@pytest.mark.parametrize("true_peer_answers", [False, True])
def test_another_member_cannot_stand_in(key_of, true_peer_answers):
    """A member that knows every secret but the peer's signing key is rejected, and only it."""
    world = World(seed=3)
    peer = IDENTITIES[2]
    world.r.open_door(FULL)
    world.r.shown = hs.LocalIdentity(
        peer_id=peer.peer_id,
        public_key=IDENTITIES[key_of].public_key,
        credential=credential_of(peer),
    )
    endpoints = [world.r.address]
    if true_peer_answers:
        true_node = world.node(peer, ("192.0.2.3", 1003))
        true_node.open_door(FULL)
        endpoints.append(true_node.address)
    world.i.call(peer, FULL, *endpoints)
    world.run()
    world.check_agreement()
    assert world.r.established == {}
    if true_peer_answers:
        (confirmed,) = world.i.confirmed
        assert confirmed.peer.peer_id == peer.peer_id
        assert confirmed.endpoint == true_node.address
    else:
        assert world.i.established == {}
        assert isinstance(world.i.errors[0], PeerMisbehaved)


def test_a_lossy_wire_is_good_enough():
    """At 10 % loss nearly every attempt ends in a session within its ten seconds."""
    sessions = 0
    for seed in range(40):
        random = Random(seed)

        def tamper(_: Node, __: int, datagram: bytes, random: Random = random) -> list[bytes]:
            return [datagram] if random.random() >= 0.1 else []

        world = World(seed=seed, tamper=tamper)
        world.r.open_door(FULL)
        world.i.call(world.r.identity, FULL, world.r.address)
        world.run()
        world.check_agreement()
        sessions += len(world.i.confirmed)
    assert sessions >= 38


@pytest.mark.parametrize("both", [False, True])
def test_a_session_renews_its_keys(both):
    """The generations of a real session agree, also when both ends begin one at once."""
    world = World(seed=6)
    world.r.open_door(FULL)
    world.i.call(world.r.identity, FULL, world.r.address)
    world.run()
    schedules = (world.i.confirmed[0].schedule, world.r.accepted[0].schedule)
    machines = [
        Rekey(initiator=not end, schedule=schedule, rng=Random(end), started_s=0.0)
        for end, schedule in enumerate(schedules)
    ]
    prints = {schedules[0].fingerprint}
    for turn in range(4):
        todo: list[tuple[int, Any]] = []
        for end, machine in enumerate(machines):
            if both or end == turn % 2:
                todo += [(end, action) for action in machine.stale(float(turn))]
        while todo:
            end, action = todo.pop(0)
            match action:
                case SendMessage(message):
                    end = 1 - end
                    following = machines[end].handle(message, float(turn))
                case Install():
                    continue
                case CloseSession(error):
                    raise error
                case _:
                    result: Any = perform(action, world.i.primitives)
                    following = machines[end].handle(result, float(turn))
            todo += [(end, step) for step in following]
        assert schedules[0].generation == schedules[1].generation == turn + 1
        assert schedules[0].fingerprint == schedules[1].fingerprint
        prints.add(schedules[0].fingerprint)
    assert len(prints) == 5


def test_a_shared_key_is_mixed_in():
    """With a psk of one session the next one differs from one without, and both ends agree."""
    world = World(seed=8)
    world.r.open_door(FULL)
    world.i.call(world.r.identity, FULL, world.r.address)
    world.run()
    named, theirs = (
        world.i.confirmed[0].schedule.next_psk(),
        world.r.accepted[0].schedule.next_psk(),
    )
    assert named == theirs
    world.r.psks = dict([theirs])
    world.i.call(world.r.identity, FULL, world.r.address, psk=named)
    world.run()
    assert len(world.i.confirmed) == len(world.r.accepted) == 2
    world.check_agreement()
    world.r.psks = {named[0]: b"another key of the same name ..."}
    world.i.call(world.r.identity, FULL, world.r.address, psk=named)
    world.run()
    assert len(world.i.confirmed) == 2
    world.r.psks = {}
    world.i.call(world.r.identity, FULL, world.r.address, psk=named)
    world.run()
    assert len(world.i.confirmed) == 2


def test_a_used_door_stays_shut_after_it_was_removed():
    """A removed door answers nobody."""
    world = World(seed=4)
    door = world.r.gate.add_door(DOOR)
    world.r.gate.remove_door(door)
    world.i.call(world.r.identity, FULL, world.r.address)
    world.run()
    assert world.r.sent == 0
    assert isinstance(world.i.errors[0], PeerUnreachable)
