"""Control messages: one registry of what two nodes say to each other inside a session.

```
message = CBOR [type u16, id u32, body]        <= 64 KB, over protocol.arq
body    = map: member number -> value          the table at the end of this file
```
The sender chooses `id`; an answer carries the id of what it answers.  Mixed releases talk: a
type or a member that this release does not know is skipped, a member that is missing takes its
default, and a member without a default must be there.

```
either side first   Features                what this release speaks
                    Endpoints               how the peer looks from here, where else we listen
join mode           JoinRequest          -> JoinGrant | JoinRefuse
full mode           MembersKnown         -> Members (only what the other lacks)
                    Renew                -> RenewGrant | RenewRefuse
                    GenerationOffer      -> GenerationAnswer -> GenerationConfirm
                    Ping                 -> Pong
                    ReturnKey, Ticket, Close
                    relays and paths        protocol.relay_messages
                    ways through NATs       protocol.nat_messages
                    descriptors             protocol.dht_messages
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from attrs import NOTHING, field, fields, frozen

from veilnet.errors import LocalProtocolError, RemoteProtocolError
from veilnet.protocol import cbor, dht_messages, nat_messages, relay_messages
from veilnet.protocol.fields import (
    KEY,
    U16,
    U32,
    U64,
    Blob,
    EndpointPair,
    ListOf,
    Maybe,
    Text,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from veilnet.protocol.fields import Codec, Endpoint

MAX_PUBLIC_KEY_BYTES: Final = 2_592
"""ML-DSA-87, the longest that a suite has."""

MAX_CREDENTIAL_BYTES: Final = 8_192
"""A credential's members and one ML-DSA-87 signature."""

MAX_MEMBERS: Final = 8
"""Entries of one `Members` message: each is at most 7 KB, so the message fits 64 KB in S1."""


@frozen(kw_only=True)
class Features:
    """What this release speaks; the first message of both sides."""

    versions: tuple[int, ...] = (1,)
    features: tuple[str, ...] = ()
    release: str = ""


@frozen(kw_only=True)
class Ping:
    """Ask the peer's Python side for a sign of life; the engine's probes ask its engine."""

    payload: bytes = b""


@frozen(kw_only=True)
class Pong:
    """The answer to `Ping`, with its id and payload."""

    payload: bytes = b""


@frozen(kw_only=True)
class Endpoints:
    """Where this node sees the peer, and where it listens itself."""

    observed: Endpoint | None = None
    listening: tuple[Endpoint, ...] = ()


@frozen(kw_only=True)
class ReturnKey:
    """The key that masks datagrams towards this node when no session key can be known."""

    key: bytes = field(repr=False)


@frozen(kw_only=True)
class Close:
    """The sender closes the session; an empty *reason* is plain idleness."""

    code: int = 0
    reason: str = ""


@frozen(kw_only=True)
class Ticket:
    """What opens the receiver's next handshake with the sender in one round trip."""

    ticket: bytes = field(repr=False)
    key: bytes = field(repr=False)
    life_s: int


@frozen(kw_only=True)
class JoinRequest:
    """Ask for a credential; the key it is for was proven in the handshake."""

    name: str
    endpoints: tuple[Endpoint, ...] = ()


@frozen(kw_only=True)
class MemberEntry:
    """One member as gossip knows it; the receiver verifies every part of it."""

    public_key: bytes
    credential: bytes
    endpoints: tuple[Endpoint, ...] = ()
    observed_s: int = 0
    """Unix time at which the endpoints were last observed; 0 if never."""


@frozen(kw_only=True)
class JoinGrant:
    """Everything a new member starts with."""

    genesis: bytes
    network_name: str
    k_net: bytes = field(repr=False)
    credential: bytes
    members: tuple[MemberEntry, ...] = ()


@frozen(kw_only=True)
class JoinRefuse:
    """No credential, and why."""

    code: int
    reason: str = ""


@frozen(kw_only=True)
class KnownMember:
    """Which entry of a member the sender has: peer id, serial of its credential, endpoint time."""

    peer_id: bytes
    serial: int
    observed_s: int = 0


