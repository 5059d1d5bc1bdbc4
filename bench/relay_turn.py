"""The client's half of TURN that a bench needs: allocations and channels, then plain ChannelData.

```
message    method u16 | length u16 | cookie u32 | transaction 12 | attributes
attribute  type u16 | length u16 | value, padded to four bytes
```
Source: RFC 8656 (TURN), RFC 8489 (STUN).
"""

from __future__ import annotations

import os
import socket
import struct

from peers import Unavailable

PORT = 3478
CHANNEL = 0x4000
_COOKIE = 0x2112A442
_ALLOCATE, _CHANNEL_BIND = 0x0003, 0x0009
_CHANNEL_NUMBER, _LIFETIME, _PEER, _ERROR, _RELAYED, _TRANSPORT = (
    0x000C, 0x000D, 0x0012, 0x0009, 0x0016, 0x0019,
)  # fmt: skip
_MISMATCH = 437  # this socket has an allocation already
_TRIES = 5


def channel_data(channel: int, body_bytes: int) -> bytes:
    """Return the four bytes that go before a body on *channel*."""
    return struct.pack("!HH", channel, body_bytes)


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("!HH", kind, len(value)) + value + bytes(-len(value) % 4)


def _address(host: str, port: int) -> bytes:
    (number,) = struct.unpack("!I", socket.inet_aton(host))
    return struct.pack("!BBHI", 0, 1, port ^ (_COOKIE >> 16), number ^ _COOKIE)


class Allocation:
    """One client socket's allocation at a TURN server, and its channels."""

    def __init__(self, link: socket.socket, port: int, server: tuple[str, int]) -> None:
        self._socket = link
        link.bind(("0.0.0.0", port))
        link.connect(server)
        link.settimeout(0.5)
        self.relayed: tuple[str, int] | None = None

    def close(self) -> None:
        """Let go of the port; the server keeps the allocation."""
        self._socket.close()

    def allocate(self) -> bool:
        """Ask for a relayed address; false if this socket has one already.  Raises: Unavailable."""
        wanted = _attribute(_TRANSPORT, bytes([17, 0, 0, 0]))
        wanted += _attribute(_LIFETIME, struct.pack("!I", 3600))
        found = self._ask(_ALLOCATE, wanted)
        if _RELAYED not in found:
            return False
        _, _, port, number = struct.unpack("!BBHI", found[_RELAYED][:8])
        host = socket.inet_ntoa(struct.pack("!I", number ^ _COOKIE))
        self.relayed = (host, port ^ (_COOKIE >> 16))
        return True

    def bind(self, channel: int, peer: tuple[str, int]) -> None:
        """Bind (or refresh) *channel* to *peer*.  Raises: Unavailable."""
        wanted = _attribute(_CHANNEL_NUMBER, struct.pack("!HH", channel, 0))
        self._ask(_CHANNEL_BIND, wanted + _attribute(_PEER, _address(*peer)))

    def _ask(self, method: int, attributes: bytes) -> dict[int, bytes]:
        transaction = os.urandom(12)
        head = struct.pack("!HHI", method, len(attributes), _COOKIE) + transaction
        for _ in range(_TRIES):
            self._socket.send(head + attributes)
            try:
                answer = self._socket.recv(2048)
                while answer[8:20] != transaction:
                    answer = self._socket.recv(2048)
            except TimeoutError:
                continue
            return self._judge(method, answer)
        raise Unavailable("coturn did not answer")

    def _judge(self, method: int, answer: bytes) -> dict[int, bytes]:
        found = {}
        at = 20
        while at + 4 <= len(answer):
            kind, length = struct.unpack_from("!HH", answer, at)
            found[kind] = answer[at + 4 : at + 4 + length]
            at += 4 + length + -length % 4
        if _ERROR in found:
            code = found[_ERROR][2] * 100 + found[_ERROR][3]
            if not (method == _ALLOCATE and code == _MISMATCH):
                reason = found[_ERROR][4:].decode(errors="replace")
                raise Unavailable(f"coturn refused: {code} {reason}")
        return found
