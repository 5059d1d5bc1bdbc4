"""Names for the bare bytes and numbers that travel between the parts.

A unit of measure stands in the variable's name instead (``rtt_s``, ``mtu_bytes``, ``rate_bps``).
"""

from __future__ import annotations

from typing import NewType

PeerId = NewType("PeerId", bytes)
"""32 bytes: ``SHA-256("veilnet/id/1" || alg || mldsa_pk)``, the name of a node."""

NetworkId = NewType("NetworkId", bytes)
"""32 bytes: the digest of a network's genesis."""

SessionId = NewType("SessionId", int)
"""Non-zero u32: the index a node chose for the datagrams it receives on one session."""

PEER_ID_BYTES = 32
NETWORK_ID_BYTES = 32
