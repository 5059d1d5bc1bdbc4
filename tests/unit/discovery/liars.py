"""Nodes that lie in the ways that a table of hearsay must survive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.unit.discovery.crowd import Crowd, Node, address
from veilnet.discovery.contact import STORES, Contact
from veilnet.protocol.dht_messages import (
    FindNodes,
    FindValue,
    Have,
    HaveValue,
    Nodes,
    Store,
    StoreTaken,
    Values,
)

if TYPE_CHECKING:
    from collections.abc import Callable


class Liar(Node):
    """Tells of its friends only, says that it keeps what it drops, and gives away junk."""

    friends: list[Liar]
    junk: tuple[bytes, ...] = ()
    bits = 40

    def answer(self, sender: tuple[str, int], message: Any, *, full: bool) -> Any:
        """Return a lie."""
        self.asked.append(message)
        said: dict[str, Any] = {"id": self.machine.own_id, "flags": STORES, "bits": self.bits}
        target = getattr(message, "target", None) or message.locator
        contacts = self.told(target)
        match message:
            case FindNodes():
                return Nodes(contacts=contacts, **said)
            case FindValue():
                return Values(contacts=contacts, blobs=self.junk, **said)
            case HaveValue():
                return Have(contacts=contacts, have=False, **said)
            case Store():
                return StoreTaken(life_s=7_200)
        return None

    def told(self, target: bytes) -> bytes:
        """Return packed contacts: friends, under ids that look near."""
        aim = int.from_bytes(target, "big")
        friends = sorted(
            self.friends, key=lambda one: int.from_bytes(one.machine.own_id, "big") ^ aim
        )
        return b"".join(one.contact.packed for one in friends[:20])


class Endless(Liar):
    """Always knows twenty contacts that are ever nearer, at addresses where nobody is."""

    def told(self, target: bytes) -> bytes:
        """Return contacts made up."""
        made = []
        for number in range(20):
            near = target[:20] + self.crowd.rng.randbytes(12)
            host, port = address(2_000_000 + self.crowd.rng.randrange(1_000_000))
            made.append(Contact(near, (host, port + number), STORES).packed)
        return b"".join(made)


class Double(Liar):
    """Goes by the id of an honest one, the first of its friends: a session with that one is its."""

    def answer(self, sender: tuple[str, int], message: Any, *, full: bool) -> Any:
        """Return what the honest one returns."""
        self.asked.append(message)
        return self.friends[0].answer(sender, message, full=full)


class Silent(Double):
    """The same, but that no session comes to be."""

    def answer(self, sender: tuple[str, int], message: Any, *, full: bool) -> Any:
        """Return what the honest one returns, but to a Store."""
        return None if full else super().answer(sender, message, full=full)


class Nameless(Liar):
    """Honest, but that the id it gives is not its own: no full session comes to be."""

    def answer(self, sender: tuple[str, int], message: Any, *, full: bool) -> Any:
        """Return what the honest return, and nothing where it would have to prove itself."""
        said = Node.answer(self, sender, message, full=full)
        return None if full else said


def corrupt(
    crowd: Crowd, nodes: list[Node], share: float, kind: Callable[..., Liar] = Liar
) -> list[Liar]:
    """Turn a share of the nodes into liars that know each other."""
    liars = []
    for node in crowd.rng.sample(nodes, int(len(nodes) * share)):
        node.__class__ = kind  # type: ignore[assignment]
        liars.append(node)
    for liar in liars:
        liar.friends = liars  # type: ignore[attr-defined]
    return liars  # type: ignore[return-value]
