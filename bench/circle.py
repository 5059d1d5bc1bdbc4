"""Members of one network around a backbone, for the experiments on real nodes."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from veilnet.testing import Backbone, Delays, Lab, Node

if TYPE_CHECKING:
    from pathlib import Path


def pause_until(moment_s: float) -> None:
    """Return at *moment_s* (monotonic); at once if that is past."""
    threading.Event().wait(max(0.0, moment_s - time.monotonic()))


@dataclass
class Circle:
    """A lab with a backbone and nodes around it, all of one network; a context manager.

    Every node runs in the foreground after the statements of *prelude*.
    """

    folder: Path
    prelude: str = ""
    nodes: dict[str, Node] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)  # peer ids -> names

    def __enter__(self) -> Self:
        self.lab = Lab()
        self.delays = Delays()
        self.backbone = Backbone(self.lab, delays=self.delays)
        self._founder: Node | None = None
        return self

    def __exit__(self, *_: object) -> None:
        self.lab.close()
        self.delays.close()

    def add(self, name: str, *, zone: int, delay_s: float = 0.0, **config: object) -> Node:
        """Start a node of its own host; the first one founds the network, the others join it."""
        host = self.lab.host(name)
        self.backbone.attach(host, zone=zone, delay_s=delay_s)
        node = self.nodes[name] = Node(host, self.folder, name=name)
        if config:
            node.state.mkdir(mode=0o700)
            lines = [f"{key} = {json.dumps(value)}\n" for key, value in config.items()]
            (node.state / "config.toml").write_text("".join(lines))
        if self._founder is None:
            self._founder = node
            self.start(node, "--name", name)
        else:
            # Joined first and started anew, it has no other network of its own.
            node.connect(self._founder.invite(), "--name", name)
            node.down()
            self.start(node)
        self.names[node.look()["peer_id"]] = name
        return node

    def start(self, node: Node, *options: str) -> None:
        """Start a node that does not run."""
        process = node.foreground(*options, prelude=self.prelude)
        if process.stdout is not None:
            process.stdout.close()
        process.returncode = 0  # it lives as long as the lab, which ends it

    def via(self, path: dict[str, Any]) -> tuple[str, ...]:
        """Return the names of the relays of a path."""
        return tuple(self.names.get(peer_id, "?") for peer_id in path.get("via", ()))

    def logs(self) -> str:
        """Return the ends of all logs."""
        said = []
        for node in self.nodes.values():
            log = node.state / "veilnet.log"
            if log.exists():
                said += [f"--- {node.name}", *log.read_text().splitlines()[-20:]]
        return "\n".join(said)
