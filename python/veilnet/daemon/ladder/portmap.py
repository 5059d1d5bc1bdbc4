"""A port of the gateway that leads to this node: asked for, renewed at half its life, given back.

```
default route over IPv4 --> gateway --PCP, NAT-PMP--> else --UPnP--> mapping
        mapped = public endpoint      renew at 1/2, 3/4, 7/8 ... of its life      remove at the end
```
Off the data path: the libraries' calls block in worker threads.  A mapping opens one UDP port of
the gateway to everybody, to the port on which strangers meet silence anyway.
Source: RFC 6886, RFC 6887 section 11.2.1 (renewal), UPnP IGD 1 and 2.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import structlog
import trio
from attrs import frozen
from pyroute2 import IPRoute

from veilnet.daemon.ladder.threads import InThread, in_thread
from veilnet.daemon.underlay import is_reachable
from veilnet.errors import ConfigError, RemoteProtocolError, VeilError
from veilnet.networks.endpoint import Endpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from veilnet.daemon.ladder.ladder import Rung

    T = TypeVar("T")

LIFE_S: Final = 7_200
ASK_S: Final = 5.0
"""How long one protocol may take to find a gateway and to be asked."""
REMOVE_S: Final = 2.0
AGAIN_S: Final = 900.0
"""A gateway that gave nothing is asked again after this, or when the links change."""
LEAST_RENEWAL_S: Final = 10.0
PERMANENT_RENEWAL_S: Final = 3_600.0
"""A mapping without an end is asked for again so often: its gateway may have forgotten it."""

_HOUSES: Final = tuple(
    ipaddress.ip_network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")
)
"""What a NAT in front of the gateway would give it."""

log = structlog.get_logger("veilnet.ladder.portmap")


class Mapping(Protocol):
    """As much of `_engine.PortMapping` as is used; `renew` and `remove` block."""

    @property
    def external(self) -> tuple[str, int]:
        """Address and port outside."""

    @property
    def life_s(self) -> int:
        """How long it holds; 0: until it is removed."""

    @property
    def protocol(self) -> str:
        """How it was asked for."""

    def renew(self) -> None:
        """Ask for it again."""

    def remove(self) -> None:
        """Give it back."""


@frozen
class Gateway:
    """The way out: the default gateway's address, and ours on its link."""

    address: str
    client: str


def default_gateway(tun: str | None) -> Gateway | None:
    """Return the IPv4 gateway of the default route with the least metric; blocks on netlink."""
    with IPRoute() as route:
        names = {link["index"]: link.get_attr("IFLA_IFNAME") for link in route.get_links()}
        found = []
        for item in route.get_default_routes(family=socket.AF_INET):
            address, link = item.get_attr("RTA_GATEWAY"), item.get_attr("RTA_OIF")
            if address is not None and names.get(link) != tun:
                found.append((item.get_attr("RTA_PRIORITY") or 0, address, link))
        if not found:
            return None
        _, address, link = min(found)
        (way,) = route.route("get", dst=address, oif=link)
        client = way.get_attr("RTA_PREFSRC")
    return None if client is None else Gateway(address, client)


def by_pcp(gateway: Gateway, port: int) -> Mapping:
    """Ask in PCP and NAT-PMP; blocks.   Raises: TimedOut, PeerRefused, ConfigError."""
    from veilnet import _engine

    return _engine.PortMapping.by_pcp(
        gateway.address, client=gateway.client, port=port, life_s=LIFE_S, timeout_s=ASK_S
    )


def by_upnp(gateway: Gateway, port: int) -> Mapping:
    """Ask in UPnP; blocks.   Raises: TimedOut, PeerRefused, ConfigError."""
    from veilnet import _engine

    return _engine.PortMapping.by_upnp(
        client=gateway.client, port=port, life_s=LIFE_S, timeout_s=ASK_S
    )


