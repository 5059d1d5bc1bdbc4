"""How a question gets to whom it is asked, and its answer back: time, loss and bytes.

```
asker                                      the one asked
  |-- HELLO --> <-- RETRY -- -- INIT --> <-- RESP --|     2 round trips, if there is no session
  |       (full session: -- AUTH --> <-- ACK --)    |     1 more
  |-- question -->                      <-- answer--|     1 round trip
```
A datagram that gets lost is sent again after 0.5 s, then 1 s.  Who gets nothing for `PATIENCE_S`
stops waiting.  A full session proves who is there: nobody opens one under an id that is made up.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final, Protocol

from attrs import define, frozen

from veilnet.sim.discovery import wire
from veilnet.sim.discovery.population import number_of

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from veilnet.sim.discovery.internet import Internet
    from veilnet.sim.discovery.loop import Loop
    from veilnet.sim.discovery.population import Endpoint

PATIENCE_S: Final = 3.0
"""Without an answer for so long, the question counts as unanswered."""
_AGAIN_S: Final = (0.5, 1.0, 2.0)
_HELLOS: Final = 3  # within the patience


class Node(Protocol):
    """One who can be asked."""

    @property
    def id(self) -> bytes:
        """The id that its key proves."""
        ...

    def answer(self, sender: Endpoint, session: Hashable, message: Any, *, full: bool) -> Any:  # noqa: ANN401
        """Return the answer to *message*, or nothing for silence."""
        ...


@define(eq=False)
class _Session:
    """What an asker has with one node."""

    node: Node
    ends_s: float


@frozen(eq=False)
class _Out:
    """A question on its way."""

    asker: int
    number: int
    session: _Session
    message: Any
    whom: bytes | None
    size: int
    rtt: float
    give_up: float
    answered: Callable[[Any], None]
    silent: Callable[[], None]


class World:
    """All nodes, by number; who is up; what each paid.

    A number is a place and an address.  Who restarts keeps them, and is another `Node`.
    """

    def __init__(
        self,
        loop: Loop,
        internet: Internet,
        endpoint_of: Callable[[int], Endpoint],
        *,
        otherwise: Callable[[int], Node | None] = lambda _: None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.loop = loop
        self.internet = internet
        self.endpoint_of = endpoint_of
        self.patience_s = patience_s
        self.nodes: dict[int, Node] = {}
        self.meters: defaultdict[int, wire.Meter] = defaultdict(wire.Meter)
        self.sizes = wire.Sizes()
        self._otherwise = otherwise
        self._sessions: dict[tuple[int, int, bool], _Session] = {}

    def node(self, number: int) -> Node | None:
        """Return who is there now, if anybody is."""
        return self.nodes.get(number) or self._otherwise(number)

    def at(self, endpoint: Endpoint) -> Node | None:
        """Return who is at *endpoint* now, if anybody is."""
        return self.node(number_of(endpoint))

    def ask(
        self,
        asker: int,
        endpoint: Endpoint,
        message: Any,  # noqa: ANN401
        *,
        whom: bytes | None = None,
        answered: Callable[[Any], None],
        silent: Callable[[], None],
    ) -> None:
        """Bring *message* from *asker* to *endpoint*; one of the two is called later.

        *whom*: the id that has to be there, for a full session; None: a lookup session.
        """
        now = self.loop.now
        number = number_of(endpoint)
        node = self.node(number)
        if node is None or whom not in (None, node.id):
            # Nobody is there, or somebody for whom the handshake is not.
            hello = wire.LOOKUP_SENT_BYTES - 2 * (780 + wire.UDP_BYTES)
            paid = _HELLOS * hello if node is None else wire.LOOKUP_SENT_BYTES
            self.meters[asker].sent["sessions"] += paid
            self.loop.at(now + self.patience_s, silent)
            return
        rtt = self.internet.rtt_s(asker, number)
        full = whom is not None
        delay, key = 0.0, (asker, number, full)
        kept = self._sessions.get(key)
        if kept is None or kept.ends_s < now or kept.node is not node:
            delay = (3 if full else 2) * rtt + self._lost(2) + self._lost(4)
            kept = self._sessions[key] = _Session(node, now + delay + wire.ASKED_S)
            self._pay_session(asker, number, full=full)
        delay += self._lost(1)
        size = wire.sent_bytes(self.sizes.of(message))
        self.meters[asker].sent["questions"] += size
        self.meters[asker].asked += 1
        give_up = now + self.patience_s
        if delay + rtt > self.patience_s:
            self.loop.at(give_up, silent)
            return
        out = _Out(asker, number, kept, message, whom, size, rtt, give_up, answered, silent)
        self.loop.at(now + delay + rtt / 2, self._arrive, out)

    def _arrive(self, out: _Out) -> None:
        node = self.node(out.number)
        there = self.meters[out.number]
        found = None
        if node is not None and out.whom in (None, node.id):
            there.received["questions"] += out.size
            full = out.whom is not None
            sender = self.endpoint_of(out.asker)
            found = node.answer(sender, out.session, out.message, full=full)
        if found is None:
            self.loop.at(out.give_up, out.silent)
            return
        size = wire.sent_bytes(self.sizes.of(found))
        there.sent["answers"] += size
        there.received["answers"] += wire.ACK_BYTES
        there.answered += 1
        here = self.meters[out.asker]
        here.received["answers"] += size
        here.sent["answers"] += wire.ACK_BYTES
        self.loop.at(self.loop.now + out.rtt / 2 + self._lost(1), out.answered, found)

    def _pay_session(self, asker: int, number: int, *, full: bool) -> None:
        here, there = self.meters[asker], self.meters[number]
        sent = wire.FULL_BYTES if full else wire.LOOKUP_SENT_BYTES
        received = wire.FULL_BYTES if full else wire.LOOKUP_RECEIVED_BYTES
        here.sent["sessions"] += sent
        there.received["sessions"] += sent
        there.sent["sessions"] += received
        here.received["sessions"] += received

    def _lost(self, datagrams: int) -> float:
        """Draw how long a round trip takes longer because something of it got lost."""
        late = 0.0
        for again in _AGAIN_S:
            if self.internet.arrives(datagrams):
                break
            late += again
        return late
