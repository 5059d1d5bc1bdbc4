"""Those who lie: whom they name, and what they say they keep.

| kind     | asked for nodes or a value, it names                                        |
|----------|-----------------------------------------------------------------------------|
| `crony`  | the liars nearest to what is wanted, by the ids they have                   |
| `forger` | liars under ids made up, nearer to what is wanted than anybody can be        |

Both say that they stored what they were given, and that they still have it.  To store takes a full
session, which no forger can open under an id that it made up.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from typing import TYPE_CHECKING, Any, Final, Literal

from veilnet.protocol.dht_messages import (
    MAX_BITS,
    FindNodes,
    FindValue,
    Have,
    HaveValue,
    Nodes,
    Store,
    StoreTaken,
    Values,
)
from veilnet.sim.discovery.implicit import LIFE_S
from veilnet.sim.discovery.population import K, top

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from veilnet.sim.discovery.population import Endpoint, Population

Kind = Literal["crony", "forger"]
_AROUND: Final = 4 * K


class Liars:
    """All of them together; `at` is one of them."""

    def __init__(
        self,
        people: Population,
        packed_of: Callable[[int], bytes],
        *,
        kind: Kind = "crony",
        seed: int = 0,
    ) -> None:
        self._people = people
        self._packed_of = packed_of
        self._kind = kind
        self._rng = random.Random(f"liars {seed}")  # noqa: S311 - a simulation
        self._tops = [people.top(number) for number in people.liars]

    def at(self, number: int) -> Liar:
        """Return the liar at *number*."""
        return Liar(self, self._people.id(number))

    def named(self, target: bytes) -> bytes:
        """Return whom all of them name near *target*."""
        wanted = top(target)
        if self._kind == "crony":
            # The nearest by XOR are not all the nearest by order, hence some around them.
            middle = bisect_left(self._tops, wanted)
            around = range(max(0, middle - _AROUND), min(len(self._tops), middle + _AROUND))
            near = sorted(around, key=lambda i: self._tops[i] ^ wanted)[:K]
            return b"".join(self._packed_of(self._people.liars[i]) for i in near)
        some = self._rng.sample(self._people.liars, min(K, len(self._people.liars)))
        return b"".join(self._forged(number, target) for number in some)

    def said_id(self, own: bytes, target: bytes) -> bytes:
        """Return the id that one of them says to have when it is asked about *target*."""
        return own if self._kind == "crony" else target[:-4] + self._rng.randbytes(4)

    def _forged(self, number: int, target: bytes) -> bytes:
        return target[:-4] + self._rng.randbytes(4) + self._packed_of(number)[len(target) :]


class Liar:
    """One of the liars."""

    def __init__(self, all_of_them: Liars, own_id: bytes) -> None:
        self._all = all_of_them
        self.id = own_id

    def answer(self, sender: Endpoint, session: Hashable, message: Any, *, full: bool) -> Any:  # noqa: ANN401
        """Return the lie."""
        del sender, session, full
        match message:
            case FindNodes():
                said, named = self._says(message.target)
                return Nodes(contacts=named, **said)
            case FindValue():
                said, named = self._says(message.locator)
                return Values(contacts=named, **said)
            case HaveValue():
                said, named = self._says(message.locator)
                return Have(contacts=named, have=True, **said)
            case Store():
                return StoreTaken(life_s=LIFE_S)
        return None

    def _says(self, target: bytes) -> tuple[dict[str, Any], bytes]:
        said = {"id": self._all.said_id(self.id, target), "flags": 3, "bits": MAX_BITS}
        return said, self._all.named(target)
