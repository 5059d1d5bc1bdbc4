"""Control messages of relays and paths; `protocol.messages` enters them in the one registry.

```
link, end - relay       RelayOffer (unasked, on change)
                        RelayReserve -> RelayReserved | RelayRefused
                        CircuitOpen  -> CircuitOpened | RelayRefused
                        CircuitConfirm, CircuitClosed (either way)
                        CircuitVouch -> CircuitSeen, to the other end
either side             CircuitsHeld, when another session replaced that of the link
link, relay - target    CircuitIncoming -> CircuitAccepted | RelayRefused
                        CircuitConfirm, CircuitClosed (either way)
channel, end - end      PathOpen -> PathOpened | PathRefused;  PathClose
                        PathWish -> PathHint | PathRefused
```
The origin's commitment goes up with the question and the target's cookie for it comes back with
the answer, so that the handshake through the circuit begins with INIT.

Answers of links name the circuit, not the question: a circuit outlives the session it was asked
for on.  A chain is two relays, the first of which is an end to the second: CircuitOpen goes on
with one hop less, without `through` and with the `origin` that the first relay authenticated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from attrs import frozen

from veilnet.protocol.fields import (
    KEY,
    U16,
    U32,
    U64,
    Blob,
    EndpointPair,
    Flag,
    Integer,
    ListOf,
    Maybe,
    Text,
)

if TYPE_CHECKING:
    from veilnet.protocol.fields import Codec, Endpoint

CIRCUIT_ID_BYTES: Final = 16
COOKIE_BYTES: Final = 16
HOPS_MAX: Final = 2
"""Relays between two ends at most."""
FIRST_PATH: Final = 1
LAST_PATH: Final = 254
"""Ids of paths opened beside that of the handshake: even ones by the session's initiator."""
HELD_MAX: Final = 1_024


@frozen(kw_only=True)
class RelayOffer:
    """For whom the sender relays; *busy* may only repel."""

    for_own: bool = False
    for_strangers: bool = False
    busy: bool = False


@frozen(kw_only=True)
class RelayReserve:
    """Ask for a reservation, or for more time on the one there is."""


@frozen(kw_only=True)
class RelayReserved:
    """What the relay grants; a circuit lives no longer than the reservation it belongs to.

    Units: *rate_bps* bits per second and *limit_bytes* of each circuit, 0 = not limited;
    *expires_s* from now; *hops*: relays that a circuit may still pass, this one included.
    """

    rate_bps: int = 0
    limit_bytes: int = 0
    expires_s: int
    hops: int = 1


@frozen(kw_only=True)
class RelayRefused:
    """No circuit, or without *circuit* no reservation, and why (`relay.Refusal`)."""

    circuit: bytes | None = None
    code: int
    reason: str = ""


@frozen(kw_only=True)
class CircuitOpen:
    """Ask a relay for a circuit to *target*, a peer that it, or the relay *through*, has."""

    circuit: bytes
    target: bytes
    hops: int = HOPS_MAX
    through: tuple[bytes, ...] = ()
    origin: bytes | None = None
    """For whom a relay asks; a claim, passed on to the target as such."""
    com: bytes | None = None
    """The commitment of the INIT that is to follow; passed on to the target."""


@frozen(kw_only=True)
class CircuitOpened:
    """The circuit carries 64 KB; frames for it bear *label* on this link."""

    circuit: bytes
    label: int
    cookie: bytes | None = None
    """As the target gave it; a relay that changes it delays the handshake and no more."""


@frozen(kw_only=True)
class CircuitIncoming:
    """Somebody, as the relay authenticated it *origin*, wants a circuit to the receiver.

    The receiver trusts nothing of it but the handshake that comes through.
    """

    circuit: bytes
    origin: bytes
    label: int
    com: bytes | None = None


@frozen(kw_only=True)
class CircuitAccepted:
    """The target takes the circuit; *cookie* is what RETRY would bring there for *com*."""

    circuit: bytes
    cookie: bytes | None = None


@frozen(kw_only=True)
class CircuitConfirm:
    """The sender knows by a session that held who is at the other end; the 64 KB limit may go."""

    circuit: bytes


@frozen(kw_only=True)
class CircuitVouch:
    """Tell the other end where you see me: it shall send probes there, and believes you alone."""

    circuit: bytes


@frozen(kw_only=True)
class CircuitSeen:
    """Where the relay sees the other end, who wants that told."""

    circuit: bytes
    endpoint: Endpoint


@frozen(kw_only=True)
class CircuitClosed:
    """The circuit is no more, and why (`relay.Closing`)."""

    circuit: bytes
    code: int = 0


