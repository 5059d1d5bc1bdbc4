"""For whom and how much this node relays: the file's word, unless a command has said otherwise.

What `veilnet relay on|off|limit` says is kept in the state folder, because nothing but its owner
writes `config.toml`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from veilnet.config import Config, fault
from veilnet.errors import ConfigError, UsageError
from veilnet.protocol.relay import Terms
from veilnet.protocol.relay_steps import Phase
from veilnet.units import NetworkId, PeerId

if TYPE_CHECKING:
    from collections.abc import Mapping

    from veilnet.daemon.node import Node
    from veilnet.daemon.remembered import Remembered
    from veilnet.protocol.relay_steps import Relayed

KEYS: Final[tuple[str, ...]] = ("relay", "relay_circuits", "relay_rate_bps", "relay_volume_bytes")
"""Keys of the file, and of what a command said."""


class Lending:
    """The terms that hold now, and who set them."""

    def __init__(self, config: Config, remembered: Remembered) -> None:
        said = remembered.relay
        # What a later release said, this one may not understand: the rest of it holds.
        self._said = {key: said[key] for key in KEYS if key in said and not fault(key, said[key])}
        if "relay" in said and "relay" not in self._said:
            # Somebody decided, and we cannot read what: consent is not to be guessed.
            self._said["relay"] = "off"
        decided = config.override(self._said)
        self.terms = Terms(
            for_own=decided.relay != "off",
            for_strangers=decided.relay == "all",
            circuits=decided.relay_circuits,
            rate_bps=decided.relay_rate_bps,
            volume_bytes=decided.relay_volume_bytes,
        )

    @property
    def set_by(self) -> dict[str, str]:
        """Return who decided each key: "command" or "config" (the file, or its default)."""
        return {key: "command" if key in self._said else "config" for key in KEYS}

    def changed(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Return what commands have said, with *changes* (None = unchanged).

        Raises: UsageError: a value cannot be one.
        """
        new = {key: value for key, value in changes.items() if value is not None}
        if unknown := new.keys() - set(KEYS):
            raise UsageError(f"relaying has no {min(unknown)}")
        try:
            Config().override(new)
        except (ConfigError, TypeError) as error:
            raise UsageError(str(getattr(error, "message", error))) from error
        return {**self._said, **new}


def status(node: Node) -> dict[str, Any]:
    """Return what `status` shows of relaying."""
    service, rate_bps = node.relaying.service, node.relaying.rate_bps
    kinds = {"own": service.terms.for_own, "strangers": service.terms.for_strangers}
    return {
        "for": [kind for kind, serves in kinds.items() if serves],
        "circuits": sum(circuit.open for circuit in service.circuits),
        "rate_bps": rate_bps,
        "bytes_total": service.quota.total_bytes,
    }


def report(node: Node) -> dict[str, Any]:
    """Return all that `relay status` shows."""
    relaying = node.relaying
    service = relaying.service
    return status(node) | {
        "busy": relaying.busy,
        "bytes_today": service.quota.day_bytes,
        "reservations": service.reservations,
        "limits": {
            "circuits": service.terms.circuits,
            "rate_bps": service.terms.rate_bps,
            "volume_bytes": service.terms.volume_bytes,
        },
        "set_by": relaying.lending.set_by,
        "carries": [_described(node, circuit) for circuit in service.circuits if circuit.open],
    }


def _described(node: Node, circuit: Relayed) -> dict[str, Any]:
    network = node.networks.get(NetworkId(circuit.near[0]))

    def peer(peer_id: bytes) -> dict[str, str]:
        known = network is not None and PeerId(peer_id) in network.members
        name = network.members.name_of(PeerId(peer_id)) if network and known else ""
        return {"id": peer_id.hex(), "name": name}

    onward = circuit.far[1] != circuit.target
    return {
        "network": "" if network is None else network.name,
        "from": peer(circuit.near[1]),
        "to": peer(circuit.target),
        "through": peer(circuit.far[1]) if onward else None,
        "bytes": circuit.bytes,
        "confirmed": circuit.phase is Phase.CONFIRMED,
    }
