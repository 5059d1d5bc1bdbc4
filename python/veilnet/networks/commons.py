"""The commons: the open network that every node may join, to be found and to relay.

```
name      "veilnet" unless the operator chose another: whoever knows it may come in
id        SHA-256("veilnet/commons/id/1" || name)
K_net     SHA-256("veilnet/commons/secret/1" || name): public, so what it hides is hidden from
          those only who do not look
K_door    one door for every node, without a peer id: seeds know no more than addresses
```
It has no members, credentials or addresses: it gives access to nobody's packets.  In it a node has
an identity of its own, made at each start, so that neither who stores for it nor who relays for it
learns which member of which network it is.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, TypeAlias

from attrs import frozen

from veilnet.crypto import S1
from veilnet.networks import keys
from veilnet.networks.endpoint import Endpoint
from veilnet.units import NetworkId, PeerId

if TYPE_CHECKING:
    from collections.abc import Iterable

    from veilnet.crypto import Identity
    from veilnet.networks.network import Network

NEIGHBOURS_MAX: Final = 1_024
ENDPOINTS_MAX: Final = 4


@frozen
class Neighbour:
    """A node of the commons: the id that it has there, and where it may be reached."""

    peer_id: PeerId
    endpoints: tuple[Endpoint, ...] = ()

    @property
    def name(self) -> str:
        """What to call it in a message."""
        return f"node {self.peer_id.hex()[:12]}"


class Neighbours:
    """The nodes of the commons that this one has dealt with lately, at most NEIGHBOURS_MAX."""

    def __init__(self) -> None:
        self._known: OrderedDict[PeerId, Neighbour] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def __repr__(self) -> str:
        return f"<Neighbours, {len(self)} of them>"

    def get(self, peer_id: PeerId) -> Neighbour | None:
        """Return the neighbour of that id."""
        return self._known.get(peer_id)

    def name_of(self, peer_id: PeerId) -> str:
        """Return what to call a node in a message."""
        return Neighbour(peer_id).name

    def met(self, peer_id: PeerId, endpoints: Iterable[Endpoint]) -> Neighbour:
        """Note where a node is, the newest first; who was met longest ago is forgotten."""
        before = self._known.pop(peer_id, None)
        known = dict.fromkeys((*endpoints, *(before.endpoints if before else ())))
        neighbour = Neighbour(peer_id, tuple(known)[:ENDPOINTS_MAX])
        self._known[peer_id] = neighbour
        if len(self._known) > NEIGHBOURS_MAX:
            self._known.popitem(last=False)
        return neighbour


class Commons:
    """What a node is in the commons, with the members of a `Network` that sessions need."""

    def __init__(self, name: str, identity: Identity) -> None:
        self.name = name
        self.id = NetworkId(_hash(b"veilnet/commons/id/1", name))
        self.k_net = _hash(b"veilnet/commons/secret/1", name)
        self.identity = identity
        self.suite = S1.number
        self.members = Neighbours()

    def __repr__(self) -> str:
        return f"<Commons {self.name}, {self.members!r}>"

    @property
    def peer_id(self) -> PeerId:
        """This node's id in the commons: another one after each start."""
        return self.identity.peer_id

    def door_key(self, peer_id: PeerId | None = None) -> bytes:
        """Return the key of the door that every node of the commons keeps, whoever it is."""
        del peer_id
        return keys.door_key(self.k_net, b"")


def _hash(label: bytes, name: str) -> bytes:
    return hashlib.sha256(label + name.encode()).digest()


Realm: TypeAlias = "Network | Commons"
"""Whatever sessions belong to."""
