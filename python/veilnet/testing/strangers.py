"""Nodes at public places that are in the commons, for others to find each other by.

They know each other because they are members of a network of their own, `village`, which nobody of
a `NatScene` is a member of, but its inviter: somebody has to know somebody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from veilnet.testing.node import Node
from veilnet.testing.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from veilnet.testing.internet import Internet

COUNT: Final = 5
RELAYS: Final = 3
_JOIN_S: Final = 30.0


class Strangers:
    """*count* running nodes, each in a prefix of its own, of which *relays* relay for everybody."""

    def __init__(
        self,
        internet: Internet,
        folder: Path,
        *,
        count: int = COUNT,
        relays: int = RELAYS,
        config: Mapping[str, object] | None = None,
    ) -> None:
        self.nodes: list[Node] = []
        for number in range(count):
            host, _ = internet.place(f"stranger{number + 1}")
            node = Node(host, folder)
            serves = "all" if number < relays else "off"
            node.configure(**(dict(config or {}) | {"relay": serves}))
            node.start("--name", node.name, invite=self._invite() if self.nodes else "")
            self.nodes.append(node)
        wait_until(
            lambda: all(len(node.look()["peers"]) == count - 1 for node in self.nodes),
            "the strangers know each other",
            timeout_s=_JOIN_S,
        )

    def __repr__(self) -> str:
        return f"<Strangers {' '.join(node.name for node in self.nodes)}>"

    def introduce(self, node: Node) -> None:
        """Let *node*, which runs, join the network of the strangers."""
        invite = self._invite()
        node.tell("connect", wait_s=_JOIN_S, peer=invite, name=node.name, timeout_s=_JOIN_S)

    def _invite(self) -> str:
        return str(self.nodes[0].tell("invite")["invite"])

    def logs(self, *, lines: int = 40) -> str:
        """Return the last *lines* of each log."""
        return "\n".join(node.logs(lines=lines) for node in self.nodes)
