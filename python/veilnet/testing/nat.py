"""Networks behind NAT routers of every kind that the Internet has, each made of nftables rules.

```
 host 192.168.1.2 --- 192.168.1.1 NAT 11.7.0.2 --- Internet           `Nat`
 host 192.168.1.2 --- 192.168.1.1 home 10.64.0.2 --- 10.64.0.1 carrier 11.7.0.2 --- ...   double
```
| kind | the port seen outside | who gets in at it |
|---|---|---|
| open | there is no NAT | everybody |
| full | the same for everybody | everybody, once it is open |
| address | the same | hosts that were sent to |
| port | the same | addresses and ports that were sent to |
| leaky | the same, until somebody knocked too early | the same |
| hairpin | the same | everybody, hosts behind the same router too |
| symmetric_random | another at random for every address and port sent to | only that one |
| symmetric_sequential | the next one for every address and port sent to | only that one |
| udp_blocked | no UDP but port 53 | nobody |
| double | as port, behind another of them | the same |
| ipv6_only | no IPv4; no NAT | addresses and ports that were sent to |

What is not written in a rule is Linux's: its NAT keeps a source port that nobody else has.
Source: RFC 4787 (the words), RFC 6092 (IPv6 firewalls).  nft 1.0.6 wants a newline before the brace
that closes a chain.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import socket
from typing import TYPE_CHECKING, Final

from veilnet.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from veilnet.testing.internet import Internet
    from veilnet.testing.lab import Host, Lab

KINDS: Final = (
    "open",
    "full",
    "address",
    "port",
    "symmetric_random",
    "symmetric_sequential",
    "leaky",
    "udp_blocked",
    "double",
    "hairpin",
    "ipv6_only",
)

_TABLE = "lab_nat"
_CARRIER_NET = "10.64.0"
_CLEAR = "".join(
    f"table {family} {_TABLE} {{\n}}\ndelete table {family} {_TABLE}\n" for family in ("ip", "ip6")
)
_MEMORY = "flags dynamic,timeout; timeout 300s; size 65536;"
_MAP = f"""
    map inside {{ type inet_service : ipv4_addr . inet_service; {_MEMORY}
    }}
    set met {{ type ipv4_addr . inet_service; {_MEMORY}
    }}
