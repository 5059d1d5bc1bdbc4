"""The credential: an owner's signed word, for at most 30 days, that a peer id is a member.

```
data = CBOR [body, signature]            signature: ML-DSA, context "veilnet/cred/1", over body
body = CBOR [version 1, network id, peer id, name, IPv4 as u32 or null,
             [[packed prefix, length], ...], [role, ...], [tag, ...],
             epoch, serial, not_before, not_after, issuer's peer id, log head, log height]
```
The public key is bound through the peer id, which is its hash.  A signature says nothing about
now: expiry is judged separately, against the later of our clock and the newest time that an
owner signed, so that a clock that is years behind cannot resurrect what has expired.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import TYPE_CHECKING, Final, Protocol

from attrs import frozen

from veilnet.errors import RemoteProtocolError, VeilError
from veilnet.networks.names import MAX_NAME_CHARACTERS, is_name
from veilnet.networks.records import Record
from veilnet.protocol import cbor
from veilnet.units import NETWORK_ID_BYTES, PEER_ID_BYTES, NetworkId, PeerId

if TYPE_CHECKING:
    from veilnet.networks.genesis import Genesis

CONTEXT: Final = b"veilnet/cred/1"
MAX_CREDENTIAL_BYTES: Final = 8_192
MAX_PREFIXES: Final = 16
MAX_ROLES: Final = 8
MAX_TAGS: Final = 16

_VERSION = 1
_FIELDS = 15
_MAX_BODY_BYTES = 3_072


class Verifier(Protocol):
    """What is needed of `crypto.Signatures` to check a credential."""

    def verify(self, public_key: bytes, message: bytes, signature: bytes, context: bytes) -> bool:
        """Tell whether the signature is the key's over *message* in *context*."""
        ...


class Signer(Protocol):
    """What is needed of a node's identity to sign one."""

    @property
    def peer_id(self) -> PeerId:
        """The node's name."""
        ...

    @property
    def public_key(self) -> bytes:
        """The key that the name is the hash of."""
        ...

    def sign(self, message: bytes, context: bytes) -> bytes:
        """Return the signature over *message* in *context*."""
        ...


@frozen(kw_only=True)
class Credential:
    """What an issuer says of one member."""

    network_id: NetworkId
    peer_id: PeerId
    name: str
    ipv4: IPv4Address | None
    serial: int
    """Rises with every credential of the network; of two for one member the higher counts."""
    not_before: int
    not_after: int
    issuer: PeerId
    prefixes: tuple[IPv4Network | IPv6Network, ...] = ()
    roles: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    epoch: int = 0
    """Epoch of K_net that the member was given."""
    log_head: bytes
    log_height: int = 0

    def valid_at(self, time: int) -> bool:
        """Tell whether *time* (unix seconds) lies in the credential's life."""
        return self.not_before <= time <= self.not_after

    @property
    def renew_at(self) -> int:
        """The time from which its holder asks for a new one: a third of its life."""
        return self.not_before + (self.not_after - self.not_before) // 3

    def renewal_due(self, time: int) -> bool:
        """Tell whether its holder should ask for a new one."""
        return time >= self.renew_at

    def body(self) -> bytes:
        """Return what the issuer signs."""
        return cbor.encode(
            [
                _VERSION,
                self.network_id,
                self.peer_id,
                self.name,
                None if self.ipv4 is None else int(self.ipv4),
                [[net.network_address.packed, net.prefixlen] for net in self.prefixes],
                self.roles,
                self.tags,
                self.epoch,
                self.serial,
                self.not_before,
                self.not_after,
                self.issuer,
                self.log_head,
                self.log_height,
            ],
            max_bytes=_MAX_BODY_BYTES,
        )


def sign(credential: Credential, signer: Signer) -> bytes:
    """Return the credential as it travels."""
    body = credential.body()
    return cbor.encode([body, signer.sign(body, CONTEXT)], max_bytes=MAX_CREDENTIAL_BYTES)


