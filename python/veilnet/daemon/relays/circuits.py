"""This node's ends of circuits, and who waits for one: the bookkeeping of `relaying`."""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import TYPE_CHECKING, Final

import attrs
import trio

from veilnet._engine import circuit_endpoint
from veilnet.networks.endpoint import Endpoint
from veilnet.protocol import relay
from veilnet.protocol.circuit import is_circuit
from veilnet.units import NetworkId, PeerId

if TYPE_CHECKING:
    from collections.abc import Iterator

    from veilnet.protocol.relay import Key
    from veilnet.protocol.relay_client import End

EXPECTED_MAX: Final = 4
"""Circuits that one peer announces and that are not here yet; more no honest peer opens at once."""


@attrs.define(eq=False, kw_only=True)
class Circuit:
    """This node's end of a circuit; *closed* is set when it carries no more."""

    id: bytes
    network_id: NetworkId
    relay: PeerId
    """The relay that we have a link with."""
    target: PeerId
    """The other end; of one that came in, whom the relay says it is from."""
    through: PeerId | None = None
    """The second relay of a chain that was opened here."""
    incoming: bool
    link: int
    """The session id of the link now: another session may replace it."""
    label: int
    endpoint: Endpoint
    """Where the engine sends what is to go over the circuit; changes with *link*."""
    opened_s: float
    cookie: bytes | None = None
    """What the other end gave for the handshake through it."""
    confirmed: bool = False
    closed: trio.Event = attrs.field(factory=trio.Event)
    why: int | None = None
    """`relay.Closing`, once it is closed."""

    @property
    def relays(self) -> tuple[PeerId, ...]:
        """The relays it passes, as far as they are known here, the nearest first."""
        return (self.relay,) if self.through is None else (self.relay, self.through)


@attrs.define(eq=False)
class Question:
    """A circuit being asked for."""

    done: trio.Event = attrs.field(factory=trio.Event)
    circuit: Circuit | None = None
    refusal: int = relay.Refusal.OTHER


class Circuits:
    """The circuits that end here, by id, and what is asked or expected."""

    def __init__(self) -> None:
        self._circuits: dict[bytes, Circuit] = {}
        self._questions: dict[bytes, Question] = {}
        self._expected: dict[bytes, trio.Event] = {}
        self._waiting: Counter[Key] = Counter()
        """How many tasks wait for a circuit that somebody announced."""

    def __len__(self) -> int:
        return len(self._circuits)

    def __iter__(self) -> Iterator[Circuit]:
        return iter(list(self._circuits.values()))

    def at(self, endpoint: tuple[str, int]) -> Circuit | None:
        """Return the circuit that an endpoint of the engine stands for."""
        if not is_circuit(endpoint):
            return None
        return next((each for each in self if tuple(each.endpoint) == tuple(endpoint)), None)

    def incoming(self, circuit_id: bytes) -> Circuit | None:
        """Return the circuit of that id that came in."""
        circuit = self._circuits.get(circuit_id)
        return circuit if circuit is not None and circuit.incoming else None

    async def expect(self, circuit_id: bytes, *, of: Key, timeout_s: float) -> Circuit | None:
        """Return the circuit of that id that comes in within *timeout_s* seconds, if it does.

        *of*: who announced it; more than `EXPECTED_MAX` of one are not waited for.
        """
        if (circuit := self.incoming(circuit_id)) is not None:
            return circuit
        if self._waiting[of] >= EXPECTED_MAX:
            return None
        event = self._expected.setdefault(circuit_id, trio.Event())
        self._waiting[of] += 1
        try:
            with trio.move_on_after(timeout_s):
                await event.wait()
        finally:
            self._waiting[of] -= 1
            if not self._waiting[of]:
                del self._waiting[of]
            # Others may wait for the same one, but then for no longer than until it is here.
            if event.is_set() or event.statistics().tasks_waiting == 0:
                self._expected.pop(circuit_id, None)
        return self.incoming(circuit_id)

    @contextlib.contextmanager
    def asking(self, circuit_id: bytes) -> Iterator[Question]:
        """Give the question for a circuit, answered by `joined` or `failed`."""
        question = self._questions[circuit_id] = Question()
        try:
            yield question
        finally:
            del self._questions[circuit_id]

    def joined(self, end: End, link: int, endpoint: Endpoint) -> None:
        """Take in a circuit that the engine has joined."""
        circuit = self._circuits[end.id] = Circuit(
            id=end.id,
            network_id=NetworkId(end.relay[0]),
            relay=PeerId(end.relay[1]),
            target=PeerId(end.peer),
            through=None if end.through is None else PeerId(end.through),
            incoming=end.incoming,
            link=link,
            label=end.label or 0,
            endpoint=endpoint,
            opened_s=trio.current_time(),
            cookie=end.cookie,
        )
        if (question := self._questions.get(end.id)) is not None:
            question.circuit = circuit
            question.done.set()
        if end.incoming and (expected := self._expected.get(end.id)) is not None:
            expected.set()

    def left(self, circuit_id: bytes, code: int) -> Circuit | None:
        """Take out a circuit that has ended, and tell who uses it."""
        circuit = self._circuits.pop(circuit_id, None)
        if circuit is None:
            self.failed(circuit_id, relay.Refusal.OTHER)
            return None
        circuit.why = code
        circuit.closed.set()
        return circuit

    def failed(self, circuit_id: bytes, code: int) -> None:
        """Answer the question for a circuit that did not come about."""
        question = self._questions.get(circuit_id)
        if question is not None and not question.done.is_set():
            question.refusal = code
            question.done.set()

    def moved(self, key: Key, link: int) -> None:
        """Note that another session carries a link now."""
        for circuit in self:
            if (circuit.network_id, circuit.relay) == key:
                circuit.link = link
                circuit.endpoint = Endpoint(*circuit_endpoint(link, circuit.label))
