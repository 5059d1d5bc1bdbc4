"""What is compared: bare veth, wireguard-go, Nebula, VeilNet, all up between the same two hosts."""

from __future__ import annotations

import json
import os
import secrets
import select
import shutil
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from peers import Unavailable, program, version
from veilnet.errors import VeilError
from veilnet.testing import Node

if TYPE_CHECKING:
    from veilnet.testing import Host

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class System(ABC):
    """One way for packets to get from *left* to *right*."""

    name: ClassVar[str]

    def __init__(self, left: Host, right: Host, underlay: tuple[str, str], folder: Path) -> None:
        self.left, self.right = left, right
        self.underlay = underlay
        self.folder = folder / self.name
        self.folder.mkdir(parents=True)
        self.address = ""
        self.version = ""
        self._pids: list[int] = []

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.left.name} -> {self.address or 'not up'}>"

    @abstractmethod
    def start(self) -> None:
        """Bring both ends up and set *address*.  Raises: Unavailable."""

    def daemon(self, host: Host, argv: list[str]) -> None:
        """Start one end's program; its output goes to a log in *folder*."""
        with (self.folder / f"{host.name}.log").open("ab") as log:
            process = host.popen(argv, stdout=log, stderr=log)
        self._pids.append(process.pid)
        process.returncode = 0  # it lives as long as the lab, which ends it

    def cpu_s(self) -> float | None:
        """Return the CPU time that both ends have used so far, all threads, user and system."""
        if not self._pids:
            return None
        ticks = 0
        for pid in self._pids:
            fields = _proc(pid, "stat").rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / _TICKS_PER_S

    def rss_bytes(self) -> int | None:
        """Return the resident memory of both ends."""
        if not self._pids:
            return None
        total = 0
        for pid in self._pids:
            lines = dict(ln.split(":", 1) for ln in _proc(pid, "status").splitlines())
            total += int(lines["VmRSS"].split()[0]) * 1024
        return total

    def log_tail(self) -> str:
        """Return the last two lines that either end logged: an error of VeilNet's is two."""
        lines = [ln for log in self.folder.glob("*.log") for ln in log.read_text().splitlines()]
        return " ".join(lines[-2:]) or "no log"

    def wait_until_through(self, timeout_s: float = 20.0) -> None:
        """Wait until *left* reaches *right* through this system.  Raises: Unavailable."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            for pid in self._pids:
                if _proc(pid, "stat").rpartition(")")[2].split()[0] == "Z":
                    raise Unavailable(f"{self.name} ended: {self.log_tail()}")
            with self.left.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
                probe.settimeout(0.5)
                try:
                    probe.connect((self.address, 9))
                except ConnectionRefusedError:
                    return  # nobody listens on port 9, and the far end itself said so
                except OSError:
                    select.select([], [], [], 0.05)
        raise Unavailable(f"{self.name} let nothing through in {timeout_s} s: {self.log_tail()}")


def _proc(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except OSError as error:
        raise Unavailable(f"process {pid} is gone") from error


class Raw(System):
    """The underlay itself: what the kernel does without any tunnel."""

    name = "raw"

    def start(self) -> None:
        """Use the underlay's address."""
        self.address = self.underlay[1]
        self.version = os.uname().release
        self.wait_until_through()


class WireGuardGo(System):
    """wireguard-go, driven by its own socket protocol, so that `wg` is not needed."""

    name = "wireguard-go"

    def start(self) -> None:
        """Start both ends and tell each the other's key.  Raises: Unavailable."""
        binary = program("wireguard")
        self.version = version("wireguard")
        keys = [_x25519(), _x25519()]
        ends = (self.left, self.right)
        for mine, host in enumerate(ends):
            link = f"wg{host.name}{secrets.token_hex(2)}"
            self.daemon(host, [str(binary), "-f", link])
            theirs = 1 - mine
            wanted = (
                f"set=1\nprivate_key={keys[mine][0].hex()}\nlisten_port=51820\n"
                f"public_key={keys[theirs][1].hex()}\nendpoint={self.underlay[theirs]}:51820\n"
                f"replace_allowed_ips=true\nallowed_ip=10.78.0.{theirs + 1}/32\n\n"
            )
            answer = _uapi(Path(f"/var/run/wireguard/{link}.sock"), wanted)
            if "errno=0" not in answer:
                raise Unavailable(f"wireguard-go refused its configuration: {answer.strip()}")
            host.address(link, f"10.78.0.{mine + 1}/24")
            host.up(link)
        self.address = "10.78.0.2"
        self.wait_until_through()


