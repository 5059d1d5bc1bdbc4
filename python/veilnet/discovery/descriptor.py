"""What a member publishes about where it is, and which member has a name.

```
blob  = version u8 1 | nonce 12 | AES-256-GCM(key, nonce, plain, version || locator)
plain = length u16 | CBOR [body, public key or empty, signature] | zeros: the blob fills whole KiB
signature: ML-DSA over body, context "veilnet/dht/desc/1" or "veilnet/dht/name/1"
descriptor's body = CBOR [1, locator, peer id, seq, expires, [packed endpoint, ...], NAT class,
                          stride, [[relay's id, packed endpoint], ...], id to ask them for, name,
                          credential]
name's body       = CBOR [1, locator, name, peer id, seq, expires, credential]
```
`discovery.locator` has locator and key.  A storer sees the length in KiB and random bytes.  Inside,
the member's own signature binds what it says to the network, the day and the member by the
locator, so that neither a storer nor another member makes it up, moves it or makes it younger.
That the peer id is a member at all says its credential, which the caller verifies.

Source: ADR 9 (how long a descriptor holds, and what is bound where).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from attrs import field, frozen
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from veilnet.crypto.identity import peer_id as id_of
from veilnet.discovery import locator as places
from veilnet.errors import LocalProtocolError, RemoteProtocolError
from veilnet.networks.endpoint import Endpoint
from veilnet.networks.names import MAX_NAME_CHARACTERS, is_name
from veilnet.networks.records import Record
from veilnet.protocol import cbor
from veilnet.protocol.dht_messages import MAX_BLOB_BYTES
from veilnet.protocol.messages import MAX_CREDENTIAL_BYTES, MAX_PUBLIC_KEY_BYTES
from veilnet.units import PEER_ID_BYTES, PeerId

if TYPE_CHECKING:
    from veilnet.crypto.sign import Signatures
    from veilnet.networks.credential import Signer
    from veilnet.networks.keys import Rng

CONTEXT: Final = b"veilnet/dht/desc/1"
NAME_CONTEXT: Final = b"veilnet/dht/name/1"
LIFE_S: Final = 43_200
"""How long a descriptor holds that was signed now; storers forget it 2 h after its owner did."""
LIFE_MAX_S: Final = 90_000
"""More than a day and an hour from now no honest member promises."""
MAX_ENDPOINTS: Final = 8
MAX_RELAYS: Final = 4
MAX_NAT: Final = 15
MAX_STRIDE: Final = 32_767

_VERSION: Final = b"\x01"
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_PAD_BYTES: Final = 1_024
_MAX_SIGNATURE_BYTES: Final = 4_627
_HEAD_BYTES: Final = len(_VERSION) + _NONCE_BYTES


@frozen(kw_only=True)
class Descriptor:
    """Where a member is, in its own words."""

    peer_id: PeerId = field(repr=lambda value: value.hex()[:12])
    seq: int
    """Rises with everything it publishes; of two the higher counts."""
    expires_s: int
    endpoints: tuple[Endpoint, ...] = ()
    nat: int = 0
    """`nat.classify`'s class of its NAT."""
    stride: int = 0
    relays: tuple[tuple[PeerId, Endpoint], ...] = ()
    """Nodes of the commons that it can be reached over, by their ids there."""
    commons_id: bytes = b""
    """The id that it has in the commons, by which its relays know it; empty: none."""
    name: str = ""
    credential: bytes = field(default=b"", repr=False)
    """As its issuer signed it, to be verified by the reader."""


@frozen(kw_only=True)
class NameRecord:
    """Which member has a name, in its own words; its credential must say the same."""

    name: str
    peer_id: PeerId = field(repr=lambda value: value.hex()[:12])
    seq: int
    expires_s: int
    credential: bytes = field(repr=False)


@frozen
class Opened:
    """A descriptor that holds, and the key that it was signed with."""

    descriptor: Descriptor
    public_key: bytes = field(repr=False)


@frozen
class OpenedName:
    """A name's record that holds, and the key that it was signed with."""

    record: NameRecord
    public_key: bytes = field(repr=False)


