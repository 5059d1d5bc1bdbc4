"""What the scenarios here share: nodes in a lab that are joined, and traffic between them.

Everything waits for a fact with a deadline.  Nodes are driven by the commands that people type;
only polling asks the control socket itself, to be spared the start of an interpreter each time.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from typing import IO, TYPE_CHECKING, Any, ClassVar, Self

import pytest

from veilnet.control import client
from veilnet.errors import TimedOut
from veilnet.testing import Lab, Node, nft

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from veilnet.testing import Host

needs_iperf3 = pytest.mark.skipif(shutil.which("iperf3") is None, reason="iperf3 is not installed")
needs_nft = pytest.mark.skipif(not nft.available(), reason="nft is not installed")
needs_ping = pytest.mark.skipif(shutil.which("ping") is None, reason="ping is not installed")

_LOOK_S = 0.02
_BURST = 64
"""Datagrams in flight at once: a small socket buffer holds them."""
_FETCH = """
import hashlib, sys, urllib.request
digest, size = hashlib.sha256(), 0
with urllib.request.urlopen(sys.argv[1], timeout=60) as answer:
    while chunk := answer.read(1 << 20):
        digest.update(chunk)
        size += len(chunk)
print(size, digest.hexdigest())
"""


class World:
    """A lab and the nodes in it; a context manager."""

    alive: ClassVar[list[World]] = []

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lab = Lab()
        self.nodes: dict[str, Node] = {}

    def __enter__(self) -> Self:
        self.alive.append(self)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:  # before any test began: no report of a test will ask for them
            error.add_note(self.logs())
        self.alive.remove(self)
        self.lab.close()

    def host(self, name: str) -> Host:
        """Return the host of that name, made if it is not there."""
        return self.lab.hosts.get(name) or self.lab.host(name)

    def node(self, name: str, host: Host | None = None) -> Node:
        """Make a node, not yet started and quiet, on *host* or on one of its own name."""
        made = self.nodes[name] = Node(host or self.host(name), self.folder, name=name)
        configure(made)
        return made

    def founder(self, name: str, host: Host | None = None, **config: object) -> Node:
        """Make a node and start it: it founds a network of its own."""
        made = self.node(name, host)
        configure(made, **config)
        made.up("--name", name)
        return made

    def member(self, name: str, founder: Node, host: Host | None = None, **config: object) -> Node:
        """Make a node and let it join *founder*'s network by an invite."""
        made = self.node(name, host)
        configure(made, **config)
        made.connect(founder.invite(), "--name", name)
        return made

    def logs(self) -> str:
        """Return the ends of all logs."""
        said = []
        for node in self.nodes.values():
            log = node.state / "veilnet.log"
            if log.exists():
                said += [f"--- {node.name}", *log.read_text().splitlines()[-40:]]
        return "\n".join(said)


def configure(node: Node, **config: object) -> None:
    """Write *config* into the node's config.toml, before it is started.

    It keeps to its own networks, so that what is on the wire is what the test asked for.
    """
    node.configure(**({"commons": "", "lan": "off", "port_mapping": False} | config))


def pair(world: World, *, mtu_bytes: int = 1500) -> tuple[Host, Host]:
    """Wire two hosts, ``left`` 10.0.0.1 and ``right`` 10.0.0.2."""
    left, right = world.host("left"), world.host("right")
    world.lab.wire(left, "10.0.0.1/24", right, "10.0.0.2/24", mtu_bytes=mtu_bytes)
    return left, right


def routed(world: World, *, version: int = 4) -> tuple[Host, Host, Host]:
    """Wire ``left`` and ``right`` to a router, in one IP version only."""
    left, router, right = world.host("left"), world.lab.router("router"), world.host("right")
    net, length = ("10.0.{}.{}", 24) if version == 4 else ("fd00:{}::{}", 64)
    for number, host in ((1, left), (2, right)):
        gateway = net.format(number, 1)
        world.lab.wire(host, f"{net.format(number, 2)}/{length}", router, f"{gateway}/{length}")
        host.route("default", via=gateway)
    return left, router, right


# -- facts ----------------------------------------------------------------------------------------


def eventually(fact: Callable[[], object], *, timeout_s: float = 10.0) -> None:
    """Wait until *fact* is true.

    Raises: AssertionError: it was still false after *timeout_s* seconds.
    """
    deadline = time.monotonic() + timeout_s
    while not fact():
        assert time.monotonic() < deadline, f"still false after {timeout_s:g} s"
        time.sleep(_LOOK_S)


def status(node: Node) -> dict[str, Any]:
    """Return what `status --json` prints, without starting a program for it."""
    return dict(client.ask(node.socket, "status"))


def counted(node: Node) -> int:
    """Return how many datagrams its engine has taken in."""
    return int(status(node)["engine"]["rx_datagrams"])


