"""Tickets of this node's sessions: given, kept, and used when a peer is called again.

```
session up, GIVE_S later      Ticket -->      both ways: either may come back
the peer moved, half a life   Ticket -->      again, for where it is now
a call to an endpoint that we have a ticket for: one round trip until data
```
Only between members of one network.  Ids in the commons are free: strangers' tickets would push out
those of members, and ours would let strangers in without a proof of their address.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

import structlog
import trio

from veilnet.errors import ClosedError, LocalProtocolError
from veilnet.protocol.circuit import is_circuit
from veilnet.protocol.messages import Ticket
from veilnet.protocol.tickets import Shown, TicketStore, holder_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from veilnet.daemon.node import Node
    from veilnet.daemon.sessions import Session
    from veilnet.networks.endpoint import Endpoint
    from veilnet.units import NetworkId, PeerId

GIVE_S: Final = 2.0
"""So long a session has to last before it is worth coming back to."""
LIFE_S: Final = 12 * 3600.0
"""Over night, and no longer than a credential is likely to last."""
GIVE_AGAIN_S: Final = 60.0
"""A peer that moves about gets a ticket this often at most."""

log = structlog.get_logger("veilnet.tickets")


class Tickets:
    """Gives and keeps tickets, for every session between two that know each other."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._store = TicketStore()
        self._given_s: dict[int, float] = {}
        """When each session's peer was given its newest ticket."""

    def __len__(self) -> int:
        return len(self._store)

    def begin(self, session: Session) -> None:
        """Give a member tickets for as long as *session* lasts."""
        if self._is_member(session):
            self._node.spawn(self._give_in_turn, session)

    def _is_member(self, session: Session) -> bool:
        return self._node.networks.get(session.network_id) is not None

    async def _give_in_turn(self, session: Session) -> None:
        pause_s = GIVE_S
        try:
            while True:
                with trio.move_on_after(pause_s):
                    await session.link.closed.wait()
                    return
                self._give(session)
                pause_s = LIFE_S / 2
        finally:
            self._given_s.pop(session.sid, None)

    def moved(self, session: Session) -> None:
        """Give the peer a ticket for where it is now: the one before is for where it was."""
        given_s = self._given_s.get(session.sid)
        if given_s is not None and trio.current_time() >= given_s + GIVE_AGAIN_S:
            self._give(session)

    def _give(self, session: Session) -> None:
        self._given_s[session.sid] = trio.current_time()
        # Without a direct path there is no address to prove; a closed session needs none.
        with contextlib.suppress(LocalProtocolError, ClosedError):
            ticket, key = self._node.engine.issue_ticket(
                session.sid, holder=holder_of(*session.key), life_s=LIFE_S
            )
            session.link.send(Ticket(ticket=ticket, key=key, life_s=int(LIFE_S)))

    def take(self, session: Session, message: Ticket) -> None:
        """Keep the ticket that the peer gave us.   Raises: RemoteProtocolError: it is none."""
        if not self._is_member(session):
            return
        if is_circuit(session.endpoint):
            return  # where the peer itself is, this session does not tell
        shown = Shown((session.endpoint.host, session.endpoint.port), message.ticket, message.key)
        life_s = min(float(message.life_s), 2 * LIFE_S)
        try:
            self._store.put(*session.key, shown, life_s=life_s, now=trio.current_time())
        except LocalProtocolError as error:
            log.info("ticket not kept", peer=session.peer_id.hex()[:12], reason=error.message)

    def use(
        self, network_id: NetworkId, peer_id: PeerId, endpoints: Iterable[Endpoint]
    ) -> Shown | None:
        """Return the ticket to show when calling *peer_id*, if there is one for *endpoints*."""
        where = {(host, port) for host, port in endpoints}
        return self._store.take(network_id, peer_id, where, now=trio.current_time())
