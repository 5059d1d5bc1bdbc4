"""The topologies that throughput is measured on, every system up in each of them all the time.

```
veth      left 10.77.0.1 ------------------------------ 10.77.0.2 right
router    left 10.77.1.2 ---- 10.77.1.1 router 10.77.2.1 ---- 10.77.2.2 right
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from peers import Unavailable
from systems import SYSTEMS, System, need
from veilnet.testing import Host, Lab, nft

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_SEGMENTATION = ("tx_tcp_segmentation", "tx_tcp6_segmentation", "tx_udp_segmentation")


class Stage:
    """Two hosts, what lies between them, and the systems that are up there."""

    def __init__(self, name: str, wanted: Sequence[str], folder: Path) -> None:
        self.name = name
        self.lab = Lab()
        self.systems: dict[str, System] = {}
        self.missing: dict[str, str] = {}
        self._loss = 0.0
        self._links: list[tuple[Host, str]] = []
        self._segmentation = True
        underlay = self._build()
        for system in wanted:
            made = SYSTEMS[system](self.left, self.right, underlay, folder / name)
            try:
                made.start()
            except Unavailable as error:
                self.missing[system] = str(error)
            else:
                self.systems[system] = made

    def _build(self) -> tuple[str, str]:
        self.left, self.right = self.lab.host("left"), self.lab.host("right")
        if self.name == "veth":
            self.lab.wire(self.left, "10.77.0.1/24", self.right, "10.77.0.2/24")
            self._links = [(self.left, "eth0"), (self.right, "eth0")]
            return "10.77.0.1", "10.77.0.2"
        self.router = self.lab.router("router")
        self.lab.wire(self.left, "10.77.1.2/24", self.router, "10.77.1.1/24")
        self.lab.wire(self.router, "10.77.2.1/24", self.right, "10.77.2.2/24")
        self.left.route("default", via="10.77.1.1")
        self.right.route("default", via="10.77.2.1")
        self._links = [(self.left, "eth0"), (self.right, "eth0")]
        self._links += [(self.router, "eth0"), (self.router, "eth1")]
        return "10.77.1.2", "10.77.2.2"

    def congestion_control(self, name: str) -> None:
        """Choose the congestion control of both hosts' next connections.  Raises: Unavailable."""
        for host in (self.left, self.right):
            allowed = host.sysctl("net/ipv4/tcp_available_congestion_control").split()
            if name not in allowed:
                raise Unavailable(f"this kernel has no {name}, only {' '.join(allowed)}")
            host.sysctl("net/ipv4/tcp_congestion_control", name)

    def segmentation(self, *, on: bool, gro: bool = False) -> None:
        """Say whether the links carry super-packets, and whether the ends glue what arrives."""
        if on == self._segmentation:
            return
        for host, link in self._links:
            host.offload(link, **dict.fromkeys(_SEGMENTATION, on), rx_gro=gro)
        self._segmentation = on

    def loss(self, fraction: float) -> None:
        """Let the router lose *fraction* of the packets, both ways.  Raises: Unavailable."""
        if fraction == self._loss:
            return
        need("nft", "nftables")
        self.router.nft(nft.clear() + (nft.loss(fraction) if fraction else ""))
        self._loss = fraction

    def close(self) -> None:
        """Take everything down."""
        self.lab.close()
