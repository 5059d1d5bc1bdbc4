"""What goes into the machine of `kademlia`, and what it wants done.

```
the node wants      Find Get Put Enough      ->  Found Failed | Sighted.. Found Failed | Stored
a question went out Answered Unanswered      <-  Ask
a peer asks         Asked                    ->  Reply
hearsay             Learned
```
The shell opens a session for each `Ask` (a lookup session, a full one for a Store), sends the
message and reports `Answered` or, after some seconds, `Unanswered`, once for each.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Hashable
from typing import Any

from attrs import frozen

from veilnet.discovery.contact import Contact
from veilnet.protocol.dht_messages import DhtMessage, Question

Check = Callable[[bytes], bool]
"""Whether a blob is one of those looked for: it opens, is signed, and is not an older one."""


@frozen
class Find:
    """Look for the nodes nearest to *target*."""

    id: int
    target: bytes


@frozen
class Get:
    """Look for what is stored under *locator*.

    With *check*, only blobs that pass it end the lookup early or are found; without it, whatever
    several storers agree on ends it.  It runs for every new blob: at most a few milliseconds.
    """

    id: int
    locator: bytes
    check: Check | None = None


@frozen
class Put:
    """See to it that *want_storers* nodes keep *blob*: asks by digest, sends where it is lacking.

    *known*: who had it before, if so, or had the one before if it has *changed*; *owner*: 16
    secret bytes, the same for each new blob under this locator, so that it takes the place of the
    one before (made up here if empty).
    """

    id: int
    locator: bytes
    blob: bytes
    want_storers: int = 20
    known: tuple[Contact, ...] = ()
    owner: bytes = b""
    changed: bool = False


@frozen
class Enough:
    """End lookup *id* with what it has: its Found, Stored or Failed comes at once."""

    id: int


@frozen
class Answered:
    """*message* is the answer to query *query*; anything that does not fit counts as none."""

    query: int
    message: Any


@frozen
class Unanswered:
    """Query *query* will not be answered.

    *unproven*: no full session came to be with whom it was for, under the id that it gave.
    """

    query: int
    unproven: bool = False


@frozen
class Learned:
    """Contacts from the ladder, the cache, or a full session (then *proven*: they are there)."""

    contacts: tuple[Contact, ...]
    proven: bool = False


@frozen
class Asked:
    """A peer asks; *sender* is where its session is proven to be, *full*: not a lookup session.

    *place*: the real address of whose *sender* stands for a connection; its quota goes by that.
    """

    token: Any
    sender: tuple[str, int]
    session: Hashable
    full: bool
    message: Any
    place: tuple[str, int] | None = None


Event = Find | Get | Put | Enough | Answered | Unanswered | Learned | Asked


class Reason(enum.StrEnum):
    """Why a lookup failed."""

    NO_CONTACTS = "no contact of the commons is known"
    NO_ANSWER = "no contact answered"
    NOT_FOUND = "no storer has it"
    NOT_STORED = "no storer took it"
    BUSY = "too many lookups at once"


@frozen
class Ask:
    """Ask *contact*; over a full session if *full*, else anonymously."""

    query: int
    contact: Contact
    message: Question
    full: bool


@frozen
class Reply:
    """Answer what came with *token*."""

    token: Any
    message: DhtMessage


@frozen
class Sighted:
    """A blob of lookup *id*, before its end."""

    id: int
    blob: bytes
    hops: int


@frozen
class Found:
    """The end of a Find or a Get: nearest contacts, all blobs (those that pass the check)."""

    id: int
    contacts: tuple[Contact, ...]
    blobs: tuple[bytes, ...]
    hops: int
    """Contacts one after the other that led to the first blob, or to the nearest contact."""
    asked: int = 0


@frozen
class Stored:
    """The end of a Put: *count* nodes have the blob, *storers* are they."""

    id: int
    count: int
    storers: tuple[Contact, ...] = ()
    sent: int = 0
    """How many of them it was sent to."""
    asked: int = 0
    lost: int = 0
    """How many ids were asked to keep it, and do not."""


@frozen
class Failed:
    """The end of any lookup that came to nothing."""

    id: int
    reason: Reason
    asked: int = 0


Action = Ask | Reply | Sighted | Found | Stored | Failed
