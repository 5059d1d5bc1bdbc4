"""The steps of a node's ladder, as its configuration has them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from attrs import frozen

from veilnet.daemon.ladder.beacon import Beacon
from veilnet.daemon.ladder.ladder import Ladder, Off
from veilnet.daemon.ladder.lan import Lan
from veilnet.daemon.ladder.portmap import PortMap
from veilnet.daemon.ladder.saved import Known, Saved
from veilnet.daemon.ladder.seeds import Seeds, resolver

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Sequence
    from ipaddress import IPv4Network, IPv6Network

    from veilnet.config import Config
    from veilnet.daemon.ladder.ladder import Found, Step
    from veilnet.daemon.ladder.saved import SavedContacts
    from veilnet.daemon.ladder.scope import Scope
    from veilnet.networks.endpoint import Endpoint
    from veilnet.units import NetworkId

_ALONE: Final = "this node keeps to its own networks"


@frozen
class Surroundings:
    """What the steps need of the node."""

    port: int
    """The UDP port that the engine listens on."""
    scopes: Callable[[], Sequence[Scope]]
    """The commons, if the node is in it, and its networks, as they are now."""
    rng: random.Random
    tun: str | None = None
    overlay: Callable[[], Iterable[IPv4Network | IPv6Network]] = tuple
    commons: NetworkId | None = None
    cache: SavedContacts | None = None
    known: Callable[[], Iterable[Found]] = tuple
    """Where members, and the inviter of a network that is being joined, were last known to be."""
    mapped: Callable[[], None] = lambda: None
    """Called when the gateway's port is another one, or gone."""


@frozen
class Climb:
    """A ladder, and what of its steps others ask."""

    ladder: Ladder
    portmap: PortMap | None

    @property
    def mapped(self) -> Endpoint | None:
        """The gateway's port that leads here."""
        return None if self.portmap is None else self.portmap.mapped


def build(config: Config, around: Surroundings) -> Climb:
    """Return the ladder that *config* wants; what is switched off is a line of its report."""
    portmap = (
        PortMap(port=around.port, tun=around.tun, changed=around.mapped)
        if config.port_mapping
        else None
    )
    steps: list[Step | Off] = [
        _saved(around),
        Off("known", _ALONE) if around.commons is None else Known(around.known),
        _lan(config, around),
        _seeds(config, around),
        _beacon(config, around, portmap),
        portmap or Off("portmap", "switched off", "Set port_mapping = true in config.toml."),
    ]
    return Climb(Ladder(steps, rng=around.rng), portmap)


def _saved(around: Surroundings) -> Step | Off:
    if around.cache is None or around.commons is None:
        return Off("saved", _ALONE)
    return Saved(around.cache, around.commons)


def _lan(config: Config, around: Surroundings) -> Step | Off:
    if config.lan == "off":
        return Off("lan", "switched off", 'Set lan = "all" in config.toml.')

    def scopes() -> Sequence[Scope]:
        return [item for item in around.scopes() if config.lan == "all" or not item.public]

    return Lan(
        scopes=scopes,
        port=around.port,
        tun=around.tun,
        overlay=around.overlay,
        rng=around.rng,
    )


def _seeds(config: Config, around: Surroundings) -> Step | Off:
    if around.commons is None:
        return Off("seeds", _ALONE)
    if not config.dns_seeds:
        return Off("seeds", "none is named", "Name some with dns_seeds in config.toml.")
    return Seeds(config.dns_seeds, around.commons, resolver=partial(resolver, config.dns_servers))


def _beacon(config: Config, around: Surroundings, portmap: PortMap | None) -> Step | Off:
    def port() -> int:
        mapped = None if portmap is None else portmap.mapped
        return around.port if mapped is None else mapped.port

    if around.commons is None:
        return Off("beacon", _ALONE)
    if not config.beacon:
        return Off("beacon", "switched off", "Set beacon = true in config.toml to use it.")
    return Beacon(
        scopes=around.scopes,
        port=port,
        rng=around.rng,
        bootstrap=config.beacon_bootstrap,
    )
