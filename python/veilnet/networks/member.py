"""One member as a node knows it, and the check that turns gossip into one.

A `MemberEntry` is what somebody said; a `Member` is what an owner signed: past `verify` the
credential holds, and the public key is the one that the peer id is the hash of.

Where a member is, nobody signs, so it is kept by who says so:

```
first hand   where we saw it, then what it said of itself in a session with us
hearsay      by teller, the newest word of each; of at most `MAX_TELLERS`, the newest
```
Invariant: hearsay never takes anything of the first hand away, and no teller anything of another
but by being newer than `MAX_TELLERS` others.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from itertools import zip_longest
from typing import TYPE_CHECKING, Final

from attrs import evolve, frozen

from veilnet.crypto.identity import peer_id
from veilnet.errors import RemoteProtocolError, VeilError
from veilnet.networks import credential as credentials
from veilnet.networks.address import overlay_ipv6
from veilnet.networks.endpoint import Endpoint
from veilnet.networks.records import MAX_TIME
from veilnet.protocol.messages import MemberEntry

if TYPE_CHECKING:
    from collections.abc import Iterable

    from veilnet.networks.credential import Credential, Verifier
    from veilnet.networks.genesis import Genesis
    from veilnet.units import PeerId

MAX_ENDPOINTS: Final = 8
MAX_TELLERS: Final = 4
MAX_TOLD: Final = 3
"""Endpoints of hearsay that stand beside those of the first hand."""


@frozen(order=True)
class Hearsay:
    """Where one teller says that a member is."""

    observed_s: int
    endpoints: tuple[Endpoint, ...]
    teller: bytes = b""
    """Its peer id; empty: unknown."""


@frozen
class Member:
    """A peer with a credential of the network, and where it was last seen."""

    public_key: bytes
    credential: Credential
    encoding: bytes
    """The credential as its issuer signed it."""
    seen: tuple[Endpoint, ...] = ()
    """First hand, best first."""
    seen_s: int = 0
    """Unix time of that; 0: never."""
    hearsay: tuple[Hearsay, ...] = ()
    """Newest first, one of each teller."""

    @property
    def peer_id(self) -> PeerId:
        """The member's name that needs no trust."""
        return self.credential.peer_id

    @property
    def name(self) -> str:
        """The name that its issuer gave it."""
        return self.credential.name

    @property
    def ipv6(self) -> IPv6Address:
        """Its address in the network."""
        return overlay_ipv6(self.credential.network_id, self.credential.peer_id)

    @property
    def addresses(self) -> tuple[IPv6Address | IPv4Address, ...]:
        """All its addresses in the network, IPv6 first."""
        ipv4 = self.credential.ipv4
        return (self.ipv6,) if ipv4 is None else (self.ipv6, ipv4)

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Where to look for it, best first: the first hand, and a little of the hearsay."""
        own_word = [said for said in self.hearsay if said.teller == self.peer_id]
        others = [said for said in self.hearsay if said.teller != self.peer_id]
        # A turn for each teller, so that none crowds the others out.
        turns = zip_longest(*(said.endpoints for said in (*own_word, *others)))
        told = [endpoint for turn in turns for endpoint in turn if endpoint is not None]
        if not self.seen:
            return tuple(dict.fromkeys(told))[:MAX_ENDPOINTS]
        new = [endpoint for endpoint in dict.fromkeys(told) if endpoint not in self.seen]
        new = new[:MAX_TOLD]
        first = self.seen[: MAX_ENDPOINTS - len(new)]
        return (*first, *new)

    @property
    def observed_s(self) -> int:
        """Unix time at which somebody last observed it; 0: never."""
        return max(self.seen_s, *(said.observed_s for said in self.hearsay), 0)

    def entry(self) -> MemberEntry:
        """Return what is told to others."""
        return MemberEntry(
            public_key=self.public_key,
            credential=self.encoding,
            endpoints=self.endpoints,
            observed_s=self.observed_s,
        )

    def seen_at(self, endpoints: Iterable[tuple[str, int]], now: int) -> Member:
        """Return the member with *endpoints*, just observed, before those known so far."""
        return evolve(self, seen=usable((*endpoints, *self.seen)), seen_s=max(now, self.seen_s))

    def told_by(self, teller: bytes, now: int) -> Member:
        """Return the member with what was heard of it just now as *teller*'s word.

        None of it is later than *now*, or a lie would be the newest for ever.
        """
        return evolve(
            self,
            hearsay=tuple(
                Hearsay(min(said.observed_s, now), said.endpoints, said.teller or teller)
                for said in self.hearsay
            ),
        )

    def joined(self, other: Member) -> Member:
        """Return the newer credential with the newer endpoints of two views of one member.

        The order of the views does not matter: ties fall to the greater encoding.
        """
        newer = max(self, other, key=lambda view: (view.credential.serial, view.encoding))
        first = max(self, other, key=lambda view: (view.seen_s, view.seen))
        words: dict[bytes, Hearsay] = {}
        for said in (*self.hearsay, *other.hearsay):
            words[said.teller] = max(said, words.get(said.teller, said))
        hearsay = tuple(sorted(words.values(), reverse=True)[:MAX_TELLERS])
        return evolve(newer, seen=first.seen, seen_s=first.seen_s, hearsay=hearsay)


def verify(
    entry: MemberEntry,
    genesis: Genesis,
    signatures: Verifier,
    *,
    known: Member | None = None,
    blame: type[VeilError] = RemoteProtocolError,
) -> Member:
    """Return the member that *entry* tells of, every part of it checked.

    One signature is verified, none if *known* has the very same credential and key.
    Raises: *blame*: the credential does not hold, or the key is not the peer id's.
    """
    if (
        known is not None
        and known.encoding == entry.credential
        and known.public_key == entry.public_key
    ):
        member = known
    else:
        credential = credentials.verify(entry.credential, genesis, signatures, blame=blame)
        check_key(entry.public_key, credential, genesis, blame=blame)
        member = Member(entry.public_key, credential, entry.credential)
    observed = entry.observed_s if entry.observed_s <= MAX_TIME else 0
    endpoints = usable(entry.endpoints) if observed else ()
    hearsay = (Hearsay(observed, endpoints),) if endpoints else ()
    return evolve(member, seen=(), seen_s=0, hearsay=hearsay)


def check_key(
    public_key: bytes,
    credential: Credential,
    genesis: Genesis,
    *,
    blame: type[VeilError] = RemoteProtocolError,
) -> None:
    """Check that the credential was given to the holder of *public_key*.

    Raises: *blame*: it was not.
    """
    if peer_id(public_key, genesis.signature.name) != credential.peer_id:
        raise blame("a public key comes with the credential of another peer id")


def usable(endpoints: Iterable[tuple[str, int]]) -> tuple[Endpoint, ...]:
    """Return the usable ones, each once, in order, at most `MAX_ENDPOINTS`.

    Others are left out, not refused: an address that only one link knows is an honest mistake.
    """
    usable: dict[Endpoint, None] = {}
    for host, port in endpoints:
        try:
            usable[Endpoint.of(host, port, blame=RemoteProtocolError)] = None
        except RemoteProtocolError:
            continue
        if len(usable) == MAX_ENDPOINTS:
            break
    return tuple(usable)
