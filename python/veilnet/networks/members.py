"""The member table of one network: what this node knows of everybody in it.

```
gossip MemberEntry -- verify (any thread) --> Member -- merge (one thread) --> table
```
Invariant: the table is the same whatever order entries came in and however often: of two views
of one member the newer credential (serial) and each teller's newest word (time) stay, and of too
many members those with the highest serials.  A second peer id for an address in use is refused
for as long as the holder's credential lives.

The members themselves are on the disk (`networks.roster`); each question reads what it needs.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Final

from attrs import frozen

from veilnet.errors import PeerRefused, RemoteProtocolError, UnknownPeer, UsageError
from veilnet.networks import member
from veilnet.networks.member import Member
from veilnet.networks.names import parse_name, printable
from veilnet.networks.roster import Roster
from veilnet.protocol.messages import MAX_MEMBERS as MEMBERS_PER_MESSAGE
from veilnet.protocol.messages import KnownMember, MemberEntry, MembersKnown
from veilnet.units import PEER_ID_BYTES, PeerId

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from veilnet.networks.credential import Credential, Verifier
    from veilnet.networks.genesis import Genesis

MAX_MEMBERS: Final = 16_384
MAX_PETNAMES: Final = 1_024
MAX_KNOWN: Final = 1_024
"""Entries of one `MembersKnown` message."""
MAX_LACKING: Final = 1_024
"""Members that one answer to it tells of; the next one goes on from there."""
REFRESH_S: Final = 3_600
MIN_ID_PREFIX_CHARACTERS: Final = 4

_HEX = frozenset("0123456789abcdef")

Address = IPv4Address | IPv6Address


class AmbiguousPeer(UnknownPeer):
    """Several members could be meant, so none is."""


@frozen
class Merged:
    """What a merge did."""

    changed: frozenset[PeerId]
    """Members that are new, have another credential, or were observed later: news for others."""
    refused: tuple[PeerRefused, ...]
    """Why others were not taken: to be reported."""


class MemberTable:
    """At most `MAX_MEMBERS` verified members, found by name, peer id or address."""

    def __init__(
        self,
        members: Iterable[Member] = (),
        *,
        pinned: Iterable[PeerId] = (),
        max_members: int = MAX_MEMBERS,
        path: Path | None = None,
    ) -> None:
        """Open the table in the file at *path*, empty if there is none; None: in memory.

        *members* are put in it.
        Raises: ConfigError: the file is damaged, or of another release.
        """
        self._roster = Roster(path)
        self._pinned = frozenset(pinned)
        self._petnames = self._roster.petnames()
        self._max_members = max_members
        for item in members:
            self._roster.put(item)
        self._newest_signed = self._roster.newest_signed()

    def close(self) -> None:
        """Close the file; whoever asks later gets ClosedError."""
        self._roster.close()

    @property
    def settled(self) -> bool:
        """Whether the table lies in a file."""
        return self._roster.settled

    def settle(self, path: Path) -> None:
        """Move a table that is in memory to the file at *path*, before others get to know it.

        Raises: ConfigError: the disk is full or broken.
        """
        self._roster.settle(path)

    def flush(self) -> None:
        """Put what has changed on the disk; any thread may.

        Raises: ConfigError: the disk is full or broken; nothing is lost.
        """
        self._roster.flush()

    def __len__(self) -> int:
        return len(self._roster)

    def __iter__(self) -> Iterator[Member]:
        """Yield the members, by peer id."""
        return iter(self._roster)

    def __contains__(self, peer_id: object) -> bool:
        return peer_id in self._roster

    def __repr__(self) -> str:
        return f"<MemberTable of {len(self)}>"

    @property
    def newest_signed(self) -> int:
        """The latest time (unix seconds) that an owner signed for any member ever seen here."""
        return self._newest_signed

    def get(self, peer_id: PeerId) -> Member | None:
        """Return the member with that id, None if it is unknown."""
        return self._roster.get(peer_id)

    # what others say

    def verify(
        self, entries: Iterable[MemberEntry], genesis: Genesis, signatures: Verifier
    ) -> tuple[Member, ...]:
        """Check gossip, for `merge`.  May run in another thread: it only looks up.

        A credential that the table has is not verified again.
        Raises: RemoteProtocolError: an entry is false; honest nodes verify before they tell.
        """
        return tuple(
            member.verify(
                entry,
                genesis,
                signatures,
                known=self._roster.held(entry.public_key, entry.credential),
            )
            for entry in entries
        )

    def merge(self, members: Iterable[Member], now: int, *, teller: bytes = b"") -> Merged:
        """Take verified members in; the hearsay in them is *teller*'s (its peer id).

        Units: *now* unix seconds; what was observed later counts as observed now.
        """
        changed: set[PeerId] = set()
        refused: list[PeerRefused] = []
        for item in members:
            new = item.told_by(teller, now)
            try:
                self.check_addresses(new.credential, now)
            except PeerRefused as error:
                refused.append(error)
                continue
            old = self._roster.get(new.peer_id)
            joined = new if old is None else old.joined(new)
            if joined != old:
                self._put(joined)
            # What only one more teller says is no news: it would go round for ever.
            if old is None or joined.encoding != old.encoding or joined.observed_s > old.observed_s:
                changed.add(joined.peer_id)
        changed -= self._evict()
        return Merged(frozenset(changed), tuple(refused))

    def check_addresses(self, credential: Credential, now: int) -> None:
        """Check that no other member holds an address of *credential*.

        Raises: PeerRefused: the second id for an address in use.
        """
        old = self._roster.get(credential.peer_id)
        if old is not None and old.credential.serial > credential.serial:
            return
        for address in Member(b"", credential, b"").addresses:
            holder = self.by_address(address)
            if holder is None or holder.peer_id == credential.peer_id:
                continue
            # Our clock may be behind what the issuer signed.
            time = max(now, credential.not_before, holder.credential.not_before)
            both_live = time <= min(credential.not_after, holder.credential.not_after)
            # An IPv6 address is a hash of its holder, who may come back; an IPv4 one is lent.
            if isinstance(address, IPv6Address) or both_live:
                raise PeerRefused(
                    f"{credential.name} ({credential.peer_id.hex()[:12]}) claims {address}, which "
                    f"{holder.name} ({holder.peer_id.hex()[:12]}) holds",
                    hint="Ask the network's owner: one address was given to two members.",
                )

    def observe(self, peer_id: PeerId, endpoints: Iterable[tuple[str, int]], now: int) -> bool:
        """Note where a member was just seen, best first; tell whether others should hear of it.

        The same endpoints again are news only once in `REFRESH_S`.
        """
        old = self._roster.get(peer_id)
        if old is None:
            return False
        seen = old.seen_at(endpoints, now)
        if seen.seen == old.seen and now < old.seen_s + REFRESH_S:
            return False
        self._roster.put(seen)
        return seen != old

    # what is told to others

    @property
    def parts(self) -> int:
        """In how many parts, by peer id, the table is told so that each fits one message."""
        parts, count = 1, len(self)
        if count > MAX_KNOWN:
            # Half full on average: ids are hashes, and hashes vary.
            while 2 * count > parts * MAX_KNOWN:
                parts *= 2
        return parts

    def known(
        self, part: int = 0, parts: int = 1, *, doubted: PeerId | None = None
    ) -> MembersKnown:
        """Return what one part of the table has, the newest credentials first, as many as fit.

        *doubted*: where that one is counts as unknown, for what we believe may be false.
        """
        told: list[KnownMember] = []
        for peer_id, serial, observed_s in self._roster.ranked(*_ids_of(part, parts)):
            seen_s = 0 if peer_id == doubted else observed_s
            told.append(KnownMember(peer_id=peer_id, serial=serial, observed_s=seen_s))
            if len(told) == MAX_KNOWN:
                break
        return MembersKnown(known=tuple(told), part=part, parts=parts)

    def lacking(self, said: MembersKnown) -> list[PeerId]:
        """Return whom the sender of *said* lacks or has in an older form.

        At most `MAX_LACKING`, those with the newest credentials; and nobody who is older than all
        that fitted in *said*.
        Raises: RemoteProtocolError: there is no such part.
        """
        if not 0 <= said.part < said.parts:
            raise RemoteProtocolError("a part of a member table that there is not")
        theirs = {item.peer_id: (item.serial, item.observed_s) for item in said.known}
        oldest = min((item.serial for item in said.known), default=0)
        floor = oldest if len(said.known) >= MAX_KNOWN else 0
        lacks: list[PeerId] = []
        for peer_id, serial, observed_s in self._roster.ranked(*_ids_of(said.part, said.parts)):
            if serial < floor:
                break
            their_serial, their_s = theirs.get(peer_id, (-1, -1))
            if serial > their_serial or observed_s > their_s:
                lacks.append(peer_id)
                if len(lacks) == MAX_LACKING:
                    break
        return lacks

    def entries(self, peer_ids: Iterable[PeerId]) -> Iterator[MemberEntry]:
        """Yield what is told of *peer_ids*; of who is no member any more, nothing."""
        for peer_id in peer_ids:
            if (item := self._roster.get(peer_id)) is not None:
                yield item.entry()

    def latest(self, count: int, *but: PeerId) -> list[Member]:
        """Return the *count* members that were observed last, none of *but*."""
        found = (self._roster.get(peer_id) for peer_id in self._roster.latest(count, but))
        return [item for item in found if item is not None]

    def directory(self) -> Iterator[tuple[str, Address]]:
        """Yield names and addresses of all members, an entry for each address."""
        for name, packed in self._roster.directory():
            yield name, ip_address(packed)

    def valid(self, time: int) -> list[PeerId]:
        """Return whose credentials do not end before *time* (unix seconds)."""
        return self._roster.valid(time)

    # finding members

    def find(self, target: str) -> Member:
        """Return the member that *target* means: petname, name, peer id or prefix, address.

        Raises: UnknownPeer: nobody; AmbiguousPeer: several.
        """
        text = target.strip().lower()
        peer_id = self._petnames.get(text)
        if peer_id is not None and (petnamed := self._roster.get(peer_id)) is not None:
            return petnamed
        try:
            address = ip_address(text)
        except ValueError:
            pass
        else:
            if (holder := self.by_address(address)) is not None:
                return holder
            raise UnknownPeer(f"no member has the address {address}")
        # A name that looks like another's id must not answer in its place, so both are asked.
        found = set(self._roster.named(text))
        digits = 2 * PEER_ID_BYTES
        if MIN_ID_PREFIX_CHARACTERS <= len(text) <= digits and _HEX.issuperset(text):
            first, last = (bytes.fromhex(text.ljust(digits, digit)) for digit in "0f")
            found.update(self._roster.between(first, last))
        if len(found) == 1 and (only := self._roster.get(*found)) is not None:
            return only
        if len(found) < 2:
            raise UnknownPeer(f"no member is called {printable(target)}")
        ids = ", ".join(sorted(peer_id.hex()[:12] for peer_id in found))
        raise AmbiguousPeer(
            f"{printable(target)} may mean several members: {ids}",
            hint="Use the peer id, or more of it: veilnet peer list",
        )

    def by_address(self, address: Address) -> Member | None:
        """Return the member that holds an overlay address."""
        peer_id = self._roster.holder(address)
        return None if peer_id is None else self._roster.get(peer_id)

    def name_of(self, peer_id: PeerId) -> str:
        """Return what to call a member: our petname for it, else its own name."""
        for petname, holder in self._petnames.items():
            if holder == peer_id:
                return petname
        return self._roster.name_of(peer_id) or peer_id.hex()[:12]

    def conflicts(self) -> tuple[str, ...]:
        """Return names that several members have: they answer nothing until one is renamed."""
        return tuple(self._roster.names_of_several())

    def set_petname(self, petname: str, peer_id: PeerId) -> None:
        """Call a member *petname* on this node, whatever it calls itself.

        Raises: UsageError: not a name, or another member's; UnknownPeer: no such member.
        """
        name = parse_name(petname)
        if peer_id not in self._roster:
            raise UnknownPeer(f"no member has the peer id {peer_id.hex()[:12]}")
        if self._petnames.get(name, peer_id) != peer_id:
            raise UsageError(
                f"{name} is your name for another member already",
                hint="Take that one away first, or choose another.",
            )
        if name not in self._petnames and len(self._petnames) >= MAX_PETNAMES:
            raise UsageError(f"there are {MAX_PETNAMES} petnames already, and no more can be kept")
        self._keep_petnames(self._petnames_but(peer_id) | {name: peer_id})

    def drop_petname(self, peer_id: PeerId) -> None:
        """Call a member by its own name again."""
        self._keep_petnames(self._petnames_but(peer_id))

    def _petnames_but(self, peer_id: PeerId) -> dict[str, PeerId]:
        return {name: held for name, held in self._petnames.items() if held != peer_id}

    def _keep_petnames(self, petnames: dict[str, PeerId]) -> None:
        self._petnames = petnames
        self._roster.put_petnames(petnames)

    def _put(self, item: Member) -> None:
        self._roster.put(item)
        self._newest_signed = max(self._newest_signed, item.credential.not_before)

    def _evict(self) -> set[PeerId]:
        """Forget the oldest credentials beyond the most that are kept; return whose."""
        surplus = len(self) - self._max_members
        gone = self._roster.oldest(surplus, [*self._pinned]) if surplus > 0 else []
        for peer_id in gone:
            self._roster.drop(peer_id)
        return set(gone)


def part_of(peer_id: PeerId, parts: int) -> int:
    """Return the part that a member is told in, of so many."""
    return int.from_bytes(peer_id[:2]) * parts >> 16


def _ids_of(part: int, parts: int) -> tuple[bytes, bytes]:
    """Return the first and the last id that there may be in a part."""
    first, beyond = (-(-each * 65_536 // parts) for each in (part, part + 1))
    rest = PEER_ID_BYTES - 2
    return first.to_bytes(2) + bytes(rest), (beyond - 1).to_bytes(2) + b"\xff" * rest


def batches(entries: Iterable[MemberEntry]) -> Iterator[tuple[MemberEntry, ...]]:
    """Yield *entries* in portions that fit one `Members` message each."""
    portion: list[MemberEntry] = []
    for entry in entries:
        portion.append(entry)
        if len(portion) == MEMBERS_PER_MESSAGE:
            yield tuple(portion)
            portion = []
    if portion:
        yield tuple(portion)
