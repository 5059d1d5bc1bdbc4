"""The sessions this node has, and which of several with one peer carries the packets.

Both ends may open a session at once, and a restarted peer opens a new one beside the old one that
only we still know.  So that both ends agree, the peer with the smaller id is the arbiter:

```
arbiter      a session that I began while another was under way, and that the peer confirmed,
             wins; else the newest wins; the others are closed with a Close message that says so
other side   the newest carries until the arbiter closes it, then the newest that is left
```
Of two that one end began the one it began later is the newer, whichever is judged first.
Invariant: with an honest peer exactly one session per (network, peer) is left after a round trip,
and with any peer at most SESSIONS_PER_PEER_MAX; of sessions that strangers opened in the commons
and that nobody here needs at most STRANGERS_MAX are left, and OF_PLACE_MAX of one prefix.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import attrs
import trio

from veilnet.discovery.contact import endpoint_prefix
from veilnet.errors import PeerRefused
from veilnet.protocol.circuit import is_stand_in
from veilnet.protocol.handshake import Mode
from veilnet.protocol.relay import displaced

if TYPE_CHECKING:
    from veilnet._engine import KeySchedule
    from veilnet.daemon.links import Link
    from veilnet.networks.endpoint import Endpoint
    from veilnet.protocol.messages import JoinGrant
    from veilnet.units import NetworkId, PeerId

SESSIONS_PER_PEER_MAX = 8
"""More at once no honest peer opens before an arbiter's Close arrives."""
JOINERS_MAX = 64
LOOKUPS_MAX = 1_024
"""Lookup sessions, ours and strangers', as in the engine."""
STRANGERS_MAX = 256
"""Full sessions that strangers opened, beside those that relaying or being found needs."""
OF_PLACE_MAX = 8
"""... of them from one /24 or /48."""
SUPERSEDED = 1
"""Code of the Close message for a session that another one replaces."""
GOING = 3
"""... and for one whose node stops."""
DISCONNECTED = 2
"""... and for one that somebody closed by a command: it is not to be opened again by itself."""


@attrs.define(eq=False, kw_only=True)
class Session:
    """One VNH1 session, from its confirmation to its end."""

    sid: int
    network_id: NetworkId
    peer_id: PeerId
    public_key: bytes = attrs.field(repr=False)
    mode: Mode
    suite: int
    initiator: bool
    schedule: KeySchedule = attrs.field(repr=False)
    link: Link
    endpoint: Endpoint
    started_s: float
    """When its handshake began."""
    established_s: float
    confirmed: bool = True
    """Whether the peer is known to have it; until then data may go out on it all the same."""
    ready: bool = True
    """Whether the peer is known to take our packets; see `Birth.begin`."""
    heard: trio.Event = attrs.field(factory=trio.Event, repr=False)
    """Set once control of the peer came on it."""
    door: int | None = None
    """The door it came through, at the responder."""
    rekey: Any = attrs.field(default=None, repr=False)
    spoke_s: float = -math.inf
    """When control of the peer came last."""
    rtt_s: float | None = None
    telling: int = 0
    """How many long answers of ours are on their way."""
    retiring: bool = False
    """Whether its peer is being told that it closes."""
    join_question: int | None = None
    """Its newest JoinRequest while one is being judged: the one that is answered."""
    admission: JoinGrant | None = attrs.field(default=None, repr=False)
    """What it was let in with."""
    renew_question: int | None = None
    """Its newest Renew while one is being judged."""
    merging: int = 0
    """How much gossip of it is being verified."""
    part: int = 0
    """The part of the member table that was compared last."""
    learnt: int = 0
    """How many members were news since then."""
    catching_up: bool = False
    """Whether part after part is being asked for."""
    seen_s: float = -math.inf
    """When others were last told where it is."""
    seen: tuple[tuple[str, int], ...] | None = None
    """Where it is now, if they are still to be told."""
    placing: bool = False
    """Whether its peer is about to be told where it is seen."""
    recovering: bool = False
    """Whether a new handshake is under way because the peer went silent."""

    @property
    def key(self) -> tuple[NetworkId, PeerId]:
        """Whose session it is."""
        return self.network_id, self.peer_id

    @property
    def handshake_ms(self) -> float:
        """How long its handshake took, as seen from here."""
        return (self.established_s - self.started_s) * 1000

    def overlapped(self, other: Session) -> bool:
        """Whether the two handshakes were under way at the same time."""
        return self.started_s <= other.established_s and other.started_s <= self.established_s


class SharedKeys(Mapping[bytes, bytes]):
    """The keys by which a peer may bind its next full handshake to a session that we have.

    Asked only when an INIT names one; nothing is kept, because generations move on.
    """

    def __init__(self, table: SessionTable) -> None:
        self._table = table

    def __getitem__(self, name: bytes) -> bytes:
        for session in self._table:
            if session.mode is Mode.FULL:
                known, key = session.schedule.next_psk()
                if known == name:
                    return key
        raise KeyError(name)

    def __iter__(self) -> Iterator[bytes]:
        return (s.schedule.next_psk()[0] for s in self._table if s.mode is Mode.FULL)

    def __len__(self) -> int:
        return sum(session.mode is Mode.FULL for session in self._table)


