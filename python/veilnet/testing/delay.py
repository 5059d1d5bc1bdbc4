"""Wires that take time: a TUN device at each end, and one process that carries what they say.

```
Delays = Lab + process       host [eth0 tun] --> queue, delay_s --> [eth1 tun] router
                                             <-- queue, delay_s <--
```
Many kernels lack netem, and it wants `tc`; this wants neither.  With *super_packets* the devices
hand over what the kernel glued, header and all, so that some Gbit/s pass in spite of Python.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
from typing import TYPE_CHECKING, Self

from veilnet.errors import InternalError
from veilnet.testing import _delay

if TYPE_CHECKING:
    from collections.abc import Sequence

    from veilnet.testing.lab import Host

_TUNSETIFF, _TUNSETOFFLOAD = 0x400454CA, 0x400454D0
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
_TUN_F_CSUM_TSO, _TUN_F_USO = 0x07, 0x60
_QUEUE_PACKETS = 1000


class Delays:
    """Makes wires that delay; a context manager that ends the process carrying them."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", _delay.__file__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()
        self._control = ours

    def __repr__(self) -> str:
        return f"<Delays pid={self._process.pid}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wire(
        self,
        left: Host,
        left_addresses: str | Sequence[str],
        right: Host,
        right_addresses: str | Sequence[str],
        *,
        delay_s: float,
        mtu_bytes: int = 1500,
        super_packets: bool = False,
    ) -> str:
        """Join two hosts, *delay_s* apart each way, and return the name of *right*'s link.

        Raises: InternalError: the carrying process has died.
        """
        ends = []
        for host, addresses in ((left, left_addresses), (right, right_addresses)):
            link = host.next_link()
            ends.append((link, host.call(_device, link, super_packets)))
            host.netlink("link", "set", index=host.index(link), txqlen=_QUEUE_PACKETS)
            host.mtu(link, mtu_bytes)
            host.up(link)
            for address in [addresses] if isinstance(addresses, str) else addresses:
                host.address(link, address)
        handles = [handle for _, handle in ends]
        try:
            socket.send_fds(self._control, [json.dumps(delay_s).encode()], handles)
            said = self._control.recv(1)
        except OSError as error:
            raise InternalError("the process that carries delayed packets has died") from error
        finally:
            for handle in handles:
                os.close(handle)
        if said != b"k":
            raise InternalError("the process that carries delayed packets has died")
        return ends[1][0]

    def close(self) -> None:
        """End the process; the wires are dead then.  Twice is harmless."""
        self._control.close()
        self._process.kill()
        self._process.wait()


def _device(name: str, super_packets: bool) -> int:  # noqa: FBT001 - called through Host.call
    handle = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    flags = _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR
    fcntl.ioctl(handle, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    wanted = [_TUN_F_CSUM_TSO | _TUN_F_USO, _TUN_F_CSUM_TSO] if super_packets else [0]
    for features in wanted:
        try:
            fcntl.ioctl(handle, _TUNSETOFFLOAD, features)
        except OSError:
            continue  # before 6.2 there is no USO
        break
    return handle
