"""New generations of a session's keys: when, by whom, and when the session has to end.

```
 offerer                                          answerer
 GenerateKem
 offer = schedule.generation_offer(ek)   -------> Encapsulate(ek)
                                                  answer = schedule.generation_answer(offer, ...)
                                                  Install(send=False): receive under both
 Decapsulate(ct)                         <------- answer, with a MAC
 confirm = schedule.generation_confirm(...)
 Install(send=True)                      -------> generation_finish(confirm): the old root is gone
```
The answerer's sending moves in the engine, with the first authentic datagram of the offerer: the
confirmation itself.  Steps (the ratchet inside a generation) are the engine's own business.

Rules:
1. A generation is due 90-180 s (random) after the last, while traffic flows, be it relays' frames;
   315-450 s after it where somebody needs the session (a link that is kept to be found by carries
   nothing for hours).  Any other waits for traffic.  The engine may ask for one sooner (`stale`).
2. Both may offer at once.  Then the session's initiator wins: it ignores the other offer, and the
   responder drops its own.  Control is ordered, so both see the same end.
3. Ten minutes without a new generation end the session; nothing else here does.
4. Once an hour the session's initiator is asked for a full handshake, and the responder if that
   has not happened five minutes later.

Invariant: at most one exchange is open, and only the end that offered it may confirm it.
"""

from __future__ import annotations

import enum
from math import inf
from typing import TYPE_CHECKING, Final

from attrs import define, field, frozen

