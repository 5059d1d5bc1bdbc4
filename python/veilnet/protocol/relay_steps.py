"""What `relay_service.RelayService` is told, what it asks for, and one circuit as it knows it.

The engine's call that belongs to an action stands beside it.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

from attrs import define, field, frozen

from veilnet.protocol.relay import UNCONFIRMED_BYTES, Heard, LinkDown, LinkUp, Send, Terms
from veilnet.protocol.relay_messages import (
    CircuitClosed,
    CircuitIncoming,
    CircuitOpened,
    RelayOffer,
    RelayRefused,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from veilnet.protocol.relay import Key


class Phase(enum.Enum):
    """Where a circuit stands; see `protocol.relay`."""

    ASKING = enum.auto()
    EXTENDING = enum.auto()
    LIMITED = enum.auto()
    CONFIRMED = enum.auto()


PENDING: Final = (Phase.ASKING, Phase.EXTENDING)


class Side(enum.Enum):
    """Whose message it is: the origin's (or the relay before us), or the other's."""

    NEAR = enum.auto()
    FAR = enum.auto()


# --- events -----------------------------------------------------------------------------------


@frozen
class Count:
    """What the engine has forwarded for a circuit so far."""

    bytes: int
    busy: bool = False


@frozen
class Counted:
    """The engine's counters, by circuit id."""

    counts: Mapping[bytes, Count]


@frozen
class Unforwarded:
    """The engine did not take a circuit, or has it no more."""

    circuit: bytes


@frozen
class SetTerms:
    """The operator decided anew."""

    terms: Terms


# --- actions ----------------------------------------------------------------------------------


@frozen
class Forward:
    """`engine.add_circuit`: forward between two (link, label)."""

    circuit: bytes
    a: tuple[Key, int]
    b: tuple[Key, int]
    rate_bps: int
    burst_bytes: int
    limit_bytes: int


@frozen
class Limit:
    """`engine.limit_circuit`."""

    a: tuple[Key, int]
    rate_bps: int
    limit_bytes: int


@frozen
class Remove:
    """`engine.remove_circuit`."""

    circuit: bytes
    a: tuple[Key, int]


@frozen
class CapRate:
    """`engine.set_relay_rate`; None is no cap."""

    rate_bps: int | None


@frozen
class Announce:
    """Tell every link what this node offers now."""

    offer: RelayOffer


@frozen
class Vouch:
    """Tell the other end of a circuit, *to*, where the link of the end *of* comes from."""

    circuit: bytes
    of: Key
    to: Key


Event = LinkUp | LinkDown | Heard | Counted | Unforwarded | SetTerms
Action = Send | Forward | Limit | Remove | CapRate | Announce | Vouch


@define(eq=False, kw_only=True)
class Relayed:
    """One circuit that this node relays, or is asked to."""

    id: bytes
    near: Key
    near_label: int
    far: Key
    far_label: int | None
    """None until the next relay of a chain has chosen it."""
    target: bytes
    origin: bytes
    phase: Phase
    deadline_s: float
    com: bytes | None = None
    cookie: bytes | None = None
    """What is passed on between the ends, for their handshake."""
    confirmed: set[Side] = field(factory=set)
    bytes: int = 0
    rate_bps: int = 0
    limit_bytes: int = UNCONFIRMED_BYTES
    vouched_s: dict[Side, float] = field(factory=dict)
    """When the other end was last told where this side's link comes from."""

    @property
    def open(self) -> bool:
        """Whether the engine forwards it."""
        return self.phase not in PENDING

    def side(self, key: Key) -> Side | None:
        """Return which side of the circuit a link is."""
        return Side.NEAR if key == self.near else Side.FAR if key == self.far else None

    def other(self, side: Side) -> Key:
        """Return the link of the other side."""
        return self.far if side is Side.NEAR else self.near


def incoming(circuit: Relayed) -> CircuitIncoming:
    """Return what the target is asked."""
    return CircuitIncoming(
        circuit=circuit.id,
        origin=circuit.origin,
        label=circuit.far_label or 0,
        com=circuit.com,
    )


def opened(circuit: Relayed) -> CircuitOpened:
    """Return what the origin is told."""
    return CircuitOpened(circuit=circuit.id, label=circuit.near_label, cookie=circuit.cookie)


def refused(key: Key, circuit: bytes, code: int) -> Send:
    """Return the no to a question for a circuit."""
    return Send(key, RelayRefused(circuit=circuit, code=code))


def closed(key: Key, circuit: bytes, code: int) -> Send:
    """Return the end of a circuit, for one side."""
    return Send(key, CircuitClosed(circuit=circuit, code=code))