"""


def rules(kind: str, *, wan: str, address: str) -> str:
    """Return what makes a router one of *kind*, whose link *wan* has *address*; it replaces others.

    Raises: UsageError: there is no such kind, or it is none of a single router.
    """
    made = _RULES.get(kind)
    if made is None:
        raise UsageError(f"There is no NAT router of kind {kind}.", hint=f"One of {_RULES.keys()}.")
    return _CLEAR + made.replace("WAN", f'"{wan}"').replace("ADDRESS", address)


def _nat(parts: str, family: str = "ip") -> str:
    return f"table {family} {_TABLE} {{\n{parts}\n}}\n"


def _chain(name: str, hook: str, *lines: str) -> str:
    body = "\n        ".join((hook, *lines))
    return f"    chain {name} {{ {body}\n    }}\n"


def _post(*lines: str) -> str:
    return _chain("post", "type nat hook postrouting priority srcnat;", *lines)


def _pre(*lines: str) -> str:
    return _chain("pre", "type nat hook prerouting priority dstnat;", *lines)


def _pass(*lines: str) -> str:
    return _chain("pass", "type filter hook forward priority filter;", *lines)


# Linux remembers whoever knocks at a closed door, and gives the port that he named to nobody else
# afterwards: unless the knock is dropped before it is remembered.
_SELF = _chain("self", "type filter hook input priority filter;", "iifname WAN ct state new drop")
_NOBODY_NEW = _pass("iifname WAN ct state new drop")
_REMEMBER = "update @inside { udp sport timeout 300s : ip saddr . udp sport }"
_INWARDS = "dnat ip to udp dport map @inside"
_FULL_PRE = f"iifname WAN {_INWARDS}"
_FULL_POST = (f"oifname WAN {_REMEMBER}", "oifname WAN snat to ADDRESS")
# Without the map, "offset 50000" counts in the machine's order of bytes, where ports are in the
# network's: 256 apart.
_PORTS = ", ".join(f"{number} : {50_000 + number}" for number in range(1_000))
_SEQUENTIAL = (
    f"oifname WAN meta l4proto udp snat to ADDRESS : numgen inc mod 1000 map {{ {_PORTS} }}"
)
_MASQUERADE = "oifname WAN masquerade"

_PORT = _nat(_post(_MASQUERADE) + _NOBODY_NEW + _SELF)
_RULES: Final = {
    "open": "",
    "full": _nat(_MAP + _pre(_FULL_PRE) + _post(*_FULL_POST) + _SELF),
    "address": _nat(
        _MAP
        + _pre(_FULL_PRE)
        + _post(*_FULL_POST)
        + _pass(
            "oifname WAN update @met { ip daddr . udp sport timeout 300s }",
            "iifname WAN ct state established,related accept",
            "iifname WAN ip saddr . udp dport @met accept",
            "iifname WAN drop",
        )
        + _SELF
    ),
    "port": _PORT,
    "leaky": _nat(_post(_MASQUERADE) + _NOBODY_NEW),
    "symmetric_random": _nat(_post(f"{_MASQUERADE} random,fully-random") + _NOBODY_NEW + _SELF),
    "symmetric_sequential": _nat(_post(_SEQUENTIAL, _MASQUERADE) + _NOBODY_NEW + _SELF),
    "udp_blocked": _nat(
        _post(_MASQUERADE)
        + _pass(
            "iifname WAN ct state new drop",
            "udp dport 53 accept",
            "udp sport 53 accept",
            "meta l4proto udp drop",
        )
        + _SELF
    ),
    "hairpin": _nat(
        _MAP
        + _pre(_FULL_PRE, f"iifname != WAN ip daddr ADDRESS {_INWARDS}")
        + _post(
            *_FULL_POST,
            f"oifname != WAN ct original ip daddr ADDRESS {_REMEMBER}",
            "oifname != WAN ct original ip daddr ADDRESS snat to ADDRESS",
        )
        # Networks behind one router see no more of each other than the Internet does.
        + _pass(
            "iifname != WAN oifname != WAN ct status dnat accept",
            "iifname != WAN oifname != WAN drop",
        )
        + _chain("self", "type filter hook input priority filter;", "ct state new drop")
    ),
    "ipv6_only": _nat(
        _NOBODY_NEW
        + _chain(
            "self",
            "type filter hook input priority filter;",
            "meta l4proto ipv6-icmp accept",
            "iifname WAN ct state new drop",
        ),
        "ip6",
    ),
}


class Nat:
    """A network behind one router of *kind*, or two; its hosts come by `admit`."""

    def __init__(self, lab: Lab, internet: Internet, name: str, kind: str, *, at: int) -> None:
        if kind not in KINDS:
            raise UsageError(f"There is no NAT of kind {kind}.", hint=f"One of {', '.join(KINDS)}.")
        self.kind = kind
        self._lab = lab
        self._hosts = 0
        self.router = lab.router(name)
        self.routers = [self.router]
        version = 6 if kind == "ipv6_only" else 4
        if kind == "double":
            carrier = lab.router(f"{name}-carrier")
            self.routers.append(carrier)
            self.uplink = internet.join(carrier, at=at, version=version)
            wire = lab.wire(self.router, f"{_CARRIER_NET}.2/24", carrier, f"{_CARRIER_NET}.1/24")
            self.router.route("default", via=f"{_CARRIER_NET}.1")
            self._wans = [
                (wire.left_link, f"{_CARRIER_NET}.2"),
                (self.uplink.link, self.uplink.address4),
            ]
        else:
            self.uplink = internet.join(self.router, at=at, version=version)
            self._wans = [(self.uplink.link, self.uplink.address4)]
        self.enforce()

    def __repr__(self) -> str:
        return f"<Nat {self.kind} {self.address}>"

    @property
    def address(self) -> str:
        """The address under which others see what is behind it; of an open one, the router's."""
        return self.uplink.address6 if self.kind == "ipv6_only" else self.uplink.address4

    def enforce(self, kind: str = "") -> None:
        """Be of *kind* from now on; of its own, if none is named."""
        kind = kind or self.kind
        for router, (wan, address) in zip(self.routers, self._wans, strict=True):
            of_router = "port" if kind == "double" else kind
            router.nft(rules(of_router, wan=wan, address=address))

    def forget(self, other: Nat | None = None) -> None:
        """Let the routers forget every connection, as after a power cut; or those with *other*.

        The latter is what time does to two who never spoke: neither NAT has a hole for the other,
        while the flows that each keeps alive to third parties stay.
        """
        nets = () if other is None else other.nets
        for router in self.routers:
            forget_mappings(router, nets)
            _forget_met(router, nets)

    @property
    def nets(self) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
        """Where everybody outside sees what is behind it."""
        net4, net6 = self.uplink.net4, self.uplink.net6
        return ipaddress.IPv4Network(f"{net4}.0.0/16"), ipaddress.IPv6Network(f"{net6}::/32")

    def count(self, other: Nat) -> None:
        """Count from now on what leaves towards *other* in UDP, a super-packet as one."""
        leaving = f'oifname "{self.uplink.link}" meta l4proto udp'
        lines = [
            f"{leaving} {'ip' if net.version == 4 else 'ip6'} daddr {net} counter name towards"
            for net in other.nets
        ]
        chain = _chain("out", "type filter hook postrouting priority 300;", *lines)
        self.routers[-1].nft(
            f"table inet lab_count {{\n    counter towards {{\n    }}\n{chain}}}\n"
        )

    def counted(self) -> int:
        """Return how many datagrams were counted."""
        argv = ["nft", "-j", "list", "counter", "inet", "lab_count", "towards"]
        answer = json.loads(self.routers[-1].run(argv).stdout)
        return sum(
            int(item["counter"]["packets"]) for item in answer["nftables"] if "counter" in item
        )

    def admit(self, host: Host) -> str:
        """Wire *host* to it, in a subnet of its own, and return the host's address."""
        self._hosts += 1
        match self.kind:
            case "open":
                net, length = f"{self.uplink.net4}.{self._hosts}.", 24
            case "ipv6_only":
                net, length = f"{self.uplink.net6}:{self._hosts}::", 64
            case _:
                net, length = f"192.168.{self._hosts}.", 24
        self._lab.wire(host, f"{net}2/{length}", self.router, f"{net}1/{length}")
        host.route("default", via=f"{net}1")
        return f"{net}2"


