"""All networks of one node: none may share a prefix, a target may be looked for in each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from veilnet.errors import ConfigError, UnknownPeer
from veilnet.networks.members import AmbiguousPeer
from veilnet.networks.names import free_name, printable
from veilnet.networks.network import Network, network_ids

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from ipaddress import IPv4Network, IPv6Network

    from veilnet.networks.credential import Signer
    from veilnet.networks.member import Member
    from veilnet.networks.network import SignatureBackend
    from veilnet.store import Store
    from veilnet.units import NetworkId


class Networks:
    """The networks of this node, in the order of their founding or joining here."""

    def __init__(self, networks: Iterable[Network] = ()) -> None:
        self._networks: dict[NetworkId, Network] = {}
        for network in networks:
            self.add(network)

    @classmethod
    def load(cls, store: Store, signer: Signer, backend: SignatureBackend) -> Networks:
        """Return all networks of the state folder.

        Raises: ConfigError: a file is damaged, or two networks share a prefix.
        """
        loaded = (Network.load(store, item, signer, backend) for item in network_ids(store))
        found = [network for network in loaded if network is not None]
        return cls(sorted(found, key=lambda item: (item.since, item.id)))

    def __len__(self) -> int:
        return len(self._networks)

    def __iter__(self) -> Iterator[Network]:
        return iter(tuple(self._networks.values()))

    def __repr__(self) -> str:
        return f"<Networks {', '.join(network.name for network in self)}>"

    def get(self, network_id: NetworkId) -> Network | None:
        """Return the network with that id."""
        return self._networks.get(network_id)

    @property
    def overlay(self) -> list[IPv4Network | IPv6Network]:
        """Every prefix of ours: what lies in one is never an address of the underlay."""
        return [prefix for item in self for prefix in (item.prefix, item.genesis.ipv4_range)]

    def add(self, network: Network) -> None:
        """Take a network in, renamed if its name is another's here.

        Raises: ConfigError: its prefix is in use by another network.
        """
        self.fit(network)
        self._networks[network.id] = network

    def fit(self, network: Network) -> None:
        """Check that `add` may take a network in, and rename it if it has to be.

        Raises: ConfigError: its prefix is in use by another network.
        """
        for other in self:
            if other.id != network.id and other.prefix.overlaps(network.prefix):
                raise ConfigError(
                    f"the network {printable(network.name)} has the address prefix "
                    f"{network.prefix}, which {printable(other.name)} uses already",
                    hint="Packets could not be told apart. Leave one: veilnet network leave NAME",
                )
        taken = {other.name for other in self if other.id != network.id}
        network.name = free_name(network.name, taken)

    def remove(self, network_id: NetworkId) -> None:
        """Forget a network."""
        self._networks.pop(network_id, None)

    def ipv4_of(self, network: Network) -> IPv4Network | None:
        """Return the network's IPv4 range, None if an earlier network here has the same.

        Its IPv4 stays off then; IPv6 is unaffected.
        """
        mine = network.genesis.ipv4_range
        for other in self:
            if other.id == network.id:
                break
            if other.genesis.ipv4_range.overlaps(mine):
                return None
        return mine

    def find(self, target: str) -> tuple[Network, Member]:
        """Return whom *target* means and in which network: `MemberTable.find` in each of them.

        ``NAME.NETWORK`` and ``NAME.NETWORK.veil`` look in that network only.
        Raises: UnknownPeer: nobody; AmbiguousPeer: several.
        """
        text = target.strip().lower()
        name, dot, suffix = text.removesuffix(".veil").partition(".")
        if dot and any(network.name == suffix for network in self):
            inside = [network for network in self if network.name == suffix]
            text = name
        else:
            inside = list(self)
        found = []
        failures = []
        for network in inside:
            try:
                found.append((network, network.members.find(text)))
            except UnknownPeer as error:
                failures.append(error)
        # One peer in two networks is one peer: the first network will do.
        if len({member.peer_id for _, member in found}) == 1:
            return found[0]
        if found:
            names = ", ".join(f"{member.name}.{network.name}" for network, member in found)
            raise AmbiguousPeer(
                f"{printable(target)} may mean several peers: {names}",
                hint="Add the network's name, or use the peer id: veilnet peer list",
            )
        ambiguous = [error for error in failures if isinstance(error, AmbiguousPeer)]
        if ambiguous:
            raise ambiguous[0]
        raise UnknownPeer(f"no network of this node knows a peer {printable(target)}")
