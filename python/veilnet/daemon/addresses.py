"""This node's overlay addresses on the TUN device, and its peers' names in the hosts file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import structlog
import trio

from veilnet.daemon import hosts, tun, underlay
from veilnet.errors import ConfigError, VeilError

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

    from veilnet.daemon.node import Node
    from veilnet.networks.endpoint import Endpoint
    from veilnet.networks.member import Member
    from veilnet.networks.network import Network

log = structlog.get_logger("veilnet.addresses")


class Addresses:
    """What the operating system is told about the overlay."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._off: dict[tuple[bytes, int], str] = {}
        """(network, IP version) that is not used here, and why."""
        self._resolved: dict[str, list[Endpoint]] = {}
        """What the operator's words last meant; written by one thread at a time, entry by entry."""
        self._names_written = False
        self._names_busy = False

    async def bring_up(self) -> None:
        """Bring the TUN device up, and every network on it.

        Raises: PrivilegeError.
        """
        name = self._node.engine.tun_name
        if name is not None:
            mtu = self._node.config.mtu_bytes
            await trio.to_thread.run_sync(lambda: tun.bring_up(name, mtu_bytes=mtu))
        for network in self._node.networks:
            await self.add(network)
        await self.write_names()

    async def add(self, network: Network) -> None:
        """Put *network*'s addresses on the device, where no route of the host is in the way."""
        name = self._node.engine.tun_name
        for address in network.addresses:
            prefix = self.prefix(network, address.version)
            key = (network.id, address.version)
            if prefix is None:
                self._off[key] = "another network of this node has the same IPv4 range: IPv4 is off"
            elif name is not None:
                why = await trio.to_thread.run_sync(_put, name, address, prefix)
                if why is not None:
                    self._off[key] = f"{why}: IPv{address.version} is off"
                    log.warning("address off", network=network.name, reason=why)
        self.tell_engine()

    async def remove(self, network: Network) -> None:
        """Take *network*'s addresses away; one that was off because of them may come on."""
        name = self._node.engine.tun_name
        for address in self.usable(network, network.own):
            prefix = network.prefix if address.version == 6 else network.genesis.ipv4_range
            if name is not None:
                await trio.to_thread.run_sync(tun.remove_address, name, address, prefix)
        self._off.clear()
        for other in self._node.networks:
            await self.add(other)
        self.tell_engine()

    def tell_engine(self) -> None:
        """Tell the engine which inner addresses are ours and which are asked for."""
        local: list[str] = []
        wanted: list[str] = []
        for network in self._node.networks:
            for address in self.usable(network, network.own):
                local.append(f"{address}/{address.max_prefixlen}")
                wanted.append(str(self.prefix(network, address.version)))
        self._node.engine.set_local(local)
        self._node.engine.set_wanted(wanted)

    def prefix(self, network: Network, version: int) -> IPv4Network | IPv6Network | None:
        """Return the range that *network*'s addresses of that IP version lie in."""
        return network.prefix if version == 6 else self._node.networks.ipv4_of(network)

    def usable(self, network: Network, member: Member) -> list[IPv4Address | IPv6Address]:
        """Return *member*'s addresses that this node can use."""
        return [
            address
            for address in member.addresses
            if (network.id, address.version) not in self._off
        ]

    def warnings(self, network: Network) -> list[str]:
        """Return why some addresses of *network* are not used."""
        return [why for (network_id, _), why in self._off.items() if network_id == network.id]

    async def local_endpoints(self, *, strict: bool = False) -> list[Endpoint]:
        """Return where this host may be reached: the operator's word first, then its addresses.

        A name of the operator's that does not resolve now means what it last meant.
        Raises: ConfigError: *strict*, and such a name never meant anything.
        """
        prefixes = self._node.networks.overlay
        port, name = self._node.engine.port, self._node.engine.tun_name
        given = list(self._node.config.endpoints)

        def find() -> list[Endpoint]:
            found: list[Endpoint] = []
            for text in given:
                try:
                    self._resolved[text] = underlay.resolve((text,))
                except ConfigError as error:
                    if strict and text not in self._resolved:
                        raise
                    log.warning("endpoint not resolved", reason=error.message)
                found += self._resolved.get(text, [])
            local = underlay.local_endpoints(port, overlay=prefixes, tun=name)
            return list(dict.fromkeys([*found, *local]))

        return await trio.to_thread.run_sync(find)

    # --- names -----------------------------------------------------------------------------------

    def names_changed(self) -> None:
        """Write the hosts file soon, if the operator asked for it."""
        if self._node.config.hosts_file and not self._names_busy:
            self._names_busy = True
            self._node.spawn(self._names_soon)

    async def _names_soon(self) -> None:
        await trio.sleep(0.2)
        self._names_busy = False
        await self.write_names()

    async def write_names(self) -> None:
        """Write every member's names into the hosts file, if the operator asked for it.

        Raises: PrivilegeError, ConfigError.
        """
        if not self._node.config.hosts_file:
            return
        entries: list[tuple[str, tuple[str, ...]]] = []
        bare: set[str] = set()
        for network in self._node.networks:
            conflicts = set(network.members.conflicts())
            named: dict[str, tuple[str, ...]] = {}
            for name, address in network.members.directory():
                if name in conflicts or (network.id, address.version) in self._off:
                    continue  # a conflict answers nothing, rather than the wrong one
                full = f"{name}.{network.name}.veil"
                named.setdefault(name, (full,) if name in bare else (name, full))
                entries.append((str(address), named[name]))
            bare.update(named)
        await self._rewrite(entries)
        self._names_written = bool(entries)

    async def _rewrite(self, entries: list[tuple[str, tuple[str, ...]]]) -> None:
        path, owner = Path(self._node.config.hosts_file), self._node.identity.peer_id.hex()[:12]
        await trio.to_thread.run_sync(hosts.rewrite, path, owner, entries, limiter=self._node.disk)

    async def take_down(self) -> None:
        """Take the names out of the hosts file; the device goes with the engine."""
        if self._names_written:
            try:
                await self._rewrite([])
            except VeilError as error:
                log.warning("names stay in the hosts file", reason=error.message)


def _put(
    name: str, address: IPv4Address | IPv6Address, prefix: IPv4Network | IPv6Network
) -> str | None:
    """Give the device the address; return why not if the host is in the way."""
    overlap = tun.overlap(prefix, device=name)
    if overlap is not None:
        return str(overlap)
    try:
        tun.add_address(name, address, prefix)
    except OSError as error:
        return error.strerror or str(error)
    return None
