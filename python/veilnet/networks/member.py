"""One member as a node knows it, and the check that turns gossip into one.

A `MemberEntry` is what somebody said; a `Member` is what an owner signed: past `verify` the
credential holds, and the public key is the one that the peer id is the hash of.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Final

from attrs import evolve, frozen

from veilnet.crypto.identity import peer_id
from veilnet.errors import RemoteProtocolError, VeilError
from veilnet.networks import credential as credentials
from veilnet.networks.address import overlay_ipv6
from veilnet.networks.endpoint import Endpoint
from veilnet.networks.records import MAX_TIME
from veilnet.protocol.messages import MemberEntry

if TYPE_CHECKING:
    from collections.abc import Iterable

    from veilnet.networks.credential import Credential, Verifier
    from veilnet.networks.genesis import Genesis
    from veilnet.units import PeerId

MAX_ENDPOINTS: Final = 8


@frozen
class Member:
    """A peer with a credential of the network, and where it was last seen."""

    public_key: bytes
    credential: Credential
    encoding: bytes
    """The credential as its issuer signed it."""
    endpoints: tuple[Endpoint, ...] = ()
    """Best first."""
    observed_s: int = 0
    """Unix time at which somebody last observed them; 0: never."""

    @property
    def peer_id(self) -> PeerId:
        """The member's name that needs no trust."""
        return self.credential.peer_id

    @property
    def name(self) -> str:
        """The name that its issuer gave it."""
        return self.credential.name

    @property
    def ipv6(self) -> IPv6Address:
        """Its address in the network."""
        return overlay_ipv6(self.credential.network_id, self.credential.peer_id)

    @property
    def addresses(self) -> tuple[IPv6Address | IPv4Address, ...]:
        """All its addresses in the network, IPv6 first."""
        ipv4 = self.credential.ipv4
        return (self.ipv6,) if ipv4 is None else (self.ipv6, ipv4)

    def entry(self) -> MemberEntry:
        """Return what is told to others."""
        return MemberEntry(
            public_key=self.public_key,
            credential=self.encoding,
            endpoints=self.endpoints,
            observed_s=self.observed_s,
        )

    def seen_at(self, endpoints: Iterable[tuple[str, int]], now: int) -> Member:
        """Return the member with *endpoints*, just observed, before those known so far."""
        merged = _usable((*endpoints, *self.endpoints))
        return evolve(self, endpoints=merged, observed_s=max(now, self.observed_s))

    def joined(self, other: Member) -> Member:
        """Return the newer credential with the newer endpoints of two views of one member.

        The order of the views does not matter: ties fall to the greater encoding.
        """
        newer = max(self, other, key=lambda view: (view.credential.serial, view.encoding))
        seen = max(self, other, key=lambda view: (view.observed_s, view.endpoints))
        return evolve(newer, endpoints=seen.endpoints, observed_s=seen.observed_s)


def verify(
    entry: MemberEntry,
    genesis: Genesis,
    signatures: Verifier,
    *,
    known: Member | None = None,
    blame: type[VeilError] = RemoteProtocolError,
) -> Member:
    """Return the member that *entry* tells of, every part of it checked.

    One signature is verified, none if *known* has the very same credential and key.
    Raises: *blame*: the credential does not hold, or the key is not the peer id's.
    """
    if (
        known is not None
        and known.encoding == entry.credential
        and known.public_key == entry.public_key
    ):
        member = known
    else:
        credential = credentials.verify(entry.credential, genesis, signatures, blame=blame)
        check_key(entry.public_key, credential, genesis, blame=blame)
        member = Member(entry.public_key, credential, entry.credential)
    observed = entry.observed_s if entry.observed_s <= MAX_TIME else 0
    endpoints = _usable(entry.endpoints) if observed else ()
    return evolve(member, endpoints=endpoints, observed_s=observed if endpoints else 0)


def check_key(
    public_key: bytes,
    credential: Credential,
    genesis: Genesis,
    *,
    blame: type[VeilError] = RemoteProtocolError,
) -> None:
    """Check that the credential was given to the holder of *public_key*.

    Raises: *blame*: it was not.
    """
    if peer_id(public_key, genesis.signature.name) != credential.peer_id:
        raise blame("a public key comes with the credential of another peer id")


def _usable(endpoints: Iterable[tuple[str, int]]) -> tuple[Endpoint, ...]:
    """Return the usable ones, each once, in order, at most `MAX_ENDPOINTS`.

    Others are left out, not refused: an address that only one link knows is an honest mistake.
    """
    usable: dict[Endpoint, None] = {}
    for host, port in endpoints:
        try:
            usable[Endpoint.of(host, port, blame=RemoteProtocolError)] = None
        except RemoteProtocolError:
            continue
        if len(usable) == MAX_ENDPOINTS:
            break
    return tuple(usable)
