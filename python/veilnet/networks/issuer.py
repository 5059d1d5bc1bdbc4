"""The issuer: open invites, and the credentials that the founder has signed.

```
invite ----> open --uses left 0--> used up --+
               |------expiry------> expired --+-- 24 h: the door refuses with a reason --> gone
               `------cancel----> cancelled --+
admit, renew:  judge -> new state -> persist -> sign
```
Invariant: what a signature could be shown for is on the disk before the signature exists.  A
crash in between loses a use of an invite (its holder asks again and gets it), and never gives
out a use, a serial or an address twice.

File: frames (`networks.frames`): [version, next serial, newest time], then of each invite
[0, id, seed, created, expires, closed or null, uses, used by, tags], of each member
[1, peer id, name, ipv4 or null, serial, not_after, tags].
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Final

from attrs import evolve, field, frozen

from veilnet.errors import ConfigError, UnknownPeer, UsageError
from veilnet.networks import credential as credentials
from veilnet.networks import frames
from veilnet.networks.address import ipv4_hosts, overlay_ipv6
from veilnet.networks.credential import MAX_TAGS, Credential, labels
from veilnet.networks.invite import INVITE_ID_BYTES, MAX_ENDPOINTS, Invite
from veilnet.networks.keys import KEY_BYTES, join_door_key, join_secret
from veilnet.networks.members import MAX_MEMBERS
from veilnet.networks.names import (
    MAX_NAME_CHARACTERS,
    free_name,
    is_name,
    is_reserved,
    name_from_host,
    parse_name,
    printable,
)
from veilnet.networks.records import Record
from veilnet.networks.refusal import Refusal, Refused
from veilnet.units import PEER_ID_BYTES, PeerId

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from veilnet.networks.credential import Signer
    from veilnet.networks.endpoint import Endpoint
    from veilnet.networks.genesis import Genesis
    from veilnet.networks.keys import Rng

MAX_INVITES: Final = 12
"""Of a node's 16 doors; the others are its networks' and return keys."""
MAX_USES: Final = 1_000
MAX_INVITE_LIFE_S: Final = 30 * 86_400
DEFAULT_INVITE_LIFE_S: Final = 86_400
DOOR_LINGER_S: Final = 86_400
"""How long an invite's door outlives it, only to refuse with a reason."""

_VERSION = 1
_INVITE, _MEMBER = 0, 1

Persist = Callable[[bytes], None]
"""Write the issuer's state; on return it is on the disk."""


@frozen(kw_only=True)
class OpenInvite:
    """What the issuer knows of one invite that it gave out."""

    invite_id: bytes
    seed: bytes = field(repr=False)
    created: int
    expires: int
    uses: int
    tags: tuple[str, ...] = ()
    used_by: tuple[PeerId, ...] = ()
    closed: int | None = None
    """When it was taken back or used up."""

    @property
    def uses_left(self) -> int:
        """How many more peers may join by it."""
        return self.uses - len(self.used_by)

    @property
    def door_until(self) -> int:
        """When nobody answers at its door any more."""
        end = self.expires if self.closed is None else min(self.closed, self.expires)
        return end + DOOR_LINGER_S

    def refusal(self, now: int) -> Refusal | None:
        """Return why nobody new may join by it, None if somebody may."""
        if self.uses_left <= 0:
            return Refusal.USED_UP
        if self.closed is not None:
            return Refusal.CANCELLED
        return Refusal.EXPIRED if now > self.expires else None


@frozen
class JoinDoor:
    """The door that the node keeps open for one invite."""

    invite_id: bytes
    key: bytes = field(repr=False)
    join_secret: bytes = field(repr=False)
    until: int


@frozen(kw_only=True)
class Issued:
    """The newest credential of one member, as far as the issuer must remember it."""

    peer_id: PeerId
    name: str
    ipv4: IPv4Address | None
    serial: int
    not_after: int
    tags: tuple[str, ...] = ()


@frozen
class Admission:
    """A credential fresh from the issuer: for its holder, and for the issuer's own table."""

    credential: Credential
    encoding: bytes


