"""The member table of one network: what this node knows of everybody in it.

```
gossip MemberEntry -- verify (any thread) --> Member -- merge (one thread) --> table
```
Invariant: the table is the same whatever order entries came in and however often: of two views
of one member the newer credential (serial) and each teller's newest word (time) stay, and of too
many members those with the highest serials.  A second peer id for an address in use is refused
for as long as the holder's credential lives.

Files keep it as frames (`networks.frames`) of CBOR [public key, credential, seen, [told]] with
seen = [time, [packed endpoint]] and told = [time, [packed endpoint], teller], after one frame with
the petnames.
"""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Final

from attrs import evolve, frozen

from veilnet.errors import ConfigError, PeerRefused, UnknownPeer, UsageError
from veilnet.networks import frames, member
from veilnet.networks.credential import MAX_CREDENTIAL_BYTES
from veilnet.networks.endpoint import Endpoint
from veilnet.networks.member import MAX_ENDPOINTS, MAX_TELLERS, Hearsay, Member
from veilnet.networks.names import MAX_NAME_CHARACTERS, is_name, parse_name, printable
from veilnet.networks.records import Record
from veilnet.protocol.messages import MAX_MEMBERS as MEMBERS_PER_MESSAGE
from veilnet.protocol.messages import KnownMember, MemberEntry
from veilnet.units import PEER_ID_BYTES, PeerId

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from veilnet.networks.credential import Credential, Verifier
    from veilnet.networks.genesis import Genesis

MAX_MEMBERS: Final = 4_096
MAX_PETNAMES: Final = 1_024
MAX_KNOWN: Final = 1_024
"""Entries of one `MembersKnown` message."""
REFRESH_S: Final = 3_600
MIN_ID_PREFIX_CHARACTERS: Final = 4

