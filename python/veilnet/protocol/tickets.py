"""Tickets: what lets a peer that was here come back in one round trip.

```
issuer    engine.issue_ticket(sid, holder=holder_of(network, peer)) -> (ticket, key)
          Ticket(ticket, key, life)        over the session's control channel
holder    TicketStore.put                  until the next handshake with that peer at that endpoint
          take -> engine.hello(ticket=..)  once: a ticket is spent by being shown
```
A ticket proves an address and nothing else: KEM, signatures and membership are as in every full
handshake.  The issuer believes it from the address that the session had, and from no other.
"""

from __future__ import annotations

import hashlib
import struct
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from attrs import field, frozen

from veilnet.errors import LocalProtocolError

if TYPE_CHECKING:
    from collections.abc import Collection

    from veilnet.protocol.fields import Endpoint
    from veilnet.units import NetworkId, PeerId

TICKET_BYTES: Final = 96
KEY_BYTES: Final = 32
STORED_MAX: Final = 4_096
_NAME_BYTES: Final = 16
_ROW: Final = struct.Struct(f">I16sH{TICKET_BYTES}s{KEY_BYTES}s")


def holder_of(network_id: NetworkId, peer_id: PeerId) -> bytes:
    """Return what a ticket says of whom it was given to: 32 bytes, of no use to anybody else."""
    return hashlib.sha256(b"veilnet/ticket/1/holder" + network_id + peer_id).digest()


@frozen
class Shown:
    """A ticket on its way into a handshake, and where it may be shown."""

    endpoint: Endpoint
    ticket: bytes = field(repr=False)
    key: bytes = field(repr=False)


class TicketStore:
    """The newest ticket of each peer; at most `STORED_MAX`, the one kept longest goes first.

    166 bytes for each peer, in two objects of less than 250 together.
    Units: *now* and *life_s* seconds, on one clock that only this process reads.
    """

    def __init__(self, limit: int = STORED_MAX) -> None:
        self._limit = limit
        self._rows: dict[bytes, bytes] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"<TicketStore {len(self)}>"

    def put(
        self,
        network_id: NetworkId,
        peer_id: PeerId,
        shown: Shown,
        *,
        life_s: float,
        now: float,
    ) -> None:
        """Keep *shown* instead of what there was.

        Raises: LocalProtocolError: it is not of a ticket's length.
        """
        if len(shown.ticket) != TICKET_BYTES or len(shown.key) != KEY_BYTES:
            raise LocalProtocolError("that is no ticket")
        host, port = shown.endpoint
        address = ip_address(host)
        packed = (
            address.packed if address.version == 6 else b"\0" * 10 + b"\xff\xff" + address.packed
        )
        name = self._name(network_id, peer_id)
        # Taken out first: the order of the table is that of the last change.
        self._rows.pop(name, None)
        while len(self._rows) >= self._limit:
            del self._rows[next(iter(self._rows))]
        ends = min(max(int(now + life_s), 0), 2**32 - 1)
        self._rows[name] = _ROW.pack(ends, packed, port, shown.ticket, shown.key)

    def take(
        self,
        network_id: NetworkId,
        peer_id: PeerId,
        endpoints: Collection[Endpoint],
        *,
        now: float,
    ) -> Shown | None:
        """Return the peer's ticket for one of *endpoints*, and keep it no longer.

        None if there is none in time; one for another endpoint stays.
        """
        name = self._name(network_id, peer_id)
        row = self._rows.get(name)
        if row is None:
            return None
        ends, packed, port, ticket, key = _ROW.unpack(row)
        address = ip_address(packed)
        mapped = address.ipv4_mapped if address.version == 6 else None
        endpoint = (str(mapped or address), port)
        if now < ends and endpoint not in endpoints:
            return None
        del self._rows[name]
        return Shown(endpoint, ticket, key) if now < ends else None

    def forget(self, network_id: NetworkId, peer_id: PeerId) -> None:
        """Keep nothing of that peer."""
        self._rows.pop(self._name(network_id, peer_id), None)

    @staticmethod
    def _name(network_id: NetworkId, peer_id: PeerId) -> bytes:
        return holder_of(network_id, peer_id)[:_NAME_BYTES]
