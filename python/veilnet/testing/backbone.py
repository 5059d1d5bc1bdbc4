"""Hosts around one router, where single ways can be cut, made lossy, slow or narrow, and mended.

```
 a 10.1.1.2 ---- 10.1.1.1 +----------+ 10.1.2.1 ---- 10.1.2.2 b
                          |  router  |
 r 10.1.3.2 ---- 10.1.3.1 +----------+          every host in a /24 of its own
```
What is cut is cut silently, as a firewall or a dead router would: nobody's link goes down and no
ICMP says so.  Cutting needs no `nft`: the router has a routing rule that swallows the packets.
Losing and throttling see packets as the router does: `attach` switches segmentation offload off,
so that one packet is one datagram.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from veilnet.errors import UsageError

if TYPE_CHECKING:
    from veilnet.testing.delay import Delays
    from veilnet.testing.lab import Host, Lab

_BLACKHOLE = "FR_ACT_BLACKHOLE"
_RULE_PRIORITY = 100
_ROOT = 0xFFFF_FFFF  # TC_H_ROOT: the qdisc of the link itself
_TABLE = "backbone"
_SEGMENTATION = ("tx_tcp_segmentation", "tx_tcp6_segmentation", "tx_udp_segmentation")
_TBF_LATENCY, _TBF_BURST_BYTES = "200ms", 16_000

Way = tuple[str, str]
"""Source and destination prefix."""


@attrs.frozen
class _Place:
    address: str
    link: str
    """The router's link towards it."""


