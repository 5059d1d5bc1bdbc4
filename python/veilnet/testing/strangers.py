"""Nodes at public places that are in the commons, for others to find each other by.

They know each other because they are members of a network of their own, `village`, which nobody of
a `NatScene` is a member of, but its inviter: somebody has to know somebody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from veilnet.testing.node import Node

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from veilnet.testing.internet import Internet

COUNT: Final = 5
RELAYS: Final = 3


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
            if self.nodes:
                self.introduce(node)
            else:
                node.up("--name", node.name)
            self.nodes.append(node)

    def __repr__(self) -> str:
        return f"<Strangers {' '.join(node.name for node in self.nodes)}>"

    def introduce(self, node: Node) -> None:
        """Let *node*, whether it runs or not, join the network of the strangers."""
        node.connect(self.nodes[0].invite(), "--name", node.name, "--timeout", "30")

    def logs(self, *, lines: int = 40) -> str:
        """Return the last *lines* of each log."""
        return "\n".join(node.logs(lines=lines) for node in self.nodes)
