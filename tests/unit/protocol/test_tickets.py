"""What is kept of tickets, and what a machine does with one."""

import sys
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.protocol.test_handshake import (
    ENDPOINTS,
    LOCAL,
    OURS,
    PEER,
    THEIRS,
    Schedule,
    until_verifying,
)
from veilnet.errors import LocalProtocolError, PeerMisbehaved
from veilnet.protocol.handshake import (
    Abandon,
    Accept,
    Acceptance,
    Accepted,
    Authenticate,
    Begun,
    Confirmed,
    Failed,
    Identity,
    Initiation,
    LocalIdentity,
    MessageOpened,
    Mode,
    Peer,
    SendHello,
    SessionConfirmed,
    Terms,
)
from veilnet.protocol.messages import Ticket, decode, encode
from veilnet.protocol.tickets import Shown, TicketStore, holder_of
from veilnet.protocol.work import Encapsulated, KemGenerated, PeerVerified, Signed, VerifyPeer
from veilnet.units import NetworkId, PeerId

NETWORK = NetworkId(b"N" * 32)
TICKET, KEY = b"t" * 96, b"k" * 32
SHOWN = Shown(ENDPOINTS[0], TICKET, KEY)
TERMS = Terms(suite=1, mode=Mode.TICKET, network_id=NETWORK, secret=b"K_net!" * 5)


def shown(endpoint: tuple[str, int]) -> Shown:
    """A ticket for *endpoint*."""
    return Shown(endpoint, TICKET, KEY)


@pytest.mark.parametrize("endpoint", [("192.0.2.1", 1), ("2001:db8::3", 65_535)])
def test_a_ticket_is_taken_once(endpoint):
    """What was put in comes out as it was, for that endpoint, once."""
    store = TicketStore()
    store.put(NETWORK, THEIRS, shown(endpoint), life_s=10, now=100.0)
    assert store.take(NETWORK, OURS, [endpoint], now=100.0) is None
    assert store.take(NETWORK, THEIRS, [("192.0.2.77", 1)], now=100.0) is None
    assert store.take(NETWORK, THEIRS, [("192.0.2.77", 1), endpoint], now=100.0) == shown(endpoint)
    assert store.take(NETWORK, THEIRS, [endpoint], now=100.0) is None
    assert len(store) == 0


def test_a_ticket_runs_out():
    """After its life it is none, and takes no place."""
    store = TicketStore()
    store.put(NETWORK, THEIRS, SHOWN, life_s=10, now=100.0)
    assert store.take(NETWORK, THEIRS, [ENDPOINTS[0]], now=110.0) is None
    assert len(store) == 0


def test_the_store_is_bounded():
    """The one that was put in first goes first, and a newer ticket of a peer counts as new."""
    store = TicketStore(limit=8)
    peers = [PeerId(bytes([n]) * 32) for n in range(1, 12)]
    for peer in (*peers[:8], peers[0], *peers[8:]):
        store.put(NETWORK, peer, SHOWN, life_s=10, now=0.0)
    assert len(store) == 8
    left = [peer for peer in peers if store.take(NETWORK, peer, [ENDPOINTS[0]], now=1.0)]
    assert left == [peers[0], *peers[4:]]


def test_a_peer_costs_less_than_250_bytes():
    """Name and row of one peer, as Python holds them."""
    store = TicketStore()
    store.put(NETWORK, THEIRS, SHOWN, life_s=10, now=0.0)
    ((name, row),) = store._rows.items()
    assert sys.getsizeof(name) + sys.getsizeof(row) <= 250


def test_a_thing_of_another_length_is_no_ticket():
    """A peer cannot make us keep more than a ticket is."""
    store = TicketStore()
    for wrong in (Shown(ENDPOINTS[0], b"t" * 97, KEY), Shown(ENDPOINTS[0], TICKET, b"k")):
        with pytest.raises(LocalProtocolError):
            store.put(NETWORK, THEIRS, wrong, life_s=10, now=0.0)
    assert len(store) == 0


def test_a_ticket_travels_over_control():
    """The message comes out as it went in, and shows neither ticket nor key in its repr."""
    message = Ticket(ticket=b"ticket!!" * 12, key=b"key!" * 8, life_s=60)
    assert decode(encode(message, 7)).message == message
    assert "ticket!!" not in repr(message)
    assert "key!" not in repr(message)
    assert b"ticket!!" not in repr(shown(ENDPOINTS[0])).encode()


def returning(**more: Any) -> Initiation:
    """A machine that comes back to the first endpoint with a ticket."""
    schedules: Any = Schedule
    given: dict[str, Any] = {"terms": TERMS, "ticket": SHOWN, **more}
    return Initiation(
        identity=LOCAL,
        responder=THEIRS,
        door_key=b"door" * 8,
        endpoints=ENDPOINTS,
        schedules=schedules,
        rng=Random(0),
        **given,
    )