@frozen(kw_only=True)
class CircuitsHeld:
    """What the sender believes to have on this link; each that the receiver lacks is closed."""

    circuits: tuple[bytes, ...] = ()


@frozen(kw_only=True)
class PathOpen:
    """Take a further path of this channel: over *circuit*, or direct if there is none."""

    path: int
    circuit: bytes | None = None


@frozen(kw_only=True)
class PathOpened:
    """The path is open at this end too."""

    path: int


@frozen(kw_only=True)
class PathRefused:
    """No such path, or without *path* no link to the relay wished for, and why."""

    path: int | None = None
    code: int = 0
    reason: str = ""


@frozen(kw_only=True)
class PathClose:
    """The path is no more; its id is not used again in this generation of keys."""

    path: int


@frozen(kw_only=True)
class PathWish:
    """Please have a link to *relay*, and say how far it is for you."""

    relay: bytes


@frozen(kw_only=True)
class PathHint:
    """There is a link to *relay*, with that round-trip time."""

    relay: bytes
    rtt_us: int


RelayMessage = (
    RelayOffer
    | RelayReserve
    | RelayReserved
    | RelayRefused
    | CircuitOpen
    | CircuitOpened
    | CircuitIncoming
    | CircuitAccepted
    | CircuitConfirm
    | CircuitVouch
    | CircuitSeen
    | CircuitClosed
    | CircuitsHeld
)
PathMessage = PathOpen | PathOpened | PathRefused | PathClose | PathWish | PathHint

_CIRCUIT: Final = Blob(CIRCUIT_ID_BYTES, CIRCUIT_ID_BYTES)
_COOKIE: Final = Blob(COOKIE_BYTES, COOKIE_BYTES)
_PATH: Final = Integer(LAST_PATH, FIRST_PATH)
_HOPS: Final = Integer(HOPS_MAX, 1)
_WHY: Final = Text(256)

TABLE: Final[dict[int, tuple[type[Any], dict[int, tuple[str, Codec[Any]]]]]] = {
    48: (
        RelayOffer,
        {1: ("for_own", Flag()), 2: ("for_strangers", Flag()), 3: ("busy", Flag())},
    ),
    49: (RelayReserve, {}),
    50: (
        RelayReserved,
        {
            1: ("rate_bps", U64),
            2: ("limit_bytes", U64),
            3: ("expires_s", U32),
            4: ("hops", _HOPS),
        },
    ),
    51: (RelayRefused, {1: ("circuit", Maybe(_CIRCUIT)), 2: ("code", U16), 3: ("reason", _WHY)}),
    52: (
        CircuitOpen,
        {
            1: ("circuit", _CIRCUIT),
            2: ("target", KEY),
            3: ("hops", _HOPS),
            4: ("through", ListOf(KEY, HOPS_MAX - 1)),
            5: ("origin", Maybe(KEY)),
            6: ("com", Maybe(KEY)),
        },
    ),
    53: (
        CircuitOpened,
        {1: ("circuit", _CIRCUIT), 2: ("label", U32), 3: ("cookie", Maybe(_COOKIE))},
    ),
    54: (
        CircuitIncoming,
        {
            1: ("circuit", _CIRCUIT),
            2: ("origin", KEY),
            3: ("label", U32),
            4: ("com", Maybe(KEY)),
        },
    ),
    55: (CircuitAccepted, {1: ("circuit", _CIRCUIT), 2: ("cookie", Maybe(_COOKIE))}),
    56: (CircuitConfirm, {1: ("circuit", _CIRCUIT)}),
    57: (CircuitClosed, {1: ("circuit", _CIRCUIT), 2: ("code", U16)}),
    58: (CircuitsHeld, {1: ("circuits", ListOf(_CIRCUIT, HELD_MAX))}),
    59: (CircuitVouch, {1: ("circuit", _CIRCUIT)}),
    60: (CircuitSeen, {1: ("circuit", _CIRCUIT), 2: ("endpoint", EndpointPair())}),
    64: (PathOpen, {1: ("path", _PATH), 2: ("circuit", Maybe(_CIRCUIT))}),
    65: (PathOpened, {1: ("path", _PATH)}),
    66: (PathRefused, {1: ("path", Maybe(_PATH)), 2: ("code", U16), 3: ("reason", _WHY)}),
    67: (PathClose, {1: ("path", _PATH)}),
    68: (PathWish, {1: ("relay", KEY)}),
    69: (PathHint, {1: ("relay", KEY), 2: ("rtt_us", U32)}),
}
"""Type number -> class and layout, as in `protocol.messages`."""
