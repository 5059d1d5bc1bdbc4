"""The doors that this node keeps: one per network, one per invite that is open or lately was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs
import structlog

from veilnet.daemon.host import unix_now
from veilnet.networks.commons import Commons

if TYPE_CHECKING:
    from veilnet.daemon.node import Node
    from veilnet.networks.commons import Realm
    from veilnet.networks.issuer import JoinDoor

DOORS_MAX: Final = 16
REFRESH_S: Final = 60.0

log = structlog.get_logger("veilnet.doors")


@attrs.frozen
class Door:
    """What a door leads to: a network's members' entrance, one invite's, or the commons."""

    network: Realm
    invite: JoinDoor | None = None


class Doors:
    """Keeps the engine's doors in step with networks and invites."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._open: dict[int, Door] = {}
        self._by_key: dict[bytes, int] = {}

    def get(self, door: int) -> Door | None:
        """Return what the engine's *door* leads to."""
        return self._open.get(door)

    def refresh(self) -> None:
        """Open and close doors so that they are those that should be there now."""
        wanted: dict[bytes, Door] = {}
        for network in self._node.networks:
            wanted[network.door_key(network.peer_id)] = Door(network)
        commons = self._node.commons
        if commons is not None:
            wanted[commons.door_key()] = Door(commons)
        for network in self._node.networks:
            if network.issuer is not None:
                for invite in network.issuer.doors(unix_now()):
                    wanted[invite.key] = Door(network, invite)
        if len(wanted) > DOORS_MAX:
            log.warning("too many doors", wanted=len(wanted), open=DOORS_MAX)
            wanted = dict(list(wanted.items())[:DOORS_MAX])
        for key in self._by_key.keys() - wanted.keys():
            number = self._by_key.pop(key)
            del self._open[number]
            self._node.engine.remove_door(number)
        for key, door in wanted.items():
            if key not in self._by_key:
                # Whoever knows its name can knock at the commons: it would fill a set of the seen.
                known = not isinstance(door.network, Commons)
                self._by_key[key] = self._node.engine.add_door(key, replay_set=known)
            self._open[self._by_key[key]] = door

    async def refresh_soon(self) -> None:
        """Close the doors of invites that are long over: one round."""
        self.refresh()
