"""Every secret that is derived from a network's key or an invite's seed, in one place.

```
K_net    32 random bytes, the network's secret
K_door   Expand(K_net, "veilnet/door" || peer id)   what a member must hold to get a reply
seed     32 random bytes, one per invite
K_join   Expand(seed, "veilnet/join/key")           stands where K_net would in a join's transcript
         Expand(seed, "veilnet/join/door")          the door of that invite
```
Expand is HKDF-Expand with SHA-384 and 32 bytes of output, whatever the network's suite: a door
stands before any suite is known.
Source: RFC 5869 section 2.3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

KEY_BYTES: Final = 32

Rng: TypeAlias = Callable[[int], bytes]
"""A random source: count of bytes -> that many bytes (`secrets.token_bytes` in the daemon)."""


def door_key(k_net: bytes, peer_id: bytes) -> bytes:
    """Return the key of the door that *peer_id* opens for members of the network."""
    return expand(k_net, b"veilnet/door" + peer_id)


def join_secret(seed: bytes) -> bytes:
    """Return K_join: what an invite's handshake mixes in where a member's has K_net."""
    return expand(seed, b"veilnet/join/key")


def join_door_key(seed: bytes) -> bytes:
    """Return the key of the door that the issuer keeps open for one invite."""
    return expand(seed, b"veilnet/join/door")


def expand(secret: bytes, info: bytes) -> bytes:
    """Return 32 bytes that *secret* and *info* determine."""
    return HKDFExpand(algorithm=SHA384(), length=KEY_BYTES, info=info).derive(secret)
