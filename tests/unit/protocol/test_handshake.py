from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from veilnet.errors import (
    InternalError,
    LocalProtocolError,
    PeerMisbehaved,
    PeerUnreachable,
    RemoteProtocolError,
    TimedOut,
)
from veilnet.protocol import initiation
from veilnet.protocol.handshake import (
    NOBODY,
    Abandon,
    Accept,
    Acceptance,
    Accepted,
    Authenticate,
    Begun,
    CandidateArrived,
    Confirmed,
    Dismiss,
    EndpointFound,
    Failed,
    Identity,
    Initiation,
    LocalIdentity,
    MessageOpened,
    Mode,
    Peer,
    Reject,
    Resend,
    Respond,
    SendHello,
    SessionConfirmed,
    Terms,
    Try,
)
from veilnet.protocol.work import (
    Decapsulate,
    Decapsulated,
    Encapsulate,
    Encapsulated,
    GenerateKem,
    KemGenerated,
    PeerVerified,
    Sign,
    Signed,
    VerifyPeer,
    WorkFailed,
)
from veilnet.units import NetworkId, PeerId

OURS, THEIRS = PeerId(b"I" * 32), PeerId(b"R" * 32)
ENDPOINTS = [("192.0.2.1", 1), ("192.0.2.2", 2), ("2001:db8::3", 3)]
TERMS = Terms(suite=1, mode=Mode.FULL, network_id=NetworkId(b"N" * 32), secret=b"K_net!" * 5)
LOCAL = LocalIdentity(peer_id=OURS, public_key=b"our key", credential=b"our credential")
PEER = Peer(peer_id=THEIRS, public_key=b"their key", credential=b"their credential")
E2 = Identity(public_key=b"their key", credential=b"their credential", signature=b"s").response()


class Schedule:
    """What the machines see of `KeySchedule`."""

    sid = 77
    com = b"com!"
    th2 = b"th2!"

    def __init__(self, **given: Any) -> None:
        self.given = given

    @classmethod
    def initiate(cls, **given: Any) -> "Schedule":
        """Begin."""
        return cls(**given)

    @classmethod
    def respond(cls, init: Any, **given: Any) -> "Schedule":
        """Answer."""
        if given["ct"] == b"zero":
            raise RemoteProtocolError("an all-zero X25519 result")
        return cls(init=init, **given)

    def absorb_response(self, message: bytes) -> bytes:
        """Return th3."""
        return b"th3(" + message[:1] + b")"


def initiation_to(*endpoints: tuple[str, int], nowhere: bool = False, **more: Any) -> Initiation:
    """A machine that calls the peer at *endpoints*, or does not know yet where."""
    schedules: Any = Schedule
    return Initiation(
        terms=TERMS,
        identity=LOCAL,
        responder=THEIRS,
        door_key=b"door" * 8,
        endpoints=() if nowhere else endpoints or ENDPOINTS,
        schedules=schedules,
        rng=Random(0),
        **more,
    )


def acceptance(init: Any = None, **more: Any) -> Acceptance:
    """A machine that answers an INIT."""
    schedules: Any = Schedule
    init = init or SimpleNamespace(suite=1, mode=0, ek=b"ek", source=("192.0.2.9", 9), holder=None)
    identity = LocalIdentity(peer_id=THEIRS, public_key=b"their key", credential=b"cred")
    return Acceptance(init=init, terms=TERMS, identity=identity, schedules=schedules, **more)


def hellos(actions: list[Any]) -> list[tuple[str, int]]:
    """The endpoints that are called."""
    return [action.endpoint for action in actions if isinstance(action, SendHello)]


def until_hello(machine: Initiation, now: float = 0.0) -> list[Any]:
    """Start *machine* and give it its key pair."""
    assert machine.start(now) == [GenerateKem()]
    return list(machine.handle(KemGenerated(b"ek", b"dk"), now))


def until_verifying(machine: Initiation) -> None:
    """Let the first endpoint's answer open."""
    until_hello(machine)
    assert machine.handle(CandidateArrived(0, b"ct", ENDPOINTS[0]), 0.1) == [
        Decapsulate(0, b"dk", b"ct")
    ]
    assert machine.handle(Decapsulated(0, b"ss"), 0.1) == [Try(77, 0, b"ss")]
    (verify,) = machine.handle(MessageOpened(E2, ENDPOINTS[0]), 0.2)
    assert isinstance(verify, VerifyPeer)
    assert (verify.transcript, verify.expected, verify.member) == (b"th2!", THEIRS, True)


