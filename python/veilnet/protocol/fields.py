"""How one member of a control message is read and written: parse into what cannot be wrong.

A codec turns a decoded CBOR value into a typed one or raises `RemoteProtocolError`; what is too
long, out of range or not printable never gets past it.  `write` is the inverse.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

from attrs import frozen

from veilnet.errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from veilnet.protocol.cbor import Encodable, Value

T = TypeVar("T")

Endpoint = tuple[str, int]
"""A literal IPv4 or IPv6 address and a UDP port."""


class Codec(Protocol[T]):
    """One member's reader and writer."""

    def read(self, value: Value) -> T:
        """Return the typed value.   Raises: RemoteProtocolError."""
        ...

    def write(self, value: T) -> Encodable:
        """Return what `read` reads."""
        ...


@frozen
class Integer:
    """An integer of *minimum* .. *maximum*."""

    maximum: int
    minimum: int = 0

    def read(self, value: Value) -> int:
        """Return the integer.   Raises: RemoteProtocolError."""
        if isinstance(value, bool) or not isinstance(value, int):
            raise RemoteProtocolError("a member that must be an integer is not")
        if not self.minimum <= value <= self.maximum:
            raise RemoteProtocolError(f"{value} is not in {self.minimum}..{self.maximum}")
        return value

    def write(self, value: int) -> Encodable:
        """Return *value*."""
        return value


@frozen
class Flag:
    """True or false."""

    def read(self, value: Value) -> bool:
        """Return the flag.   Raises: RemoteProtocolError."""
        if not isinstance(value, bool):
            raise RemoteProtocolError("a member that must be true or false is not")
        return value

    def write(self, value: bool) -> Encodable:  # noqa: FBT001 - a codec's shape
        """Return *value*."""
        return value


@frozen
class Blob:
    """Bytes, *minimum* .. *maximum* of them."""

    maximum: int
    minimum: int = 0

    def read(self, value: Value) -> bytes:
        """Return the bytes.   Raises: RemoteProtocolError."""
        if not isinstance(value, bytes):
            raise RemoteProtocolError("a member that must be bytes is not")
        if not self.minimum <= len(value) <= self.maximum:
            raise RemoteProtocolError(f"{len(value)} bytes where {self.maximum} may stand")
        return value

    def write(self, value: bytes) -> Encodable:
        """Return *value*."""
        return value


@frozen
class Text:
    """Printable text of at most *maximum* characters: it may reach a log or a terminal."""

    maximum: int

    def read(self, value: Value) -> str:
        """Return the text.   Raises: RemoteProtocolError."""
        if not isinstance(value, str):
            raise RemoteProtocolError("a member that must be text is not")
        if len(value) > self.maximum or not value.isprintable():
            raise RemoteProtocolError("text is too long or not printable")
        return value

    def write(self, value: str) -> Encodable:
        """Return *value*."""
        return value


@frozen
class EndpointPair:
    """`[packed address, port]`: 4 or 16 bytes and 1..65535."""

    def read(self, value: Value) -> Endpoint:
        """Return the endpoint.   Raises: RemoteProtocolError."""
        match value:
            case [bytes(packed), int(port)] if len(packed) in (4, 16) and 0 < port < 65_536:
                # True is an int as well, but port 1 is written 1.
                if isinstance(port, bool):
                    raise RemoteProtocolError("a port that must be an integer is not")
                return str(ipaddress.ip_address(packed)), port
            case _:
                raise RemoteProtocolError("an endpoint is not [address, port]")

    def write(self, value: Endpoint) -> Encodable:
        """Return the pair; a scope id has no meaning at another node and is left out."""
        host, port = value
        return [ipaddress.ip_address(host.partition("%")[0]).packed, port]


@frozen
class ListOf(Generic[T]):
    """At most *maximum* values of one codec, as a tuple."""

    item: Codec[T]
    maximum: int

    def read(self, value: Value) -> tuple[T, ...]:
        """Return the tuple.   Raises: RemoteProtocolError."""
        if not isinstance(value, list):
            raise RemoteProtocolError("a member that must be a list is not")
        if len(value) > self.maximum:
            raise RemoteProtocolError(f"a list of {len(value)} where {self.maximum} may stand")
        return tuple(self.item.read(item) for item in value)

    def write(self, value: Sequence[T]) -> Encodable:
        """Return the list."""
        return [self.item.write(item) for item in value]


@frozen
class Maybe(Generic[T]):
    """The value of another codec, or null."""

    item: Codec[T]

    def read(self, value: Value) -> T | None:
        """Return the value or None.   Raises: RemoteProtocolError."""
        return None if value is None else self.item.read(value)

    def write(self, value: T | None) -> Encodable:
        """Return the value or null."""
        return None if value is None else self.item.write(value)


U16: Final = Integer(2**16 - 1)
U32: Final = Integer(2**32 - 1)
U64: Final = Integer(2**64 - 1)
KEY: Final = Blob(32, 32)
