"""Where this host can be reached, and from where it calls; which addresses a stranger can see.

Blocks (netlink, DNS): call with `trio.to_thread.run_sync`.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import TYPE_CHECKING, Final

from pyroute2 import IPRoute, NetlinkError

from veilnet.config import parse_endpoint
from veilnet.errors import ConfigError
from veilnet.networks.endpoint import Endpoint

if TYPE_CHECKING:
    from collections.abc import Iterable
    from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

_SHARED: Final = ipaddress.ip_network("100.64.0.0/10")
_SOMEWHERE: Final = {4: "198.41.0.4", 6: "2001:503:ba3e::2:30"}  # a root server, never sent to
_TEMPORARY, _UNUSABLE = 0x01, 0x20 | 0x40 | 0x08  # IFA_F_DEPRECATED, _TENTATIVE, _DADFAILED


def local_endpoints(
    port: int, *, overlay: Iterable[IPv4Network | IPv6Network], tun: str | None
) -> list[Endpoint]:
    """Return the addresses of this host with *port*: public ones first, loopback if all else fails.

    An overlay's addresses, ours or another VeilNet's, are never an underlay.
    """
    prefixes = list(overlay)
    found: list[Endpoint] = []
    loopback: list[Endpoint] = []
    with IPRoute() as route:
        names = {link["index"]: link.get_attr("IFLA_IFNAME") for link in route.get_links()}
        for message in route.get_addr():
            flags = message.get_attr("IFA_FLAGS") or message["flags"]
            text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
            if (
                text is None
                or flags & (_TEMPORARY | _UNUSABLE)
                or names.get(message["index"]) in {tun, None}
            ):
                continue
            address = ipaddress.ip_address(text)
            if address.is_link_local or any(address in prefix for prefix in prefixes):
                continue
            (loopback if address.is_loopback else found).append(Endpoint.of(text, port))
    found.sort(key=_rank)
    return found or loopback


def ways_out() -> tuple[str | None, str | None]:
    """Return the addresses that this host calls the Internet from, IPv4 and IPv6.

    None: no way leads there.  Nothing is sent: the kernel only says by which route it would go.
    """
    return _source(socket.AF_INET, _SOMEWHERE[4]), _source(socket.AF_INET6, _SOMEWHERE[6])


def leading_out(addresses: Iterable[str]) -> list[IPv4Address | IPv6Address]:
    """Return those of this host's *addresses* whose packets leave by the link that has them.

    So it is where policy routing sees to it, and where there is one link.
    """
    with IPRoute() as route:
        links = {
            message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS"): message["index"]
            for message in route.get_addr()
        }
        found = []
        for address in map(ipaddress.ip_address, addresses):
            to = _SOMEWHERE[address.version]
            try:
                (way, *_) = route.route("get", dst=to, src=str(address))
            except NetlinkError:
                continue  # the address has gone, or no way leads out from it
            if way.get_attr("RTA_OIF") == links.get(str(address)):
                found.append(address)
    return found


def _source(family: socket.AddressFamily, host: str) -> str | None:
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as asked:
            asked.connect((host, 9))
            return str(asked.getsockname()[0])
    except OSError:
        return None


def _rank(endpoint: Endpoint) -> tuple[bool, bool]:
    # IPv4 before IPv6 within each: it is more often what a firewall lets pass.
    return (not is_reachable(endpoint), ":" in endpoint.host)


def is_reachable(endpoint: Endpoint) -> bool:
    """Whether a stranger somewhere in the Internet can send to the address at all."""
    address = ipaddress.ip_address(endpoint.host)
    return address.is_global and address not in _SHARED


def resolve(texts: Iterable[str]) -> list[Endpoint]:
    """Return the literal endpoints of the operator's HOST:PORT words.

    Raises: ConfigError: a name that does not resolve.
    """
    found: list[Endpoint] = []
    for text in texts:
        host, port = parse_endpoint(text)
        try:
            answers = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        except OSError as error:
            raise ConfigError(
                f"the endpoint {text} does not resolve: {error.strerror or error}",
                hint="Give an address, or check the name.",
            ) from error
        for answer in answers:
            endpoint = Endpoint.of(str(answer[4][0]), port, blame=ConfigError)
            if endpoint not in found:
                found.append(endpoint)
    return found