def test_an_initiation_from_start_to_session():
    """Every step asks for the next, and the result names the peer and where it is."""
    machine = initiation_to()
    until_verifying(machine)
    assert machine.handle(PeerVerified(PEER), 0.2) == [
        Sign(b"th3(" + E2[:1] + b")" + OURS + THEIRS, b"veilnet/hs1/init")
    ]
    (authenticate,) = machine.handle(Signed(b"signature"), 0.2)
    assert isinstance(authenticate, Authenticate)
    e3 = Identity.of_auth(authenticate.message)
    assert (e3.public_key, e3.credential, e3.psk_name) == (b"our key", b"our credential", None)
    (confirmed,) = machine.handle(SessionConfirmed(), 0.3)
    assert isinstance(confirmed, Confirmed)
    assert (confirmed.sid, confirmed.peer, confirmed.endpoint) == (77, PEER, ENDPOINTS[0])
    assert machine.deadline() is None
    assert machine.handle(SessionConfirmed(), 0.4) == machine.tick(99.0) == machine.cancel() == []


def test_a_dead_first_endpoint_costs_a_quarter_of_a_second():
    """Endpoints are called 250 ms apart, in the order given, each once."""
    machine = initiation_to()
    assert hellos(until_hello(machine)) == ENDPOINTS[:1]
    assert machine.deadline() == pytest.approx(0.25)
    assert hellos(machine.tick(0.25)) == ENDPOINTS[1:2]
    assert machine.deadline() == pytest.approx(0.5)
    assert ENDPOINTS[2] in hellos(machine.tick(0.5))


def test_calls_are_repeated_ever_more_slowly():
    """One endpoint hears from us after 0.5, 1, 2, 2 ... seconds, each with some jitter."""
    machine = initiation_to(ENDPOINTS[0], timeout_s=30.0)
    until_hello(machine)
    now, gaps = 0.0, []
    while (due := machine.deadline()) is not None and due < 30.0:
        gaps.append(due - now)
        now = due
        assert hellos(machine.tick(now)) == ENDPOINTS[:1]
    for gap, base in zip(gaps, [0.5, 1.0, 2.0, 2.0, 2.0], strict=False):
        assert base <= gap <= 1.2 * base
    assert len({gap / 2.0 for gap in gaps[2:]}) > 1


def test_an_answer_delays_calls_not_yet_made():
    """Once somebody answers, the next endpoint waits half a second."""
    machine = initiation_to()
    until_hello(machine)
    machine.handle(CandidateArrived(0, b"ct", ENDPOINTS[0]), 0.1)
    assert hellos(machine.tick(0.25)) == []
    assert ENDPOINTS[1] in hellos(machine.tick(0.6))


def test_nobody_there():
    """Without any answer the error says where we looked, and the engine forgets."""
    machine = initiation_to()
    until_hello(machine)
    abandon, failed = machine.tick(10.0)
    assert abandon == Abandon(77)
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, PeerUnreachable)
    assert "192.0.2.1 port 1" in str(failed.error)
    assert machine.handle(KemGenerated(b"", b""), 11.0) == []


def test_an_endpoint_found_late_is_called_at_once():
    """A circuit that opened while the others stay silent is called in the same moment, once."""
    machine = initiation_to(ENDPOINTS[0])
    until_hello(machine)
    circuit = ("100:0:1:2::3:4", 1)
    assert hellos(machine.handle(EndpointFound(circuit), 0.1)) == [circuit]
    assert machine.handle(EndpointFound(circuit), 0.1) == []
    assert machine.deadline() == pytest.approx(0.5, abs=0.11)
    machine.handle(CandidateArrived(0, b"ct", circuit), 0.2)
    machine.handle(MessageOpened(E2, circuit), 0.2)
    machine.handle(PeerVerified(PEER), 0.2)
    machine.handle(Signed(b"s"), 0.2)
    (confirmed,) = machine.handle(SessionConfirmed(), 0.3)
    assert isinstance(confirmed, Confirmed)
    assert confirmed.endpoint == circuit


