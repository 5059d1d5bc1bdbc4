"""The TUN device's netlink side: addresses, routes, MTU, offload sizes.

Every function here blocks, and pyroute2 runs an event loop of its own inside: call them with
`trio.to_thread.run_sync`.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from veilnet.errors import PrivilegeError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

GSO_MAX_BYTES: Final = 61_440
"""So that a whole super-packet fits one send; the kernel uses it for IPv4 too, below 64 KB."""

GSO_MAX_SEGMENTS: Final = 63
QUEUE_PACKETS: Final = 1000
_FIB_MAIN_TABLES: Final = {254, 255, 0}


@attrs.frozen
class Overlap:
    """A route of the host that covers addresses of a network of ours."""

    wanted: str
    route: str
    device: str

    def __str__(self) -> str:
        return f"{self.wanted} overlaps the host's route {self.route} on {self.device}"


def free_name(wanted: str) -> str:
    """Return *wanted*, or the same name with the next number that no interface has."""
    # Not /sys/class/net: that shows the namespace in which sysfs was mounted.
    taken = {name for _, name in socket.if_nameindex()}
    stem = wanted.rstrip("0123456789") or wanted
    if wanted not in taken:
        return wanted
    return next(name for n in range(4096) if (name := f"{stem[:11]}{n}") not in taken)


@contextlib.contextmanager
def _netlink(what: str) -> Iterator[IPRoute]:
    try:
        with IPRoute() as route:
            yield route
    except (NetlinkError, PermissionError) as error:
        code = getattr(error, "code", None) or getattr(error, "errno", None)
        if code in {errno.EPERM, errno.EACCES}:
            raise PrivilegeError(
                f"the system does not let this user {what}",
                hint="Use sudo, or start without a TUN device: veilnet up --no-tun",
            ) from error
        raise


def _index(route: IPRoute, name: str) -> int:
    found = list(route.link_lookup(ifname=name))
    if not found:
        raise OSError(errno.ENODEV, f"the device {name} is gone")
    return int(found[0])


def bring_up(name: str, *, mtu_bytes: int) -> None:
    """Set MTU, offload sizes and queue of the device *name*, and bring it up.

    Raises: PrivilegeError.
    """
    with _netlink(f"configure the device {name}") as route:
        index = _index(route, name)
        route.link("set", index=index, mtu=mtu_bytes, txqlen=QUEUE_PACKETS)
        # An old kernel may not know these; then super-packets are only smaller or larger.
        with contextlib.suppress(NetlinkError):
            route.link(
                "set", index=index, gso_max_size=GSO_MAX_BYTES, gso_max_segs=GSO_MAX_SEGMENTS
            )
        # No link-local address: nobody answers on it, and its router solicitations would leak out.
        with contextlib.suppress(OSError):
            Path(f"/proc/sys/net/ipv6/conf/{name}/addr_gen_mode").write_text("1", "ascii")
        route.link("set", index=index, state="up")


def _routes(route: IPRoute, family: int) -> Iterator[tuple[IPv4Network | IPv6Network, int]]:
    for message in route.get_routes(family=family):
        destination, length = message.get_attr("RTA_DST"), message["dst_len"]
        index = message.get_attr("RTA_OIF")
        if destination is None or not length or message["table"] not in _FIB_MAIN_TABLES:
            continue  # a default route covers everything and means nothing here
        yield ipaddress.ip_network((destination, length), strict=False), int(index or 0)


def overlap(prefix: IPv4Network | IPv6Network, *, device: str) -> Overlap | None:
    """Return a route of the host, on another device than ours, that overlaps *prefix*."""
    family = 2 if prefix.version == 4 else 10
    with _netlink("read the routes") as route:
        ours = _index(route, device)
        for found, index in _routes(route, family):
            if index == ours or not _overlaps(prefix, found):
                continue
            links: list[Any] = list(route.get_links(index)) if index else []
            name = links[0].get_attr("IFLA_IFNAME") if links else "another device"
            return Overlap(str(prefix), str(found), str(name))
    return None


def _overlaps(one: IPv4Network | IPv6Network, other: IPv4Network | IPv6Network) -> bool:
    # Host routes of a wider table (fe80::/64, ::1) never lie in fd00::/8 or 100.64.0.0/10.
    return one.version == other.version and (
        one.network_address in other or other.network_address in one
    )


def add_address(
    name: str, address: IPv4Address | IPv6Address, prefix: IPv4Network | IPv6Network
) -> None:
    """Give the device *address*, and with it the on-link route to *prefix*.

    Raises: PrivilegeError; OSError: the kernel refused (IPv6 may be switched off).
    """
    with _netlink(f"give the device {name} an address") as route:
        try:
            # IFA_F_NODAD: nobody else can have an address that is a hash of our key.
            more = {"flags": 0x02} if address.version == 6 else {}
            route.addr(
                "add",
                index=_index(route, name),
                address=str(address),
                prefixlen=prefix.prefixlen,
                **more,
            )
        except NetlinkError as error:
            if error.code == errno.EEXIST:
                return
            if address.version == 6 and _ipv6_is_off(name):
                raise OSError(errno.EADDRNOTAVAIL, "this host has IPv6 switched off") from error
            if error.code in {errno.EPERM, errno.EACCES}:
                raise
            raise OSError(error.code, f"{address} was refused: {error}") from error


def _ipv6_is_off(name: str) -> bool:
    try:
        text = Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").read_text("ascii")
    except OSError:
        return True
    return text.strip() != "0"


def remove_address(
    name: str, address: IPv4Address | IPv6Address, prefix: IPv4Network | IPv6Network
) -> None:
    """Take *address* and its route away again; nothing happens if it is not there."""
    with _netlink(f"change the device {name}") as route, contextlib.suppress(NetlinkError):
        route.addr(
            "del", index=_index(route, name), address=str(address), prefixlen=prefix.prefixlen
        )
