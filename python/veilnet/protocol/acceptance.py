"""The answering end of VNH1: one stranger whose whole, cookie-proven INIT came through a door.

```
NEW -start-> ENCAPSULATING -Encapsulated-> SIGNING -Signed-> WAITING -MessageOpened-> VERIFYING
     -PeerVerified-> DONE                                     (any) -WorkFailed, deadline-> DONE
lookup:  ENCAPSULATING -Encapsulated-> DONE
```
Invariant: `Accepted` is returned at most once, behind `Accept`, after `PeerVerified` (of a lookup,
which asks nobody who it is, behind `Respond`), and nothing follows it; after `Failed` nothing
follows either, and the engine was told to forget.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

from attrs import define, evolve, field

from veilnet.errors import (
    LocalProtocolError,
    PeerMisbehaved,
    RemoteProtocolError,
    TimedOut,
    VeilError,
)
from veilnet.protocol.identity import AUTH_CONTEXT, RESPONSE_CONTEXT, Identity, LocalIdentity
from veilnet.protocol.steps import (
    NOBODY,
    Abandon,
    Accept,
    Accepted,
    Action,
    Dismiss,
    Event,
    Failed,
    MessageOpened,
    Mode,
    Respond,
    Schedules,
    Terms,
)
from veilnet.protocol.tickets import holder_of
from veilnet.protocol.work import (
    Encapsulate,
    Encapsulated,
    PeerVerified,
    Sign,
    Signed,
    VerifyPeer,
    WorkFailed,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from veilnet._engine import InitReceived, KeySchedule
    from veilnet.protocol.fields import Endpoint

TIMEOUT_S: Final = 10.0
"""From INIT to AUTH: longer than an initiator tries."""


class Answering(enum.Enum):
    """Where an `Acceptance` stands."""

    NEW = enum.auto()
    ENCAPSULATING = enum.auto()
    SIGNING = enum.auto()
    WAITING = enum.auto()
    VERIFYING = enum.auto()
    DONE = enum.auto()


@define(kw_only=True)
class Acceptance:
    """One stranger whose INIT came through a door of ours.

    Units: *now* and *timeout_s* seconds, monotonic.
    """

    init: InitReceived = field(repr=False)
    terms: Terms
    identity: LocalIdentity
    schedules: Schedules = field(repr=False)
    psks: Mapping[bytes, bytes] = field(repr=False, factory=dict)
    """Name to key, of what initiators may share with us."""
    timeout_s: float = TIMEOUT_S
    state: Answering = field(init=False, default=Answering.NEW)
    _schedule: KeySchedule | None = field(init=False, default=None, repr=False)
    _message: bytes = field(init=False, default=b"", repr=False)
    _deadline_s: float = field(init=False, default=0.0)
    _psk: bytes | None = field(init=False, default=None, repr=False)
    _source: Endpoint | None = field(init=False, default=None)

    @property
    def sid(self) -> int | None:
        """This side's session id, once there is one: engine events carry it."""
        return None if self._schedule is None else self._schedule.sid

    def start(self, now: float) -> list[Action]:
        """Begin, unless the INIT does not speak the door's suite and mode: then silence.

        Raises: LocalProtocolError: it had begun.
        """
        if self.state is not Answering.NEW:
            raise LocalProtocolError("this handshake has begun already")
        self._deadline_s = now + self.timeout_s
        if self.terms.mode is Mode.FULL and self.init.mode == Mode.TICKET:
            # Whoever is let in without a ticket is let in with one.
            self.terms = evolve(self.terms, mode=Mode.TICKET)
        if (self.init.suite, self.init.mode) != (self.terms.suite, self.terms.mode):
            return self._fail(PeerMisbehaved("an INIT came with another suite or mode"))
        self.state = Answering.ENCAPSULATING
        return [Encapsulate(self.init.ek)]

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take what the engine or a worker reports.

        Raises: LocalProtocolError: the event cannot follow what was asked for.
        """
        del now  # nothing here is retransmitted: the engine repeats RESP and ACK when asked
        if self.state is Answering.DONE:
            return []  # a worker that came too late
        if isinstance(event, WorkFailed):
            return self._fail(event.error)
        act = _ACCEPTANCE.get((self.state, type(event)))
        if act is not None:
            return act(self, event)
        if isinstance(event, MessageOpened):
            return []  # a repeat of the AUTH that is being verified
        raise LocalProtocolError(f"{type(event).__name__} while {self.state.name}")

    def tick(self, now: float) -> list[Action]:
        """End an attempt whose initiator has gone; call at `deadline()`."""
        if self.state in (Answering.NEW, Answering.DONE) or now < self._deadline_s:
            return []
        return self._fail(TimedOut("the initiator never authenticated itself"))

    def deadline(self) -> float | None:
        """Return when `tick` must run; None before the start and after the end."""
        return None if self.state in (Answering.NEW, Answering.DONE) else self._deadline_s

    def cancel(self) -> list[Action]:
        """Give up without an error."""
        return [] if self.state is Answering.DONE else self._forget()

    # --- transitions ---------------------------------------------------------------------------

    def _encapsulated(self, event: Encapsulated) -> list[Action]:
        lookup = self.terms.mode is Mode.LOOKUP
        try:
            self._schedule = self.schedules.respond(
                self.init,
                network_id=self.terms.network_id,
                secret=self.terms.secret,
                responder_id=NOBODY if lookup else self.identity.peer_id,
                ct=event.ct,
                ss=event.ss,
            )
        except RemoteProtocolError as error:
            return self._fail(error)
        if lookup:
            self.state = Answering.DONE
            schedule, source = self._schedule, self.init.source
            return [
                Respond(schedule, self.init, b""),
                Accepted(sid=schedule.sid, peer=None, endpoint=source, schedule=schedule),
            ]
        self.state = Answering.SIGNING
        return [Sign(self._schedule.th2 + self.identity.peer_id, RESPONSE_CONTEXT)]

    def _signed(self, event: Signed) -> list[Action]:
        schedule = self._keyed()
        message = Identity(
            public_key=self.identity.public_key,
            credential=self.identity.credential,
            signature=event.signature,
        ).response()
        self._message = message
        self.state = Answering.WAITING
        return [Respond(schedule, self.init, message)]

    def _opened(self, event: MessageOpened) -> list[Action]:
        try:
            identity = Identity.of_auth(event.message)
        except RemoteProtocolError as error:
            return self._fail(error)
        if identity.psk_name is not None:
            # Taken once: a generation that is confirmed while the signature is verified replaces
            # the key, and half a handshake must not be bound to nothing.
            self._psk = self.psks.get(identity.psk_name)
            if self._psk is None:
                return self._fail(PeerMisbehaved("the initiator names a key that we do not share"))
        self._source = event.source
        self.state = Answering.VERIFYING
        return [
            VerifyPeer(
                identity=identity,
                transcript=self._keyed().absorb_response(self._message),
                context=AUTH_CONTEXT,
                expected=None,
                responder=self.identity.peer_id,
                member=self.terms.mode is not Mode.JOIN,
            )
        ]

    def _verified(self, event: PeerVerified) -> list[Action]:
        self.state = Answering.DONE
        schedule, peer = self._keyed(), event.peer
        if peer.peer_id == self.identity.peer_id:
            return [Abandon(schedule.sid), Failed(PeerMisbehaved("this node called itself"))]
        holder = self.init.holder
        if holder is not None and holder != holder_of(self.terms.network_id, peer.peer_id):
            error = PeerMisbehaved("the initiator showed a ticket that was given to another")
            return [Abandon(schedule.sid), Failed(error)]
        return [
            Accept(schedule.sid, self._psk),
            Accepted(
                sid=schedule.sid,
                peer=peer,
                endpoint=self._source or self.init.source,
                schedule=schedule,
            ),
        ]

    # --- ends ----------------------------------------------------------------------------------

    def _keyed(self) -> KeySchedule:
        if self._schedule is None:
            raise LocalProtocolError("this handshake has no keys yet")
        return self._schedule

    def _fail(self, error: VeilError) -> list[Action]:
        return [*self._forget(), Failed(error)]

    def _forget(self) -> list[Action]:
        self.state = Answering.DONE
        if self._message and self._schedule is not None:
            return [Abandon(self._schedule.sid)]
        return [Dismiss(self.init)]  # not answered yet


_ACCEPTANCE: Final[Mapping[tuple[Answering, type], Callable[..., list[Action]]]] = {
    (Answering.ENCAPSULATING, Encapsulated): Acceptance._encapsulated,  # noqa: SLF001
    (Answering.SIGNING, Signed): Acceptance._signed,  # noqa: SLF001
    (Answering.WAITING, MessageOpened): Acceptance._opened,  # noqa: SLF001
    (Answering.VERIFYING, PeerVerified): Acceptance._verified,  # noqa: SLF001
}