def verify(
    data: bytes,
    genesis: Genesis,
    signatures: Verifier,
    *,
    blame: type[VeilError] = RemoteProtocolError,
) -> Credential:
    """Return the credential in *data*, which an owner of the network has signed.

    Expiry is not judged here.
    Raises: *blame*: malformed, of another network, by nobody entitled, or forged.
    """
    credential, body, signature = _split(data, blame)
    if credential.network_id != genesis.network_id:
        raise blame("the credential belongs to another network")
    owner = genesis.owner_ids.get(credential.issuer)
    if owner is None:
        raise blame("the credential was issued by somebody who is no owner of the network")
    if credential.not_after - credential.not_before > genesis.max_credential_life_s:
        raise blame("the credential lives longer than its network allows")
    if credential.ipv4 is not None and credential.ipv4 not in genesis.ipv4_range:
        raise blame("the credential's IPv4 address is not of its network")
    if len(signature) != genesis.signature.signature_bytes or not signatures.verify(
        owner.public_key, body, signature, CONTEXT
    ):
        raise blame("the credential's signature is not its issuer's")
    return credential


def decode(data: bytes, *, blame: type[VeilError] = RemoteProtocolError) -> Credential:
    """Read a credential without believing it: to find out whether it is new.

    Raises: *blame*: malformed.
    """
    return _split(data, blame)[0]


def _split(data: bytes, blame: type[VeilError]) -> tuple[Credential, bytes, bytes]:
    outer = Record.decode("the credential", data, 2, blame=blame, max_bytes=MAX_CREDENTIAL_BYTES)
    body = outer.data(least=1, most=_MAX_BODY_BYTES)
    signature = outer.data(least=1, most=MAX_CREDENTIAL_BYTES)
    record = Record.decode("the credential", body, _FIELDS, blame=blame)
    record.version(_VERSION)
    network_id = NetworkId(record.octets(NETWORK_ID_BYTES))
    peer_id = PeerId(record.octets(PEER_ID_BYTES))
    name = record.text(most=MAX_NAME_CHARACTERS)
    if not is_name(name):
        raise record.wrong("the name is no lower-case DNS label")
    ipv4 = None if record.nothing() else IPv4Address(record.number(most=2**32 - 1))
    prefixes = tuple(_prefix(item, record) for item in record.array(most=MAX_PREFIXES))
    roles = labels(record, MAX_ROLES)
    tags = labels(record, MAX_TAGS)
    epoch = record.number()
    serial = record.number()
    not_before = record.time()
    not_after = record.time()
    if not_after <= not_before:
        raise record.wrong("it ends before it begins")
    credential = Credential(
        network_id=network_id,
        peer_id=peer_id,
        name=name,
        ipv4=ipv4,
        prefixes=prefixes,
        roles=roles,
        tags=tags,
        epoch=epoch,
        serial=serial,
        not_before=not_before,
        not_after=not_after,
        issuer=PeerId(record.octets(PEER_ID_BYTES)),
        log_head=record.octets(NETWORK_ID_BYTES),
        log_height=record.number(),
    )
    return credential, body, signature


def labels(record: Record, most: int) -> tuple[str, ...]:
    """Take an array of labels, sorted and each once."""
    taken = record.array(most=most)
    names = tuple(item for item in taken if isinstance(item, str) and is_name(item))
    if len(names) < len(taken) or list(names) != sorted(set(names)):
        raise record.wrong("its labels are not sorted labels, each once")
    return names


def _prefix(item: object, record: Record) -> IPv4Network | IPv6Network:
    pair = Record("a prefix of the credential", item, 2, record.blame)
    packed = pair.data(least=4, most=16)
    length = pair.number(most=128)
    try:
        match len(packed):
            case 4:
                return IPv4Network((packed, length))
            case 16:
                return IPv6Network((packed, length))
            case _:
                raise pair.wrong("neither IPv4 nor IPv6")
    except ValueError as error:
        raise pair.wrong("host bits are set, or the length is too large") from error
