import contextlib
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from veilnet.errors import ConfigError, LocalProtocolError, RemoteProtocolError
from veilnet.protocol import cbor

integers = st.integers(-(2**64), 2**64 - 1)
texts = st.text(st.characters(codec="utf-8"), max_size=40)
scalars = st.none() | st.booleans() | integers | st.binary(max_size=300) | texts
keys = integers | texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(keys, inner, max_size=6),
    max_leaves=25,
)


def depth_of(value: object) -> int:
    """How many containers stand around the innermost value."""
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


@given(values.filter(lambda value: depth_of(value) <= cbor.MAX_DEPTH))
def test_what_is_encoded_comes_back_and_others_read_it_too(value):
    """Encoding and decoding are inverse, and an independent decoder agrees on the value."""
    data = cbor.encode(value)
    assert cbor.decode(data) == value
    assert cbor2.loads(data) == value


@given(st.binary(max_size=200))
def test_one_value_has_one_encoding(data):
    """Whatever bytes are accepted at all are exactly what `encode` would have written."""
    try:
        value = cbor.decode(data)
    except RemoteProtocolError:
        return
    assert cbor.encode(value) == data


@given(values, st.data())
def test_a_changed_byte_never_raises_anything_else(value, data):
    """A flipped, cut or extended encoding is refused or is another canonical value."""
    good = bytearray(cbor.encode(value) if depth_of(value) <= cbor.MAX_DEPTH else b"\x80")
    at = data.draw(st.integers(0, len(good) - 1))
    good[at] ^= data.draw(st.integers(1, 255))
    bad = bytes(good[: data.draw(st.integers(0, len(good)))]) + data.draw(st.binary(max_size=3))
    with contextlib.suppress(RemoteProtocolError):
        assert cbor.encode(cbor.decode(bad)) == bad


@given(values.filter(lambda value: depth_of(value) <= cbor.MAX_DEPTH), st.randoms())
def test_the_order_of_a_mapping_does_not_matter(value, random):
    """Two equal mappings have one encoding, however they were filled."""

    def shuffled(inner: Any) -> Any:
        if isinstance(inner, dict):
            items = [(key, shuffled(item)) for key, item in inner.items()]
            random.shuffle(items)
            return dict(items)
        return [shuffled(item) for item in inner] if isinstance(inner, list) else inner

    assert cbor.encode(shuffled(value)) == cbor.encode(value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x18\x17",  # 23 in two bytes
        b"\x19\x00\xff",  # 255 in three
        b"\x1a\x00\x00\xff\xff",
        b"\x1b\x00\x00\x00\x00\xff\xff\xff\xff",
        b"\x1c",  # reserved
        b"\x5f\x41a\xff",  # indefinite bytes
        b"\x9f\xff",
        b"\xbf\xff",
        b"\xff",
        b"\x00\x00",  # trailing byte
        b"\x42a",  # truncated
        b"\x61\xff",  # not UTF-8
        b"\xc0\x60",  # a tag
        b"\xf7",  # undefined
        b"\xf8\x14",  # false in two bytes
        b"\xf9\x00\x00",  # a float
        b"\xa2\x01\x00\x00\x00",  # keys out of order
        b"\xa2\x00\x00\x00\x00",  # a key twice
        b"\xa1\x41a\x00",  # bytes as a key
        b"\xa1\xf5\x00",  # true as a key
        b"\xa1\x80\x00",  # a list as a key
        b"\x9a\xff\xff\xff\xff",  # four billion members
        b"\xbb" + b"\xff" * 8,
        b"\x5b" + b"\xff" * 8,
        b"\x81" * 9 + b"\x00",
    ],
)
def test_what_is_not_canonical_is_refused(data):
    """Each departure from the canonical form is the peer's fault."""
    with pytest.raises(RemoteProtocolError):
        cbor.decode(data)


def test_the_limits_hold():
    """Size, depth and number of values are limited on both sides, at the same place."""
    deep: cbor.Value = 0
    for _ in range(cbor.MAX_DEPTH):
        deep = [deep]
    assert cbor.decode(cbor.encode(deep)) == deep
    with pytest.raises(LocalProtocolError):
        cbor.encode([deep])
    many: cbor.Value = [0] * (cbor.MAX_ITEMS - 1)
    assert cbor.decode(cbor.encode(many)) == many
    with pytest.raises(LocalProtocolError):
        cbor.encode([0] * cbor.MAX_ITEMS)
    with pytest.raises(RemoteProtocolError):
        cbor.decode(b"\x99\x40\x00" + bytes(cbor.MAX_ITEMS))
    long = b"x" * (cbor.MAX_BYTES - 3)
    assert cbor.decode(cbor.encode(long)) == long
    with pytest.raises(LocalProtocolError):
        cbor.encode(long + b"x")
    with pytest.raises(RemoteProtocolError):
        cbor.decode(b"\x5a\x00\x00\xff\xfd" + long + b"x")


@pytest.mark.parametrize(
    "value", [1.0, 2**64, -(2**64) - 1, object(), {b"a": 1}, {True: 1}, "\ud800"]
)
def test_what_has_no_encoding_is_our_fault(value):
    """A value outside the format never leaves this node."""
    with pytest.raises(LocalProtocolError):
        cbor.encode(value)


def test_a_file_is_blamed_on_its_owner():
    """The caller names whose fault a bad encoding is."""
    with pytest.raises(ConfigError):
        cbor.decode(b"\xff", blame=ConfigError)
