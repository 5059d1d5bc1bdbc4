"""The steps of VNH1 as data: what happens to a handshake, and what it asks for.

Work for another thread and its results are in module `work`; every other action is a single
call of the engine, named in its docstring, or the end.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final, Protocol

from attrs import field, frozen

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
from veilnet.units import PeerId

if TYPE_CHECKING:
    from veilnet._engine import InitReceived, KeySchedule
    from veilnet.errors import VeilError
    from veilnet.protocol.fields import Endpoint
    from veilnet.protocol.identity import Peer
    from veilnet.units import NetworkId


class Mode(enum.IntEnum):
    """What a session is opened for; the number stands in HELLO and in the transcript."""

    FULL = 0
    JOIN = 1
    LOOKUP = 2
    """Neither side says who it is; control only, and never more."""
    TICKET = 3
    """As full; a ticket of an earlier session stands for the cookie."""


NOBODY: Final = PeerId(bytes(32))
"""The responder of a lookup, and the peer id of its sessions: nobody says who it is."""


class Schedules(Protocol):
    """What makes key schedules: the class `KeySchedule`, or a seeded source in simulations."""

    def initiate(
        self,
        *,
        suite: int,
        mode: int,
        network_id: bytes,
        secret: bytes,
        responder_id: bytes,
        ek: bytes,
    ) -> KeySchedule:
        """Return an initiator's schedule."""
        ...

    def respond(
        self,
        init: InitReceived,
        *,
        network_id: bytes,
        secret: bytes,
        responder_id: bytes,
        ct: bytes,
        ss: bytes,
    ) -> KeySchedule:
        """Return a responder's schedule.   Raises: RemoteProtocolError: X25519 gave zero."""
        ...


@frozen(kw_only=True)
class Terms:
    """What both ends must agree on, or no RESP ever opens."""

    suite: int
    mode: Mode
    network_id: NetworkId
    secret: bytes = field(repr=False)
    """K_net, in join mode K_join."""


# --- events -----------------------------------------------------------------------------------


@frozen
class CandidateArrived:
    """The engine's `CandidateReceived`: somebody answered with a key part."""

    candidate: int
    ct: bytes = field(repr=False)
    source: Endpoint


@frozen
class MessageOpened:
    """The engine's `HandshakeReceived`: e2 or e3, opened under the handshake's keys.

    Empty in a lookup: the session is there.
    """

    message: bytes = field(repr=False)
    source: Endpoint


@frozen
class SessionConfirmed:
    """The engine's event of that name: ACK arrived."""


@frozen
class EndpointFound:
    """One more endpoint to call the peer at: a circuit that opened, or an address just heard of."""

    endpoint: Endpoint
    cookie: bytes | None = field(repr=False, default=None)
    """What the peer gave when the circuit opened: it stands for HELLO and RETRY."""


Event = (
    CandidateArrived
    | EndpointFound
    | MessageOpened
    | SessionConfirmed
    | KemGenerated
    | Encapsulated
    | Decapsulated
    | Signed
    | PeerVerified
    | WorkFailed
)


# --- actions: each is one call of the engine, or the end ----------------------------------------


@frozen
class SendHello:
    """`engine.hello(schedule, door_key=.., endpoint=.., ticket=.., cookie=..)`."""

    schedule: KeySchedule = field(repr=False)
    door_key: bytes = field(repr=False)
    endpoint: Endpoint
    ticket: tuple[bytes, bytes] | None = field(repr=False, default=None)
    cookie: bytes | None = field(repr=False, default=None)


@frozen
class Try:
    """`engine.candidate(sid, candidate, ss)`; a RemoteProtocolError is to be ignored."""

    sid: int
    candidate: int
    ss: bytes = field(repr=False)


@frozen
class Reject:
    """`engine.reject(sid)`: what opened does not verify; other key parts may still."""

    sid: int


@frozen
class Authenticate:
    """`engine.authenticate(sid, message, psk=psk)`."""

    sid: int
    message: bytes = field(repr=False)
    psk: bytes | None = field(repr=False, default=None)


@frozen
class Resend:
    """`engine.resend(sid)`."""

    sid: int


@frozen
class Respond:
    """`engine.respond(schedule, init, message)`; a lookup has no message, but a session then."""

    schedule: KeySchedule = field(repr=False)
    init: InitReceived = field(repr=False)
    message: bytes = field(repr=False)


@frozen
class Dismiss:
    """`engine.dismiss(init)`: this INIT meets silence."""

    init: InitReceived = field(repr=False)


@frozen
class Accept:
    """`engine.accept(sid, psk=psk)`."""

    sid: int
    psk: bytes | None = field(repr=False, default=None)


@frozen
class Abandon:
    """`engine.abandon(sid)`: forget the handshake."""

    sid: int


@frozen(kw_only=True)
class Begun:
    """The initiator's session may carry data: its peer is verified, and holds early data back.

    `Confirmed` or `Failed` follows.
    """

    sid: int
    peer: Peer
    endpoint: Endpoint
    schedule: KeySchedule = field(repr=False)


@frozen(kw_only=True)
class Confirmed:
    """The initiator's session is up, and the peer holds its keys."""

    sid: int
    peer: Peer | None
    """None: a lookup, in which nobody says who it is."""
    endpoint: Endpoint
    schedule: KeySchedule = field(repr=False)


@frozen(kw_only=True)
class Accepted:
    """The responder's session is up; of a lookup, whose `Respond` stands before it, unconfirmed."""

    sid: int
    peer: Peer | None
    endpoint: Endpoint
    schedule: KeySchedule = field(repr=False)


@frozen
class Failed:
    """No session, and why."""

    error: VeilError


Action = (
    GenerateKem
    | Encapsulate
    | Decapsulate
    | Sign
    | VerifyPeer
    | SendHello
    | Try
    | Reject
    | Authenticate
    | Resend
    | Respond
    | Dismiss
    | Accept
    | Abandon
    | Begun
    | Confirmed
    | Accepted
    | Failed
)