@frozen
class _State:
    next_serial: int = 1
    newest: int = 0
    """The latest time that a credential was signed for; our own clock may fall behind it."""
    invites: Mapping[bytes, OpenInvite] = field(factory=dict, repr=False)
    issued: Mapping[PeerId, Issued] = field(factory=dict, repr=False)


class Issuer:
    """The founder's pen.  Methods write to the disk and sign: call them off the event loop.

    Any thread may; one at a time gets in.
    """

    def __init__(
        self, genesis: Genesis, signer: Signer, persist: Persist, state: _State | None = None
    ) -> None:
        self._genesis = genesis
        self._signer = signer
        self._persist = persist
        self._state = state or _State(newest=genesis.created)
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        state = self._state
        return f"<Issuer of {len(state.issued)} members, {len(state.invites)} invites>"

    @classmethod
    def load(cls, data: bytes, genesis: Genesis, signer: Signer, persist: Persist) -> Issuer:
        """Return the issuer whose state `persist` was given.

        Raises: ConfigError: *data* is no such state.
        """
        return cls(genesis, signer, persist, _decode(data))

    # invites

    def invite(
        self,
        *,
        endpoints: Iterable[Endpoint],
        now: int,
        rng: Rng,
        uses: int = 1,
        life_s: int = DEFAULT_INVITE_LIFE_S,
        tags: Iterable[str] = (),
    ) -> Invite:
        """Return a new invite, on the disk already.

        Raises: UsageError: a number or a tag is out of range, or too many invites are open.
        """
        kept = tuple(dict.fromkeys(endpoints))[:MAX_ENDPOINTS]
        if not kept:
            raise UsageError(
                "an invite needs an address at which this node can be reached",
                hint="Name one: sudo veilnet up --endpoint HOST:PORT",
            )
        if not 1 <= uses <= MAX_USES:
            raise UsageError(f"an invite has 1 to {MAX_USES} uses, not {uses}")
        if not 1 <= life_s <= MAX_INVITE_LIFE_S:
            raise UsageError(f"an invite lives 1 to {MAX_INVITE_LIFE_S} seconds, not {life_s}")
        sorted_tags = tuple(sorted({parse_name(tag) for tag in tags}))
        if len(sorted_tags) > MAX_TAGS:
            raise UsageError(f"a member has at most {MAX_TAGS} tags")
        made = OpenInvite(
            invite_id=rng(INVITE_ID_BYTES),
            seed=rng(KEY_BYTES),
            created=now,
            expires=now + life_s,
            uses=uses,
            tags=sorted_tags,
        )
        with self._lock:
            invites = dict(self._live_invites(now))
            closed = [item for item in invites.values() if item.refusal(now) is not None]
            if len(invites) - len(closed) >= MAX_INVITES:
                raise UsageError(
                    f"{MAX_INVITES} invites are open, and no more can be",
                    hint="Make one invite for several nodes (--uses N), or wait until one expires.",
                )
            if len(invites) >= MAX_INVITES:
                # Its door would only have refused; from now on it is silent.
                del invites[min(closed, key=lambda item: item.door_until).invite_id]
            invites[made.invite_id] = made
            self._move(evolve(self._state, invites=invites))
        return Invite(
            invite_id=made.invite_id,
            network_id=self._genesis.network_id,
            inviter=self._signer.peer_id,
            seed=made.seed,
            endpoints=kept,
            log_head=self._genesis.network_id,
        )

    def cancel(self, invite_id: bytes, now: int) -> None:
        """Take an invite back.   Raises: UnknownPeer: there is none with that id."""
        with self._lock:
            invites = dict(self._live_invites(now))
            found = invites.get(invite_id)
            if found is None:
                raise UnknownPeer("there is no such invite")
            if found.closed is None:
                invites[invite_id] = evolve(found, closed=now)
                self._move(evolve(self._state, invites=invites))

    def invites(self, now: int) -> tuple[OpenInvite, ...]:
        """Return the invites by which somebody may still join."""
        return tuple(item for item in self._state.invites.values() if item.refusal(now) is None)

    def doors(self, now: int) -> tuple[JoinDoor, ...]:
        """Return the doors to keep open, at most `MAX_INVITES`: of open and of recent invites."""
        return tuple(
            JoinDoor(
                item.invite_id, join_door_key(item.seed), join_secret(item.seed), item.door_until
            )
            for item in self._live_invites(now).values()
        )

    # credentials

    def admit(self, *, invite_id: bytes, peer_id: PeerId, name: str, now: int) -> Admission:
        """Take one use off an invite and return the new member's credential.

        *peer_id* is what the handshake proved, *name* what its holder asks for.  The same peer
        asking again (it lost the answer) takes no second use.

        Raises: Refused: the invite does not allow it, or the network is full.
        """
        with self._lock:
            invite = self._live_invites(now).get(invite_id)
            if invite is None:
                raise Refused.of(Refusal.UNKNOWN_INVITE)
            again = peer_id in invite.used_by and now <= invite.expires
            refusal = invite.refusal(now)
            if refusal is not None and not (again and refusal is Refusal.USED_UP):
                raise Refused.of(refusal)
            if peer_id == self._signer.peer_id:
                raise Refused("the founder is a member of its network already")
            state = self._state
            if not again:
                spent = evolve(invite, used_by=(*invite.used_by, peer_id))
                if spent.uses_left == 0:
                    spent = evolve(spent, closed=now)
                state = evolve(state, invites={**state.invites, invite_id: spent})
            return self._issue(state, peer_id, name, invite.tags, now)

    def renew(self, current: Credential, now: int) -> Admission:
        """Return the next credential for the holder of a verified one, expired or not.

        Raises: Refused: it is not due yet, or the network is full.
        """
        with self._lock:
            if not current.renewal_due(self._time(now)):
                raise Refused.of(Refusal.NOT_DUE)
            issued = self._state.issued.get(current.peer_id)
            tags = current.tags if issued is None else issued.tags
            return self._issue(self._state, current.peer_id, current.name, tags, now)

    def enrol_self(self, name: str, now: int) -> Admission:
        """Return the founder's own next credential."""
        with self._lock:
            return self._issue(self._state, self._signer.peer_id, name, (), now)

    def _issue(
        self, state: _State, peer_id: PeerId, name: str, tags: tuple[str, ...], now: int
    ) -> Admission:
        """Sign for *peer_id*, after *state* and what is signed have been persisted."""
        time = self._time(now)
        issued = dict(state.issued)
        before = issued.pop(peer_id, None)
        self._check_address(peer_id, issued)
        if len(issued) >= MAX_MEMBERS:
            self._forget_one(issued, time)
        if before is None:
            wanted = name if is_name(name) and not is_reserved(name) else name_from_host(name)
            name = free_name(wanted, {item.name for item in issued.values()})
        else:
            name = before.name
        ipv4 = None if before is None else before.ipv4
        if ipv4 is None:
            ipv4 = self._free_ipv4(issued, time)
        member = Issued(
            peer_id=peer_id,
            name=name,
            ipv4=ipv4,
            serial=state.next_serial,
            not_after=time + self._genesis.max_credential_life_s,
            tags=tags,
        )
        issued[peer_id] = member
        self._move(evolve(state, next_serial=state.next_serial + 1, newest=time, issued=issued))
        credential = Credential(
            network_id=self._genesis.network_id,
            peer_id=peer_id,
            name=name,
            ipv4=ipv4,
            serial=member.serial,
            not_before=time,
            not_after=member.not_after,
            issuer=self._signer.peer_id,
            tags=tags,
            log_head=self._genesis.network_id,
        )
        return Admission(credential, credentials.sign(credential, self._signer))

    def _move(self, state: _State) -> None:
        self._persist(_encode(state))
        self._state = state

    def _time(self, now: int) -> int:
        """Return now, but never before what was signed: others judge by that."""
        return max(now, self._state.newest)

    def _live_invites(self, now: int) -> Mapping[bytes, OpenInvite]:
        return {key: item for key, item in self._state.invites.items() if now <= item.door_until}

    def _check_address(self, peer_id: PeerId, others: Mapping[PeerId, Issued]) -> None:
        network_id = self._genesis.network_id
        address = overlay_ipv6(network_id, peer_id)
        if any(overlay_ipv6(network_id, other) == address for other in others):
            raise Refused.of(Refusal.ADDRESS_IN_USE)

    def _forget_one(self, issued: dict[PeerId, Issued], time: int) -> None:
        """Make room by forgetting whoever has been gone for longest."""
        oldest = min(issued.values(), key=lambda item: item.not_after)
        if oldest.not_after >= time or oldest.peer_id == self._signer.peer_id:
            raise Refused.of(Refusal.FULL)
        del issued[oldest.peer_id]

    def _free_ipv4(self, issued: dict[PeerId, Issued], time: int) -> IPv4Address | None:
        """Return an address that nobody had, else the one that lapsed first, else none."""
        taken = {item.ipv4: item for item in issued.values() if item.ipv4 is not None}
        for address in ipv4_hosts(self._genesis.ipv4_range):
            if address not in taken:
                return address
        lapsed = [item for item in taken.values() if item.not_after < time]
        if not lapsed:
            return None
        former = min(lapsed, key=lambda item: item.not_after)
        issued[former.peer_id] = evolve(former, ipv4=None)
        return former.ipv4