def test_an_endpoint_found_before_there_are_keys_is_called_with_the_others():
    """While the key pair is made nothing is sent; then all known endpoints have their turn."""
    machine = initiation_to(ENDPOINTS[0])
    machine.start(0.0)
    assert machine.handle(EndpointFound(ENDPOINTS[1]), 0.0) == []
    machine.handle(KemGenerated(b"ek", b"dk"), 0.0)
    assert hellos(machine.tick(0.25)) == [ENDPOINTS[1]]


def test_the_first_endpoint_may_come_late():
    """A call can begin before anybody knows where to; its commitment is there to be shown."""
    machine = initiation_to(nowhere=True)
    assert machine.com is None
    assert until_hello(machine) == []
    assert machine.com == b"com!"
    assert hellos(machine.handle(EndpointFound(ENDPOINTS[0]), 1.0)) == [ENDPOINTS[0]]
    lost = initiation_to(nowhere=True)
    until_hello(lost)
    _, failed = lost.tick(10.0)
    assert "no way to" in failed.error.message


def test_a_cookie_is_shown_once():
    """With the first call of the circuit that brought it; the engine knows it from then on."""
    machine = initiation_to(ENDPOINTS[0])
    until_hello(machine)
    circuit = ("100:0:1:2::3:4", 1)
    (call,) = machine.handle(EndpointFound(circuit, b"cookie"), 0.1)
    assert (call.endpoint, call.cookie) == (circuit, b"cookie")
    again = {call.endpoint: call.cookie for call in machine.tick(0.9)}
    assert again == {ENDPOINTS[0]: None, circuit: None}


@pytest.mark.parametrize("eager", [False, True])
def test_data_follows_auth_if_nothing_else_carries_it(eager):
    """The session begins with AUTH, or with the ACK; either way it is confirmed by that."""
    machine = initiation_to(eager=eager)
    until_verifying(machine)
    machine.handle(PeerVerified(PEER), 0.3)
    actions = machine.handle(Signed(b"s"), 0.3)
    assert [type(action) for action in actions] == [Authenticate] + [Begun] * eager
    (confirmed,) = machine.handle(SessionConfirmed(), 0.4)
    assert isinstance(confirmed, Confirmed)


def test_an_endpoint_found_while_a_peer_proves_itself_waits():
    """It is called only if what answered before turns out to be false."""
    machine = initiation_to(ENDPOINTS[0])
    until_verifying(machine)
    assert machine.handle(EndpointFound(ENDPOINTS[1]), 0.3) == []
    machine.handle(WorkFailed(PeerMisbehaved("another identity")), 0.4)
    assert ENDPOINTS[1] in hellos(machine.tick(0.4))


def test_endpoints_found_are_bounded():
    """No flood of addresses makes one handshake send to more than eight of them."""
    machine = initiation_to(ENDPOINTS[0])
    until_hello(machine)
    found = [machine.handle(EndpointFound(("192.0.2.5", port)), 0.1) for port in range(1, 100)]
    assert len([endpoint for actions in found for endpoint in hellos(actions)]) == 7


def test_the_error_names_no_address_that_is_none():
    """A circuit's endpoint means nothing to people."""
    machine = initiation_to(ENDPOINTS[0])
    until_hello(machine)
    machine.handle(EndpointFound(("100:0:1:2::3:4", 1)), 0.1)
    _, failed = machine.tick(10.0)
    assert "192.0.2.1 port 1 or through a relay" in failed.error.message
    assert "100:" not in failed.error.message


def test_a_false_peer_does_not_stop_the_true_one():
    """What does not verify is rejected; the true peer may answer for three more seconds."""
    machine = initiation_to()
    until_verifying(machine)
    false = WorkFailed(PeerMisbehaved("another identity"))
    assert machine.handle(false, 1.0) == [Reject(77)]
    assert machine.handle(CandidateArrived(1, b"ct2", ENDPOINTS[1]), 1.5) == [
        Decapsulate(1, b"dk", b"ct2")
    ]
    machine.handle(MessageOpened(E2, ENDPOINTS[1]), 1.6)
    machine.handle(PeerVerified(PEER), 1.7)
    machine.handle(Signed(b"s"), 1.8)
    (confirmed,) = machine.handle(SessionConfirmed(), 1.9)
    assert isinstance(confirmed, Confirmed)
    assert confirmed.endpoint == ENDPOINTS[1]


