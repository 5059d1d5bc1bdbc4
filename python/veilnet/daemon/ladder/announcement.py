"""What nodes say on their own link: sealed, of one length, worth nothing a second time.

```
datagram 156 = nonce 12 | ChaCha20-Poly1305(key of the scope and the day, nonce, plain 128)
plain        = kind u8 (1 ask, 2 answer) | unix time u64 | peer id 32
               count u8 (0-4) | each: length u8 (6, 18) | packed endpoint | zeros
```
Whoever lacks the scope's secret sees uniform bytes, and cannot tell two scopes or two nodes apart.
An announcement is good for MAX_AGE_S to either side of its time, and once: its nonce is kept so
long.  The day's key is the one of the time inside, so around midnight two keys are tried.
Source: RFC 8439.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from attrs import frozen
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from veilnet.daemon.ladder.scope import DAY_S
from veilnet.errors import RemoteProtocolError
from veilnet.networks.endpoint import Endpoint
from veilnet.units import PEER_ID_BYTES, PeerId

if TYPE_CHECKING:
    from collections.abc import Iterable

    from veilnet.daemon.ladder.scope import Scope
    from veilnet.networks.keys import Rng

ASK: Final = 1
ANSWER: Final = 2
MAX_ENDPOINTS: Final = 4
NONCE_BYTES: Final = 12
PLAIN_BYTES: Final = 128
SIZE_BYTES: Final = NONCE_BYTES + PLAIN_BYTES + 16
MAX_AGE_S: Final = 120
NONCES_MAX: Final = 4_096
"""Announcements remembered; more within MAX_AGE_S are not believed."""

_LABEL: Final = b"ladder/lan"
_HEAD_BYTES: Final = 1 + 8 + PEER_ID_BYTES + 1


@frozen
class Announcement:
    """Who is here, and where on this link it may be called."""

    kind: int
    peer: PeerId
    endpoints: tuple[Endpoint, ...]


def seal(said: Announcement, scope: Scope, *, now: int, rng: Rng) -> bytes:
    """Return the datagram that says *said* to the members of *scope*.

    Units: *now* unix seconds.
    """
    plain = bytearray((said.kind,)) + now.to_bytes(8, "big") + said.peer
    plain.append(min(len(said.endpoints), MAX_ENDPOINTS))
    for endpoint in said.endpoints[:MAX_ENDPOINTS]:
        packed = endpoint.pack()
        plain.append(len(packed))
        plain += packed
    plain += bytes(PLAIN_BYTES - len(plain))
    nonce = rng(NONCE_BYTES)
    return nonce + _cipher(scope, now // DAY_S).encrypt(nonce, bytes(plain), None)


class Opener:
    """Opens announcements of the scopes that it is given, each once."""

    def __init__(self) -> None:
        self._seen: OrderedDict[bytes, int] = OrderedDict()
        """Nonce -> unix time at which it may be forgotten."""
        self._ciphers: dict[tuple[bytes, bytes, int], ChaCha20Poly1305] = {}

    def __len__(self) -> int:
        return len(self._seen)

    def open(
        self, data: bytes, scopes: Iterable[Scope], *, now: int
    ) -> tuple[Scope, Announcement] | None:
        """Return what *data* says and to whom, None if it is not for us, stale, or a replay.

        Costs one authentication per scope (two around midnight) and changes nothing unless one
        succeeds.
        """
        if len(data) != SIZE_BYTES:
            return None
        nonce, sealed = data[:NONCE_BYTES], data[NONCE_BYTES:]
        if nonce in self._seen:
            return None
        for day in sorted({(now - MAX_AGE_S) // DAY_S, (now + MAX_AGE_S) // DAY_S}):
            for scope in scopes:
                try:
                    plain = self._cipher(scope, day, now).decrypt(nonce, sealed, None)
                except InvalidTag:
                    continue
                return self._believe(scope, nonce, plain, now)
        return None

    def _believe(
        self, scope: Scope, nonce: bytes, plain: bytes, now: int
    ) -> tuple[Scope, Announcement] | None:
        said_at = int.from_bytes(plain[1:9], "big")
        if abs(now - said_at) > MAX_AGE_S:
            return None
        while self._seen and next(iter(self._seen.values())) < now:
            self._seen.popitem(last=False)
        if len(self._seen) >= NONCES_MAX:
            # Forgetting one early would let it be replayed; not believing one costs seconds.
            return None
        # Kept as long as any announcement that is believed now, so that the oldest is first.
        self._seen[nonce] = now + 2 * MAX_AGE_S
        try:
            return scope, _parse(plain)
        except RemoteProtocolError:
            return None

    def _cipher(self, scope: Scope, day: int, now: int) -> ChaCha20Poly1305:
        key = (scope.network_id, scope.secret, day)
        found = self._ciphers.get(key)
        if found is None:
            oldest = (now - MAX_AGE_S) // DAY_S
            self._ciphers = {k: c for k, c in self._ciphers.items() if k[2] >= oldest}
            found = self._ciphers[key] = _cipher(scope, day)
        return found


def _cipher(scope: Scope, day: int) -> ChaCha20Poly1305:
    return ChaCha20Poly1305(scope.key(_LABEL, day))


def _parse(plain: bytes) -> Announcement:
    kind, count = plain[0], plain[_HEAD_BYTES - 1]
    if kind not in (ASK, ANSWER) or count > MAX_ENDPOINTS:
        raise RemoteProtocolError("an announcement of no known kind")
    endpoints: list[Endpoint] = []
    at = _HEAD_BYTES
    for _ in range(count):
        length = plain[at]
        endpoints.append(Endpoint.unpack(plain[at + 1 : at + 1 + length]))
        at += 1 + length
    return Announcement(kind, PeerId(plain[9 : _HEAD_BYTES - 1]), tuple(endpoints))
