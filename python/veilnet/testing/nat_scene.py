"""Two members of one network, each behind a NAT of its own kind, and who brought them together.

```
 a --- NAT --- west --- one --- two --- east --- NAT --- b
                         |       |
                   inviter, and whatever else runs at public places
```
They have joined by invites of `inviter`, which may be killed then.  If both kinds are hairpin they
live in two networks behind one router, which keeps them apart.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self

from veilnet.testing.internet import EAST, WEST
from veilnet.testing.nat import Nat
from veilnet.testing.node import Node
from veilnet.testing.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from veilnet.testing.internet import Internet
    from veilnet.testing.lab import Lab
    from veilnet.testing.strangers import Strangers

_JOIN_S: Final = 30.0


class NatScene:
    """The two members and their inviter; a context manager that takes all of it away again.

    *name* tells scenes in one lab apart; *config* is that of all three; *one_roof*: both live
    behind the same NAT, of *kind_a*.  The inviter knows *strangers*, if there are any.
    """

    def __init__(
        self,
        lab: Lab,
        internet: Internet,
        folder: Path,
        kind_a: str,
        kind_b: str,
        *,
        name: str = "",
        strangers: Strangers | None = None,
        config: Mapping[str, object] | None = None,
        one_roof: bool = False,
    ) -> None:
        self._lab = lab
        self._config = {"log_level": "debug"} | dict(config or {})
        self._strangers = strangers
        self.kinds = (kind_a, kind_b)
        folder = folder / (name or "scene")
        folder.mkdir()
        prefix = f"{name}-" if name else ""
        self.nat_a = Nat(lab, internet, f"{prefix}nat-a", kind_a, at=WEST)
        one_roof = one_roof or kind_a == kind_b == "hairpin"
        self.nat_b = (
            self.nat_a if one_roof else Nat(lab, internet, f"{prefix}nat-b", kind_b, at=EAST)
        )
        host, _ = internet.place(f"{prefix}inviter")
        self.inviter = Node(host, folder, name="inviter")
        self.a, self.b = (
            Node(lab.host(f"{prefix}{letter}"), folder, name=letter) for letter in "ab"
        )
        self._since = {"a": 0, "b": 0}
        self.nat_a.admit(self.a.host)
        self.nat_b.admit(self.b.host)

    def __repr__(self) -> str:
        return f"<NatScene {' x '.join(self.kinds)}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the nodes and take their hosts and NATs away; twice is harmless."""
        nats = {*self.nat_a.routers, *self.nat_b.routers}
        self._lab.remove(*nats, *(node.host for node in (self.inviter, self.a, self.b)))

    def join(self, *, apart: bool = False) -> None:
        """Start all three and let the two join, each through its NAT.

        Where UDP is blocked it is not yet.  *apart*: a is stopped before b comes, and so has never
        heard of it.  Raises: VeilError, TimedOut.
        """
        for nat in (self.nat_a, self.nat_b):
            if nat.kind == "udp_blocked":
                nat.enforce("port")
        self.inviter.configure(**(self._config | {"relay": "own"}))
        self.inviter.start("--name", "inviter")
        if self._strangers is not None:
            self._strangers.introduce(self.inviter)
        for node in (self.a, self.b):
            # Found by strangers they need no member to be found by, and do not call one unasked.
            homes = {} if self._strangers is None else {"home_relays": 0}
            node.configure(**(self._config | homes | {"relay": "off"}))
            invite = self.inviter.tell("invite")["invite"]
            node.start("--name", node.name, invite=str(invite))
            if apart and node is self.a:
                wait_until(partial(self.is_found, node), "a is found", timeout_s=_JOIN_S)
                self._stop(node)
        if not apart:
            wait_until(
                lambda: self.knows(self.a, "b") and self.knows(self.b, "a"),
                "the members know of each other",
                timeout_s=_JOIN_S,
            )

    @staticmethod
    def _stop(*nodes: Node) -> None:
        for node in nodes:
            node.tell("down")
        wait_until(
            lambda: not any(node.pids() for node in nodes), "the nodes end", timeout_s=_JOIN_S
        )

    def lose_inviter(self) -> None:
        """Kill the inviter: whoever brought the two together is gone for good."""
        self.inviter.kill()

    def forget_each_other(self) -> None:
        """Let time pass for two who never spoke: neither NAT has a hole left for the other.

        Who learns of a member knocks at once where it is known to be, and so opens its own NAT.
        """
        if self.nat_a is not self.nat_b:
            self.nat_a.forget(self.nat_b)
            self.nat_b.forget(self.nat_a)

    def return_later(self) -> None:
        """Stop the members, let the NATs forget them and be what they are, and start them again."""
        self._stop(self.a, self.b)
        for nat in {self.nat_a, self.nat_b}:
            nat.enforce()
            nat.forget()
        for node in (self.a, self.b):
            self._since[node.name] = node.log_bytes()
            node.start()

    def wait_until_found(self, *, timeout_s: float) -> None:
        """Wait until both members can be found: by a link to the inviter, or by strangers.

        Raises: TimedOut: one cannot.
        """
        for node in (self.a, self.b):
            wait_until(partial(self.is_found, node), f"{node.name} is found", timeout_s=timeout_s)

    def is_found(self, node: Node) -> bool:
        """Say whether others find *node*: by a link to the inviter, or by strangers."""
        if self._strangers is None:
            return self.connected(node, "inviter")
        return node.said("event='published' storers=[1-9]", since_bytes=self._since[node.name])

    @staticmethod
    def knows(node: Node, name: str) -> bool:
        """Say whether *node* knows a member of that name."""
        return any(peer["name"] == name for peer in node.look()["peers"])

    @staticmethod
    def connected(node: Node, name: str) -> bool:
        """Say whether *node* has a channel with the member of that name."""
        return any(
            peer["name"] == name and peer["state"] == "connected" for peer in node.look()["peers"]
        )

    def carrying(self) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        """Return the path that carries from a to b, and that from b to a; None: there is none."""
        return _carrying(self.a, "b"), _carrying(self.b, "a")

    def direct(self) -> bool:
        """Say whether both send over a direct path."""
        return all(path is not None and path["kind"] == "direct" for path in self.carrying())

    def logs(self, *, lines: int = 40) -> str:
        """Return the last *lines* of each log."""
        return "\n".join(node.logs(lines=lines) for node in (self.inviter, self.a, self.b))


def _carrying(node: Node, name: str) -> dict[str, Any] | None:
    for path in node.paths(name):
        if path["share"] > 0 and path["state"] != "dead":
            return path
    return None