def test_a_false_peer_alone_is_the_error():
    """If nobody better comes within three seconds, the reason is what did not verify."""
    machine = initiation_to()
    until_verifying(machine)
    error = PeerMisbehaved("another identity")
    machine.handle(WorkFailed(error), 1.0)
    assert machine.tick(3.9)[-1:] != [Failed(error)]
    assert machine.tick(4.0) == [Abandon(77), Failed(error)]


def test_a_message_that_is_no_identity_is_rejected():
    """e2 of the wrong shape is one more false answer."""
    machine = initiation_to()
    until_hello(machine)
    assert machine.handle(MessageOpened(b"\xff", ENDPOINTS[0]), 0.1) == [Reject(77)]


def test_key_parts_cost_a_bounded_number_of_decapsulations():
    """Whoever holds the door key can make us decapsulate sixteen times and no more."""
    machine = initiation_to()
    until_hello(machine)
    asked = [machine.handle(CandidateArrived(n % 40, b"ct", ENDPOINTS[0]), 0.1) for n in range(99)]
    assert sum(map(len, asked)) == initiation.MAX_CANDIDATES
    assert machine.handle(Decapsulated(0, None), 0.1) == []


def test_auth_is_sent_again_until_it_is_acknowledged():
    """AUTH is repeated; a peer that never confirms is the error."""
    machine = initiation_to()
    until_verifying(machine)
    machine.handle(PeerVerified(PEER), 0.2)
    machine.handle(Signed(b"s"), 0.2)
    due = machine.deadline()
    assert due is not None
    assert 0.7 <= due <= 0.8
    assert machine.tick(due) == [Resend(77)]
    assert machine.tick(due) == []
    abandon, failed = machine.tick(10.0)
    assert abandon == Abandon(77)
    assert isinstance(failed, Failed)
    assert "never confirmed" in failed.error.message


def test_a_shared_key_travels_by_name():
    """The psk's name stands in e3 and its bytes go to the engine alone."""
    machine = initiation_to(psk=(b"name", b"P" * 32))
    until_verifying(machine)
    machine.handle(PeerVerified(PEER), 0.2)
    (authenticate,) = machine.handle(Signed(b"s"), 0.2)
    assert isinstance(authenticate, Authenticate)
    assert authenticate.psk == b"P" * 32
    assert Identity.of_auth(authenticate.message).psk_name == b"name"
    assert b"PPPP" not in authenticate.message


def test_cancelling_forgets_without_an_error():
    """A handshake that another session made needless ends in silence."""
    machine = initiation_to()
    until_hello(machine)
    assert machine.cancel() == [Abandon(77)]
    assert machine.cancel() == []
    assert initiation_to().cancel() == []


def test_the_shells_bugs_are_its_own():
    """Results that nobody asked for, and no or too many endpoints, are LocalProtocolErrors."""
    machine = initiation_to()
    with pytest.raises(LocalProtocolError):
        machine.handle(Signed(b"s"), 0.0)
    machine.start(0.0)
    with pytest.raises(LocalProtocolError):
        machine.start(0.0)
    with pytest.raises(LocalProtocolError):
        initiation_to(*[("192.0.2.1", port) for port in range(1, 10)])
    with pytest.raises(LocalProtocolError):
        acceptance().handle(Signed(b"s"), 0.0)


def test_an_acceptance_from_init_to_session():
    """Every step asks for the next; the peer is who signed."""
    machine = acceptance()
    assert machine.start(0.0) == [Encapsulate(b"ek")]
    assert machine.handle(Encapsulated(b"ct", b"ss"), 0.0) == [
        Sign(b"th2!" + THEIRS, b"veilnet/hs1/resp")
    ]
    (respond,) = machine.handle(Signed(b"signature"), 0.0)
    assert isinstance(respond, Respond)
    assert Identity.of_response(respond.message).credential == b"cred"
    e3 = Identity(public_key=b"our key", credential=b"our credential", signature=b"s").auth()
    (verify,) = machine.handle(MessageOpened(e3, ENDPOINTS[0]), 0.1)
    assert isinstance(verify, VerifyPeer)
    assert verify.expected is None
    assert verify.transcript == b"th3(" + respond.message[:1] + b")"
    assert machine.handle(MessageOpened(e3, ENDPOINTS[0]), 0.1) == []
    peer = Peer(peer_id=OURS, public_key=b"our key", credential=b"our credential")
    accept, accepted = machine.handle(PeerVerified(peer), 0.2)
    assert accept == Accept(77, None)
    assert isinstance(accepted, Accepted)
    assert (accepted.peer, accepted.endpoint) == (peer, ENDPOINTS[0])
    assert machine.deadline() is None
    assert machine.tick(99.0) == machine.cancel() == []


