"""Control messages of the commons' table of descriptors; `protocol.messages` enters them.

```
lookup session, asker - contact     FindNodes  -> Nodes
                                    FindValue  -> Values
                                    HaveValue  -> Have      (also keeps the blob for another while)
full session, publisher - storer    Store      -> StoreTaken | StoreRefused
```
Every answer of the first three carries what the next step needs: contacts, packed as
`discovery.contact` has it, and of the answerer its id, its flags and how many bits of an id it
thinks that a region shares.  Anonymous on both sides: nothing names the asker, except that a node
which wants to be found adds its own id to a FindNodes of its own upkeep (`announce`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from attrs import field, frozen

from veilnet.protocol.fields import KEY, U16, Blob, Flag, Integer, ListOf, Text

if TYPE_CHECKING:
    from veilnet.protocol.fields import Codec

MAX_BLOB_BYTES: Final = 14_336
"""A sealed descriptor: one of S1 with a credential has 9 KB, one of S2 14 KB."""
MAX_BLOBS: Final = 4
MAX_CONTACTS_BYTES: Final = 20 * 51
ANNOUNCE_BYTES: Final = 33
OWNER_BYTES: Final = 16
MAX_BITS: Final = 64


@frozen(kw_only=True)
class FindNodes:
    """Which contacts are nearest to *target*?"""

    target: bytes
    announce: bytes = b""
    """Empty, or id || flags of the asker, at the address that this session is seen at."""


@frozen(kw_only=True)
class Nodes:
    """The nearest contacts that answered the sender lately."""

    id: bytes
    flags: int = 0
    bits: int = 0
    contacts: bytes = b""


@frozen(kw_only=True)
class FindValue:
    """What is kept under *locator*, and who else of its region (the first *bits*) may keep it?"""

    locator: bytes
    bits: int = 0


@frozen(kw_only=True)
class Values:
    """Candidates, of which the asker finds the true one by opening them; and contacts."""

    id: bytes
    flags: int = 0
    bits: int = 0
    contacts: bytes = b""
    blobs: tuple[bytes, ...] = ()


@frozen(kw_only=True)
class HaveValue:
    """Is the blob of *digest* kept under *locator*?  Then keep it on."""

    locator: bytes
    digest: bytes
    bits: int = 0


@frozen(kw_only=True)
class Have:
    """Whether it is kept; and contacts, as `Values` has them."""

    id: bytes
    flags: int = 0
    bits: int = 0
    contacts: bytes = b""
    have: bool = False


@frozen(kw_only=True)
class Store:
    """Keep *blob* under *locator* for a while, in place of what the same *owner* stored there."""

    locator: bytes
    owner: bytes = field(repr=False)
    """A secret between publisher and storer, another for each locator."""
    blob: bytes = field(repr=False)


@frozen(kw_only=True)
class StoreTaken:
    """It is kept for *life_s* seconds; a `HaveValue` prolongs that."""

    life_s: int


@frozen(kw_only=True)
class StoreRefused:
    """It is not kept, and why (`discovery.storage.Refusal`)."""

    code: int
    reason: str = ""


DhtMessage = (
    FindNodes | Nodes | FindValue | Values | HaveValue | Have | Store | StoreTaken | StoreRefused
)
Question = FindNodes | FindValue | HaveValue | Store
Answer = Nodes | Values | Have

_BITS: Final = Integer(MAX_BITS)
_FLAGS: Final = Integer(255)
_BLOB: Final = Blob(MAX_BLOB_BYTES, 1)
_ANSWER: Final[dict[int, tuple[str, Codec[Any]]]] = {
    1: ("id", KEY),
    2: ("flags", _FLAGS),
    3: ("bits", _BITS),
    4: ("contacts", Blob(MAX_CONTACTS_BYTES)),
}

TABLE: Final[dict[int, tuple[type[Any], dict[int, tuple[str, Codec[Any]]]]]] = {
    72: (FindNodes, {1: ("target", KEY), 2: ("announce", Blob(ANNOUNCE_BYTES))}),
    73: (Nodes, _ANSWER),
    74: (FindValue, {1: ("locator", KEY), 2: ("bits", _BITS)}),
    75: (Values, {**_ANSWER, 5: ("blobs", ListOf(_BLOB, MAX_BLOBS))}),
    76: (HaveValue, {1: ("locator", KEY), 2: ("digest", KEY), 3: ("bits", _BITS)}),
    77: (Have, {**_ANSWER, 5: ("have", Flag())}),
    78: (
        Store,
        {1: ("locator", KEY), 2: ("owner", Blob(OWNER_BYTES, OWNER_BYTES)), 3: ("blob", _BLOB)},
    ),
    79: (StoreTaken, {1: ("life_s", U16)}),
    80: (StoreRefused, {1: ("code", U16), 2: ("reason", Text(256))}),
}
"""Type number -> class and layout, as in `protocol.messages`."""
