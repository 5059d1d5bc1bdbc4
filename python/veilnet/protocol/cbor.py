"""Canonical CBOR, the little of it that VeilNet signs, stores and sends.

```
value = unsigned | negative (64 bits) | bytes | text (UTF-8) | array | map | false | true | null
head  = major 3 bits, argument 5 bits or 1, 2, 4, 8 bytes, in the shortest form only
map   = keys are integers or text, in bytewise order of their encoding, each once
```
One value has one encoding, so a digest or a signature over the encoding is one over the value.
There are no floats, tags, big numbers, indefinite lengths or other simple values: a decoder of
our own, because a general one builds dates, patterns and cycles before anybody can object.

Source: RFC 8949 section 4.2.1 (core deterministic encoding).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

from veilnet.errors import LocalProtocolError, RemoteProtocolError

if TYPE_CHECKING:
    from veilnet.errors import VeilError

Value: TypeAlias = "int | bytes | str | bool | list[Value] | dict[int | str, Value] | None"
"""What `decode` returns."""

Encodable: TypeAlias = (
    "int | bytes | str | bool | Sequence[Encodable] | Mapping[int, Encodable]"
    " | Mapping[str, Encodable] | Mapping[int | str, Encodable] | None"
)
"""What `encode` takes: any `Value`, and tuples and other mappings as well."""

MAX_BYTES: Final = 65_536
"""No encoding is longer: the size of the largest control message."""

MAX_DEPTH: Final = 8
"""A value that is no container has depth 0."""

MAX_ITEMS: Final = 16_384
"""Values in one encoding, containers and keys included: bounds the time of `decode`."""

_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _, _SIMPLE = range(8)
_SIMPLE_VALUES: Final[dict[int, bool | None]] = {20: False, 21: True, 22: None}
_HEAD_WIDTH: Final = {24: 1, 25: 2, 26: 4, 27: 8}


def encode(value: Encodable, *, max_bytes: int = MAX_BYTES) -> bytes:
    """Return the one canonical encoding of *value*.

    Raises: LocalProtocolError: a type, a number or a size that the format does not have.
    Source: RFC 8949 section 4.2.1.
    """
    out = bytearray()
    items = _encode_into(out, value, MAX_DEPTH)
    if len(out) > max_bytes:
        raise LocalProtocolError(f"{len(out)} bytes do not fit the {max_bytes} allowed")
    if items > MAX_ITEMS:
        raise LocalProtocolError(f"{items} values are more than the {MAX_ITEMS} allowed")
    return bytes(out)


def decode(
    data: bytes,
    *,
    blame: type[VeilError] = RemoteProtocolError,
    max_bytes: int = MAX_BYTES,
    max_depth: int = MAX_DEPTH,
) -> Value:
    """Return the value whose canonical encoding *data* is, all of it.

    *blame* is the error to raise: a peer's fault by default, `ConfigError` for a file.

    Raises: *blame*: truncated, trailing bytes, not canonical, or above a limit; nothing else.
    Source: RFC 8949 section 4.2.1.
    """
    if len(data) > max_bytes:
        raise blame(f"CBOR of {len(data)} bytes is longer than the {max_bytes} allowed")
    reader = _Reader(bytes(data), blame)
    value = reader.value(max_depth)
    if reader.offset != len(data):
        raise blame(f"CBOR ends at byte {reader.offset} of {len(data)}")
    return value


def _head(major: int, argument: int) -> bytes:
    if argument < 24:
        return bytes((major << 5 | argument,))
    for code, width in _HEAD_WIDTH.items():
        if argument < 1 << (8 * width):
            return bytes((major << 5 | code,)) + argument.to_bytes(width, "big")
    raise LocalProtocolError("an integer beyond 64 bits has no encoding here")


def _encode_into(out: bytearray, value: Encodable, depth: int) -> int:
    """Append *value* and return how many values that were, as `MAX_ITEMS` counts them."""
    items = 1
    match value:
        case str() | bytes() | bytearray() | memoryview():
            out += _scalar(value)
        case Sequence() | Mapping() if depth == 0:
            raise LocalProtocolError(f"a value is nested deeper than {MAX_DEPTH}")
        case Sequence():
            out += _head(_ARRAY, len(value))
            for item in value:
                items += _encode_into(out, item, depth - 1)
        case Mapping():
            out += _head(_MAP, len(value))
            members = [(_key(key), item) for key, item in value.items()]
            for key, item in sorted(members, key=lambda member: member[0]):
                out += key
                items += 1 + _encode_into(out, item, depth - 1)
        case _:
            out += _scalar(value)
    return items


def _scalar(value: object) -> bytes:
    match value:
        case None:
            return b"\xf6"
        case bool():
            return b"\xf5" if value else b"\xf4"
        case int():
            return _head(_UNSIGNED, value) if value >= 0 else _head(_NEGATIVE, -1 - value)
        case bytes() | bytearray() | memoryview():
            return _head(_BYTES, len(value)) + value
        case str():
            try:
                text = value.encode()
            except UnicodeEncodeError as error:
                raise LocalProtocolError("text with a lone surrogate has no encoding") from error
            return _head(_TEXT, len(text)) + text
        case _:
            raise LocalProtocolError(f"a {type(value).__name__} has no encoding")


def _key(key: object) -> bytes:
    if isinstance(key, bool) or not isinstance(key, int | str):
        raise LocalProtocolError(f"a {type(key).__name__} cannot be a key")
    return _scalar(key)


class _Reader:
    """One pass over *data*; invariant: every byte before `offset` was canonical."""

    def __init__(self, data: bytes, blame: type[VeilError]) -> None:
        self.data = data
        self.offset = 0
        self.blame = blame
        self.items_left = MAX_ITEMS

    def value(self, depth: int) -> Value:
        self.items_left -= 1
        if self.items_left < 0:
            raise self.blame(f"CBOR of more than {MAX_ITEMS} values")
        major, argument = self.head()
        if major <= _TEXT:
            return self.scalar(major, argument)
        if major == _SIMPLE and argument in _SIMPLE_VALUES:
            return _SIMPLE_VALUES[argument]
        if major not in (_ARRAY, _MAP):
            raise self.blame(f"CBOR major type {major} with {argument} is not allowed")
        if depth == 0:
            raise self.blame("CBOR is nested too deep")
        if argument > len(self.data) - self.offset:
            # Refused before looping: every member takes at least one byte.
            raise self.blame("CBOR container is longer than its encoding")
        if major == _MAP:
            return self.map(argument, depth - 1)
        return [self.value(depth - 1) for _ in range(argument)]

    def scalar(self, major: int, argument: int) -> int | bytes | str:
        if major == _UNSIGNED:
            return argument
        if major == _NEGATIVE:
            return -1 - argument
        piece = self.take(argument)
        if major == _BYTES:
            return piece
        try:
            return piece.decode()
        except UnicodeDecodeError as error:
            raise self.blame("CBOR text is not UTF-8") from error

    def head(self) -> tuple[int, int]:
        initial = self.take(1)[0]
        major, argument = initial >> 5, initial & 0x1F
        if argument < 24:
            return major, argument
        width = _HEAD_WIDTH.get(argument)
        if width is None or major == _SIMPLE:
            raise self.blame(f"CBOR head {initial:#04x} is not allowed")
        argument = int.from_bytes(self.take(width), "big")
        # The shortest form: what a narrower head could carry must use it.
        if argument < (24 if width == 1 else 1 << (4 * width)):
            raise self.blame("CBOR head is not in its shortest form")
        return major, argument

    def take(self, count: int) -> bytes:
        end = self.offset + count
        if end > len(self.data):
            raise self.blame("CBOR ends too early")
        piece = self.data[self.offset : end]
        self.offset = end
        return piece

    def map(self, count: int, depth: int) -> dict[int | str, Value]:
        members: dict[int | str, Value] = {}
        previous = b""
        for _ in range(count):
            start = self.offset
            key = self.value(0)
            if isinstance(key, bool) or not isinstance(key, int | str):
                raise self.blame("CBOR key is neither integer nor text")
            encoded = self.data[start : self.offset]
            # Strictly rising order also means that no key comes twice.
            if encoded <= previous:
                raise self.blame("CBOR keys are out of order or doubled")
            previous = encoded
            members[key] = self.value(depth)
        return members