@pytest.mark.parametrize(("suite", "mode"), [(2, 0), (1, 1), (1, 2)])
def test_another_suite_or_mode_meets_silence(suite, mode):
    """An INIT that does not fit its door costs no KEM and gets no reply."""
    init: Any = SimpleNamespace(
        suite=suite, mode=mode, ek=b"ek", source=("192.0.2.9", 9), holder=None
    )
    dismiss, failed = acceptance(init).start(0.0)
    assert dismiss == Dismiss(init)
    assert isinstance(failed, Failed)


def test_a_key_that_cannot_be_meets_silence():
    """An all-zero X25519 result, or a bad KEM key, ends before anything was answered."""
    machine = acceptance()
    machine.start(0.0)
    dismiss, _ = machine.handle(Encapsulated(b"zero", b"ss"), 0.0)
    assert isinstance(dismiss, Dismiss)
    machine = acceptance()
    machine.start(0.0)
    dismiss, _ = machine.handle(WorkFailed(RemoteProtocolError("no key")), 0.0)
    assert isinstance(dismiss, Dismiss)


def answered(**more: Any) -> Acceptance:
    """An acceptance that has sent RESP."""
    machine = acceptance(**more)
    machine.start(0.0)
    machine.handle(Encapsulated(b"ct", b"ss"), 0.0)
    machine.handle(Signed(b"signature"), 0.0)
    return machine


def test_an_initiator_that_does_not_verify_gets_no_session():
    """Forged, malformed and nameless AUTHs are abandoned."""
    e3 = Identity(public_key=b"k", credential=b"c", signature=b"s")
    for message in (b"\xff", e3.response(), Identity.of_auth(e3.auth()).response()):
        abandon, failed = answered().handle(MessageOpened(message, ENDPOINTS[0]), 0.1)
        assert abandon == Abandon(77)
        assert isinstance(failed, Failed)
    machine = answered()
    machine.handle(MessageOpened(e3.auth(), ENDPOINTS[0]), 0.1)
    error = PeerMisbehaved("not its signature")
    assert machine.handle(WorkFailed(error), 0.1) == [Abandon(77), Failed(error)]


def test_an_initiator_that_never_comes_back_is_forgotten():
    """Ten seconds after INIT the attempt ends."""
    machine = answered()
    assert machine.deadline() == 10.0
    assert machine.tick(9.9) == []
    abandon, failed = machine.tick(10.0)
    assert abandon == Abandon(77)
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, TimedOut)


def test_a_named_key_must_be_one_we_share():
    """A psk is looked up by name; an unknown name is no session."""
    e3 = Identity(public_key=b"k", credential=b"c", signature=b"s", psk_name=b"name").auth()
    _, failed = answered().handle(MessageOpened(e3, ENDPOINTS[0]), 0.1)
    assert isinstance(failed, Failed)
    machine = answered(psks={b"name": b"P" * 32})
    machine.handle(MessageOpened(e3, ENDPOINTS[0]), 0.1)
    peer = Peer(peer_id=OURS, public_key=b"k", credential=b"c", psk_name=b"name")
    accept, _ = machine.handle(PeerVerified(peer), 0.1)
    assert accept == Accept(77, b"P" * 32)


def test_a_named_key_is_taken_once():
    """A key that a new generation replaces while AUTH is verified still binds that handshake."""
    keys = {b"name": b"P" * 32}
    machine = answered(psks=keys)
    e3 = Identity(public_key=b"k", credential=b"c", signature=b"s", psk_name=b"name").auth()
    machine.handle(MessageOpened(e3, ENDPOINTS[0]), 0.1)
    keys.clear()
    peer = Peer(peer_id=OURS, public_key=b"k", credential=b"c", psk_name=b"name")
    accept, _ = machine.handle(PeerVerified(peer), 0.1)
    assert accept == Accept(77, b"P" * 32)


def test_a_node_does_not_talk_to_itself():
    """An AUTH of our own identity is no session."""
    machine = answered()
    e3 = Identity(public_key=b"k", credential=b"c", signature=b"s").auth()
    machine.handle(MessageOpened(e3, ENDPOINTS[0]), 0.1)
    ourselves = Peer(peer_id=THEIRS, public_key=b"k", credential=b"c")
    abandon, failed = machine.handle(PeerVerified(ourselves), 0.1)
    assert abandon == Abandon(77)
    assert isinstance(failed, Failed)


