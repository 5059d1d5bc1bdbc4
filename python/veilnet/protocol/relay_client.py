"""The ends' side of circuits: asking a relay for one, taking one that comes, losing one.

The picture and the words are in `protocol.relay`.

```
Open      -> ASKED   -> CircuitOpened -> JOINED -> Confirm -> CONFIRMED      at the origin
CircuitIncoming                       -> JOINED -> Confirm -> CONFIRMED      at the target
```
Rules:
1. Reservation and question go out together: a relay that was never asked costs one round trip.
2. What was asked on a session that another replaced is asked again on that one; the relay answers
   the same question twice with the same circuit.
3. A circuit that comes in is taken from whom we would talk to, and costs nothing but a place in a
   table until a handshake comes through it.

4. Of those that came in and are not confirmed the oldest of the same origin, or else of the same
   relay, goes for a new one: who opens what leads nowhere keeps nobody else out.

Invariant: at most `OUTGOING_MAX` and `INCOMING_MAX` confirmed circuits, and of one relay at most
`INCOMING_OF_RELAY_MAX` that came in and `UNCONFIRMED_OF_RELAY_MAX` that are not confirmed yet;
what is in the table is joined in the engine unless ASKED.
"""

from __future__ import annotations

import enum
import math
from typing import TYPE_CHECKING, Final

from attrs import define, frozen