class PortMap:
    """The step: holds a mapping for as long as the node runs."""

    name: Final = "portmap"
    standing: Final = True
    limit_s: Final = float("inf")
    remedy: Final = "Switch UPnP, NAT-PMP or PCP on in the gateway; without it holes are punched."

    def __init__(
        self,
        *,
        port: int,
        tun: str | None = None,
        changed: Callable[[], None] = lambda: None,
        gateway: Callable[[str | None], Gateway | None] = default_gateway,
        ways: tuple[Callable[[Gateway, int], Mapping], ...] = (by_pcp, by_upnp),
        in_thread: InThread = in_thread,
    ) -> None:
        self._port, self._tun, self._changed = port, tun, changed
        self._gateway, self._ways, self._in_thread = gateway, ways, in_thread
        self._threads = trio.CapacityLimiter(1)
        self.mapped: Endpoint | None = None
        """Where strangers reach this node by the mapping; None: there is none."""
        self.protocol = ""

    async def climb(self, rung: Rung) -> None:
        """Ask, hold and renew, until cancelled.

        Cancellation: the mapping is given back within REMOVE_S, also one that was being asked for.
        """
        while True:
            gateway = await self._blocking(partial(self._gateway, self._tun))
            why = _needless(gateway)
            if gateway is None or why:
                rung.well(why)
                await rung.rest(AGAIN_S)
                continue
            mapping = await self._ask(rung, gateway)
            if mapping is None:
                await rung.rest(AGAIN_S)
                continue
            await self._hold(rung, gateway, mapping)

    async def _ask(self, rung: Rung, gateway: Gateway) -> Mapping | None:
        faults: list[VeilError] = []
        for way in self._ways:
            try:
                return await self._handed_over(way, gateway)
            except VeilError as error:
                faults.append(error)
        said = "; ".join(error.message for error in faults)
        # A refusal says more than the silence of a protocol that the gateway does not speak.
        told = next((error for error in faults if error.code != 5), faults[0])
        rung.fail(f"the gateway {gateway.address} gave no port: {said}", told.hint)
        return None

    async def _handed_over(
        self, way: Callable[[Gateway, int], Mapping], gateway: Gateway
    ) -> Mapping:
        """Return what *way* gives; cancelled, let it go back to the gateway all the same."""
        handover = _Handover()

        def ask() -> Mapping:
            mapping = way(gateway, self._port)
            if not handover.put(mapping):
                mapping.remove()
            return mapping

        try:
            return await self._blocking(ask)
        except trio.Cancelled:
            if (mapping := handover.give_up()) is not None:
                with trio.CancelScope(shield=True):
                    await self._give_back(mapping)
            raise

    async def _hold(self, rung: Rung, gateway: Gateway, mapping: Mapping) -> None:
        """Keep *mapping* until it is lost or the gateway is another one."""
        try:
            expires_s = self._take(rung, gateway, mapping)
            while True:
                left_s = expires_s - trio.current_time()
                pause_s = max(left_s / 2, LEAST_RENEWAL_S) if mapping.life_s else left_s
                changed = await rung.rest(pause_s)
                if changed and await self._blocking(partial(self._gateway, self._tun)) != gateway:
                    return
                try:
                    await self._blocking(mapping.renew)
                except VeilError as error:
                    log.info("mapping not renewed", reason=error.message)
                    if trio.current_time() + LEAST_RENEWAL_S >= expires_s:
                        rung.fail(f"the mapping was lost: {error.message}", error.hint)
                        return
                else:
                    expires_s = self._take(rung, gateway, mapping)
        finally:
            self._set(None, "")
            with trio.CancelScope(shield=True):
                await self._give_back(mapping)

    def _take(self, rung: Rung, gateway: Gateway, mapping: Mapping) -> float:
        """Note what *mapping* gives; return when it ends, or is to be asked for again.

        Raises: RemoteProtocolError: the gateway named no address of a node.
        """
        endpoint = Endpoint.of(*mapping.external, blame=RemoteProtocolError)
        self._set(endpoint, mapping.protocol)
        note = f"{endpoint} leads here, by {mapping.protocol} of {gateway.address}"
        if any(ipaddress.ip_address(endpoint.host) in house for house in _HOUSES):
            note += "; which is itself behind another NAT"
        rung.well(note)
        return trio.current_time() + (mapping.life_s or PERMANENT_RENEWAL_S)

    async def _give_back(self, mapping: Mapping) -> None:
        with trio.move_on_after(REMOVE_S):
            try:
                # Not behind a call that was called off and still runs.
                await self._in_thread(mapping.remove, None)
            except VeilError as error:
                log.info("mapping not removed", reason=error.message)

    def _set(self, endpoint: Endpoint | None, protocol: str) -> None:
        before, self.mapped, self.protocol = self.mapped, endpoint, protocol
        if before != endpoint:
            self._changed()

    async def _blocking(self, call: Callable[[], T]) -> T:
        return await self._in_thread(call, self._threads)


class _Handover:
    """A mapping on its way out of a worker thread for somebody who may have left."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left = False
        self._mapping: Mapping | None = None

    def put(self, mapping: Mapping) -> bool:
        """Leave *mapping* here; False: nobody will come for it."""
        with self._lock:
            self._mapping = mapping
            return not self._left

    def give_up(self) -> Mapping | None:
        """Leave; return the mapping if it is here already."""
        with self._lock:
            self._left = True
            return self._mapping


def _needless(gateway: Gateway | None) -> str:
    if gateway is None:
        return "not needed: no gateway over IPv4"
    if is_reachable(Endpoint.of(gateway.client, 1, blame=ConfigError)):
        return f"not needed: {gateway.client} is a public address"
    return ""