def _encode(state: _State) -> bytes:
    return frames.encode(_records(state))


def _records(state: _State) -> Iterator[frames.Encodable]:
    yield [_VERSION, state.next_serial, state.newest]
    for invite in state.invites.values():
        yield [
            _INVITE,
            invite.invite_id,
            invite.seed,
            invite.created,
            invite.expires,
            invite.closed,
            invite.uses,
            invite.used_by,
            invite.tags,
        ]
    for member in state.issued.values():
        yield [
            _MEMBER,
            member.peer_id,
            member.name,
            None if member.ipv4 is None else int(member.ipv4),
            member.serial,
            member.not_after,
            member.tags,
        ]


def _decode(data: bytes) -> _State:
    values = frames.decode(data, max_frames=1 + MAX_INVITES + MAX_MEMBERS, blame=ConfigError)
    head = Record("the issuer's state", next(values, None), 3, ConfigError)
    head.version(_VERSION)
    next_serial, newest = head.number(least=1), head.time()
    invites: dict[bytes, OpenInvite] = {}
    issued: dict[PeerId, Issued] = {}
    for value in values:
        match value:
            case [0, *_]:
                invite = _decode_invite(value)
                invites[invite.invite_id] = invite
            case [1, *_]:
                member = _decode_member(value)
                issued[member.peer_id] = member
            case _:
                raise ConfigError("the issuer's state has a record of an unknown kind")
    return _State(next_serial, newest, invites, issued)


