"""Where a record lies, and under which key: derived from what only its network knows.

```
day      = (unix time + shift) // 86400       shift = Expand(secret, "veilnet/dht/day") mod 86400
locator  = Expand(secret, "veilnet/dht/loc"  || peer id || day u32)
key      = Expand(secret, "veilnet/dht/seal" || peer id || day u32)
           "veilnet/dht/name/loc" and "veilnet/dht/name/seal" with SHA-256(name) for the peer id
secret   = Expand(K_net, "veilnet/dht")
rank     = BLAKE2b-64(locator || block of the address), the lowest first
```
Expand is HKDF-Expand with SHA-384 and 32 bytes of output.  Each network turns its day at a moment
of its own, so that not everybody moves at midnight.  Within a region storers are taken by *rank*:
ids cost nothing and are not looked at, and an address is good for one locator on one day only.
Source: RFC 5869 section 2.3; rendezvous hashing: Thaler and Ravishankar 1998.
"""

from __future__ import annotations

import hashlib
from typing import Final

from veilnet.discovery.contact import block_of
from veilnet.networks.keys import expand

DAY_S: Final = 86_400
MARGIN_S: Final = 3_600
"""So long before a day the records of that day are published, and so long after it refreshed:
clocks that differ by less look in a place where something is."""


def secret_of(k_net: bytes) -> bytes:
    """Return the secret that a network's records are found by."""
    return expand(k_net, b"veilnet/dht")


def epoch_day(secret: bytes, unix_s: float) -> int:
    """Return the day of the network at that time."""
    return (int(unix_s) + _shift(secret)) // DAY_S


def days(secret: bytes, unix_s: float) -> tuple[int, ...]:
    """Return the days under which records are kept up at that time, today's first."""
    today, past = divmod(int(unix_s) + _shift(secret), DAY_S)
    if past < MARGIN_S:
        return today, today - 1
    if past >= DAY_S - MARGIN_S:
        return today, today + 1
    return (today,)


def day_ends(secret: bytes, day: int) -> int:
    """Return the unix time at which *day* is over."""
    return (day + 1) * DAY_S - _shift(secret)


def locator(secret: bytes, peer_id: bytes, day: int) -> bytes:
    """Return where the descriptor of *peer_id* lies on *day*."""
    return expand(secret, b"veilnet/dht/loc" + peer_id + _day(day))


def seal_key(secret: bytes, peer_id: bytes, day: int) -> bytes:
    """Return what the descriptor of *peer_id* is encrypted under on *day*."""
    return expand(secret, b"veilnet/dht/seal" + peer_id + _day(day))


def name_locator(name: str, secret: bytes, day: int) -> bytes:
    """Return where the record of *name* lies on *day*."""
    return expand(secret, b"veilnet/dht/name/loc" + _name(name) + _day(day))


def name_key(name: str, secret: bytes, day: int) -> bytes:
    """Return what the record of *name* is encrypted under on *day*."""
    return expand(secret, b"veilnet/dht/name/seal" + _name(name) + _day(day))


def rank(where: bytes, packed: bytes) -> bytes:
    """Return the place of a packed contact among the storers of locator *where*, to sort by."""
    return hashlib.blake2b(where + block_of(packed), digest_size=8).digest()


def owner_of(private: bytes, where: bytes) -> bytes:
    """Return what proves to a storer that a new blob comes from who stored the one before.

    *private*: 32 bytes of the publisher alone.
    """
    return expand(private, b"veilnet/dht/owner" + where)[:16]


def _shift(secret: bytes) -> int:
    return int.from_bytes(expand(secret, b"veilnet/dht/day")[:8], "big") % DAY_S


def _day(day: int) -> bytes:
    return day.to_bytes(4, "big")


def _name(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()
