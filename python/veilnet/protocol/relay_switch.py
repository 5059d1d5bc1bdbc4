"""Which of a node's two machines an event is for; any node is a relay and an end at once.

Invariant: whoever speaks of a circuit that is not here hears that it is closed, so that two ends
of a link that lost sight of each other agree again after one round trip.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from attrs import frozen

from veilnet.protocol.relay import Closing, Heard, LinkDown, LinkUp, Send
from veilnet.protocol.relay_messages import (
    HELD_MAX,
    CircuitAccepted,
    CircuitClosed,
    CircuitConfirm,
    CircuitIncoming,
    CircuitOpen,
    CircuitOpened,
    CircuitsHeld,
    RelayReserve,
)

if TYPE_CHECKING:
    from veilnet.protocol import relay_client, relay_steps
    from veilnet.protocol.relay import Key
    from veilnet.protocol.relay_client import CircuitClient
    from veilnet.protocol.relay_messages import RelayMessage
    from veilnet.protocol.relay_service import RelayService

    Action = relay_steps.Action | relay_client.Action

_OWED_AN_END: Final = (CircuitOpened, CircuitAccepted, CircuitConfirm)


@frozen
class Switch:
    """Both machines of one node."""

    service: RelayService
    client: CircuitClient

    def handle(self, event: LinkUp | LinkDown, now: float) -> list[Action]:
        """Tell both of a link.  If it is up on another session, so is the peer of its circuits."""
        key = event.key
        held = [*self.service.held(key), *self.client.held(key)]
        actions: list[Action] = [
            *self.service.handle(event, now),
            *self.client.handle(event, now),
        ]
        if isinstance(event, LinkUp):
            for first in range(0, len(held), HELD_MAX):
                portion = tuple(held[first : first + HELD_MAX])
                actions.append(Send(key, CircuitsHeld(circuits=portion)))
        return actions

    def heard(self, event: Heard, now: float) -> list[Action]:
        """Take a message from a link."""
        key, message = event.key, event.message
        if isinstance(message, CircuitsHeld):
            return [self._closed(key, one) for one in message.circuits if not self._has(key, one)]
        machines = self._concerned(key, message)
        if not machines and isinstance(message, _OWED_AN_END):
            return [self._closed(key, message.circuit)]
        return [action for machine in machines for action in machine.handle(event, now)]

    def _concerned(
        self, key: Key, message: RelayMessage
    ) -> tuple[RelayService | CircuitClient, ...]:
        if isinstance(message, CircuitIncoming):
            return (self.client,)
        if isinstance(message, RelayReserve | CircuitOpen):
            return (self.service,)
        circuit: bytes | None = getattr(message, "circuit", None)
        if circuit is None:
            return (self.service, self.client)
        owners = (self.service, self.client)
        return tuple(machine for machine in owners if machine.owns(key, circuit))[:1]

    def over(self, key: Key) -> list[bytes]:
        """Return the circuits over a link, those being asked for included."""
        asked = (end.id for end in self.client.ends if end.relay == key)
        return [*self.service.held(key), *asked]

    def needs(self, key: Key) -> bool:
        """Whether a link must stay up."""
        return self.service.needs(key) or self.client.needs(key)

    def carries(self, key: Key) -> bool:
        """Whether circuits go over a link."""
        return self.service.carries(key) or self.client.carries(key)

    def tick(self, now: float) -> list[Action]:
        """Do what is due; call at `deadline()`."""
        return [*self.service.tick(now), *self.client.tick(now)]

    def deadline(self) -> float | None:
        """Return when `tick` must run; None: not before the next event."""
        both = (self.service.deadline(), self.client.deadline())
        return min((at for at in both if at is not None), default=None)

    def _has(self, key: Key, circuit: bytes) -> bool:
        return self.service.owns(key, circuit) or self.client.owns(key, circuit)

    @staticmethod
    def _closed(key: Key, circuit: bytes) -> Send:
        return Send(key, CircuitClosed(circuit=circuit, code=Closing.UNKNOWN))
