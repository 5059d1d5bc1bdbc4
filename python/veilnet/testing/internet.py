"""An Internet to hide from each other in: four routers in a row, public places, networks around.

```
 network --- west --- one --- two --- east --- network     a network: what a NAT hides, or routes
                       |       |
                     place   place                          a place: a host with public addresses
```
Four, so that a datagram sent with a hop limit of 5 from behind a router in the west dies before it
reaches the router of a network in the east, as it would in the real one.

Every place and every network has prefixes of its own, 11.N.0.0/16 and 2a0b:N::/32: addresses that
look public to whoever asks, which nothing in a lab can ever leave.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

import attrs

from veilnet.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from veilnet.testing.delay import Delays
    from veilnet.testing.lab import Host, Lab

WEST, ONE, TWO, EAST = range(4)
_NAMES: Final = ("west", "one", "two", "east")
_NUMBERS_MAX: Final = 40_000
_LENGTHS: Final = {4: 24, 6: 64}


@attrs.frozen
class Uplink:
    """How a host or a router is joined to the Internet.

    The whole of *net4*, the first half of an IPv4 address, and of *net6*, the first two groups of
    an IPv6 address, is routed to it; the wire has subnet 0.
    """

    number: int
    link: str
    """The link of the joined one, towards the Internet."""
    address4: str
    address6: str
    net4: str
    net6: str


class Internet:
    """The routers, in *lab*; *name* tells one Internet from another in the same lab.

    With *delays* whoever joins is *far_s()* away from its router, each way.  Units: seconds.
    """

    def __init__(
        self,
        lab: Lab,
        name: str = "net",
        *,
        delays: Delays | None = None,
        far_s: Callable[[], float] = float,
    ) -> None:
        self._lab = lab
        self._delays = delays
        self._far_s = far_s
        self._count = 0
        self._lock = threading.Lock()
        self.routers = [lab.router(f"{name}-{word}") for word in _NAMES]
        for number in range(len(self.routers) - 1):
            left, right = self.routers[number], self.routers[number + 1]
            lab.wire(left, self._between(number, 1), right, self._between(number, 2))

    def __repr__(self) -> str:
        return f"<Internet of {self._count} prefixes>"

    @staticmethod
    def _between(number: int, end: int) -> list[str]:
        """Return the addresses of one end of the wire between routers *number* and the next."""
        return [f"11.255.{number}.{end}/30", f"2a0b:ffff:{number}::{end}/64"]

    def join(self, host: Host, *, at: int, version: int = 0) -> Uplink:
        """Wire *host* to the router number *at* and give it a default route.

        *version*: give it addresses of this IP version only; 0: of both.
        Raises: UsageError: all prefixes are taken.
        """
        with self._lock:
            if self._count == _NUMBERS_MAX:
                raise UsageError("This Internet has no prefix left.", hint="Make another Internet.")
            self._count = number = self._count + 1
            return self._joined(host, number, at, version)

    def _joined(self, host: Host, number: int, at: int, version: int) -> Uplink:
        # 11.1, ... 11.250, 12.1, ...
        wide, narrow = divmod(number - 1, 250)
        net4, net6 = f"{11 + wide}.{narrow + 1}", f"2a0b:{number:x}"
        router = self.routers[at]
        far = {4: f"{net4}.0.2", 6: f"{net6}::2"}
        near = {4: f"{net4}.0.1", 6: f"{net6}::1"}
        whole = {4: f"{net4}.0.0/16", 6: f"{net6}::/32"}
        wanted = [version] if version else [4, 6]
        theirs = [f"{far[v]}/{_LENGTHS[v]}" for v in wanted]
        ours = [f"{near[v]}/{_LENGTHS[v]}" for v in wanted]
        link = self._wire(host, theirs, router, ours)
        for v in wanted:
            host.route("default", via=near[v])
            self._announce(at, v, whole[v], far[v])
        return Uplink(number, link, far[4], far[6], net4, net6)

    def _wire(self, host: Host, theirs: list[str], router: Host, ours: list[str]) -> str:
        """Wire *host* to *router*, at once or some time away, and return the host's link."""
        if self._delays is None:
            return self._lab.wire(host, theirs, router, ours).left_link
        return self._delays.wire(router, ours, host, theirs, delay_s=self._far_s())

    def _announce(self, at: int, version: int, prefix: str, via: str) -> None:
        """Tell every router the way to *prefix*, which is at *via* beside the router *at*."""
        for number, router in enumerate(self.routers):
            if number == at:
                gateway = via
            else:
                wire, end = (number, 2) if number < at else (number - 1, 1)
                gateway = self._between(wire, end)[version == 6].partition("/")[0]
            router.route(prefix, via=gateway)

    def place(self, name: str) -> tuple[Host, Uplink]:
        """Add a host with public addresses of both IP versions, at ONE or TWO in turn."""
        host = self._lab.host(name)
        return host, self.join(host, at=ONE + self._count % 2)