def wait_counted(node: Node, wanted: int) -> None:
    """Wait until its engine has taken in *wanted* datagrams."""
    eventually(lambda: counted(node) >= wanted)


def in_bursts(
    node: Node, payloads: Sequence[bytes], say: Callable[[Iterable[bytes]], object]
) -> None:
    """Say all *payloads* to *node*; return when its engine has taken every one of them."""
    for at in range(0, len(payloads), _BURST):
        burst = payloads[at : at + _BURST]
        # An empty datagram ends before it is counted.
        wanted = counted(node) + sum(map(bool, burst))
        say(burst)
        wait_counted(node, wanted)


def peer(node: Node, name: str) -> dict[str, Any]:
    """Return what *node* says of its peer *name*."""
    return next(item for item in status(node)["peers"] if item["name"] == name)


def peer_names(node: Node) -> set[str]:
    """Return the names of the peers that *node* knows."""
    return {str(item["name"]) for item in status(node)["peers"]}


def two_lines(done: subprocess.CompletedProcess[str]) -> bool:
    """Say whether a command failed as promised: nothing on stdout, two lines on stderr."""
    lines = done.stderr.splitlines()
    return done.stdout == "" and len(lines) >= 2 and lines[-2].startswith("veilnet: ")


# -- traffic --------------------------------------------------------------------------------------


def ping(host: Host, address: str, *options: str, count: int = 3, wait_s: float = 5.0) -> int:
    """Let the kernel ping *address* and return how many echoes were answered."""
    argv = ["ping", "-n", "-q", "-i", "0.05", "-c", str(count), "-W", f"{wait_s:g}", *options]
    done = host.run([*argv, address], check=False, timeout_s=60)
    found = re.search(r"(\d+) received", done.stdout)
    assert found is not None, done.stdout + done.stderr
    return int(found[1])


def _pipe(process: subprocess.Popen[Any]) -> IO[Any]:
    assert process.stdout is not None
    return process.stdout


class Pinging:
    """A ping that runs, ten a second, until it is closed: when was it answered?"""

    def __init__(self, host: Host, address: str) -> None:
        self._answers: list[float] = []
        self._changed = threading.Condition()
        argv = ["ping", "-n", "-i", "0.1", address]
        self._process = host.popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self._said = _pipe(self._process)
        self._thread = threading.Thread(target=self._read, name="pinging")
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._thread.join()
        self._said.close()

    def _read(self) -> None:
        for line in self._said:
            if b"bytes from" in line:
                with self._changed:
                    self._answers.append(time.monotonic())
                    self._changed.notify_all()

    def answered_after(self, moment_s: float, *, timeout_s: float = 15.0) -> float:
        """Return how long after *moment_s* (monotonic) the first answer came, in seconds.

        Raises: TimedOut: none came.
        """

        def later() -> bool:
            return bool(self._answers) and self._answers[-1] > moment_s

        with self._changed:
            if not self._changed.wait_for(later, timeout_s):
                raise TimedOut(f"no ping was answered within {timeout_s:g} s")
            return next(at for at in self._answers if at > moment_s) - moment_s


class Files:
    """An HTTP server in a lab host that offers one file of random bytes."""

    def __init__(self, host: Host, address: str, folder: Path, *, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.url = f"http://{address}:8000/random"
        folder.mkdir()
        digest = hashlib.sha256()
        with (folder / "random").open("wb") as file:
            for _ in range(size_bytes >> 20):
                digest.update(chunk := os.urandom(1 << 20))
                file.write(chunk)
        self.sha256 = digest.hexdigest()
        argv = [sys.executable, "-u", "-m", "http.server", "8000", "--bind", address]
        self._process = host.popen(
            [*argv, "--directory", str(folder)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._said = _pipe(self._process)
        assert b"Serving HTTP" in self._said.readline()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._said.close()

    def fetched(self, host: Host, *, timeout_s: float = 120.0) -> bool:
        """Download the file to *host* and say whether it arrived as it was."""
        argv = [sys.executable, "-I", "-c", _FETCH, self.url]
        size, sha256 = host.run(argv, timeout_s=timeout_s).stdout.split()
        return (int(size), sha256) == (self.size_bytes, self.sha256)


def iperf3(client_host: Host, server_host: Host, address: str, *options: str) -> dict[str, Any]:
    """Run iperf3 against *address* on *server_host* and return the ``end`` of its report."""
    server = server_host.popen(
        ["iperf3", "-s", "-1", "--forceflush", "-B", address],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said = _pipe(server)
    try:
        while "listening" not in (line := said.readline()):
            assert line, "the iperf3 server ended"
        argv = ["iperf3", "-J", "-c", address, *options]
        end: dict[str, Any] = json.loads(client_host.run(argv, timeout_s=60).stdout)["end"]
        return end
    finally:
        server.kill()
        server.wait()
        said.close()
