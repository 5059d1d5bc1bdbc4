"""Many machines in one process and in virtual time, with liars among them."""

from __future__ import annotations

import heapq
import math
import random
from typing import TYPE_CHECKING, Any

from veilnet.discovery.contact import STORES, Contact
from veilnet.discovery.events import (
    Answered,
    Ask,
    Asked,
    Failed,
    Find,
    Found,
    Get,
    Put,
    Reply,
    Stored,
    Unanswered,
)
from veilnet.discovery.kademlia import Kademlia

if TYPE_CHECKING:
    from collections.abc import Callable

RTT_S = 0.1
TIMEOUT_S = 3.0


def address(number: int) -> tuple[str, int]:
    """Return a global address in a /24 of its own."""
    return f"{20 + number // 65_536}.{number // 256 % 256}.{number % 256}.7", 4_000


class Node:
    """One machine and its place in the crowd."""

    def __init__(self, crowd: Crowd, endpoint: tuple[str, int], node_id: bytes, **named: Any):
        self.crowd = crowd
        self.endpoint = endpoint
        self.online = True
        self.asked: list[Any] = []
        """Messages that others asked it."""
        self.machine = Kademlia(
            node_id,
            rng=crowd.rng,
            now=crowd.now,
            flags=named.pop("flags", STORES),
            probe_interval_s=named.pop("probe_interval_s", 0),
            **named,
        )
        self.contact = Contact(node_id, endpoint, self.machine.flags)

    def answer(self, sender: tuple[str, int], message: Any, *, full: bool) -> Any:
        """Return what it says to a question, None: nothing."""
        self.asked.append(message)
        token, said = object(), None
        event = Asked(token, sender, (sender, full), full, message)
        for action in self.machine.handle(event, self.crowd.now):
            if isinstance(action, Reply) and action.token is token:
                said = action.message
            else:
                self.crowd.act(self, [action])
        return said


class Crowd:
    """Nodes by endpoint, and the events on their way."""

    def __init__(self, seed: int = 1) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self.nodes: dict[tuple[str, int], Node] = {}
        self.results: dict[tuple[int, int], Any] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = 0
        self._lookup = 0

    def node(self, number: int | None = None, node_id: bytes | None = None, **named: Any) -> Node:
        """Add a node."""
        endpoint = address(len(self.nodes) if number is None else number)
        node = Node(self, endpoint, node_id or self.rng.randbytes(32), **named)
        self.nodes[endpoint] = node
        return node

    def grown(self, count: int, **named: Any) -> list[Node]:
        """Add nodes whose tables are as they come to be: near ones all, far ones some."""
        nodes = [self.node(**named) for _ in range(count)]
        self.acquaint(nodes)
        return nodes

    def acquaint(self, nodes: list[Node]) -> None:
        """Fill tables as time would: each of a sorted ring knows samples of every distance."""
        ring = sorted(nodes, key=lambda node: node.machine.own_id)
        values = [int.from_bytes(node.machine.own_id, "big") for node in ring]
        for at, node in enumerate(ring):
            for bucket in range(int(math.log2(len(ring))) + 4):
                flipped = (values[at] >> (255 - bucket)) ^ 1
                low, high = flipped << (255 - bucket), (flipped + 1) << (255 - bucket)
                inside = range(_left(values, low), _left(values, high))
                for other in self.rng.sample(inside, min(len(inside), 24)):
                    node.machine.table.answered(ring[other].contact.packed, self.now)

    def act(self, node: Node, actions: list[Any]) -> None:
        """Do what a machine wants done."""
        for action in actions:
            match action:
                case Ask():
                    self._deliver(node, action)
                case Found() | Stored() | Failed():
                    self.results[id(node), action.id] = action

    def _deliver(self, node: Node, ask: Ask) -> None:
        target = self.nodes.get(ask.contact.endpoint)
        reply = None
        if target is not None and target.online:
            reply = target.answer(node.endpoint, ask.message, full=ask.full)
        if reply is None:
            lost = Unanswered(ask.query, unproven=ask.full)
            self.at(TIMEOUT_S, lambda: self._feed(node, lost))
        else:
            pause = RTT_S * self.rng.uniform(0.5, 1.5)
            self.at(pause, lambda: self._feed(node, Answered(ask.query, reply)))

    def _feed(self, node: Node, event: Any) -> None:
        self.act(node, node.machine.handle(event, self.now))

    def at(self, pause: float, call: Callable[[], None]) -> None:
        """Call something after *pause* of virtual time."""
        self._serial += 1
        heapq.heappush(self._events, (self.now + pause, self._serial, call))

    def run(self, until: float = math.inf, nodes: list[Node] | None = None) -> None:
        """Run until nothing is on its way; *nodes* are those with something to do by time."""
        while True:
            timed = [
                (deadline, node)
                for node in nodes or ()
                if node.online and (deadline := node.machine.deadline()) is not None
            ]
            tick = min(timed, key=lambda pair: pair[0]) if timed else None
            if tick and (not self._events or tick[0] <= self._events[0][0]):
                if tick[0] > until or (not self._events and until == math.inf):
                    break
                self.now = max(self.now, tick[0])
                self.act(tick[1], tick[1].machine.tick(self.now))
                continue
            if not self._events or self._events[0][0] > until:
                break
            self.now, _, call = heapq.heappop(self._events)
            call()
        if until < math.inf:
            self.now = until

    def ask(self, node: Node, event: Any) -> Any:
        """Run one lookup to its end and return it."""
        self._feed(node, event)
        key = id(node), event.id
        while key not in self.results:
            deadline = min(
                (look.wake for look in node.machine.lookups.values() if look.wake is not None),
                default=math.inf,
            )
            if self._events and self._events[0][0] <= deadline:
                self.now, _, call = heapq.heappop(self._events)
                call()
            else:
                assert deadline < math.inf, "a lookup waits for nothing"
                self.now = max(self.now, deadline)
                self.act(node, node.machine.tick(self.now))
        return self.results.pop(key)

    def find(self, node: Node, target: bytes) -> Any:
        """Find nodes."""
        self._lookup += 1
        return self.ask(node, Find(self._lookup, target))

    def get(self, node: Node, locator: bytes, check: Any = None) -> Any:
        """Get blobs."""
        self._lookup += 1
        return self.ask(node, Get(self._lookup, locator, check))

    def put(self, node: Node, locator: bytes, blob: bytes, **named: Any) -> Any:
        """Put a blob."""
        self._lookup += 1
        return self.ask(node, Put(self._lookup, locator, blob, **named))


def _left(values: list[int], value: int) -> int:
    low, high = 0, len(values)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if values[middle] < value else (low, middle)
    return low