class Backbone:
    """A router in *lab* and what is around it.

    *delays*, if given, lets `attach` put a host far away; see `veilnet.testing.delay`.
    """

    def __init__(self, lab: Lab, name: str = "router", *, delays: Delays | None = None) -> None:
        self._lab = lab
        self._delays = delays
        self.router = lab.router(name)
        self._places: dict[str, _Place] = {}
        self._counts: dict[int, int] = {}
        self._cut: set[Way] = set()
        self._rules: dict[tuple[str, Way], str] = {}

    def __repr__(self) -> str:
        return f"<Backbone {' '.join(self._places)} cut={len(self._cut)}>"

    def attach(
        self,
        host: Host,
        *,
        zone: int = 1,
        delay_s: float = 0.0,
        mtu_bytes: int = 1500,
        super_packets: bool = False,
    ) -> str:
        """Wire *host* to the router and return its address, 10.*zone*.N.2.

        With *super_packets* the wire carries what offloads make, which is fast; otherwise one
        datagram each.  With *delay_s* every packet takes that much longer, each way.
        Raises: UsageError: a delay, and no delays were given to this backbone.
        """
        self._counts[zone] = number = self._counts.get(zone, 0) + 1
        net = f"10.{zone}.{number}"
        if delay_s > 0:
            if self._delays is None:
                raise UsageError("This backbone has no delays.", hint="Backbone(lab, delays=...)")
            link = self._delays.wire(
                host,
                f"{net}.2/24",
                self.router,
                f"{net}.1/24",
                delay_s=delay_s,
                mtu_bytes=mtu_bytes,
                super_packets=super_packets,
            )
        else:
            wire = self._lab.wire(
                host, f"{net}.2/24", self.router, f"{net}.1/24", mtu_bytes=mtu_bytes
            )
            link = wire.right_link
            if not super_packets:
                off = dict.fromkeys(_SEGMENTATION, False)
                host.offload(wire.left_link, **off)
                self.router.offload(link, **off)
        host.route("default", via=f"{net}.1")
        self._places[host.name] = _Place(f"{net}.2", link)
        return f"{net}.2"

    def address(self, host: Host) -> str:
        """Return the address that *host* was given."""
        return self._places[host.name].address

    def link(self, host: Host) -> str:
        """Return the router's link towards *host*: a tap there sees all that it says and hears."""
        return self._places[host.name].link

    # -- cutting ------------------------------------------------------------------------------

    def part(self, one: Host, other: Host) -> None:
        """Let nothing pass between two hosts any more."""
        self._swallow(self._ways(one, other))

    def join(self, one: Host, other: Host) -> None:
        """Undo `part`."""
        self._release(self._ways(one, other))

    def isolate(self, host: Host) -> None:
        """Let nothing pass from or to *host* any more: a partition."""
        self._swallow(self._ways(host, None))

    def readmit(self, host: Host) -> None:
        """Undo `isolate`."""
        self._release(self._ways(host, None))

    def part_zones(self, one: int, other: int) -> None:
        """Let nothing pass between the hosts of two zones, or among those of one."""
        here, there = f"10.{one}.0.0/16", f"10.{other}.0.0/16"
        self._swallow([(here, there), (there, here)])

    def _ways(self, one: Host, other: Host | None) -> list[Way]:
        here = f"{self.address(one)}/32"
        there = "0.0.0.0/0" if other is None else f"{self.address(other)}/32"
        return [(here, there), (there, here)]

    def _swallow(self, ways: list[Way]) -> None:
        for way in ways:
            if way not in self._cut:
                self._rule("add", way)
                self._cut.add(way)

    def _release(self, ways: list[Way]) -> None:
        for way in ways:
            if way in self._cut:
                self._rule("del", way)
                self._cut.remove(way)

    def _rule(self, do: str, way: Way) -> None:
        wanted: dict[str, Any] = {"priority": _RULE_PRIORITY, "action": _BLACKHOLE, "family": 2}
        for name, prefix in zip(("src", "dst"), way, strict=True):
            address, _, length = prefix.partition("/")
            if length != "0":
                wanted |= {name: address, f"{name}_len": int(length)}
        self.router.netlink("rule", do, **wanted)

    # -- spoiling -----------------------------------------------------------------------------

    def lose(self, fraction: float, one: Host, other: Host | None = None) -> None:
        """Lose *fraction* of what passes towards *one*, or both ways between it and *other*.

        Whatever takes its way over a relay *one* passes towards it once.
        """
        share = round(fraction * 100_000)
        self._spoil("lose", f"numgen random mod 100000 < {share} drop", one, other)

    def police(self, rate_bps: float, one: Host, other: Host | None = None) -> None:
        """Drop what is over *rate_bps* towards *one*, or each way between it and *other*.

        Without a queue, as a provider's policer does.
        """
        text = f"limit rate over {max(1, round(rate_bps / 8))} bytes/second burst 16000 bytes drop"
        self._spoil("police", text, one, other)

    def mend(self, one: Host, other: Host | None = None) -> None:
        """Undo `lose` and `police`, called with the same hosts."""
        for way in self._spoilt(one, other):
            for what in ("lose", "police"):
                self._rules.pop((what, way), None)
        self._load()

    def _spoilt(self, one: Host, other: Host | None) -> list[Way]:
        # `_ways` ends with the way towards *one*.
        ways = self._ways(one, other)
        return ways[-1:] if other is None else ways

    def _spoil(self, what: str, rule: str, one: Host, other: Host | None) -> None:
        for source, destination in self._spoilt(one, other):
            match = f"ip saddr {source} ip daddr {destination}"
            self._rules[what, (source, destination)] = f"{match} {rule}"
        self._load()

    def _load(self) -> None:
        lines = "\n".join(self._rules.values())
        self.router.nft(
            f"table ip {_TABLE} {{\n}}\ndelete table ip {_TABLE}\ntable ip {_TABLE} {{\n"
            f"chain pass {{ type filter hook forward priority filter; policy accept;\n{lines}\n}}\n"
            "}\n"
        )

    def narrow(self, host: Host, rate_bps: float) -> None:
        """Let no more than *rate_bps* pass towards *host*; what is over waits up to 200 ms."""
        self.router.netlink(
            "tc",
            "replace",
            "tbf",
            index=self.router.index(self.link(host)),
            rate=f"{round(rate_bps)}bit",
            latency=_TBF_LATENCY,
            burst=_TBF_BURST_BYTES,
        )

    def passed_bytes(self, host: Host) -> int:
        """Return what has passed towards *host* so far, headers of all layers included."""
        (link,) = self.router.netlink("link", "get", index=self.router.index(self.link(host)))
        return int(link.get("stats64")["tx_bytes"])

    def widen(self, host: Host) -> None:
        """Undo `narrow`."""
        self.router.netlink("tc", "del", index=self.router.index(self.link(host)), parent=_ROOT)
