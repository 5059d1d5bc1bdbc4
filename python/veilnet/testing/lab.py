"""A network of namespaces on one machine: hosts, routers, veth pairs; no root, no `ip`, no `nft`.

```
with Lab() as lab:                              # inside enter() or command()
    left, router, right = lab.host("left"), lab.router("router"), lab.host("right")
    lab.wire(left, "10.0.1.2/24", router, "10.0.1.1/24")
    lab.wire(router, "10.0.2.1/24", right, "10.0.2.2/24")
    left.route("default", via="10.0.1.1")
    right.route("default", via="10.0.2.1")
    left.run(["ping", "-c1", "10.0.2.2"])
```

Each host is a network namespace held by a file descriptor and by one thread that lives in it: what
that thread starts or opens (processes, netlink and packet sockets) belongs to the namespace.  All
hosts share the mount namespace, so that processes meet in the same files.

`Lab.close` ends every process that lives in one of its namespaces, however it was daemonised.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar

from veilnet.errors import ClosedError, PrivilegeError, UsageError
from veilnet.testing import _launch
from veilnet.testing.entry import inside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from veilnet.testing.capture import Capture

P = ParamSpec("P")
T = TypeVar("T")

_IFA_F_NODAD = 0x02  # an address may be used at once: nobody else is in the lab to collide with
_GRACE_S = 3.0


class Host:
    """One network namespace of a lab; made by `Lab.host`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._closed = False
        self._links = 0
        self._netlink: Any = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"lab-{name}")
        self.fd = self._thread.submit(self._settle).result()
        self.sysctl("net/ipv6/conf/all/disable_ipv6", "0")
        self.up("lo")

    def _settle(self) -> int:
        from pyroute2 import IPRoute  # a third of a second that `import veilnet` need not pay

        _launch.unshare(_launch.CLONE_NEWNET)
        self._netlink = IPRoute()
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def __repr__(self) -> str:
        return f"<Host {self.name}{' closed' if self._closed else ''}>"

    def call(self, act: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run *act* in the namespace's thread and return what it returned.

        One call at a time: never wait in *act* for another call to this host.
        Raises: what *act* raises; ClosedError: the lab was closed.
        """
        if self._closed:
            raise ClosedError(f"The lab of host {self.name} is closed.", hint="Make a new Lab.")
        return self._thread.submit(act, *args, **kwargs).result()

    # -- processes ---------------------------------------------------------------------------

    def popen(
        self,
        argv: Sequence[str],
        **options: Any,  # noqa: ANN401 - Popen's
    ) -> subprocess.Popen[Any]:
        """Start *argv* here, in a session of its own; otherwise as `subprocess.Popen` does."""
        options.setdefault("start_new_session", True)
        options.setdefault("stdin", subprocess.DEVNULL)
        return self.call(lambda: subprocess.Popen(list(argv), **options))

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float = 30.0,
        check: bool = True,
        input: str | None = None,  # noqa: A002 - the name that subprocess.run taught everybody
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run *argv* to its end and return its output as text.

        Raises: subprocess.CalledProcessError: it failed and *check* is set, with its stderr as a
        note; subprocess.TimeoutExpired: it was killed after *timeout_s* seconds.
        """
        process: subprocess.Popen[str] = self.popen(
            argv,
            stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=None if env is None else dict(env),
        )
        try:
            out, err = process.communicate(input, timeout=timeout_s)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise
        if check and process.returncode != 0:
            error = subprocess.CalledProcessError(process.returncode, list(argv), out, err)
            error.add_note(f"stderr: {err.strip()}")
            raise error
        return subprocess.CompletedProcess(list(argv), process.returncode, out, err)

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """Open a socket of this namespace; usable from any thread."""
        return self.call(socket.socket, family, kind, protocol)

    # -- links, addresses, routes ------------------------------------------------------------

    def netlink(self, name: str, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - pyroute2's
        """Call pyroute2's `IPRoute.name` here, for what this class has no method of its own."""
        return self.call(getattr(self._netlink, name), *arguments, **options)

    def index(self, link: str) -> int:
        """Return the index of *link*.  Raises: UsageError: there is none of that name."""
        found = self.netlink("link_lookup", ifname=link)
        if not found:
            raise UsageError(f"Host {self.name} has no link {link}.", hint="See Host.links().")
        return int(found[0])

    def links(self) -> list[str]:
        """Return the names of all links here."""
        return [link.get("ifname") for link in self.call(lambda: list(self._netlink.get_links()))]

    def next_link(self) -> str:
        """Return the name that the next veth end here gets: eth0, eth1, ..."""
        name = f"eth{self._links}"
        self._links += 1
        return name

    def up(self, link: str) -> None:
        """Set *link* up."""
        self.netlink("link", "set", index=self.index(link), state="up")

    def down(self, link: str) -> None:
        """Set *link* down; its peer loses its carrier."""
        self.netlink("link", "set", index=self.index(link), state="down")

    def mtu(self, link: str, mtu_bytes: int) -> None:
        """Set the MTU of *link*."""
        self.netlink("link", "set", index=self.index(link), mtu=mtu_bytes)

    def delete_link(self, link: str) -> None:
        """Delete *link*, and with it the other end of its veth pair."""
        self.netlink("link", "del", index=self.index(link))

    def address(self, link: str, address: str) -> None:
        """Give *link* an *address* written with its prefix length, usable at once."""
        text, _, length = address.partition("/")
        extra = {"IFA_FLAGS": _IFA_F_NODAD} if ":" in text else {}
        self.netlink(
            "addr",
            "add",
            index=self.index(link),
            address=text,
            prefixlen=int(length),
            **extra,
        )

    def route(self, to: str, *, via: str | None = None, link: str | None = None) -> None:
        """Route *to* (a prefix or ``default``) by a gateway, a link or both."""
        wanted: dict[str, Any] = {"dst": to}
        if via is not None:
            wanted["gateway"] = via
        if link is not None:
            wanted["oif"] = self.index(link)
        if ":" in f"{to}{via}":
            wanted["family"] = 10
        self.netlink("route", "replace", **wanted)

    def sysctl(self, name: str, value: str | None = None) -> str:
        """Return the sysctl *name* (slashes, as under /proc/sys), after setting it to *value*."""

        def access() -> str:
            file = Path("/proc/sys") / name
            if value is not None:
                file.write_text(value)
            return file.read_text().strip()

        return self.call(access)

    def forward(self) -> None:
        """Forward packets between the links: be a router."""
        self.sysctl("net/ipv4/ip_forward", "1")
        self.sysctl("net/ipv6/conf/all/forwarding", "1")

    def offload(self, link: str, **features: bool) -> None:
        """Switch offloads of *link*, named as `ethtool -k` does with _ for -.

        Raises: UsageError: the link has no such feature or does not let it be changed.
        """

        def switch() -> list[str]:
            from pyroute2.ethtool.ioctl import IoctlEthtool

            handle = IoctlEthtool(link)
            try:
                known = handle.get_features()
                for name, on in features.items():
                    known[name.replace("_", "-")] = on
                handle.set_features(known)
                now = handle.get_features()
                return [n for n, on in features.items() if now[n.replace("_", "-")] != on]
            finally:
                handle.close()

        if stuck := self.call(switch):
            raise UsageError(f"{self.name}/{link} did not switch {stuck}.", hint="Try ethtool -k.")

    # -- looking and filtering ---------------------------------------------------------------

    def capture(self, link: str, *, needle: bytes | None = None) -> Capture:
        """Capture the packets of *link*; see `veilnet.testing.capture.Capture`."""
        from veilnet.testing.capture import Capture

        return Capture(self, link, needle=needle)

    def nft(self, ruleset: str) -> None:
        """Load nftables rules here; see `veilnet.testing.nft` for ready ones.

        Raises: FileNotFoundError: the program nft is not installed.
        """
        self.run(["nft", "-f", "-"], input=ruleset)

    def processes(self) -> Iterator[int]:
        """Yield the pid of every process that lives here, ours excepted."""
        mine = os.fstat(self.fd).st_ino
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    if (entry / "ns/net").stat().st_ino == mine:
                        yield int(entry.name)

    def _close(self) -> None:
        if self._netlink is not None:
            self.call(self._netlink.close)
        self._closed = True
        self._thread.shutdown()
        os.close(self.fd)


class Wire:
    """A veth pair between two hosts; made by `Lab.wire`."""

    def __init__(self, left: Host, left_link: str, right: Host, right_link: str) -> None:
        self.left, self.left_link = left, left_link
        self.right, self.right_link = right, right_link

    def __repr__(self) -> str:
        ends = f"{self.left.name}/{self.left_link} -- {self.right.name}/{self.right_link}"
        return f"<Wire {ends}>"

    def cut(self) -> None:
        """Set both ends down: nothing passes and both hosts see it."""
        self.left.down(self.left_link)
        self.right.down(self.right_link)

    def mend(self) -> None:
        """Set both ends up again; routes by a gateway must be added anew."""
        self.left.up(self.left_link)
        self.right.up(self.right_link)


class Lab:
    """Hosts and the wires between them, all gone when the lab is closed.

    Raises: PrivilegeError: this program is not inside `veilnet.testing.enter`.
    """

    def __init__(self) -> None:
        if not inside():
            raise PrivilegeError(
                "A lab needs namespaces, and this program is in none of its own.",
                hint="Call veilnet.testing.enter() first, or start it by testing.command().",
            )
        self.hosts: dict[str, Host] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Lab {' '.join(self.hosts) or 'empty'}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def host(self, name: str) -> Host:
        """Add a host; it has only ``lo``."""
        if name in self.hosts:
            raise UsageError(f"The lab has a host {name} already.", hint="Give it another name.")
        self.hosts[name] = host = Host(name)
        return host

    def router(self, name: str) -> Host:
        """Add a host that forwards packets between its links."""
        host = self.host(name)
        host.forward()
        return host

    def wire(
        self,
        left: Host,
        left_addresses: str | Sequence[str],
        right: Host,
        right_addresses: str | Sequence[str],
        *,
        mtu_bytes: int = 1500,
    ) -> Wire:
        """Join two hosts by a veth pair and give each end its addresses (with prefix lengths)."""
        wire = Wire(left, left.next_link(), right, right.next_link())
        left.netlink(
            "link",
            "add",
            ifname=wire.left_link,
            kind="veth",
            mtu=mtu_bytes,
            peer={"ifname": wire.right_link, "net_ns_fd": right.fd, "mtu": mtu_bytes},
        )
        ends = ((left, wire.left_link, left_addresses), (right, wire.right_link, right_addresses))
        for host, link, addresses in ends:
            host.sysctl(f"net/ipv6/conf/{link}/accept_dad", "0")
            host.up(link)
            for address in [addresses] if isinstance(addresses, str) else addresses:
                host.address(link, address)
        return wire

    def remove(self, *hosts: Host) -> None:
        """End every process that lives in *hosts* and drop them, with the wires that end there."""
        with self._lock:
            found = [self.hosts.pop(host.name) for host in hosts if host.name in self.hosts]
        _end([pid for host in found for pid in host.processes()])
        for host in found:
            # A device that another process holds would keep the whole namespace.
            for link in host.links():
                if link != "lo":
                    with contextlib.suppress(UsageError):  # gone with its other end
                        host.delete_link(link)
        _drop(found)

    def close(self) -> None:
        """End every process that lives in the lab, then drop its namespaces; twice is harmless."""
        with self._lock:
            hosts, self.hosts = list(self.hosts.values()), {}
        _drop(hosts)


def _drop(hosts: list[Host]) -> None:
    _end([pid for host in hosts for pid in host.processes()])
    # A process may have forked while it was ended.
    for host in hosts:
        for pid in host.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    for host in hosts:
        host._close()  # noqa: SLF001


def _end(pids: list[int]) -> None:
    """Ask *pids* to end, and make those that do not."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE_S
    left = [pid for pid in pids if not _gone(pid)]
    while left and time.monotonic() < deadline:
        time.sleep(0.02)
        left = [pid for pid in left if not _gone(pid)]
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _gone(pid: int) -> bool:
    """Say whether *pid* has ended; a zombie that its Popen has not reaped yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
