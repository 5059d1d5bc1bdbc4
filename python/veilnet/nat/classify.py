"""What kind of translator is in front of this node, told by the ports that observers saw.

| mapping | observers in different places see |
|---|---|
| open | our own address and port: nothing translates, though something may filter |
| independent | one port, whoever looks: the mapping does not depend on where we send |
| sequential | ports that climb by a constant stride from flow to flow |
| random | ports without order |
| blocked | nothing, while a way over TCP works |
| unknown | too few observers |

Filtering (full cone, address or port restricted) cannot be seen without somebody who sends unasked;
punching does not need to know it.
Source: RFC 5780 section 4 (mapping behaviour), with observers that may lie.
"""

from __future__ import annotations

import enum
import math
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from attrs import frozen

if TYPE_CHECKING:
    from collections.abc import Collection

    from veilnet.nat.reflexive import Own
    from veilnet.protocol.fields import Endpoint

STEP_MAX: Final = 1_024
"""Ports between two flows that we made: others behind the same translator make some as well."""

SWAPPED_MIN: Final = 3
SWAPPED_MAX: Final = 64
"""So many ports, so close to each other, were not drawn by lot, whatever their order."""


class Mapping(enum.IntEnum):
    """How a translator chooses the port of a flow; the numbers travel."""

    UNKNOWN = 0
    OPEN = 1
    INDEPENDENT = 2
    SEQUENTIAL = 3
    RANDOM = 4
    BLOCKED = 5

    @property
    def word(self) -> str:
        """The name that people read."""
        return self.name.lower()

    @property
    def hard(self) -> bool:
        """Whether nobody knows before which port a flow to somebody new will have."""
        return self in (Mapping.SEQUENTIAL, Mapping.RANDOM)


@frozen
class Verdict:
    """What is in front of this node in one IP version, and how sure that is."""

    mapping: Mapping
    stride: int = 0
    """Ports from one flow to the next, if sequential; never more than `STEP_MAX`."""
    sure: bool = False
    public: Endpoint | None = None
    observers: int = 0
    """Places that were heard."""


def classify(own: Own | None, *, local: Collection[Endpoint], blocked: bool = False) -> Verdict:
    """Return the class that *own* shows.

    *local*: this node's own addresses with its port; *blocked*: whether only TCP gets through.
    """
    if own is None:
        return Verdict(Mapping.BLOCKED if blocked else Mapping.UNKNOWN)
    mapping, stride, sure = _of_ports(own, local)
    return Verdict(mapping, stride, own.sure and sure, own.endpoint, own.places)


def _of_ports(own: Own, local: Collection[Endpoint]) -> tuple[Mapping, int, bool]:
    count = len(own.ports)
    most = Counter(own.ports).most_common(1)[0][1]
    if own.host in {host for host, _ in local} and own.endpoint in local:
        return Mapping.OPEN, 0, True
    if count == 1:
        # One alone sees no difference.  A port that was kept was hardly drawn by lot.
        kept = own.ports[0] in {port for _, port in local}
        return (Mapping.INDEPENDENT if kept else Mapping.UNKNOWN), 0, False
    if most >= 2 and 2 * most >= count:
        return Mapping.INDEPENDENT, 0, 2 * most > count and most >= 3
    stride = stride_of(own.ports)
    if stride:
        return Mapping.SEQUENTIAL, stride, count >= 4
    return Mapping.RANDOM, 0, count >= 3


def stride_of(ports: Collection[int]) -> int:
    """Return by how much *ports* climb from one to the next, signed; 0: they do not.

    One step of five or more may be any: a range of ports that ends and begins again.  Of flows that
    began together one may have been told of before the other: ports that lie close are in order.
    """
    row = list(ports)
    steps = [(after - before + 2**15) % 2**16 - 2**15 for before, after in pairwise(row)]
    for sign in (1, -1):
        good = [step for step in steps if 0 < sign * step <= STEP_MAX]
        if good and len(good) >= len(steps) - (len(steps) >= 5):
            return sign * math.gcd(*good)
    close = [after - before for before, after in pairwise(sorted(row))]
    if len(row) >= SWAPPED_MIN and min(close) > 0 and max(close) <= SWAPPED_MAX:
        falls = sum(step < 0 for step in steps)
        return math.gcd(*close) * (-1 if 2 * falls > len(steps) else 1)
    return 0
