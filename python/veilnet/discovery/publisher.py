"""When a member publishes what, under which locators, with which sequence number.

```
content changes | a new day | the signature grows old  -> sealed anew, sent to whoever lacks it
every 45 min, of a name 75 min                         -> storers are asked by its digest
```
One for each network.  `tick` returns `Put` events for the machine, `done` takes their ends.
Invariant: a sequence number is used for one content only and none is lower than one used before,
also after a restart and with a clock that went back: the shell writes `state` down, when `unsaved`
says so, before it hands the events of `tick` on.

`state` = CBOR [1, last sequence number, 32 secret bytes from which owners' proofs are derived]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from attrs import define, evolve, field, frozen

from veilnet.discovery import locator as places
from veilnet.discovery.descriptor import LIFE_S, Descriptor, NameRecord, seal, seal_name
from veilnet.discovery.events import Failed, Put, Stored
from veilnet.errors import ConfigError
from veilnet.networks.endpoint import Endpoint
from veilnet.networks.records import Record
from veilnet.protocol import cbor
from veilnet.units import PeerId

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from veilnet.discovery.contact import Contact
    from veilnet.networks.credential import Signer
    from veilnet.networks.keys import Rng

REFRESH_S: Final = 2_700.0
NAME_REFRESH_S: Final = 4_500.0
"""A name says nothing that ages; storers forget it after two hours."""
RETRY_S: Final = 30.0
RETRY_MAX_S: Final = 600.0
SETTLE_S: Final = 2.0
"""A change is published after so long without another, at most `SETTLE_MAX_S` after the first."""
SETTLE_MAX_S: Final = 10.0
STORERS: Final = 20
NAME_STORERS: Final = 12
RENEW_S: Final = LIFE_S // 4
"""So long before its end a signature is renewed."""

_NEVER: Final = float("inf")


@frozen(kw_only=True)
class Content:
    """What a member has to say of itself."""

    endpoints: tuple[Endpoint, ...] = ()
    nat: int = 0
    stride: int = 0
    relays: tuple[tuple[PeerId, Endpoint], ...] = ()
    commons_id: bytes = b""
    name: str = ""
    credential: bytes = field(default=b"", repr=False)


@define
class _Record:
    """One blob under one locator."""

    where: bytes
    blob: bytes = field(repr=False)
    expires_s: int
    content: Content
    due: float
    known: tuple[Contact, ...] = ()
    failures: int = 0
    lookup: int | None = None
    stored: int = 0
    changed: bool = False
    """Whether *known* had what was there before, and not yet this."""


class Publisher:
    """Keeps one member's descriptor, and its name, where others look for them.

    *next_id* gives ids for lookups, of which no other asker of the machine gives any.
    """

    def __init__(
        self,
        signer: Signer,
        network_secret: bytes,
        *,
        rng: random.Random,
        octets: Rng,
        next_id: Callable[[], int],
        state: bytes | None = None,
    ) -> None:
        self._signer = signer
        self._secret = network_secret
        self._rng = rng
        self._octets = octets
        self._next_id = next_id
        self._content: Content | None = None
        """What was said last; published once it has settled."""
        self._published: Content | None = None
        self._changed = self._first_change = _NEVER
        self._records: dict[tuple[str, int], _Record] = {}
        self.unsaved = state is None
        """Whether `state` must be written before anything is sent."""
        if state is None:
            self._seq, self._private = 0, octets(32)
        else:
            record = Record.decode("the state of a publisher", state, 3, blame=ConfigError)
            record.version(1)
            self._seq, self._private = record.number(), record.octets(32)

    def __repr__(self) -> str:
        return f"<Publisher of {len(self._records)} records, seq {self._seq}>"

    @property
    def state(self) -> bytes:
        """What must outlive a restart."""
        return cbor.encode([1, self._seq, self._private])

    @property
    def storers(self) -> int:
        """How many nodes keep today's descriptor, as far as is known."""
        kept = [one.stored for (kind, _), one in self._records.items() if kind == "where"]
        return max(kept, default=0)

    def update(self, content: Content, now: float) -> None:
        """Say what is to be published; the same again, in another order, changes nothing.

        Which IP version more strangers see first changes with every refresh.
        """
        if self._content is None or _sorted(content) != _sorted(self._content):
            self._content = content
            self._changed = now
            self._first_change = min(self._first_change, now)

    def stop(self) -> None:
        """Publish nothing more; what is stored is forgotten within 2 h."""
        self._content = self._published = None
        self._changed = self._first_change = _NEVER
        self._records.clear()

    def tick(self, now: float, unix_s: float) -> list[Put]:
        """Return what is to be put now.

        Signs twice at most for each day that is kept up: about 1 ms.
        """
        if self._settled_at() <= now:
            self._published = self._content
            self._changed = self._first_change = _NEVER
        content = self._published
        if content is None:
            return []
        kept = places.days(self._secret, unix_s)
        self._records = {key: one for key, one in self._records.items() if key[1] in kept}
        puts = []
        for day in kept:
            for kind in ("where", "name") if content.name and content.credential else ("where",):
                put = self._put(kind, day, content, now, int(unix_s))
                if put is not None:
                    puts.append(put)
        return puts

    def deadline(self, now: float, unix_s: float) -> float | None:
        """Return when `tick` has something to do next."""
        if self._content is None:
            return None
        times = [one.due for one in self._records.values() if one.lookup is None]
        # A day begins to be published an hour before it does.
        day = places.epoch_day(self._secret, unix_s)
        turn = places.day_ends(self._secret, day) - places.MARGIN_S - unix_s
        times += [now + turn + 1.0] if turn > 0 else []
        return min([*times, self._settled_at()])

    def done(self, result: Stored | Failed, now: float) -> bool:
        """Take the end of a put; tell whether it was one of ours."""
        key = next((key for key, one in self._records.items() if one.lookup == result.id), None)
        if key is None:
            return False
        one = self._records[key]
        pause = REFRESH_S if key[0] == "where" else NAME_REFRESH_S
        one.lookup = None
        if isinstance(result, Stored):
            one.known, one.stored, one.changed = result.storers, result.count, False
            if result.count >= result.lost:
                one.failures = 0
                one.due = now + pause * self._rng.uniform(0.8, 1.1)
                return True
        else:
            one.stored, pause = 0, RETRY_MAX_S
        # Where most did not take it somebody may be in the way: it is tried again.
        one.failures += 1
        pause = min(RETRY_S * 2.0 ** min(one.failures - 1, 10), pause)
        one.due = now + pause * self._rng.uniform(0.8, 1.2)
        return True

    def _settled_at(self) -> float:
        return min(self._changed + SETTLE_S, self._first_change + SETTLE_MAX_S)

    def _put(self, kind: str, day: int, content: Content, now: float, unix_s: int) -> Put | None:
        one = self._records.get((kind, day))
        if one is not None and one.lookup is not None:
            return None
        # A name's record says nothing of where the member is.
        said = (
            content
            if kind == "where"
            else Content(name=content.name, credential=content.credential)
        )
        if one is None or one.content != said or one.expires_s - unix_s < RENEW_S:
            fresh = self._sealed(kind, day, said, now, unix_s)
            one = evolve(fresh, known=one.known, changed=True) if one is not None else fresh
            self._records[kind, day] = one
        elif one.due > now:
            return None
        one.lookup = self._next_id()
        owner = places.owner_of(self._private, one.where)
        storers = STORERS if kind == "where" else NAME_STORERS
        return Put(one.lookup, one.where, one.blob, storers, one.known, owner, changed=one.changed)

    def _sealed(self, kind: str, day: int, content: Content, now: float, unix_s: int) -> _Record:
        self._seq = max(self._seq + 1, unix_s)
        self.unsaved = True
        expires_s = unix_s + LIFE_S
        if kind == "where":
            where, blob = seal(
                Descriptor(
                    peer_id=self._signer.peer_id,
                    seq=self._seq,
                    expires_s=expires_s,
                    endpoints=content.endpoints,
                    nat=content.nat,
                    stride=content.stride,
                    relays=content.relays,
                    commons_id=content.commons_id,
                    name=content.name,
                    credential=content.credential,
                ),
                self._signer,
                self._secret,
                day,
                rng=self._octets,
            )
        else:
            where, blob = seal_name(
                NameRecord(
                    name=content.name,
                    peer_id=self._signer.peer_id,
                    seq=self._seq,
                    expires_s=expires_s,
                    credential=content.credential,
                ),
                self._signer,
                self._secret,
                day,
                rng=self._octets,
            )
        return _Record(where, blob, expires_s, content, now)


def _sorted(content: Content) -> Content:
    return evolve(
        content,
        endpoints=tuple(sorted(content.endpoints)),
        relays=tuple(sorted(content.relays)),
    )