@frozen(kw_only=True)
class MembersKnown:
    """What the sender's member table holds; the answer is what it lacks.

    Of a long table one part at a time: the members whose ids, as fractions of all ids, lie from
    *part* / *parts* up to the next.
    """

    known: tuple[KnownMember, ...] = ()
    part: int = 0
    parts: int = 1


@frozen(kw_only=True)
class Members:
    """Entries of the sender's member table; a long answer takes several messages."""

    entries: tuple[MemberEntry, ...] = ()


@frozen(kw_only=True)
class Renew:
    """Ask the issuer for a new credential for the peer id of this session."""

    serial: int


@frozen(kw_only=True)
class RenewGrant:
    """The new credential."""

    credential: bytes


@frozen(kw_only=True)
class RenewRefuse:
    """No new credential, and why."""

    code: int
    reason: str = ""


@frozen(kw_only=True)
class GenerationOffer:
    """A fresh KEM key for the next generation; the key schedule wrote and reads *data*."""

    data: bytes


@frozen(kw_only=True)
class GenerationAnswer:
    """The other half of the next generation, with a MAC under its keys."""

    data: bytes


@frozen(kw_only=True)
class GenerationConfirm:
    """The offerer's MAC: both sides hold the new generation."""

    data: bytes


@frozen(kw_only=True)
class Unknown:
    """A message of a type that this release does not know: to be skipped."""

    type: int


Message = (
    Features
    | Ping
    | Pong
    | Endpoints
    | ReturnKey
    | Close
    | Ticket
    | JoinRequest
    | JoinGrant
    | JoinRefuse
    | MembersKnown
    | Members
    | Renew
    | RenewGrant
    | RenewRefuse
    | GenerationOffer
    | GenerationAnswer
    | GenerationConfirm
    | relay_messages.RelayMessage
    | relay_messages.PathMessage
    | nat_messages.NatMessage
    | dht_messages.DhtMessage
)


@frozen
class Envelope:
    """A message and the id that ties an answer to its question."""

    id: int
    message: Message | Unknown


def encode(message: Message, message_id: int = 0) -> bytes:
    """Return the encoding of *message*.

    Raises: LocalProtocolError: a member breaks its own limits; the peer would refuse it.
    """
    kind = _TYPES.get(type(message))
    if kind is None or not 0 <= message_id < 2**32:
        raise LocalProtocolError(f"no message: {type(message).__name__} with id {message_id}")
    data = cbor.encode([kind, message_id, _LAYOUTS[type(message)].write(message)])
    try:
        decode(data)
    except RemoteProtocolError as error:
        raise LocalProtocolError(f"{type(message).__name__}: {error.message}") from error
    return data


def decode(data: bytes) -> Envelope:
    """Return the message in *data*.

    Raises: RemoteProtocolError: not CBOR, not a message, or a member breaks its limits.
    """
    match cbor.decode(data):
        case [int(kind), int(message_id), dict(body)]:
            kind, message_id = U16.read(kind), U32.read(message_id)
        case _:
            raise RemoteProtocolError("a control message is not [type, id, body]")
    cls = REGISTRY.get(kind)
    if cls is None:
        return Envelope(message_id, Unknown(type=kind))
    message: Message = _LAYOUTS[cls].read(body)
    return Envelope(message_id, message)


class _Layout:
    """Member numbers and codecs of one class; as a codec, so that classes nest."""

    def __init__(self, cls: type[Any], members: Mapping[int, tuple[str, Codec[Any]]]) -> None:
        self.cls = cls
        self.members = members
        names = {attribute.name: attribute for attribute in fields(cls)}
        if sorted(names) != sorted(name for name, _ in members.values()):
            raise LocalProtocolError(f"the layout of {cls.__name__} does not fit the class")
        self.defaults = {name: attribute.default for name, attribute in names.items()}

    def read(self, value: cbor.Value) -> Any:  # noqa: ANN401 - the class is a value here
        if not isinstance(value, dict):
            raise RemoteProtocolError(f"{self.cls.__name__} is not a map")
        read: dict[str, Any] = {}
        for number, (name, codec) in self.members.items():
            if number in value:
                read[name] = codec.read(value[number])
            elif self.defaults[name] is NOTHING:
                raise RemoteProtocolError(f"{self.cls.__name__} lacks {name}")
        return self.cls(**read)

    def write(self, value: object) -> dict[int, cbor.Encodable]:
        return {
            number: codec.write(member)
            for number, (name, codec) in self.members.items()
            if (member := getattr(value, name)) != self.defaults[name]
        }


