"""What the shipped policy remembers over a restart, as bytes.

```
file = "VNPP" | version u8 | CRC-32 of the body, u32 big endian | body
body = canonical CBOR { 1: theta   8 f32     2: covariance 64 f32    3: sigma^2 f32
                        4: [ [destination bytes, [ [[peer id, ...], arm 7 f32], ... ]], ... ] }
arm  = L, n, R, b, S, own leg then, far leg then   (`ledger.KEPT`)
```
f32: little endian, as a byte string, since canonical CBOR has no floats.  At most
`MAX_KEPT_DESTINATIONS`, the latest used; only those named by bytes.  Ages are not kept: the clock
is another one after a restart, so that all of it counts as old.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, TypeAlias
from zlib import crc32

import numpy as np
import structlog

from veilnet.errors import ConfigError, LocalProtocolError
from veilnet.paths.ledger import KEPT, Kept
from veilnet.paths.policy import MAX_ARMS, ArmId, Destination
from veilnet.paths.regression import FEATURES, Regression
from veilnet.protocol import cbor
from veilnet.protocol.cbor import Encodable
from veilnet.units import PEER_ID_BYTES, PeerId

_log = structlog.get_logger("veilnet.paths")

MAGIC: Final = b"VNPP"
VERSION: Final = 1
_HEAD: Final = struct.Struct(">4sBI")
MAX_STATE_BYTES: Final = 512 * 1024
MAX_KEPT_DESTINATIONS: Final = 128
MAX_NAME_BYTES: Final = 64
MAX_HOPS: Final = 2
_ARM: Final = struct.Struct(f"<{len(KEPT)}f")
_MAX_MS: Final = 1e5
_MAX_SPREAD: Final = 1e7
_AGED: Final = 0.5
"""What is left of the confidence n: nobody knows for how long the node was away."""
_LIMITS: Final = (_MAX_MS, 40.0, _MAX_SPREAD, 1e3, 10.0, _MAX_MS, _MAX_MS)

Memory: TypeAlias = dict[Destination, dict[ArmId, Kept]]


def encode(model: Regression, memory: Memory) -> bytes:
    """Return *model* and the latest of *memory* as bytes."""
    kept: Sequence[tuple[bytes, list[Encodable]]] = [
        (destination, _rows(arms))
        for destination, arms in memory.items()
        if isinstance(destination, bytes) and len(destination) <= MAX_NAME_BYTES and arms
    ][-MAX_KEPT_DESTINATIONS:]
    while True:
        try:
            body = cbor.encode(
                {
                    1: model.theta.astype("<f4").tobytes(),
                    2: model.covariance.astype("<f4").tobytes(),
                    3: struct.pack("<f", model.sigma2),
                    4: kept,
                },
                max_bytes=MAX_STATE_BYTES - _HEAD.size,
            )
        except LocalProtocolError:
            # Many arms each: the latest half of the destinations is worth more than nothing.
            if not kept:
                raise
            kept = kept[len(kept) // 2 + 1 :]
        else:
            return _HEAD.pack(MAGIC, VERSION, crc32(body)) + body


def _rows(arms: dict[ArmId, Kept]) -> list[Encodable]:
    return [(arm, _ARM.pack(*row)) for arm, row in arms.items() if len(arm) <= MAX_HOPS]


def decode(data: bytes) -> tuple[Regression, Memory] | None:
    """Return what *data* holds; None, and one line in the log, if it is not what `encode` wrote."""
    try:
        return _decode(data)
    except ConfigError as error:
        _log.warning("learned paths are forgotten", reason=error.message)
        return None


def _decode(data: bytes) -> tuple[Regression, Memory]:
    if not _HEAD.size < len(data) <= MAX_STATE_BYTES:
        raise ConfigError(f"it has {len(data)} bytes")
    magic, version, checksum = _HEAD.unpack_from(data)
    body = data[_HEAD.size :]
    if magic != MAGIC:
        raise ConfigError("it is not such a file")
    if version != VERSION:
        raise ConfigError(f"it is of version {version}, not {VERSION}")
    if checksum != crc32(body):
        raise ConfigError("its checksum is wrong")
    value = cbor.decode(body, blame=ConfigError, max_bytes=MAX_STATE_BYTES)
    match value:
        case {
            1: bytes(theta), 2: bytes(covariance), 3: bytes(sigma2), 4: list(destinations), **rest
        } if not rest and len(destinations) <= MAX_KEPT_DESTINATIONS:  # fmt: skip
            model = _model(theta, covariance, sigma2)
            return model, dict(_destination(entry) for entry in destinations)
    raise ConfigError("its members are not those expected")


def _model(theta: bytes, covariance: bytes, sigma2: bytes) -> Regression:
    if (len(theta), len(covariance), len(sigma2)) != (4 * FEATURES, 4 * FEATURES**2, 4):
        raise ConfigError("its model is of another size")
    model = Regression()
    model.theta = np.frombuffer(theta, "<f4").astype(np.float64)
    matrix = np.frombuffer(covariance, "<f4").astype(np.float64).reshape(FEATURES, FEATURES)
    model.covariance = (matrix + matrix.T) / 2
    model.sigma2 = float(np.frombuffer(sigma2, "<f4")[0])
    if not model.is_sane() or np.abs(model.theta).max() > 10.0 or not 0.0 <= model.sigma2 <= 1e7:
        raise ConfigError("its model has impossible numbers")
    if np.linalg.eigvalsh(model.covariance).min() < -1e-3 or model.covariance.trace() > 1e3:
        raise ConfigError("its model has an impossible covariance")
    return model


def _destination(entry: cbor.Value) -> tuple[bytes, dict[ArmId, Kept]]:
    match entry:
        case [bytes(name), list(arms)] if len(name) <= MAX_NAME_BYTES and len(arms) <= 2 * MAX_ARMS:
            return name, dict(_arm(arm) for arm in arms)
    raise ConfigError("a destination in it is none")


def _arm(entry: cbor.Value) -> tuple[ArmId, Kept]:
    match entry:
        case [list(hops), bytes(packed)] if len(hops) <= MAX_HOPS and len(packed) == _ARM.size:
            relays = []
            for hop in hops:
                if not isinstance(hop, bytes) or len(hop) > PEER_ID_BYTES:
                    raise ConfigError("a relay in it has no id")
                relays.append(PeerId(hop))
            row = list(_ARM.unpack(packed))
            # The comparison is also false for what is no number.
            if not all(0.0 <= number <= limit for number, limit in zip(row, _LIMITS, strict=True)):
                raise ConfigError("an arm in it has impossible numbers")
            row[1] *= _AGED
            return tuple(relays), tuple(row)
    raise ConfigError("an arm in it is none")