def _x25519() -> tuple[bytes, bytes]:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    private = X25519PrivateKey.generate()
    return private.private_bytes_raw(), private.public_key().public_bytes_raw()


def _uapi(path: Path, request: str, timeout_s: float = 10.0) -> str:
    deadline = time.monotonic() + timeout_s
    with socket.socket(socket.AF_UNIX) as link:
        while True:
            try:
                link.connect(str(path))
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise Unavailable(f"wireguard-go did not open {path}") from error
                select.select([], [], [], 0.02)
        link.settimeout(timeout_s)
        link.sendall(request.encode())
        return link.recv(4096).decode()


class Nebula(System):
    """Nebula with the socket buffers that its own example recommends; else its defaults."""

    name = "nebula"

    def start(self) -> None:
        """Make a certificate authority and start both ends.  Raises: Unavailable."""
        binary, cert = program("nebula"), program("nebula-cert")
        self.version = version("nebula")
        self._sign(cert, "ca", "-name", "bench")
        for mine, host in enumerate((self.left, self.right)):
            theirs = 1 - mine
            self._sign(cert, "sign", "-name", host.name, "-networks", f"10.79.0.{mine + 1}/24")
            config = {
                "pki": {
                    "ca": str(self.folder / "ca.crt"),
                    "cert": str(self.folder / f"{host.name}.crt"),
                    "key": str(self.folder / f"{host.name}.key"),
                },
                "static_host_map": {f"10.79.0.{theirs + 1}": [f"{self.underlay[theirs]}:4242"]},
                "lighthouse": {"am_lighthouse": False, "hosts": []},
                "listen": {
                    "host": "0.0.0.0",
                    "port": 4242,
                    "read_buffer": 10485760,
                    "write_buffer": 10485760,
                },
                "tun": {"dev": f"neb{host.name}"},
                "logging": {"level": "warning"},
                "firewall": {
                    "outbound": [{"port": "any", "proto": "any", "host": "any"}],
                    "inbound": [{"port": "any", "proto": "any", "host": "any"}],
                },
            }
            path = self.folder / f"{host.name}.yml"
            path.write_text(json.dumps(config))  # JSON is YAML
            self.daemon(host, [str(binary), "-config", str(path)])
        self.address = "10.79.0.2"
        self.wait_until_through()

    def _sign(self, cert: Path, *arguments: str) -> None:
        done = subprocess.run(
            [str(cert), *arguments], cwd=self.folder, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise Unavailable(f"nebula-cert {arguments[0]}: {done.stderr.strip()}")


class VeilNet(System):
    """The installed VeilNet, by the commands that people type."""

    name = "veilnet"

    def start(self) -> None:
        """Start one node and let the other in by an invite.  Raises: Unavailable."""
        here, there = (Node(host, self.folder) for host in (self.left, self.right))
        try:
            status = here.up()
            there.connect(here.invite())
            self.address = there.address(status["networks"][0]["id"])
        except VeilError as error:
            raise Unavailable(" ".join(str(error).split())) from error
        self.version = f"veilnet {status['version']}"
        self._pids = [*here.pids(), *there.pids()]
        self.wait_until_through()


SYSTEMS: dict[str, type[System]] = {s.name: s for s in (Raw, WireGuardGo, Nebula, VeilNet)}


def need(name: str, package: str) -> None:
    """Say what to install where a program is missing.  Raises: Unavailable."""
    if shutil.which(name) is None:
        raise Unavailable(f"{name} is not installed: apt-get install {package}")
