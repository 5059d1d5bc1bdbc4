"""A relay's table: the links there are, the circuits over them, and the labels in use.

Invariant: every circuit is in the table of both its links, and its label on each of the two is
used by no other circuit on that link.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from attrs import define, field

from veilnet.protocol.relay import displaced
from veilnet.protocol.relay_steps import Phase, Relayed

if TYPE_CHECKING:
    from random import Random

    from veilnet.protocol.relay import Key

UNCONFIRMED_OF_PEER_MAX: Final = 8
UNCONFIRMED_OF_PAIR_MAX: Final = 4
"""... of them between the same two ends."""
_LABEL_BITS: Final = 31
_HIGH_BIT: Final = 1 << _LABEL_BITS


@define
class Link:
    """What is known of a link: its circuits of both sides, and the labels used on it."""

    initiator: bool
    own: bool
    place: bytes = b""
    circuits: dict[bytes, None] = field(factory=dict)
    labels: set[int] = field(factory=set)


class Table:
    """Circuits by id and by link, the oldest first."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self.links: dict[Key, Link] = {}
        self._circuits: dict[bytes, Relayed] = {}

    def __len__(self) -> int:
        return len(self._circuits)

    def __contains__(self, circuit: bytes) -> bool:
        return circuit in self._circuits

    @property
    def circuits(self) -> list[Relayed]:
        """All circuits, pending ones included."""
        return list(self._circuits.values())

    def get(self, circuit: bytes) -> Relayed | None:
        """Return the circuit of that id."""
        return self._circuits.get(circuit)

    def held(self, key: Key) -> list[bytes]:
        """Return the ids of the circuits over a link."""
        link = self.links.get(key)
        return [] if link is None else list(link.circuits)

    def over(self, key: Key) -> list[Relayed]:
        """Return the circuits over a link."""
        return [self._circuits[circuit] for circuit in self.held(key)]

    def of(self, key: Key) -> list[Relayed]:
        """Return the circuits that count for the peer of *key*: those it asked for."""
        return [circuit for circuit in self.over(key) if circuit.near == key]

    def confirmed(self, key: Key | None = None) -> list[Relayed]:
        """Return the confirmed circuits, of the peer of *key* or all: those that caps count."""
        every = self.circuits if key is None else self.of(key)
        return [circuit for circuit in every if circuit.phase is Phase.CONFIRMED]

    def displaced(self, key: Key, *, origin: bytes, target: bytes) -> Relayed | None:
        """Return which unconfirmed circuit of a peer goes for a new one of its; None: none has to.

        A peer that asks for other origins is a relay: among those the greediest goes first.
        """
        waiting = [circuit for circuit in self.of(key) if circuit.phase is not Phase.CONFIRMED]
        return displaced(
            waiting,
            lambda circuit: (circuit.origin, circuit.target),
            (origin, target),
            each=UNCONFIRMED_OF_PAIR_MAX,
        ) or displaced(
            waiting, lambda circuit: circuit.origin, origin, in_all=UNCONFIRMED_OF_PEER_MAX
        )

    def add(self, circuit: Relayed) -> None:
        """Take in a circuit whose links are there; its labels are already taken."""
        self._circuits[circuit.id] = circuit
        for key in (circuit.near, circuit.far):
            self.links[key].circuits[circuit.id] = None

    def remove(self, circuit: Relayed) -> None:
        """Take a circuit out, and give its labels back."""
        del self._circuits[circuit.id]
        for key, label in ((circuit.near, circuit.near_label), (circuit.far, circuit.far_label)):
            if (link := self.links.get(key)) is not None:
                link.circuits.pop(circuit.id, None)
                link.labels.discard(-1 if label is None else label)

    def new_label(self, key: Key) -> int:
        """Take a label on a link; its high bit tells which end of the link gave it."""
        link = self.links[key]
        high = _HIGH_BIT if link.initiator else 0
        label = high | self._rng.getrandbits(_LABEL_BITS)
        while label in link.labels:
            label = high | self._rng.getrandbits(_LABEL_BITS)
        link.labels.add(label)
        return label

    def take_label(self, key: Key, label: int) -> bool:
        """Take a label that the other end of a link gave; False if it is in use."""
        labels = self.links[key].labels
        if label in labels:
            return False
        labels.add(label)
        return True
