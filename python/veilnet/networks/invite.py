"""The invite: one line that lets a stranger ask to join, and nothing more.

```
text     veil:BASE32          lower case, unpadded; case and white space do not matter in reading
payload  version u8 = 1
         invite id 8 | network id 32 | inviter's peer id 32 | seed 32
         log height u32 | log head 32, only if the height is not 0 (else it is the network id)
         endpoint count u8 (1-8) | each: family u8 (4, 6), address 4 or 16, port u16
         CRC-32 of all before, little endian
```
Base32 survives phones, mail clients and QR codes in alphanumeric mode.  A CRC (its bytes in the
order of its bits) finds every error burst up to 32 bits, so every single wrong character and
every two neighbours swapped; a cut hash would only probably find them.  Expiry, uses left, roles
and tags stay with the issuer: a holder cannot read or change them.
Source: RFC 4648 section 6, ISO 3309 (CRC-32).
"""

from __future__ import annotations

import base64
import binascii
import zlib
from typing import Final

from attrs import field, frozen

from veilnet.errors import InviteError
from veilnet.networks.endpoint import Endpoint
from veilnet.networks.keys import KEY_BYTES, join_door_key, join_secret
from veilnet.units import NETWORK_ID_BYTES, PEER_ID_BYTES, NetworkId, PeerId

PREFIX: Final = "veil:"
INVITE_ID_BYTES: Final = 8
MAX_ENDPOINTS: Final = 8

_VERSION = 1
_CRC_BYTES = 4
_MAX_CHARACTERS = 1024
_FAMILY_BYTES = {4: 6, 6: 18}


@frozen
class Invite:
    """What an invite says: whom to ask, where, and the secret to ask with."""

    invite_id: bytes
    network_id: NetworkId
    inviter: PeerId
    seed: bytes = field(repr=False)
    endpoints: tuple[Endpoint, ...]
    log_head: bytes
    log_height: int = 0

    @property
    def join_secret(self) -> bytes:
        """K_join, the secret of the join handshake's transcript."""
        return join_secret(self.seed)

    @property
    def door_key(self) -> bytes:
        """The key of the inviter's door for this invite."""
        return join_door_key(self.seed)

    def format(self) -> str:
        """Return the invite as the one line that `parse` reads."""
        payload = bytearray((_VERSION,))
        payload += self.invite_id + self.network_id + self.inviter + self.seed
        payload += self.log_height.to_bytes(4, "big")
        if self.log_height:
            payload += self.log_head
        payload.append(len(self.endpoints))
        for endpoint in self.endpoints:
            packed = endpoint.pack()
            payload.append(4 if len(packed) == _FAMILY_BYTES[4] else 6)
            payload += packed
        payload += zlib.crc32(payload).to_bytes(_CRC_BYTES, "little")
        return PREFIX + base64.b32encode(payload).decode().rstrip("=").lower()

    @classmethod
    def parse(cls, text: str) -> Invite:
        """Read an invite; total: any string gives an invite or the one error.

        Raises: InviteError: not an invite, garbled, or of a newer version.
        """
        payload = _unwrap(text)
        reader = _Reader(payload)
        version = reader.number(1)
        if version != _VERSION:
            raise InviteError(
                f"the invite is of version {version}, this release reads version {_VERSION}",
                hint="Install the release that the inviter runs.",
            )
        invite_id = reader.take(INVITE_ID_BYTES)
        network_id = NetworkId(reader.take(NETWORK_ID_BYTES))
        inviter = PeerId(reader.take(PEER_ID_BYTES))
        seed = reader.take(KEY_BYTES)
        height = reader.number(4)
        head = reader.take(NETWORK_ID_BYTES) if height else bytes(network_id)
        count = reader.number(1)
        if not 1 <= count <= MAX_ENDPOINTS:
            raise InviteError(f"the invite has {count} endpoints, not 1 to {MAX_ENDPOINTS}")
        endpoints = []
        for _ in range(count):
            size = _FAMILY_BYTES.get(reader.number(1))
            if size is None:
                raise InviteError("the invite has an endpoint that is neither IPv4 nor IPv6")
            endpoints.append(Endpoint.unpack(reader.take(size), blame=InviteError))
        reader.finish()
        return cls(invite_id, network_id, inviter, seed, tuple(endpoints), head, height)


def looks_like_invite(text: str) -> bool:
    """Tell whether *text* wants to be an invite, so that `parse` should judge it."""
    return text.strip().lower().startswith(PREFIX)


def _unwrap(text: str) -> bytes:
    """Undo prefix, base32 and checksum."""
    if len(text) > 4 * _MAX_CHARACTERS:
        raise InviteError("the text is far too long for an invite")
    # A mail client may have broken the line anywhere.
    squeezed = "".join(text.split())
    if not squeezed.isascii() or not squeezed.lower().startswith(PREFIX):
        raise InviteError(f"the text is not an invite: it does not start with {PREFIX}")
    digits = squeezed[len(PREFIX) :].upper()
    if len(digits) > _MAX_CHARACTERS:
        raise InviteError("the text is too long for an invite")
    garbled = InviteError(
        "the invite is garbled or cut off",
        hint="Copy the whole line again, or ask its sender for a new one; there: veilnet invite",
    )
    if "=" in digits:
        raise garbled
    try:
        data = base64.b32decode(digits + "=" * (-len(digits) % 8))
    except binascii.Error as error:
        raise garbled from error
    # Spare bits in the last character are zero in the one form that `format` writes.
    canonical = base64.b32encode(data).decode().rstrip("=") == digits
    payload, check = data[:-_CRC_BYTES], data[-_CRC_BYTES:]
    if not canonical or zlib.crc32(payload).to_bytes(_CRC_BYTES, "little") != check:
        raise garbled
    return payload


class _Reader:
    """Takes pieces off a payload whose checksum was right: an error here is the writer's."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def take(self, count: int) -> bytes:
        if count > len(self.data):
            raise InviteError("the invite ends too early")
        piece, self.data = self.data[:count], self.data[count:]
        return piece

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count), "big")

    def finish(self) -> None:
        if self.data:
            raise InviteError("the invite has more in it than this release knows")