def test_no_secret_is_shown():
    """Keys, door keys and KEM secrets are in no repr."""
    machine = initiation_to(psk=(b"name", b"P" * 32))
    shown = [machine, *until_hello(machine)]
    shown += machine.handle(CandidateArrived(0, b"ct", ENDPOINTS[0]), 0.1)
    shown += [KemGenerated(b"ek", b"dk-secret"), *machine.handle(Decapsulated(0, b"ss-secret"), 0)]
    for secret in ("K_net!", "doordoor", "PPPP", "b'dk", "ss-secret"):
        assert secret not in repr(shown)


def test_an_error_of_the_engine_ends_the_attempt():
    """An engine call that raised is given back as WorkFailed."""
    machine = answered()
    error = InternalError("broken")
    assert machine.handle(WorkFailed(error), 0.0) == [Abandon(77), Failed(error)]


LOOKUP = Terms(suite=1, mode=Mode.LOOKUP, network_id=NetworkId(b"N" * 32), secret=b"commons")


def lookup_at(*endpoints: tuple[str, int], **more: Any) -> Initiation:
    """A machine that looks something up at whoever is there."""
    schedules: Any = Schedule
    return Initiation(
        terms=LOOKUP,
        door_key=b"door" * 8,
        endpoints=endpoints or ENDPOINTS,
        schedules=schedules,
        rng=Random(0),
        **{"identity": None, "responder": NOBODY, **more},
    )


def test_a_lookup_from_start_to_session():
    """A lookup asks for no signature, and ends when the engine has its session."""
    machine = lookup_at()
    assert hellos(until_hello(machine)) == ENDPOINTS[:1]
    machine.handle(CandidateArrived(0, b"ct", ENDPOINTS[0]), 0.1)
    assert machine.handle(Decapsulated(0, b"ss"), 0.1) == [Try(77, 0, b"ss")]
    (confirmed,) = machine.handle(MessageOpened(b"", ENDPOINTS[0]), 0.2)
    assert isinstance(confirmed, Confirmed)
    assert (confirmed.sid, confirmed.peer, confirmed.endpoint) == (77, None, ENDPOINTS[0])
    assert machine.deadline() is None
    assert machine.cancel() == []


def test_a_lookup_that_nobody_answers_says_so():
    """Its error speaks of the commons, not of a peer whose id is all zero."""
    machine = lookup_at(ENDPOINTS[0])
    until_hello(machine)
    _, failed = machine.tick(10.0)
    assert failed.error.message == "no node of the commons answers at 192.0.2.1 port 1"


def test_a_lookup_names_nobody():
    """An identity in a lookup, or a handshake without one, is a bug of the shell."""
    for wrong in ({"identity": LOCAL}, {"responder": THEIRS}):
        with pytest.raises(LocalProtocolError):
            lookup_at(**wrong)
    schedules: Any = Schedule
    with pytest.raises(LocalProtocolError):
        Initiation(
            terms=TERMS,
            identity=None,
            responder=THEIRS,
            door_key=b"door" * 8,
            endpoints=ENDPOINTS,
            schedules=schedules,
            rng=Random(0),
        )


def test_answering_a_lookup():
    """RESP is all that is sent, under the id of nobody, and the session is there."""
    schedules: Any = Schedule
    init: Any = SimpleNamespace(suite=1, mode=2, ek=b"ek", source=("192.0.2.9", 9), holder=None)
    identity = LocalIdentity(peer_id=THEIRS, public_key=b"their key", credential=b"")
    machine = Acceptance(init=init, terms=LOOKUP, identity=identity, schedules=schedules)
    assert machine.start(0.0) == [Encapsulate(b"ek")]
    respond, accepted = machine.handle(Encapsulated(b"ct", b"ss"), 0.0)
    assert isinstance(respond, Respond)
    assert respond.message == b""
    assert respond.schedule.given["responder_id"] == NOBODY
    assert isinstance(accepted, Accepted)
    assert (accepted.sid, accepted.peer, accepted.endpoint) == (77, None, init.source)
    assert machine.deadline() is None
    assert machine.cancel() == machine.handle(MessageOpened(b"", init.source), 0.1) == []