class SessionTable:
    """Sessions by id, and the carrier of each (network, peer)."""

    def __init__(self, own_id: PeerId, others: Mapping[NetworkId, PeerId] | None = None) -> None:
        """Begin with no session; *others*: networks in which this node has another id."""
        self._own_id = own_id
        self._own_ids = dict(others or {})
        self._by_sid: dict[int, Session] = {}
        self._by_peer: dict[tuple[NetworkId, PeerId], list[Session]] = {}
        self._lookups: dict[int, Session] = {}
        self._strangers: dict[int, Session] = {}

    def __len__(self) -> int:
        return len(self._by_sid)

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._by_sid.values()))

    def get(self, sid: int) -> Session | None:
        """Return the session with that id."""
        return self._by_sid.get(sid)

    def carrier(self, network_id: NetworkId, peer_id: PeerId) -> Session | None:
        """Return the session that carries the packets to a peer."""
        sessions = self._by_peer.get((network_id, peer_id))
        return sessions[-1] if sessions else None

    def carriers(self) -> list[Session]:
        """Return the carrier of every peer."""
        return [sessions[-1] for sessions in self._by_peer.values()]

    def add(self, session: Session) -> list[Session]:
        """Take *session* in; return those that this node, as arbiter, has to close.

        Ask `carrier` afterwards which one carries.  A joiner's session never does, nor a lookup's:
        nobody says on it who it is.
        Raises: PeerRefused: there are too many joiners.
        """
        if session.mode is Mode.JOIN:
            if sum(each.mode is Mode.JOIN for each in self._by_sid.values()) >= JOINERS_MAX:
                raise PeerRefused(
                    "too many nodes are joining at once", hint="Try again in a minute."
                )
            self._by_sid[session.sid] = session
            return []
        if session.mode is Mode.LOOKUP:
            loser = self._crowded_lookup() if len(self._lookups) >= LOOKUPS_MAX else None
            self._by_sid[session.sid] = self._lookups[session.sid] = session
            return [] if loser is None else [loser]
        if session.network_id in self._own_ids and not session.initiator:
            self._strangers[session.sid] = session
        others = self._by_peer.setdefault(session.key, [])
        self._by_sid[session.sid] = session
        losers: list[Session] = []
        arbiter = self._own_ids.get(session.network_id, self._own_id) < session.peer_id
        alike = (o for o in others if o.confirmed and o.initiator == session.initiator)
        if any(o.started_s > session.started_s for o in alike):
            # Whoever began it has begun another since, which was judged sooner.
            others.insert(0, session)
            return [session] if arbiter or len(others) > SESSIONS_PER_PEER_MAX else []
        if arbiter:
            held = (o for o in others if o.initiator and o.confirmed)
            rival = next((o for o in held if o.overlapped(session)), None)
            if rival is not None and not session.initiator:
                others.insert(0, session)
                return [session]
            losers = list(others)
        elif len(others) >= SESSIONS_PER_PEER_MAX:
            # Whatever the arbiter does, one peer does not fill our memory with sessions.
            losers = others[:1]
        others.append(session)
        return losers

    def _crowded_lookup(self) -> Session:
        """Return which lookup goes: a stranger's, the oldest on which nothing was asked first."""
        oldest_first = self._lookups.values()
        strange = (each for each in oldest_first if not each.initiator)
        silent = (each for each in oldest_first if not each.initiator and not each.heard.is_set())
        return next(silent, None) or next(strange, None) or next(iter(oldest_first))

    def crowded(self, newcomer: Session, needs: Callable[[Session], bool]) -> Session | None:
        """Return which session of a stranger goes for *newcomer*, if one has to.

        It is the oldest that nobody here *needs* of the newcomer's prefix if that has its share,
        or else of the prefix that has most.
        """
        if newcomer.sid not in self._strangers:
            return None
        others = [each for each in self._strangers.values() if each is not newcomer]
        place = place_of(newcomer)
        near = [each for each in others if place_of(each) == place]
        if len(near) >= OF_PLACE_MAX:
            spare = [each for each in near if not needs(each)]
            if len(spare) >= OF_PLACE_MAX:
                return spare[0]
        if len(others) < STRANGERS_MAX:
            return None
        spare = [each for each in others if not needs(each)]
        return displaced(spare, place_of, place, in_all=STRANGERS_MAX)

    def remove(self, session: Session) -> None:
        """Forget *session*; the newest one left carries."""
        if self._by_sid.pop(session.sid, None) is None:
            return
        self._lookups.pop(session.sid, None)
        self._strangers.pop(session.sid, None)
        others = self._by_peer.get(session.key, [])
        if session in others:
            others.remove(session)
        if not others and session.key in self._by_peer:
            del self._by_peer[session.key]


def place_of(session: Session) -> bytes:
    """Return the /24 or /48 that the peer is in, as far as its address tells."""
    endpoint = session.endpoint
    # What stands for a circuit or a carrier says nothing of where its peer is.
    return endpoint.host.encode() if is_stand_in(endpoint) else endpoint_prefix(endpoint)