def test_the_ticket_is_shown_at_its_endpoint_and_once():
    """The first thing sent carries it; the other endpoints, and what is repeated, do not."""
    machine = returning()
    machine.start(0.0)
    sent = list(machine.handle(KemGenerated(b"ek", b"dk"), 0.0))
    for now in (0.25, 0.5, 0.7, 1.5, 2.5):
        sent += machine.tick(now)
    hellos = [action for action in sent if isinstance(action, SendHello)]
    assert len(hellos) > 4
    assert [each.ticket for each in hellos[:1]] == [(TICKET, KEY)]
    assert all(each.ticket is None for each in hellos[1:])
    assert b"tttt".decode() not in repr(hellos)


def test_data_may_go_once_the_peer_is_verified():
    """With a ticket the session begins right behind AUTH, and is confirmed later."""
    machine = returning()
    until_verifying(machine)
    machine.handle(PeerVerified(PEER), 0.2)
    authenticate, begun = machine.handle(Signed(b"s"), 0.2)
    assert isinstance(authenticate, Authenticate)
    assert isinstance(begun, Begun)
    assert (begun.sid, begun.peer, begun.endpoint) == (77, PEER, ENDPOINTS[0])
    (confirmed,) = machine.handle(SessionConfirmed(), 0.3)
    assert isinstance(confirmed, Confirmed)
    assert (confirmed.sid, confirmed.peer) == (77, PEER)


def test_a_session_that_began_and_is_never_confirmed_fails():
    """AUTH is repeated in vain: the engine forgets, and the shell is told."""
    machine = returning()
    until_verifying(machine)
    machine.handle(PeerVerified(PEER), 0.2)
    machine.handle(Signed(b"s"), 0.2)
    abandon, failed = machine.tick(10.0)
    assert abandon == Abandon(77)
    assert isinstance(failed, Failed)


def test_a_ticket_and_its_mode_belong_together():
    """One without the other is a bug of the shell."""
    full = Terms(suite=1, mode=Mode.FULL, network_id=NETWORK, secret=b"K")
    for wrong in ({"ticket": None}, {"terms": full}):
        with pytest.raises(LocalProtocolError):
            returning(**wrong)


def accepting(holder: bytes | None, mode: int = 3) -> Acceptance:
    """An acceptance at a members' door that has sent RESP."""
    schedules: Any = Schedule
    init: Any = SimpleNamespace(
        suite=1, mode=mode, ek=b"ek", source=("192.0.2.9", 9), holder=holder
    )
    identity = LocalIdentity(peer_id=THEIRS, public_key=b"their key", credential=b"cred")
    full = Terms(suite=1, mode=Mode.FULL, network_id=NETWORK, secret=b"K")
    machine = Acceptance(init=init, terms=full, identity=identity, schedules=schedules)
    machine.start(0.0)
    machine.handle(Encapsulated(b"ct", b"ss"), 0.0)
    machine.handle(Signed(b"signature"), 0.0)
    e3 = Identity(public_key=b"our key", credential=b"our credential", signature=b"s").auth()
    (verify,) = machine.handle(MessageOpened(e3, ENDPOINTS[0]), 0.1)
    assert isinstance(verify, VerifyPeer)
    assert verify.member, "membership is asked for as without a ticket"
    return machine


@pytest.mark.parametrize("holder", [None, holder_of(NETWORK, OURS)], ids=["cookie", "ticket"])
def test_a_members_door_takes_tickets(holder):
    """Mode ticket is let in where full is, with its ticket or, when that failed, with a cookie."""
    peer = Peer(peer_id=OURS, public_key=b"our key", credential=b"our credential")
    accept, accepted = accepting(holder).handle(PeerVerified(peer), 0.2)
    assert accept == Accept(77, None)
    assert isinstance(accepted, Accepted)


def test_a_ticket_given_to_another_is_refused():
    """Whoever shows a ticket must be the one that it was given to, in that network."""
    peer = Peer(peer_id=OURS, public_key=b"our key", credential=b"our credential")
    for holder in (holder_of(NETWORK, THEIRS), holder_of(NetworkId(b"M" * 32), OURS)):
        abandon, failed = accepting(holder).handle(PeerVerified(peer), 0.2)
        assert abandon == Abandon(77)
        assert isinstance(failed, Failed)
        assert isinstance(failed.error, PeerMisbehaved)


def test_neither_joiners_nor_lookups_come_by_ticket():
    """At the door of an invite mode ticket meets silence."""
    schedules: Any = Schedule
    init: Any = SimpleNamespace(suite=1, mode=3, ek=b"ek", source=("192.0.2.9", 9), holder=None)
    identity = LocalIdentity(peer_id=THEIRS, public_key=b"k", credential=b"c")
    for mode in (Mode.JOIN, Mode.LOOKUP):
        terms = Terms(suite=1, mode=mode, network_id=NETWORK, secret=b"K")
        machine = Acceptance(init=init, terms=terms, identity=identity, schedules=schedules)
        *_, failed = machine.start(0.0)
        assert isinstance(failed, Failed)