def seal(
    descriptor: Descriptor,
    signer: Signer,
    network_secret: bytes,
    epoch_day: int,
    *,
    rng: Rng,
    with_key: bool = True,
) -> tuple[bytes, bytes]:
    """Return where a descriptor is stored on that day, and what.

    *with_key* False leaves the public key out, for readers who have the member's: 2 KB less.
    Raises: LocalProtocolError: it is not the signer's, or breaks the limits of the format.
    """
    where = places.locator(network_secret, descriptor.peer_id, epoch_day)
    body = cbor.encode(
        [
            1,
            where,
            descriptor.peer_id,
            descriptor.seq,
            descriptor.expires_s,
            [endpoint.pack() for endpoint in descriptor.endpoints],
            descriptor.nat,
            descriptor.stride,
            [[relay, endpoint.pack()] for relay, endpoint in descriptor.relays],
            descriptor.commons_id,
            descriptor.name,
            descriptor.credential,
        ]
    )
    try:
        _read(body, where)
    except RemoteProtocolError as error:
        raise LocalProtocolError(error.message) from error
    _check_signer(descriptor.peer_id, signer)
    key = places.seal_key(network_secret, descriptor.peer_id, epoch_day)
    return where, _seal(body, CONTEXT, signer, key=key, where=where, rng=rng, with_key=with_key)


def open_(
    blob: bytes,
    *,
    peer_id: bytes,
    network_secret: bytes,
    epoch_day: int,
    signatures: Signatures[Any],
    unix_s: int,
    least_seq: int = 0,
    public_key: bytes | None = None,
) -> Opened:
    """Return the descriptor of *peer_id* in *blob*: it says so itself, and it holds now.

    *least_seq*: what was seen of it before; *public_key*: the member's, if it is known.
    Raises: RemoteProtocolError: forged, somebody else's, of another day, expired, older, malformed.
    """
    where = places.locator(network_secret, peer_id, epoch_day)
    key = places.seal_key(network_secret, peer_id, epoch_day)
    body, signer, signature = _unseal(blob, key, where)
    descriptor = _read(body, where)
    if descriptor.peer_id != peer_id:
        raise RemoteProtocolError("a descriptor is somebody else's")
    signer = _verified(
        body, CONTEXT, signer, signature, peer_id=peer_id, known=public_key, signatures=signatures
    )
    _check_age(descriptor.seq, descriptor.expires_s, least_seq, unix_s)
    return Opened(descriptor, signer)


def seal_name(
    record: NameRecord, signer: Signer, network_secret: bytes, epoch_day: int, *, rng: Rng
) -> tuple[bytes, bytes]:
    """Return where the record of a name is stored on that day, and what.

    Raises: LocalProtocolError: it is not the signer's, or breaks the limits of the format.
    """
    where = places.name_locator(record.name, network_secret, epoch_day)
    body = cbor.encode(
        [
            1,
            where,
            record.name,
            record.peer_id,
            record.seq,
            record.expires_s,
            record.credential,
        ]
    )
    try:
        _read_name(body, where)
    except RemoteProtocolError as error:
        raise LocalProtocolError(error.message) from error
    _check_signer(record.peer_id, signer)
    key = places.name_key(record.name, network_secret, epoch_day)
    return where, _seal(body, NAME_CONTEXT, signer, key=key, where=where, rng=rng, with_key=True)


def open_name(
    blob: bytes,
    *,
    name: str,
    network_secret: bytes,
    epoch_day: int,
    signatures: Signatures[Any],
    unix_s: int,
    least_seq: int = 0,
) -> OpenedName:
    """Return the record of *name* in *blob*.

    Any member can claim a name here: the credential in it must be verified, and must name it.
    Raises: RemoteProtocolError: forged, of another name or day, expired, older, malformed.
    """
    where = places.name_locator(name, network_secret, epoch_day)
    key = places.name_key(name, network_secret, epoch_day)
    body, signer, signature = _unseal(blob, key, where)
    record = _read_name(body, where)
    if record.name != name:
        raise RemoteProtocolError("a record is of another name")
    signer = _verified(
        body,
        NAME_CONTEXT,
        signer,
        signature,
        peer_id=record.peer_id,
        known=None,
        signatures=signatures,
    )
    _check_age(record.seq, record.expires_s, least_seq, unix_s)
    return OpenedName(record, signer)


def _check_signer(peer_id: bytes, signer: Signer) -> None:
    if signer.peer_id != peer_id:
        raise LocalProtocolError("a node publishes in its own name only")


def _seal(
    body: bytes,
    context: bytes,
    signer: Signer,
    *,
    key: bytes,
    where: bytes,
    rng: Rng,
    with_key: bool,
) -> bytes:
    public_key = signer.public_key if with_key else b""
    inner = cbor.encode([body, public_key, signer.sign(body, context)])
    plain = len(inner).to_bytes(2, "big") + inner
    plain += bytes(-(len(plain) + _HEAD_BYTES + _TAG_BYTES) % _PAD_BYTES)
    nonce = rng(_NONCE_BYTES)
    blob = _VERSION + nonce + AESGCM(key).encrypt(nonce, plain, _VERSION + where)
    if len(blob) > MAX_BLOB_BYTES:
        raise LocalProtocolError(f"{len(blob)} bytes are more than a storer keeps")
    return blob