from veilnet.errors import LocalProtocolError, RemoteProtocolError, TimedOut, VeilError
from veilnet.protocol.messages import GenerationAnswer, GenerationConfirm, GenerationOffer
from veilnet.protocol.work import (
    Decapsulate,
    Decapsulated,
    Encapsulate,
    Encapsulated,
    GenerateKem,
    KemGenerated,
    WorkFailed,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from random import Random

    from veilnet._engine import KeySchedule

GENERATION_S: Final = 90.0
"""A generation is due between once and twice this after the last."""
REST: Final = (3.5, 5.0)
"""A link that is needed and carries nothing waits between so many times that, ..."""
REST_MAX_S: Final = 450.0
"""... but no longer than this: there has to be time to try again before the hard limit."""
HARD_LIMIT_S: Final = 600.0
FULL_HANDSHAKE_S: Final = 3_600.0
FULL_HANDSHAKE_GRACE_S: Final = 300.0
"""So much later the responder asks, if the initiator has not."""
FULL_HANDSHAKE_RETRY_S: Final = 60.0
RETRY_S: Final = 5.0
"""After work of our own failed."""

_GENERATION_BYTES: Final = 8
_X25519_BYTES: Final = 32
_MAC_BYTES: Final = 32


# --- actions ----------------------------------------------------------------------------------


@frozen
class SendMessage:
    """Send *message* over the session's control stream."""

    message: GenerationOffer | GenerationAnswer | GenerationConfirm


@frozen
class Install:
    """`engine.install_generation(sid, schedule, send=send)`, before what follows is sent."""

    schedule: KeySchedule = field(repr=False)
    send: bool


@frozen
class FullHandshake:
    """Open a new session with the same peer and move to it."""


@frozen
class CloseSession:
    """End the session: its keys are too old, or the peer broke the protocol."""

    error: VeilError


Message = GenerationOffer | GenerationAnswer | GenerationConfirm
Event = Message | KemGenerated | Encapsulated | Decapsulated | WorkFailed
Action = (
    GenerateKem | Encapsulate | Decapsulate | SendMessage | Install | FullHandshake | CloseSession
)


class Phase(enum.Enum):
    """Where the exchange of a generation stands at this end."""

    REST = enum.auto()
    GENERATING = enum.auto()
    OFFERED = enum.auto()
    CONFIRMING = enum.auto()
    ANSWERING = enum.auto()
    ANSWERED = enum.auto()
    CLOSED = enum.auto()


@define(kw_only=True)
class Rekey:
    """The generations of one session.

    Work that an exchange no longer needs comes back to nothing: results carry no name, so each is
    counted, and those of an exchange that was dropped are taken out first.

    Units: *now* seconds, monotonic; *packets* any count that rises with the session's traffic.
    """

    initiator: bool
    """Whether this end began the session's handshake."""
    schedule: KeySchedule = field(repr=False)
    rng: Random = field(repr=False)
    started_s: float
    generation_s: float = GENERATION_S
    phase: Phase = field(init=False, default=Phase.REST)
    _rekeyed_s: float = field(init=False)
    _due_s: float = field(init=False)
    """When the next generation is due, if the session carries anything ..."""
    _rested_s: float = field(init=False)
    """... and if it does not."""
    _full_s: float = field(init=False)
    _packets: int = field(init=False, default=0)
    _packets_then: int = field(init=False, default=0)
    _busy: bool = field(init=False, default=False)
    _needed: bool = field(init=False, default=False)
    _dk: bytes = field(init=False, default=b"", repr=False)
    _peers: bytes = field(init=False, default=b"", repr=False)
    """The peer's offer or answer while a worker computes on it."""
    _orphans: int = field(init=False, default=0)
    """Key pairs still being made for an exchange that was dropped."""

    def __attrs_post_init__(self) -> None:
        self._restart(self.started_s)
        grace = 0.0 if self.initiator else FULL_HANDSHAKE_GRACE_S
        self._full_s = self.started_s + FULL_HANDSHAKE_S + grace

    @property
    def generation(self) -> int:
        """The newest generation that this end has keys of."""
        return self.schedule.generation

    def traffic(
        self, packets: int, now: float, *, busy: bool = False, needed: bool = False
    ) -> list[Action]:
        """Report the session's traffic so far; begins a generation that waited for some.

        *busy*: it carries what *packets* does not count; *needed*: it must live on, whether it
        carries any or not.
        """
        self._packets, self._needed = packets, needed
        self._busy |= busy  # until the next generation
        return self.tick(now)

    def stale(self, now: float) -> list[Action]:
        """Begin a generation now: the engine's `KeysStale`."""
        self._due_s = now
        self._packets_then = -1
        return self.tick(now)

    def tick(self, now: float) -> list[Action]:
        """Do what is due; call at `deadline()`."""
        if self.phase is Phase.CLOSED:
            return []
        if now >= self._rekeyed_s + HARD_LIMIT_S:
            return self._close(TimedOut("ten minutes passed without a new generation of keys"))
        actions: list[Action] = []
        if now >= self._full_s:
            self._full_s = now + FULL_HANDSHAKE_RETRY_S
            actions.append(FullHandshake())
        if self.phase is Phase.REST and now >= self._next_s:
            self.phase = Phase.GENERATING
            actions.append(GenerateKem())
        return actions

    def deadline(self) -> float | None:
        """Return when `tick` must run; None once the session is closed."""
        if self.phase is Phase.CLOSED:
            return None
        due = [self._rekeyed_s + HARD_LIMIT_S, self._full_s]
        if self.phase is Phase.REST:
            due.append(self._next_s)
        return min(due)

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take a message of the peer or the result of work.

        Raises: nothing: what the peer must not send becomes `CloseSession`.
        """
        if self.phase is Phase.CLOSED:
            return []
        act = _EVENTS[type(event)]
        try:
            return act(self, event, now)
        except (RemoteProtocolError, LocalProtocolError) as error:
            return self._close(error)

    # --- the offerer -----------------------------------------------------------------------------

    def _generated(self, event: KemGenerated, now: float) -> list[Action]:
        del now
        if self._orphans:
            self._orphans -= 1
            return []
        self._expect(Phase.GENERATING, event)
        self._dk = event.dk
        self.phase = Phase.OFFERED
        return [SendMessage(GenerationOffer(data=self.schedule.generation_offer(event.ek)))]

    def _answer(self, event: GenerationAnswer, now: float) -> list[Action]:
        del now
        self._expect(Phase.OFFERED, event)
        self.phase = Phase.CONFIRMING
        self._peers = event.data
        ct = event.data[_GENERATION_BYTES + _X25519_BYTES : -_MAC_BYTES]
        return [Decapsulate(0, self._dk, ct)]

    def _decapsulated(self, event: Decapsulated, now: float) -> list[Action]:
        self._expect(Phase.CONFIRMING, event)
        if event.ss is None:
            raise RemoteProtocolError("the peer's answer for a new generation has another length")
        confirm = self.schedule.generation_confirm(self._peers, event.ss)
        self._restart(now)
        # The confirmation travels under the new keys: it moves the peer's sending as well.
        return [
            Install(self.schedule, send=True),
            SendMessage(GenerationConfirm(data=confirm)),
        ]

    # --- the answerer ----------------------------------------------------------------------------

    def _offer(self, event: GenerationOffer, now: float) -> list[Action]:
        del now
        if self.phase in (Phase.GENERATING, Phase.OFFERED):
            if self.initiator:
                return []  # ours is on its way or soon will be, and the peer will answer that
            if self.phase is Phase.OFFERED:
                self.schedule.generation_abort()
                self._dk = b""
            else:
                self._orphans += 1
        else:
            self._expect(Phase.REST, event)
        self.phase = Phase.ANSWERING
        self._peers = event.data
        return [Encapsulate(event.data[_GENERATION_BYTES + _X25519_BYTES :])]

    def _encapsulated(self, event: Encapsulated, now: float) -> list[Action]:
        del now
        self._expect(Phase.ANSWERING, event)
        answer = self.schedule.generation_answer(self._peers, event.ct, event.ss)
        self.phase = Phase.ANSWERED
        return [
            Install(self.schedule, send=False),
            SendMessage(GenerationAnswer(data=answer)),
        ]

    def _confirm(self, event: GenerationConfirm, now: float) -> list[Action]:
        self._expect(Phase.ANSWERED, event)
        self.schedule.generation_finish(event.data)
        self._restart(now)
        return []

    # --- ends ------------------------------------------------------------------------------------

    def _failed(self, event: WorkFailed, now: float) -> list[Action]:
        if self.phase is Phase.GENERATING:
            # Our own trouble (no memory, no threads): the peer has not heard of it yet.
            self.phase = Phase.REST
            self._due_s = self._rested_s = now + RETRY_S
            return []
        return self._close(event.error)

    @property
    def _next_s(self) -> float:
        """When the next generation begins, as things are."""
        if self._busy or self._packets != self._packets_then:
            return self._due_s
        if not self._needed:
            return inf
        return self._rested_s

    def _restart(self, now: float) -> None:
        self.phase = Phase.REST
        self._dk = self._peers = b""
        self._rekeyed_s = now
        drawn = self.rng.uniform(0.0, 1.0)
        pause_s = self.generation_s * (1.0 + drawn)
        rested_s = self.generation_s * (REST[0] + (REST[1] - REST[0]) * drawn)
        self._due_s = now + pause_s
        self._rested_s = now + max(pause_s, min(rested_s, REST_MAX_S))
        self._busy = False
        self._packets_then = self._packets

    def _expect(self, phase: Phase, event: Event) -> None:
        if self.phase is phase:
            return
        text = f"{type(event).__name__} while {self.phase.name}"
        if isinstance(event, Message):
            raise RemoteProtocolError(f"the peer sent {text}")
        raise LocalProtocolError(text)

    def _close(self, error: VeilError) -> list[Action]:
        self.phase = Phase.CLOSED
        self._dk = self._peers = b""
        return [CloseSession(error)]


_EVENTS: Final[Mapping[type, Callable[..., list[Action]]]] = {
    KemGenerated: Rekey._generated,  # noqa: SLF001
    GenerationAnswer: Rekey._answer,  # noqa: SLF001
    Decapsulated: Rekey._decapsulated,  # noqa: SLF001
    GenerationOffer: Rekey._offer,  # noqa: SLF001
    Encapsulated: Rekey._encapsulated,  # noqa: SLF001
    GenerationConfirm: Rekey._confirm,  # noqa: SLF001
    WorkFailed: Rekey._failed,  # noqa: SLF001
}
