"""The calling end of VNH1: one peer, up to eight endpoints, one session or one error.

```
NEW -start-> GENERATING -KemGenerated-> HELLO -MessageOpened-> VERIFYING -PeerVerified-> SIGNING
     -Signed-> CONFIRMING -SessionConfirmed-> DONE            (any) -WorkFailed, deadline-> DONE
VERIFYING -WorkFailed-> HELLO (another may have answered in the peer's place)
lookup:  HELLO -MessageOpened (empty)-> DONE
```
Invariant: `Confirmed` is returned at most once, after `PeerVerified` and `SessionConfirmed` (of a
lookup, which asks nobody who it is, once the engine has the session), and nothing follows it; after
`Failed` nothing follows either, and the engine was told to forget.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

from attrs import define, field

from veilnet.errors import LocalProtocolError, PeerUnreachable, RemoteProtocolError, VeilError
from veilnet.protocol.circuit import is_circuit
from veilnet.protocol.identity import (
    AUTH_CONTEXT,
    RESPONSE_CONTEXT,
    Identity,
    LocalIdentity,
    Peer,
)
from veilnet.protocol.steps import (
    NOBODY,
    Abandon,
    Action,
    Authenticate,
    Begun,
    CandidateArrived,
    Confirmed,
    EndpointFound,
    Event,
    Failed,
    MessageOpened,
    Mode,
    Reject,
    Resend,
    Schedules,
    SendHello,
    SessionConfirmed,
    Terms,
    Try,
)
from veilnet.protocol.work import (
    Decapsulate,
    Decapsulated,
    GenerateKem,
    KemGenerated,
    PeerVerified,
    Sign,
    Signed,
    VerifyPeer,
    WorkFailed,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from random import Random

    from veilnet._engine import KeySchedule
    from veilnet.protocol.fields import Endpoint
    from veilnet.protocol.tickets import Shown
    from veilnet.units import PeerId

MAX_ENDPOINTS: Final = 8
RACE_S: Final = 0.25
"""A dead first endpoint delays the handshake by this and no more."""
RETRANSMIT_S: Final = 0.5
MAX_RETRANSMIT_S: Final = 2.0
JITTER: Final = 0.2
TIMEOUT_S: Final = 10.0
MAX_CANDIDATES: Final = 16
"""Anybody who holds the door key may send key parts: so many are decapsulated at most."""
REJECTION_GRACE_S: Final = 3.0
"""How long the true peer may still answer after a false one did."""


class Calling(enum.Enum):
    """Where an `Initiation` stands."""

    NEW = enum.auto()
    GENERATING = enum.auto()
    HELLO = enum.auto()
    VERIFYING = enum.auto()
    SIGNING = enum.auto()
    CONFIRMING = enum.auto()
    DONE = enum.auto()


@define
class _Timer:
    """Retransmission of one thing: 0.5 s, doubled, each with its own jitter."""

    due_s: float
    interval_s: float = RETRANSMIT_S

    def rewind(self, now: float, rng: Random) -> None:
        self.due_s = now + self.interval_s * (1 + JITTER * rng.random())
        self.interval_s = min(2 * self.interval_s, MAX_RETRANSMIT_S)


@define(kw_only=True)
class Initiation:
    """One attempt to open a session with a known peer, at any of its endpoints.

    More endpoints may be found while it runs, or the first: `EndpointFound`.  A lookup opens one
    with whoever is there: without *identity*, with `NOBODY` for *responder*.
    Units: *now* and *timeout_s* seconds, monotonic.
    """

    terms: Terms
    identity: LocalIdentity | None
    responder: PeerId
    door_key: bytes = field(repr=False)
    endpoints: Sequence[Endpoint]
    schedules: Schedules = field(repr=False)
    rng: Random = field(repr=False)
    psk: tuple[bytes, bytes] | None = field(repr=False, default=None)
    """Name and key, if both ends share one."""
    ticket: Shown | None = None
    """What opens the handshake at one of the endpoints in one round trip."""
    eager: bool = False
    """Whether data follows AUTH, because no other session carries it; with a ticket it does."""
    timeout_s: float = TIMEOUT_S
    state: Calling = field(init=False, default=Calling.NEW)
    _schedule: KeySchedule | None = field(init=False, default=None, repr=False)
    _dk: bytes = field(init=False, default=b"", repr=False)
    _deadline_s: float = field(init=False, default=0.0)
    _calls: dict[Endpoint, _Timer] = field(init=False, factory=dict)
    _auth: _Timer = field(init=False, factory=lambda: _Timer(0.0))
    _candidates: set[int] = field(init=False, factory=set)
    _th3: bytes = field(init=False, default=b"", repr=False)
    _message: bytes = field(init=False, default=b"", repr=False)
    _peer: Peer | None = field(init=False, default=None)
    _source: Endpoint | None = field(init=False, default=None)
    _rejected: VeilError | None = field(init=False, default=None)
    _cookies: dict[Endpoint, bytes] = field(init=False, factory=dict, repr=False)
    """By circuit; the engine takes each once."""

    def __attrs_post_init__(self) -> None:
        if len(set(self.endpoints)) > MAX_ENDPOINTS:
            raise LocalProtocolError(f"a handshake has at most {MAX_ENDPOINTS} endpoints to try")
        lookup = self.terms.mode is Mode.LOOKUP
        if (self.identity is None) != lookup or (self.responder == NOBODY) != lookup:
            raise LocalProtocolError("a lookup names nobody, every other handshake both sides")
        if (self.ticket is not None) != (self.terms.mode is Mode.TICKET):
            raise LocalProtocolError("a ticket and its mode belong together")

    @property
    def sid(self) -> int | None:
        """This side's session id, once there is one: engine events carry it."""
        return None if self._schedule is None else self._schedule.sid

    @property
    def com(self) -> bytes | None:
        """The commitment to this side's INIT, once there is one: circuits bring cookies for it."""
        return None if self._schedule is None else self._schedule.com

    def start(self, now: float) -> list[Action]:
        """Begin.   Raises: LocalProtocolError: it had begun."""
        if self.state is not Calling.NEW:
            raise LocalProtocolError("this handshake has begun already")
        self.state = Calling.GENERATING
        self._deadline_s = now + self.timeout_s
        return [GenerateKem()]

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take what the engine or a worker reports.

        Raises: LocalProtocolError: the event cannot follow what was asked for.
        """
        if self.state is Calling.DONE:
            return []  # a worker that came too late
        if isinstance(event, WorkFailed):
            if self.state is Calling.VERIFYING:
                return self._reject(event.error, now)
            return self._fail(event.error)
        if isinstance(event, EndpointFound):
            return self._found(event, now)
        act = _INITIATION.get((self.state, type(event)))
        if act is not None:
            return act(self, event, now)
        if isinstance(event, CandidateArrived | MessageOpened | SessionConfirmed | Decapsulated):
            return []  # a repeat, or a second candidate behind the one that opened
        raise LocalProtocolError(f"{type(event).__name__} while {self.state.name}")

    def tick(self, now: float) -> list[Action]:
        """Send what is due; call at `deadline()`."""
        if self.state in (Calling.NEW, Calling.DONE):
            return []
        if now >= self._deadline_s:
            return self._fail(self._timed_out())
        actions: list[Action] = []
        if self.state is Calling.HELLO:
            schedule = self._keyed()
            for endpoint, timer in self._calls.items():
                if now >= timer.due_s:
                    first = timer.interval_s == RETRANSMIT_S
                    timer.rewind(now, self.rng)
                    actions.append(self._hello(schedule, endpoint, first=first))
        elif self.state is Calling.CONFIRMING and now >= self._auth.due_s:
            self._auth.rewind(now, self.rng)
            actions.append(Resend(self._keyed().sid))
        return actions

    def _hello(self, schedule: KeySchedule, endpoint: Endpoint, *, first: bool) -> SendHello:
        ticket = None
        if first and self.ticket is not None and self.ticket.endpoint == endpoint:
            ticket = (self.ticket.ticket, self.ticket.key)
        cookie = self._cookies.pop(endpoint, None)
        return SendHello(schedule, self.door_key, endpoint, ticket, cookie)

    def deadline(self) -> float | None:
        """Return when `tick` must run; None before the start and after the end."""
        if self.state in (Calling.NEW, Calling.DONE):
            return None
        due = [self._deadline_s]
        if self.state is Calling.HELLO:
            due += [timer.due_s for timer in self._calls.values()]
        elif self.state is Calling.CONFIRMING:
            due.append(self._auth.due_s)
        return min(due)

    def cancel(self) -> list[Action]:
        """Give up without an error, because another session made this one needless."""
        if self.state is Calling.DONE:
            return []
        return self._forget()

    # --- transitions ---------------------------------------------------------------------------

    def _generated(self, event: KemGenerated, now: float) -> list[Action]:
        terms = self.terms
        self._schedule = self.schedules.initiate(
            suite=terms.suite,
            mode=terms.mode,
            network_id=terms.network_id,
            secret=terms.secret,
            responder_id=self.responder,
            ek=event.ek,
        )
        self._dk = event.dk
        self._calls = {
            endpoint: _Timer(now + position * RACE_S)
            for position, endpoint in enumerate(dict.fromkeys(self.endpoints))
        }
        self.state = Calling.HELLO
        return self.tick(now)

    def _found(self, event: EndpointFound, now: float) -> list[Action]:
        """Call one more endpoint at once; beyond `MAX_ENDPOINTS` none is taken."""
        endpoint = event.endpoint
        if endpoint in self.endpoints or len(set(self.endpoints)) >= MAX_ENDPOINTS:
            return []
        self.endpoints = (*self.endpoints, endpoint)
        if event.cookie is not None:
            self._cookies[endpoint] = event.cookie
        if self.state in (Calling.NEW, Calling.GENERATING):
            return []
        # Whoever is proving itself just now may be false: then this one is called.
        self._calls[endpoint] = _Timer(now)
        return self.tick(now)

    def _candidate(self, event: CandidateArrived, now: float) -> list[Action]:
        if event.candidate in self._candidates or len(self._candidates) >= MAX_CANDIDATES:
            return []
        self._candidates.add(event.candidate)
        for timer in self._calls.values():
            # Somebody answered: calls not yet made wait until it has had time to prove itself.
            if timer.interval_s == RETRANSMIT_S:
                timer.due_s = max(timer.due_s, now + RETRANSMIT_S)
        return [Decapsulate(event.candidate, self._dk, event.ct)]

    def _decapsulated(self, event: Decapsulated, now: float) -> list[Action]:
        del now
        if event.ss is None:
            return []
        return [Try(self._keyed().sid, event.candidate, event.ss)]

    def _opened(self, event: MessageOpened, now: float) -> list[Action]:
        if self.terms.mode is Mode.LOOKUP:
            self.state = Calling.DONE
            self._dk = b""
            schedule = self._keyed()
            return [
                Confirmed(sid=schedule.sid, peer=None, endpoint=event.source, schedule=schedule)
            ]
        try:
            identity = Identity.of_response(event.message)
        except RemoteProtocolError as error:
            return self._reject(error, now)
        self._source, self._message = event.source, event.message
        self.state = Calling.VERIFYING
        return [
            VerifyPeer(
                identity=identity,
                transcript=self._keyed().th2,
                context=RESPONSE_CONTEXT,
                expected=self.responder,
                responder=self.responder,
                member=True,
            )
        ]

    def _reject(self, error: VeilError, now: float) -> list[Action]:
        """Go on listening: another member may have answered in the peer's place."""
        self._rejected = error
        self._deadline_s = min(self._deadline_s, now + REJECTION_GRACE_S)
        self.state = Calling.HELLO
        return [Reject(self._keyed().sid)]

    def _verified(self, event: PeerVerified, now: float) -> list[Action]:
        del now
        self._peer = event.peer
        self._dk = b""
        self._th3 = self._keyed().absorb_response(self._message)
        self.state = Calling.SIGNING
        return [Sign(self._th3 + self._own().peer_id + self.responder, AUTH_CONTEXT)]

    def _signed(self, event: Signed, now: float) -> list[Action]:
        name, key = self.psk or (None, None)
        message = Identity(
            public_key=self._own().public_key,
            credential=self._own().credential,
            signature=event.signature,
            psk_name=name,
        ).auth()
        self.state = Calling.CONFIRMING
        self._auth.rewind(now, self.rng)
        authenticate = Authenticate(self._keyed().sid, message, key)
        if self.ticket is None and not self.eager:
            return [authenticate]
        schedule = self._keyed()
        peer, source = self._proven()
        begun = Begun(sid=schedule.sid, peer=peer, endpoint=source, schedule=schedule)
        return [authenticate, begun]

    def _confirmed(self, event: SessionConfirmed, now: float) -> list[Action]:
        del event, now
        self.state = Calling.DONE
        schedule = self._keyed()
        peer, source = self._proven()
        return [Confirmed(sid=schedule.sid, peer=peer, endpoint=source, schedule=schedule)]

    # --- ends ----------------------------------------------------------------------------------

    def _keyed(self) -> KeySchedule:
        if self._schedule is None:
            raise LocalProtocolError("this handshake has no keys yet")
        return self._schedule

    def _proven(self) -> tuple[Peer, Endpoint]:
        if self._peer is None or self._source is None:
            raise LocalProtocolError("a session was confirmed before its peer was verified")
        return self._peer, self._source

    def _own(self) -> LocalIdentity:
        if self.identity is None:
            raise LocalProtocolError("a lookup has no identity to show")
        return self.identity

    def _timed_out(self) -> VeilError:
        anybody = self.responder == NOBODY
        who = "a node of the commons" if anybody else f"peer {self.responder.hex()[:12]}"
        if self.state is Calling.CONFIRMING:
            return PeerUnreachable(
                f"peer {self.responder.hex()[:12]} proved itself, but never confirmed the session",
                hint="Try again; if it stays, the peer may refuse this node's membership.",
            )
        if self._rejected is not None:
            return self._rejected
        if self._candidates:
            return PeerUnreachable(f"something answered, but could not prove that it is {who}")
        if not self.endpoints:
            return PeerUnreachable(f"no way to {who} was found in time")
        direct = [each for each in self.endpoints if not is_circuit(each)]
        where = [f"at {', '.join(f'{host} port {port}' for host, port in direct)}"] * bool(direct)
        where += ["through a relay"] * (len(direct) < len(self.endpoints))
        subject = "no node of the commons answers" if anybody else f"{who} does not answer"
        return PeerUnreachable(f"{subject} {' or '.join(where)}")

    def _fail(self, error: VeilError) -> list[Action]:
        return [*self._forget(), Failed(error)]

    def _forget(self) -> list[Action]:
        self.state = Calling.DONE
        self._dk = b""
        return [] if self._schedule is None else [Abandon(self._schedule.sid)]


# Events of `handle` that move an Initiation; everything else is late, a repeat, or a bug.
_INITIATION: Final[Mapping[tuple[Calling, type], Callable[..., list[Action]]]] = {
    (Calling.GENERATING, KemGenerated): Initiation._generated,  # noqa: SLF001
    (Calling.HELLO, CandidateArrived): Initiation._candidate,  # noqa: SLF001
    (Calling.HELLO, Decapsulated): Initiation._decapsulated,  # noqa: SLF001
    (Calling.HELLO, MessageOpened): Initiation._opened,  # noqa: SLF001
    (Calling.VERIFYING, PeerVerified): Initiation._verified,  # noqa: SLF001
    (Calling.SIGNING, Signed): Initiation._signed,  # noqa: SLF001
    (Calling.CONFIRMING, SessionConfirmed): Initiation._confirmed,  # noqa: SLF001
}