def _decode_invite(value: object) -> OpenInvite:
    record = Record("an invite of the issuer's state", value, 9, ConfigError)
    record.number(least=_INVITE, most=_INVITE)
    invite_id = record.octets(INVITE_ID_BYTES)
    seed = record.octets(KEY_BYTES)
    created, expires = record.time(), record.time()
    closed = None if record.nothing() else record.time()
    uses = record.number(least=1, most=MAX_USES)
    used_by = []
    for item in record.array(most=uses):
        if not isinstance(item, bytes) or len(item) != PEER_ID_BYTES:
            raise record.wrong("a user is no peer id")
        used_by.append(PeerId(item))
    return OpenInvite(
        invite_id=invite_id,
        seed=seed,
        created=created,
        expires=expires,
        closed=closed,
        uses=uses,
        used_by=tuple(used_by),
        tags=labels(record, MAX_TAGS),
    )


def _decode_member(value: object) -> Issued:
    record = Record("a member of the issuer's state", value, 7, ConfigError)
    record.number(least=_MEMBER, most=_MEMBER)
    peer_id = PeerId(record.octets(PEER_ID_BYTES))
    name = record.text(most=MAX_NAME_CHARACTERS)
    if not is_name(name):
        raise record.wrong(f"{printable(name)} is no name")
    return Issued(
        peer_id=peer_id,
        name=name,
        ipv4=None if record.nothing() else IPv4Address(record.number(most=2**32 - 1)),
        serial=record.number(),
        not_after=record.time(),
        tags=labels(record, MAX_TAGS),
    )
