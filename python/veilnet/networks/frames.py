"""Files that are longer than one CBOR value may be: length-prefixed values, one after another.

```
frame = length u32 || canonical CBOR
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from veilnet.protocol import cbor
from veilnet.protocol.cbor import Encodable, Value

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from veilnet.errors import VeilError

__all__ = ["Encodable", "decode", "encode"]

_LENGTH_BYTES = 4


def encode(values: Iterable[Encodable]) -> bytes:
    """Return *values*, each in a frame."""
    out = bytearray()
    for value in values:
        data = cbor.encode(value)
        out += len(data).to_bytes(_LENGTH_BYTES, "big") + data
    return bytes(out)


def decode(data: bytes, *, max_frames: int, blame: type[VeilError]) -> Iterator[Value]:
    """Yield the values of all frames.

    Raises: *blame*: cut off, too many, or not canonical CBOR.
    """
    offset = frames = 0
    while offset < len(data):
        frames += 1
        start = offset + _LENGTH_BYTES
        end = start + int.from_bytes(data[offset:start], "big")
        if frames > max_frames or start > len(data) or end > len(data):
            raise blame("a file of the state folder is cut off or too long")
        yield cbor.decode(data[start:end], blame=blame)
        offset = end