from veilnet.protocol.relay import (
    CONFIRM_S,
    Closing,
    Heard,
    LinkDown,
    LinkUp,
    Refusal,
    Reservations,
    Send,
    displaced,
)
from veilnet.protocol.relay_messages import (
    CIRCUIT_ID_BYTES,
    HOPS_MAX,
    CircuitAccepted,
    CircuitClosed,
    CircuitConfirm,
    CircuitIncoming,
    CircuitOpen,
    CircuitOpened,
    CircuitSeen,
    RelayRefused,
    RelayReserve,
    RelayReserved,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from random import Random

    from veilnet.protocol.fields import Endpoint
    from veilnet.protocol.relay import Key

OUTGOING_MAX: Final = 256
INCOMING_MAX: Final = 256
INCOMING_OF_RELAY_MAX: Final = 64
UNCONFIRMED_OF_RELAY_MAX: Final = 16
UNCONFIRMED_OF_ORIGIN_MAX: Final = 4
"""... of them from one origin, as the relay says."""


class Phase(enum.Enum):
    """Where a circuit stands at its end."""

    ASKED = enum.auto()
    JOINED = enum.auto()
    CONFIRMED = enum.auto()


# --- events -----------------------------------------------------------------------------------


@frozen
class Open:
    """Ask *relay* for a circuit to *target*, by way of a second relay *through* if given."""

    circuit: bytes
    relay: Key
    target: bytes
    through: bytes | None
    until_s: float
    com: bytes | None = None
    """The commitment of the handshake that is to go through it, if one is."""


@frozen
class Confirm:
    """The handshake through a circuit held, or a path over it was proven."""

    circuit: bytes


@frozen
class Close:
    """A circuit is not wanted any more."""

    circuit: bytes


@frozen
class Reserve:
    """Hold a reservation at a relay, which keeps the link up for it."""

    relay: Key


@frozen
class Release:
    """Let a reservation run out."""

    relay: Key


# --- actions ----------------------------------------------------------------------------------


@frozen
class Join:
    """`engine.join_circuit`: frames with that label are ours; the circuit is open."""

    end: End


@frozen
class Welcome:
    """`engine.cookie` for *com*, in the CircuitAccepted that is then sent: behind `Join`."""

    end: End
    com: bytes


@frozen
class Leave:
    """`engine.leave_circuit`, and whoever uses the circuit hears that it ended, and why."""

    end: End
    code: int


@frozen
class Failed:
    """No circuit, and why (`relay.Refusal`)."""

    circuit: bytes
    code: int


@frozen
class Seen:
    """The relay says where it sees the other end, who asked it to."""

    circuit: bytes
    endpoint: Endpoint


Event = LinkUp | LinkDown | Heard | Open | Confirm | Close | Reserve | Release
Action = Send | Join | Welcome | Leave | Failed | Seen


@define(eq=False, kw_only=True)
class End:
    """This node's end of one circuit."""

    id: bytes
    relay: Key
    peer: bytes
    """The other end: the target, or the origin of one that came in, as the relay says."""
    through: bytes | None = None
    incoming: bool = False
    label: int | None = None
    phase: Phase = Phase.ASKED
    deadline_s: float = math.inf
    again: bool = False
    """Whether it was asked for a second time, for want of a reservation."""
    com: bytes | None = None
    cookie: bytes | None = None
    """What the target gave for *com*."""


class CircuitClient:
    """All circuits that end at one node.

    Units: *now* seconds, monotonic.
    """

    def __init__(self, *, own_id: bytes, rng: Random) -> None:
        self._own_id = own_id
        self._rng = rng
        self._links: set[Key] = set()
        self._ends: dict[bytes, End] = {}
        self._wanted: set[Key] = set()
        self._held = Reservations()

    # --- looking ---------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._ends)

    @property
    def ends(self) -> list[End]:
        """All circuits, those asked for included."""
        return list(self._ends.values())

    def get(self, circuit: bytes) -> End | None:
        """Return the circuit of that id."""
        return self._ends.get(circuit)

    def owns(self, key: Key, circuit: bytes) -> bool:
        """Whether a circuit of that id goes over that link."""
        end = self._ends.get(circuit)
        return end is not None and end.relay == key

    def held(self, key: Key) -> list[bytes]:
        """Return the circuits over a link that are open."""
        return [end.id for end in self._ends.values() if end.relay == key and end.phase in _OPEN]

    def needs(self, key: Key) -> bool:
        """Whether a link is in use."""
        return key in self._wanted or self.carries(key)

    def carries(self, key: Key) -> bool:
        """Whether circuits go over a link."""
        return any(end.relay == key for end in self._ends.values())

    def new_id(self) -> bytes:
        """Return an id for a new circuit."""
        return self._rng.randbytes(CIRCUIT_ID_BYTES)

    # --- driving ---------------------------------------------------------------------------------

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take one event.   Raises: nothing: what cannot be becomes `Failed`."""
        actions: list[Action] = []
        _EVENTS[type(event)](self, event, now, actions)
        return actions

    def tick(self, now: float) -> list[Action]:
        """Do what is due; call at `deadline()`."""
        actions: list[Action] = []
        for end in self.ends:
            if end.deadline_s <= now:
                if end.phase is Phase.ASKED:
                    self._fail(end, Refusal.TIMEOUT, actions)
                    actions.append(_closed(end, Closing.DONE))
                else:
                    self._leave(end, Closing.UNCONFIRMED, actions)
                    actions.append(_closed(end, Closing.UNCONFIRMED))
        in_use = {end.relay for end in self._ends.values() if not end.incoming} | self._wanted
        actions += [Send(key, RelayReserve()) for key in self._held.due(in_use, now)]
        return actions

    def deadline(self) -> float | None:
        """Return when `tick` must run; None: not before the next event."""
        soonest = min(
            min((end.deadline_s for end in self._ends.values()), default=math.inf),
            self._held.deadline(),
        )
        return None if math.isinf(soonest) else soonest

    # --- what this node wants --------------------------------------------------------------------

    def _open(self, event: Open, now: float, actions: list[Action]) -> None:
        outgoing = sum(not end.incoming for end in self._ends.values())
        if event.relay not in self._links:
            actions.append(Failed(event.circuit, Refusal.NO_LINK))
        elif outgoing >= OUTGOING_MAX or event.circuit in self._ends:
            actions.append(Failed(event.circuit, Refusal.FULL))
        elif event.target in (self._own_id, event.relay[1], event.through):
            actions.append(Failed(event.circuit, Refusal.NO_SENSE))
        else:
            end = End(
                id=event.circuit,
                relay=event.relay,
                peer=event.target,
                through=event.through,
                deadline_s=event.until_s,
                com=event.com,
            )
            self._ends[end.id] = end
            self._ask(end, now, actions)

    def _ask(self, end: End, now: float, actions: list[Action]) -> None:
        if self._held.need(end.relay, now):
            actions.append(Send(end.relay, RelayReserve()))
        through = () if end.through is None else (end.through,)
        question = CircuitOpen(
            circuit=end.id, target=end.peer, hops=HOPS_MAX, through=through, com=end.com
        )
        actions.append(Send(end.relay, question))

    def _confirm(self, event: Confirm, now: float, actions: list[Action]) -> None:
        del now
        end = self._ends.get(event.circuit)
        if end is not None and end.phase is Phase.JOINED:
            end.phase = Phase.CONFIRMED
            end.deadline_s = math.inf
            actions.append(Send(end.relay, CircuitConfirm(circuit=end.id)))

    def _close(self, event: Close, now: float, actions: list[Action]) -> None:
        del now
        end = self._ends.get(event.circuit)
        if end is None:
            return
        if end.phase is Phase.ASKED:
            self._fail(end, Refusal.OTHER, actions)
        else:
            self._leave(end, Closing.DONE, actions)
        actions.append(_closed(end, Closing.DONE))

    def _reserve(self, event: Reserve, now: float, actions: list[Action]) -> None:
        if event.relay in self._links:
            self._wanted.add(event.relay)
            if self._held.need(event.relay, now):
                actions.append(Send(event.relay, RelayReserve()))

    def _release(self, event: Release, now: float, actions: list[Action]) -> None:
        del now, actions
        self._wanted.discard(event.relay)

    # --- links -----------------------------------------------------------------------------------

    def _up(self, event: LinkUp, now: float, actions: list[Action]) -> None:
        again = event.key in self._links
        self._links.add(event.key)
        if again:
            for end in self._over(event.key):
                if end.phase is Phase.ASKED:
                    self._ask(end, now, actions)

    def _down(self, event: LinkDown, now: float, actions: list[Action]) -> None:
        del now
        self._links.discard(event.key)
        self._wanted.discard(event.key)
        self._held.forget(event.key)
        for end in self._over(event.key):
            if end.phase is Phase.ASKED:
                self._fail(end, Refusal.NO_LINK, actions)
            else:
                self._leave(end, Closing.LINK_LOST, actions)

    def _over(self, key: Key) -> list[End]:
        return [end for end in self._ends.values() if end.relay == key]

    # --- what relays say -------------------------------------------------------------------------

    def _heard(self, event: Heard, now: float, actions: list[Action]) -> None:
        key, message = event.key, event.message
        if key not in self._links:
            return
        match message:
            case RelayReserved(expires_s=expires_s):
                self._held.granted(key, expires_s, now)
                return
            case RelayRefused(circuit=None):
                self._held.lost(key)
                return
            case CircuitIncoming() if message.circuit not in self._ends:
                self._incoming(event, message, now, actions)
                return
        end = self._ends.get(getattr(message, "circuit", b""))
        if end is None or end.relay != key:
            if isinstance(message, CircuitIncoming):
                refusal = RelayRefused(circuit=message.circuit, code=Refusal.TAKEN)
                actions.append(Send(key, refusal))
            return
        act = _MESSAGES.get((type(message), end.phase))
        # What is not in the table comes late, by a race that both sides are allowed to lose.
        if act is not None:
            act(self, end, message, now, actions)

    def _incoming(
        self, event: Heard, message: CircuitIncoming, now: float, actions: list[Action]
    ) -> None:
        key = event.key
        incoming = [end for end in self._ends.values() if end.incoming]
        taken = [end for end in incoming if end.phase is Phase.CONFIRMED]
        waiting = [end for end in incoming if end.relay == key and end.phase is Phase.JOINED]
        of_relay = sum(end.relay == key for end in taken)
        if not event.welcome or message.origin in (self._own_id, key[1]):
            refusal: Refusal | None = Refusal.DECLINED
        elif len(taken) >= INCOMING_MAX:
            refusal = Refusal.FULL
        else:
            refusal = Refusal.PEER_FULL if of_relay >= INCOMING_OF_RELAY_MAX else None
        if refusal is not None:
            actions.append(Send(key, RelayRefused(circuit=message.circuit, code=refusal)))
            return
        oldest = displaced(
            waiting,
            lambda end: end.peer,
            message.origin,
            each=UNCONFIRMED_OF_ORIGIN_MAX,
            in_all=UNCONFIRMED_OF_RELAY_MAX,
        )
        if oldest is not None:
            self._leave(oldest, Closing.UNCONFIRMED, actions)
            actions.append(_closed(oldest, Closing.UNCONFIRMED))
        end = End(
            id=message.circuit,
            relay=key,
            peer=message.origin,
            incoming=True,
            label=message.label,
            phase=Phase.JOINED,
            deadline_s=now + CONFIRM_S,
        )
        self._ends[end.id] = end
        # Joined before the answer goes out: what the origin sends next must find us.
        actions += [Join(end), _accepted(end, message)]

    def _incoming_again(
        self, end: End, message: CircuitIncoming, now: float, actions: list[Action]
    ) -> None:
        del now
        if end.incoming and end.label == message.label:
            actions.append(_accepted(end, message))

    def _opened(self, end: End, message: CircuitOpened, now: float, actions: list[Action]) -> None:
        end.label, end.cookie = message.label, message.cookie
        end.phase = Phase.JOINED
        end.deadline_s = now + CONFIRM_S
        actions.append(Join(end))

    def _refused(self, end: End, message: RelayRefused, now: float, actions: list[Action]) -> None:
        if message.code == Refusal.NO_RESERVATION and not end.again:
            # It restarted, or its clock runs faster.
            end.again = True
            self._held.lost(end.relay)
            self._ask(end, now, actions)
            return
        self._fail(end, message.code, actions)

    def _ended(self, end: End, message: CircuitClosed, now: float, actions: list[Action]) -> None:
        del now
        if end.phase is Phase.ASKED:
            self._fail(end, Refusal.OTHER, actions)
        else:
            self._leave(end, message.code, actions)

    def _seen(self, end: End, message: CircuitSeen, now: float, actions: list[Action]) -> None:
        del now
        actions.append(Seen(end.id, message.endpoint))

    def _fail(self, end: End, code: int, actions: list[Action]) -> None:
        del self._ends[end.id]
        actions.append(Failed(end.id, code))

    def _leave(self, end: End, code: int, actions: list[Action]) -> None:
        del self._ends[end.id]
        actions.append(Leave(end, code))


def _accepted(end: End, message: CircuitIncoming) -> Send | Welcome:
    if message.com is None:
        return Send(end.relay, CircuitAccepted(circuit=end.id))
    return Welcome(end, message.com)


def _closed(end: End, code: int) -> Send:
    return Send(end.relay, CircuitClosed(circuit=end.id, code=code))


_EVENTS: Final[Mapping[type, Callable[..., None]]] = {
    LinkUp: CircuitClient._up,  # noqa: SLF001
    LinkDown: CircuitClient._down,  # noqa: SLF001
    Heard: CircuitClient._heard,  # noqa: SLF001
    Open: CircuitClient._open,  # noqa: SLF001
    Confirm: CircuitClient._confirm,  # noqa: SLF001
    Close: CircuitClient._close,  # noqa: SLF001
    Reserve: CircuitClient._reserve,  # noqa: SLF001
    Release: CircuitClient._release,  # noqa: SLF001
}


def _rows(
    message: type, phases: Iterable[Phase], act: Callable[..., None]
) -> dict[tuple[type, Phase], Callable[..., None]]:
    return {(message, phase): act for phase in phases}


_OPEN: Final = (Phase.JOINED, Phase.CONFIRMED)
_MESSAGES: Final[Mapping[tuple[type, Phase], Callable[..., None]]] = {
    # message, phases, what to do
    **_rows(CircuitOpened, [Phase.ASKED], CircuitClient._opened),  # noqa: SLF001
    **_rows(RelayRefused, [Phase.ASKED], CircuitClient._refused),  # noqa: SLF001
    **_rows(CircuitIncoming, _OPEN, CircuitClient._incoming_again),  # noqa: SLF001
    **_rows(CircuitSeen, [Phase.CONFIRMED], CircuitClient._seen),  # noqa: SLF001
    **_rows(CircuitClosed, Phase, CircuitClient._ended),  # noqa: SLF001
}