_VERSION = 2
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
        petnames: dict[str, PeerId] | None = None,
        max_members: int = MAX_MEMBERS,
    ) -> None:
        self._members = {item.peer_id: item for item in members}
        self._pinned = frozenset(pinned)
        self._petnames = dict(petnames or {})
        self._max_members = max_members
        self._holders: dict[Address, PeerId] = {}
        self._newest_signed = max(
            (item.credential.not_before for item in self._members.values()), default=0
        )
        self._reindex()

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Member]:
        """Yield the members, by peer id."""
        return iter([self._members[key] for key in sorted(self._members)])

    def __contains__(self, peer_id: object) -> bool:
        return peer_id in self._members

    def __repr__(self) -> str:
        return f"<MemberTable of {len(self)}>"

    @property
    def newest_signed(self) -> int:
        """The latest time (unix seconds) that an owner signed for any member ever seen here."""
        return self._newest_signed

    def get(self, peer_id: PeerId) -> Member | None:
        """Return the member with that id, None if it is unknown."""
        return self._members.get(peer_id)

    # what others say

    def verify(
        self, entries: Iterable[MemberEntry], genesis: Genesis, signatures: Verifier
    ) -> tuple[Member, ...]:
        """Check gossip, for `merge`.  May run in another thread: it only looks up.

        A credential that the table has is not verified again.
        Raises: RemoteProtocolError: an entry is false; honest nodes verify before they tell.
        """
        by_credential = {item.encoding: item for item in list(self._members.values())}
        return tuple(
            member.verify(entry, genesis, signatures, known=by_credential.get(entry.credential))
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
            old = self._members.get(new.peer_id)
            joined = new if old is None else old.joined(new)
            if joined != old:
                self._put(joined)
            # What only one more teller says is no news: it would go round for ever.
            if old is None or joined.encoding != old.encoding or joined.observed_s > old.observed_s:
                changed.add(joined.peer_id)
        self._evict()
        return Merged(frozenset(changed & self._members.keys()), tuple(refused))

    def check_addresses(self, credential: Credential, now: int) -> None:
        """Check that no other member holds an address of *credential*.

        Raises: PeerRefused: the second id for an address in use.
        """
        old = self._members.get(credential.peer_id)
        if old is not None and old.credential.serial > credential.serial:
            return
        for address in Member(b"", credential, b"").addresses:
            holder = self._members.get(self._holders.get(address, credential.peer_id))
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
        old = self._members.get(peer_id)
        if old is None:
            return False
        seen = old.seen_at(endpoints, now)
        if seen.seen == old.seen and now < old.seen_s + REFRESH_S:
            return False
        self._members[peer_id] = seen
        return seen != old

    # what is told to others

    def known(
        self, limit: int = MAX_KNOWN, *, doubted: PeerId | None = None
    ) -> tuple[KnownMember, ...]:
        """Return what the table has, the newest credentials first, for `MembersKnown`.

        *doubted*: where that one is counts as unknown, for what we believe may be false.
        """
        newest = sorted(self._members.values(), key=_rank, reverse=True)[:limit]
        return tuple(
            KnownMember(
                peer_id=item.peer_id,
                serial=item.credential.serial,
                observed_s=0 if item.peer_id == doubted else item.observed_s,
            )
            for item in newest
        )

    def lacking(self, known: Iterable[KnownMember]) -> tuple[MemberEntry, ...]:
        """Return the entries that the sender of *known* lacks or has in an older form."""
        theirs = {item.peer_id: (item.serial, item.observed_s) for item in known}
        lacks = []
        for item in self:
            serial, observed_s = theirs.get(item.peer_id, (-1, -1))
            if item.credential.serial > serial or item.observed_s > observed_s:
                lacks.append(item.entry())
        return tuple(lacks)

    # finding members

    def find(self, target: str) -> Member:
        """Return the member that *target* means: petname, name, peer id or prefix, address.

        Raises: UnknownPeer: nobody; AmbiguousPeer: several.
        """
        text = target.strip().lower()
        peer_id = self._petnames.get(text)
        if peer_id is not None and (petnamed := self._members.get(peer_id)) is not None:
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
        found = {item.peer_id: item for item in self if item.name == text}
        if len(text) >= MIN_ID_PREFIX_CHARACTERS and _HEX.issuperset(text):
            found.update(
                (item.peer_id, item) for item in self if item.peer_id.hex().startswith(text)
            )
        if len(found) == 1:
            return next(iter(found.values()))
        if not found:
            raise UnknownPeer(f"no member is called {printable(target)}")
        ids = ", ".join(sorted(peer_id.hex()[:12] for peer_id in found))
        raise AmbiguousPeer(
            f"{printable(target)} may mean several members: {ids}",
            hint="Use the peer id, or more of it: veilnet peer list",
        )

    def by_address(self, address: Address) -> Member | None:
        """Return the member that holds an overlay address."""
        peer_id = self._holders.get(address)
        return None if peer_id is None else self._members.get(peer_id)

    def name_of(self, peer_id: PeerId) -> str:
        """Return what to call a member: our petname for it, else its own name."""
        for petname, holder in self._petnames.items():
            if holder == peer_id:
                return petname
        item = self._members.get(peer_id)
        return peer_id.hex()[:12] if item is None else item.name

    def conflicts(self) -> tuple[str, ...]:
        """Return names that several members have: they answer nothing until one is renamed."""
        count = Counter(item.name for item in self._members.values())
        return tuple(sorted(name for name, held in count.items() if held > 1))

    def set_petname(self, petname: str, peer_id: PeerId) -> None:
        """Call a member *petname* on this node, whatever it calls itself.

        Raises: UsageError: not a name, or another member's; UnknownPeer: no such member.
        """
        name = parse_name(petname)
        if peer_id not in self._members:
            raise UnknownPeer(f"no member has the peer id {peer_id.hex()[:12]}")
        if self._petnames.get(name, peer_id) != peer_id:
            raise UsageError(
                f"{name} is your name for another member already",
                hint="Take that one away first, or choose another.",
            )
        if name not in self._petnames and len(self._petnames) >= MAX_PETNAMES:
            raise UsageError(f"there are {MAX_PETNAMES} petnames already, and no more can be kept")
        self.drop_petname(peer_id)
        self._petnames[name] = peer_id

    def drop_petname(self, peer_id: PeerId) -> None:
        """Call a member by its own name again."""
        self._petnames = {name: held for name, held in self._petnames.items() if held != peer_id}

    # on disk

    def encode(self) -> bytes:
        """Return the table as `decode` reads it."""
        petnames: list[frames.Encodable] = [
            [name, held] for name, held in sorted(self._petnames.items())
        ]
        records: list[frames.Encodable] = [[_VERSION, petnames]]
        records.extend(
            [
                item.public_key,
                item.encoding,
                [item.seen_s, [endpoint.pack() for endpoint in item.seen]],
                [
                    [said.observed_s, [each.pack() for each in said.endpoints], said.teller]
                    for said in item.hearsay
                ],
            ]
            for item in self
        )
        return frames.encode(records)

    @classmethod
    def decode(
        cls,
        data: bytes,
        genesis: Genesis,
        signatures: Verifier,
        *,
        pinned: Iterable[PeerId] = (),
        max_members: int = MAX_MEMBERS,
    ) -> MemberTable:
        """Read a table from a file, verifying every member again.

        Raises: ConfigError: it was not written by `encode`, or has been changed.
        """
        values = frames.decode(data, max_frames=1 + max_members, blame=ConfigError)
        head = Record("the member table", next(values, None), 2, ConfigError)
        head.version(_VERSION)
        petnames: dict[str, PeerId] = {}
        for item in head.array(most=MAX_PETNAMES):
            pair = Record("a petname", item, 2, ConfigError)
            name = pair.text(most=MAX_NAME_CHARACTERS)
            if not is_name(name):
                raise pair.wrong("it is no lower-case DNS label")
            petnames[name] = PeerId(pair.octets(PEER_ID_BYTES))
        members = []
        for value in values:
            record = Record("a member", value, 4, ConfigError)
            public_key = record.octets(genesis.signature.public_key_bytes)
            encoding = record.data(most=MAX_CREDENTIAL_BYTES)
            first = Record("where a member was seen", record.array(most=2), 2, ConfigError)
            seen_s, seen = first.time(), _endpoints(first)
            hearsay = []
            for item in record.array(most=MAX_TELLERS):
                told = Record("where a member is said to be", item, 3, ConfigError)
                hearsay.append(
                    Hearsay(told.time(), _endpoints(told), told.data(most=PEER_ID_BYTES))
                )
            entry = MemberEntry(public_key=public_key, credential=encoding)
            read = member.verify(entry, genesis, signatures, blame=ConfigError)
            members.append(evolve(read, seen=seen, seen_s=seen_s, hearsay=tuple(hearsay)))
        return cls(members, pinned=pinned, petnames=petnames, max_members=max_members)

    def _put(self, item: Member) -> None:
        old = self._members.get(item.peer_id)
        self._members[item.peer_id] = item
        self._newest_signed = max(self._newest_signed, item.credential.not_before)
        if old is not None and old.addresses != item.addresses:
            self._reindex()
        for address in item.addresses:
            self._hold(address, item)

    def _hold(self, address: Address, item: Member) -> None:
        """Give *address* to *item*, unless its holder has the newer credential.

        `check_addresses` has refused a claim on a living holder's; what comes here is a lapsed
        holder and its successor, in either order.
        """
        holder = self._members.get(self._holders.get(address, item.peer_id))
        if holder is None or _rank(item) >= _rank(holder):
            self._holders[address] = item.peer_id

    def _evict(self) -> None:
        surplus = len(self._members) - self._max_members
        if surplus <= 0:
            return
        loose = (item for key, item in self._members.items() if key not in self._pinned)
        for item in sorted(loose, key=_rank)[:surplus]:
            del self._members[item.peer_id]
        self._reindex()

    def _reindex(self) -> None:
        self._holders = {}
        for item in self._members.values():
            for address in item.addresses:
                self._hold(address, item)


def _endpoints(record: Record) -> tuple[Endpoint, ...]:
    endpoints = []
    for packed in record.array(most=MAX_ENDPOINTS):
        if not isinstance(packed, bytes):
            raise record.wrong("an endpoint is not bytes")
        endpoints.append(Endpoint.unpack(packed, blame=ConfigError))
    return tuple(endpoints)


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


def _rank(item: Member) -> tuple[int, PeerId]:
    return item.credential.serial, item.peer_id