def _unseal(blob: bytes, key: bytes, where: bytes) -> tuple[bytes, bytes, bytes]:
    """Return body, public key and signature of what nobody has verified yet."""
    if not blob.startswith(_VERSION) or not _HEAD_BYTES + _TAG_BYTES < len(blob) <= MAX_BLOB_BYTES:
        raise RemoteProtocolError("a blob is of no version that this release knows")
    nonce, sealed = blob[1:_HEAD_BYTES], blob[_HEAD_BYTES:]
    try:
        plain = AESGCM(key).decrypt(nonce, sealed, _VERSION + where)
    except InvalidTag as error:
        raise RemoteProtocolError("a blob is not of this network, member and day") from error
    end = 2 + int.from_bytes(plain[:2], "big")
    if end > len(plain) or any(plain[end:]):
        raise RemoteProtocolError("a blob is not padded with zeros")
    record = Record.decode("a sealed record", plain[2:end], 3)
    return (
        record.data(least=1, most=MAX_BLOB_BYTES),
        record.data(most=MAX_PUBLIC_KEY_BYTES),
        record.data(least=1, most=_MAX_SIGNATURE_BYTES),
    )


def _verified(
    body: bytes,
    context: bytes,
    public_key: bytes,
    signature: bytes,
    *,
    peer_id: bytes,
    known: bytes | None,
    signatures: Signatures[Any],
) -> bytes:
    """Return the key by which a record holds."""
    key = public_key or known
    if not key:
        raise RemoteProtocolError("a record comes without its key, and we have none for it")
    if id_of(key, signatures.parameters.name) != peer_id:
        raise RemoteProtocolError("a record's key is not its peer id's")
    if not signatures.verify(key, body, signature, context):
        raise RemoteProtocolError("a record's signature is not its member's")
    return key


def _check_age(seq: int, expires_s: int, least_seq: int, unix_s: int) -> None:
    if seq < least_seq:
        raise RemoteProtocolError("a record is older than one that was seen before")
    if expires_s <= unix_s:
        raise RemoteProtocolError("a record has expired")
    if expires_s > unix_s + LIFE_MAX_S:
        raise RemoteProtocolError("a record promises more than a day")


def _read(body: bytes, where: bytes) -> Descriptor:
    record = Record.decode("a descriptor", body, 12)
    record.version(1)
    if record.octets(32) != where:
        raise record.wrong("it is of another network, member or day")
    peer_id = PeerId(record.octets(PEER_ID_BYTES))
    seq, expires_s = record.number(), record.time()
    endpoints = tuple(_endpoint(item, record) for item in record.array(most=MAX_ENDPOINTS))
    nat = record.number(most=MAX_NAT)
    stride = record.number(least=-MAX_STRIDE, most=MAX_STRIDE)
    relays = []
    for item in record.array(most=MAX_RELAYS):
        pair = Record("a relay of a descriptor", item, 2)
        relay = PeerId(pair.octets(PEER_ID_BYTES))
        relays.append((relay, Endpoint.unpack(pair.data(most=18))))
    commons_id = record.data(most=PEER_ID_BYTES)
    if commons_id and len(commons_id) != PEER_ID_BYTES:
        raise record.wrong("its id in the commons is none")
    name = record.text(most=MAX_NAME_CHARACTERS)
    if name and not is_name(name):
        raise record.wrong("the name is no lower-case DNS label")
    return Descriptor(
        peer_id=peer_id,
        seq=seq,
        expires_s=expires_s,
        endpoints=endpoints,
        nat=nat,
        stride=stride,
        relays=tuple(relays),
        commons_id=commons_id,
        name=name,
        credential=record.data(most=MAX_CREDENTIAL_BYTES),
    )


def _read_name(body: bytes, where: bytes) -> NameRecord:
    record = Record.decode("a name's record", body, 7)
    record.version(1)
    if record.octets(32) != where:
        raise record.wrong("it is of another network, name or day")
    name = record.text(most=MAX_NAME_CHARACTERS)
    if not is_name(name):
        raise record.wrong("the name is no lower-case DNS label")
    return NameRecord(
        name=name,
        peer_id=PeerId(record.octets(PEER_ID_BYTES)),
        seq=record.number(),
        expires_s=record.time(),
        credential=record.data(most=MAX_CREDENTIAL_BYTES),
    )


def _endpoint(item: object, record: Record) -> Endpoint:
    if not isinstance(item, bytes):
        raise record.wrong("an endpoint is no byte string")
    return Endpoint.unpack(item)
