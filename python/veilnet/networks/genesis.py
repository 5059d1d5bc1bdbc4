"""The genesis: the record that a network is, and whose digest is its name.

```
CBOR [version 1, suite, created, [[owner public key, weight], ...], t_admin, t_revoke,
      max credential life, prefix, commons, recovery public key or null, nonce 32]
network id = SHA-256 of that encoding
```
*prefix* is null: the addresses follow from the network id (`networks.address`).  A network that
chose its own has a release that knows how to read it.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING, Final

from attrs import frozen

from veilnet.crypto import suites
from veilnet.crypto.identity import peer_id
from veilnet.errors import PeerIncompatible, RemoteProtocolError
from veilnet.networks.address import ipv4_range, network_prefix
from veilnet.networks.records import Record
from veilnet.protocol import cbor
from veilnet.units import NetworkId, PeerId

if TYPE_CHECKING:
    from veilnet.errors import VeilError
    from veilnet.networks.keys import Rng

MAX_CREDENTIAL_LIFE_S: Final = 30 * 86_400
MAX_OWNERS: Final = 4
MAX_WEIGHT: Final = 255
MAX_GENESIS_BYTES: Final = 16_384

_VERSION = 1
_FIELDS = 11
_NONCE_BYTES = 32


@frozen
class Owner:
    """A key that speaks for the network, and how much its word weighs."""

    public_key: bytes
    weight: int


@frozen(slots=False)
class Genesis:
    """What a network is; equal records are one network."""

    suite: int
    created: int
    """Unix seconds: the first time that an owner vouched for."""
    owners: tuple[Owner, ...]
    t_admin: int
    """Weight of owners that an administrative entry of the log needs."""
    t_revoke: int
    """... and a revocation."""
    max_credential_life_s: int
    commons: bool
    recovery_key: bytes | None
    nonce: bytes

    @classmethod
    def create(cls, owner_public_key: bytes, *, now: int, rng: Rng, suite: int = 1) -> Genesis:
        """Return the genesis of a new private network with one owner."""
        return cls(
            suite=suite,
            created=now,
            owners=(Owner(owner_public_key, 1),),
            t_admin=1,
            t_revoke=1,
            max_credential_life_s=MAX_CREDENTIAL_LIFE_S,
            commons=False,
            recovery_key=None,
            nonce=rng(_NONCE_BYTES),
        )

    @cached_property
    def encoding(self) -> bytes:
        """The canonical encoding."""
        return cbor.encode(
            [
                _VERSION,
                self.suite,
                self.created,
                [[owner.public_key, owner.weight] for owner in self.owners],
                self.t_admin,
                self.t_revoke,
                self.max_credential_life_s,
                None,
                self.commons,
                self.recovery_key,
                self.nonce,
            ]
        )

    @cached_property
    def network_id(self) -> NetworkId:
        """The network's name."""
        return NetworkId(hashlib.sha256(self.encoding).digest())

    @cached_property
    def owner_ids(self) -> dict[PeerId, Owner]:
        """The owners by their peer ids."""
        algorithm = self.signature.name
        return {peer_id(owner.public_key, algorithm): owner for owner in self.owners}

    @property
    def signature(self) -> suites.SignatureParameters:
        """The signature algorithm of the network's suite."""
        return suites.suite(self.suite).signature

    @property
    def prefix(self) -> IPv6Network:
        """The /48 that its members have their addresses in."""
        return network_prefix(self.network_id)

    @property
    def ipv4_range(self) -> IPv4Network:
        """The /20 that its issuer gives IPv4 addresses from."""
        return ipv4_range(self.network_id)

    @classmethod
    def decode(cls, data: bytes, *, blame: type[VeilError] = RemoteProtocolError) -> Genesis:
        """Read a genesis.

        Raises: *blame*: not one that `encoding` could have written; PeerIncompatible: of a
        suite or with a prefix of its own that this release does not know.
        """
        record = Record.decode(
            "the genesis", data, _FIELDS, blame=blame, max_bytes=MAX_GENESIS_BYTES
        )
        record.version(_VERSION)
        suite = record.number()
        if suite not in suites.SUITES:
            raise PeerIncompatible(f"the network uses cipher suite {suite}, unknown here")
        key_bytes = suites.suite(suite).signature.public_key_bytes
        created = record.time()
        owners = []
        for item in record.array(least=1, most=MAX_OWNERS):
            owner = Record("an owner of the genesis", item, 2, blame)
            owners.append(Owner(owner.octets(key_bytes), owner.number(least=1, most=MAX_WEIGHT)))
        if len({owner.public_key for owner in owners}) < len(owners):
            # A key that signs twice must count once.
            raise record.wrong("an owner stands in it twice")
        weight = sum(owner.weight for owner in owners)
        t_admin = record.number(least=1, most=weight)
        t_revoke = record.number(least=1, most=weight)
        max_life = record.number(least=60, most=MAX_CREDENTIAL_LIFE_S)
        if not record.nothing():
            raise PeerIncompatible("the network chose its own prefix, which is unknown here")
        commons = record.flag()
        recovery = None if record.nothing() else record.octets(key_bytes)
        nonce = record.octets(_NONCE_BYTES)
        return cls(
            suite=suite,
            created=created,
            owners=tuple(owners),
            t_admin=t_admin,
            t_revoke=t_revoke,
            max_credential_life_s=max_life,
            commons=commons,
            recovery_key=recovery,
            nonce=nonce,
        )