def forget_mappings(
    router: Host, nets: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network] = ()
) -> None:
    """Let *router* forget the flows that it translates or lets pass; or those with *nets*."""

    def forget() -> None:
        from pyroute2 import NFCTSocket
        from pyroute2.netlink.exceptions import NetlinkError
        from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple

        if not nets:
            with NFCTSocket() as table:
                table.flush()
            return
        for family in (socket.AF_INET, socket.AF_INET6):
            with NFCTSocket(nfgen_family=family) as table:
                for flow in list(table.dump()):
                    ways = [
                        NFCTAttrTuple.from_netlink(family, flow.get_attr(name))
                        for name in ("CTA_TUPLE_ORIG", "CTA_TUPLE_REPLY")
                    ]
                    ends = [
                        ipaddress.ip_address(end) for way in ways for end in (way.saddr, way.daddr)
                    ]
                    if any(end in net for end in ends for net in nets):
                        with contextlib.suppress(NetlinkError):  # it ended meanwhile
                            table.entry("del", tuple_orig=ways[0])

    router.call(forget)


def _forget_met(
    router: Host, nets: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]
) -> None:
    """Let *router* forget whom its hosts sent to, if it remembers that; or those of *nets*."""
    listed = router.run(["nft", "-j", "list", "set", "ip", _TABLE, "met"], check=False)
    if listed.returncode != 0:
        return  # of a kind without that memory
    (found,) = (item["set"] for item in json.loads(listed.stdout)["nftables"] if "set" in item)
    ends = [element["elem"]["val"]["concat"] for element in found.get("elem", ())]
    gone = [
        f"{address} . {port}"
        for address, port in ends
        if not nets or any(ipaddress.ip_address(address) in net for net in nets)
    ]
    if gone:
        router.nft(f"delete element ip {_TABLE} met {{ {', '.join(gone)} }}\n")
