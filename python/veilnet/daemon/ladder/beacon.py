"""The beacon: a rendezvous on BitTorrent's Mainline DHT, for the operator who switched it on.

```
infohash = Expand(secret, "veilnet/ladder/beacon" || day), 20 bytes: another one every day
a round    peers(infohash of today, and of the neighbouring day near midnight)
           announce(the same infohashes, our UDP port)
```
It uses a network of millions of nodes that nobody owns.  Its price is why it is off by default:
those nodes, and whoever crawls them, see this host's address; with the commons' secret, which is
public, anybody can list who announced under it.  Only addresses come back, and whoever answers
there has to prove a key.
Source: BEP 5.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import trio

from veilnet.daemon.host import unix_now
from veilnet.daemon.ladder.scope import DAY_S
from veilnet.daemon.ladder.threads import InThread, in_thread
from veilnet.daemon.underlay import is_reachable
from veilnet.errors import RemoteProtocolError, VeilError
from veilnet.networks.endpoint import Endpoint

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from veilnet.daemon.ladder.ladder import Rung
    from veilnet.daemon.ladder.scope import Scope

    T = TypeVar("T")

INFOHASH_BYTES: Final = 20
ROUND_S: Final = 900.0
"""Mainline nodes forget an announcement after half an hour or so."""
SEEKING_S: Final = 120.0
LEAST_S: Final = 60.0
"""No two rounds are closer, whatever changes: a round costs a hundred datagrams of strangers."""
PEERS_MAX: Final = 32
LOOKUP_S: Final = 15.0
MIDNIGHT_S: Final = 3_600

_LABEL: Final = b"ladder/beacon"


class Client(Protocol):
    """As much of `_engine.Beacon` as a round uses; every method but close blocks."""

    def peers(self, infohash: bytes, *, most: int, timeout_s: float) -> list[tuple[str, int]]:
        """Return who announced themselves."""

    def announce(self, infohash: bytes, *, port: int, timeout_s: float) -> None:
        """Announce ourselves."""

    def nodes(self, *, timeout_s: float) -> list[str]:
        """Return the nodes that are known by now."""

    def close(self) -> None:
        """Let its thread end."""


def infohash(scope: Scope, day: int) -> bytes:
    """Return where the members of *scope* meet on that day."""
    return scope.key(_LABEL, day, length=INFOHASH_BYTES)


def days(now: int) -> list[int]:
    """Return the days to look under: today, and near midnight the neighbouring one too."""
    today = now // DAY_S
    return list(dict.fromkeys((today, (now - MIDNIGHT_S) // DAY_S, (now + MIDNIGHT_S) // DAY_S)))


def open_client(bootstrap: Sequence[str]) -> Client:
    """Open a client of the Mainline DHT; blocks on DNS."""
    from veilnet import _engine

    return _engine.Beacon.open(bootstrap=list(bootstrap))


class Beacon:
    """The step: a round now and then, for as long as the node runs."""

    name: Final = "beacon"
    standing: Final = True
    limit_s: Final = float("inf")
    remedy: Final = "Nobody of ours announced itself; is beacon = true on the other nodes too?"

    def __init__(
        self,
        *,
        scopes: Callable[[], Sequence[Scope]],
        port: Callable[[], int],
        rng: random.Random,
        bootstrap: Sequence[str] = (),
        open_client: Callable[[Sequence[str]], Client] = open_client,
        wall: Callable[[], int] = unix_now,
        in_thread: InThread = in_thread,
    ) -> None:
        self._scopes, self._port, self._rng, self._wall = scopes, port, rng, wall
        self._bootstrap, self._open_client = tuple(bootstrap), open_client
        self._nodes: tuple[str, ...] = ()
        """Who answered in the last round: asked first in the next."""
        self._in_thread = in_thread
        self._threads = trio.CapacityLimiter(1)

    async def climb(self, rung: Rung) -> None:
        """Look and announce, rest, and again.

        Cancellation: a call in a worker thread ends with its own time-out, within LOOKUP_S.
        Raises: VeilError: no node of the Mainline DHT can be reached.
        """
        while True:
            await self._round(rung)
            pause_s = SEEKING_S if rung.wanted else ROUND_S
            await trio.sleep(LEAST_S)
            await rung.rest((pause_s - LEAST_S) * self._rng.uniform(0.8, 1.2))

    async def _round(self, rung: Rung) -> None:
        first = (*self._bootstrap, *self._nodes)
        client = await self._blocking(partial(self._open_client, first))
        faults: list[VeilError] = []
        announced = 0
        try:
            for scope in self._scopes():
                for day in days(self._wall()):
                    where = infohash(scope, day)
                    found = await self._blocking(
                        partial(client.peers, where, most=PEERS_MAX, timeout_s=LOOKUP_S)
                    )
                    self._offer(rung, scope, found)
                    try:
                        await self._blocking(
                            partial(client.announce, where, port=self._port(), timeout_s=LOOKUP_S)
                        )
                        announced += 1
                    except VeilError as error:
                        faults.append(error)
            self._nodes = tuple(await self._blocking(partial(client.nodes, timeout_s=2.0)))
        finally:
            client.close()
        if faults:
            self._nodes = ()
            rung.fail(faults[0].message, faults[0].hint)
        else:
            rung.well(f"announced under {announced} infohashes")

    def _offer(self, rung: Rung, scope: Scope, found: Sequence[tuple[str, int]]) -> None:
        for host, port in found[:PEERS_MAX]:
            try:
                endpoint = Endpoint.of(host, port, blame=RemoteProtocolError)
            except RemoteProtocolError:
                continue
            # In the public DHT such an address is a mistake or a trap; in one's own it is meant.
            if self._bootstrap or is_reachable(endpoint):
                rung.offer(endpoint, network_id=scope.network_id)

    async def _blocking(self, call: Callable[[], T]) -> T:
        return await self._in_thread(call, self._threads)