_REASON: Final[dict[int, tuple[str, Codec[Any]]]] = {1: ("code", U16), 2: ("reason", Text(256))}
_ENDPOINTS: Final = ListOf(EndpointPair(), 16)
_CREDENTIAL: Final = Blob(MAX_CREDENTIAL_BYTES, 1)
_GENERATION: Final = Blob(2_048, 32)
_ENTRY: Final[Codec[MemberEntry]] = _Layout(
    MemberEntry,
    {
        1: ("public_key", Blob(MAX_PUBLIC_KEY_BYTES, 1)),
        2: ("credential", _CREDENTIAL),
        3: ("endpoints", _ENDPOINTS),
        4: ("observed_s", U64),
    },
)
_KNOWN: Final[Codec[KnownMember]] = _Layout(
    KnownMember, {1: ("peer_id", KEY), 2: ("serial", U64), 3: ("observed_s", U64)}
)

# Numbers are for ever: a member or type that goes out of use leaves a hole.
_TABLE: Final[dict[int, tuple[type[Any], dict[int, tuple[str, Codec[Any]]]]]] = {
    1: (
        Features,
        {
            1: ("versions", ListOf(U16, 16)),
            2: ("features", ListOf(Text(32), 64)),
            3: ("release", Text(32)),
        },
    ),
    2: (Ping, {1: ("payload", Blob(1_024))}),
    3: (Pong, {1: ("payload", Blob(1_024))}),
    4: (Endpoints, {1: ("observed", Maybe(EndpointPair())), 2: ("listening", _ENDPOINTS)}),
    5: (ReturnKey, {1: ("key", KEY)}),
    6: (Close, _REASON),
    7: (Ticket, {1: ("ticket", Blob(256, 32)), 2: ("key", KEY), 3: ("life_s", U32)}),
    16: (JoinRequest, {1: ("name", Text(63)), 2: ("endpoints", _ENDPOINTS)}),
    17: (
        JoinGrant,
        {
            1: ("genesis", Blob(16_384, 1)),
            2: ("network_name", Text(63)),
            3: ("k_net", KEY),
            4: ("credential", _CREDENTIAL),
            5: ("members", ListOf(_ENTRY, MAX_MEMBERS)),
        },
    ),
    18: (JoinRefuse, _REASON),
    24: (MembersKnown, {1: ("known", ListOf(_KNOWN, 1_024)), 2: ("part", U16), 3: ("parts", U16)}),
    25: (Members, {1: ("entries", ListOf(_ENTRY, MAX_MEMBERS))}),
    32: (Renew, {1: ("serial", U64)}),
    33: (RenewGrant, {1: ("credential", _CREDENTIAL)}),
    34: (RenewRefuse, _REASON),
    40: (GenerationOffer, {1: ("data", _GENERATION)}),
    41: (GenerationAnswer, {1: ("data", _GENERATION)}),
    42: (GenerationConfirm, {1: ("data", _GENERATION)}),
    **relay_messages.TABLE,
    **nat_messages.TABLE,
    **dht_messages.TABLE,
}
REGISTRY: Final[Mapping[int, type[Any]]] = {number: cls for number, (cls, _) in _TABLE.items()}
"""Type number -> class, of every message."""
_TYPES: Final = {cls: number for number, cls in REGISTRY.items()}
_LAYOUTS: Final = {cls: _Layout(cls, members) for cls, members in _TABLE.values()}
