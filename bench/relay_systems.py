"""What relays: the kernel itself, VeilNet, coturn, Tailscale's peer relay and its derper."""

from __future__ import annotations

import itertools
import json
import shutil
import socket
import subprocess
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import relay_turn as turn
from peers import FOLDER, PROGRAMS, Unavailable, version
from relay_stage import (
    CORE,
    DIRECT_SINK,
    DIRECT_SOURCE,
    FAR,
    NEAR,
    OTHERS,
    SINK,
    SOURCE,
    Clock,
    Stage,
    pause,
)

if TYPE_CHECKING:
    from pathlib import Path

    from veilnet.testing import Host

ENDS = 32
DERP_PORT, PEER_RELAY_PORT, VEILNET_PORT = 3341, 40000, 41000
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Circuit:
    """One pair of ends; the pairs of the first 1,024 circuits all differ."""

    number: int
    source: int
    sink: int


def circuits(count: int) -> list[Circuit]:
    """Return *count* circuits over 32 ends in and 32 out, neighbours sharing neither."""
    return [Circuit(n, n % ENDS, (n // ENDS + n) % ENDS) for n in range(count)]


def child(host: Host, argv: list[str], core: int, log: Path) -> subprocess.Popen[str]:
    """Start a program on *core* that talks by lines."""
    with log.open("ab") as errors:
        pinned = ["taskset", "-c", str(core), *argv]
        return host.popen(
            pinned, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        )


def say(process: subprocess.Popen[str], line: str) -> None:
    """Send one line."""
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def answer(process: subprocess.Popen[str], log: Path) -> str:
    """Return the next line.  Raises: Unavailable: the program ended instead."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        last = (log.read_text(errors="replace").strip().splitlines() or ["no message"])[-1]
        raise Unavailable(f"{process.args!r} ended: {last}")
    return line.strip()


class Relay(ABC):
    """Something that relays between 32 ends on each side, by one or a thousand circuits."""

    name: ClassVar[str]
    persistent: ClassVar[bool] = False
    """Whether its generator keeps sessions, and so lives as long as the relay."""
    relays: ClassVar[bool] = True
    """Whether the relay's core has a part in it."""

    def __init__(self, stage: Stage, count: int, folder: Path) -> None:
        self.stage = stage
        self.circuits = circuits(count)
        self.folder = folder / f"{self.name}-{count}"
        self.folder.mkdir(parents=True)
        self.pids: list[int] = []
        self.version = ""
        number = next(_numbers)
        self.source_port, self.sink_port = 10_000 + 100 * number, 20_000 + 100 * number
        self._generator: subprocess.Popen[str] | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {len(self.circuits)} circuits>"

    @abstractmethod
    def start(self) -> None:
        """Bring the relay up.  Raises: Unavailable."""

    @abstractmethod
    def plan(self, size: int) -> list[str]:
        """Bind the ends for datagrams of *size* bytes and return the generator's plan."""

    @property
    def generator_log(self) -> Path:
        """Where the generator's complaints go."""
        return self.folder / "generator.log"

    def open(self, size: int) -> None:
        """Have a generator that is ready for datagrams of *size* bytes."""
        if self._generator is None:
            lines = self.plan(size)
            path = self.folder / "plan"
            path.write_text("\n".join(lines) + "\n")
            argv = [str(PROGRAMS / "relay_load"), str(path), self.stage.sink_namespace()]
            self._generator = child(self.stage.source, argv, OTHERS, self.generator_log)
            answer(self._generator, self.generator_log)

    def ask(self, command: str) -> dict[str, Any]:
        """Let the generator do *command*.  Raises: Unavailable: it says what went wrong."""
        assert self._generator is not None
        say(self._generator, command)
        found: dict[str, Any] = json.loads(answer(self._generator, self.generator_log))
        if "error" in found:
            raise Unavailable(f"{self.name}: {found['error']}")
        return found

    def rest(self) -> None:
        """End the generator, unless it keeps the relay's sessions."""
        if self._generator is not None and not self.persistent:
            self._generator.communicate("")
            self._generator = None

    def clock(self) -> Clock:
        """Read the core's clock and the relaying program's."""
        return Clock.read(self.pids)

    def notes(self, size: int) -> dict[str, Any]:  # noqa: ARG002 - for those that know more
        """Return what is worth knowing after a run with datagrams of *size* bytes."""
        return {}

    def _ports(self) -> list[str]:
        lines = [f"in {self.source_port + n}" for n in range(ENDS)]
        return lines + [f"out {self.sink_port + n}" for n in range(ENDS)]

    def _daemon(self, argv: list[str]) -> subprocess.Popen[str]:
        log = self.folder / "relay.log"
        process = child(self.stage.relay, argv, CORE, log)
        self.pids = [process.pid]
        return process


class Kernel(Relay):
    """The kernel's own forwarding: the same datagrams, addressed to the sink."""

    name = "kernel"

    def start(self) -> None:
        """Nothing is to be started: the relay's namespace forwards."""

    def plan(self, size: int) -> list[str]:  # noqa: ARG002 - one plan suits every size
        """Return plain ways there and back."""
        return self._plain(SINK, SOURCE)

    def _plain(self, sink: str, source: str) -> list[str]:
        ways = [
            f"circuit {c.source} {c.sink} {sink}:{self.sink_port + c.sink} - "
            f"{source}:{self.source_port + c.source} -"
            for c in self.circuits
        ]
        return ["plain", *self._ports(), *ways]


class Direct(Kernel):
    """No relay at all: what generator and sink reach by themselves, over a wire of their own."""

    name = "direct"
    relays = False

    def plan(self, size: int) -> list[str]:  # noqa: ARG002 - as above
        """Return the ways over the direct wire."""
        return self._plain(DIRECT_SINK, DIRECT_SOURCE)


class VeilNet(Relay):
    """The engine, as a node runs it, with circuits between real sessions."""

    name = "veilnet"
    persistent = True

    def __init__(self, stage: Stage, count: int, folder: Path) -> None:
        super().__init__(stage, count, folder)
        self.port = VEILNET_PORT + count
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start the engine."""
        import veilnet._engine as engine

        if not hasattr(engine.Engine, "add_circuit"):
            raise Unavailable("this build of the engine has no circuits yet")
        node = str(FOLDER.parent / "relay_node.py")
        self._process = self._daemon([sys.executable, node, str(self.port)])
        self._say_hello()

    def _say_hello(self) -> None:
        from importlib.metadata import version as installed

        assert self._process is not None
        answer(self._process, self.folder / "relay.log")
        self.version = f"veilnet {installed('veilnet')}"

    def plan(self, size: int) -> list[str]:  # noqa: ARG002 - frames of any size use one plan
        """Return links with the relay, and the labels at both ends of every circuit."""
        lines = [f"veil {NEAR}:{self.port} {FAR}:{self.port}", *self._ports()]
        return lines + [
            f"circuit {c.source} {c.sink} {c.number + 1} {c.number + 0x10001}"
            for c in self.circuits
        ]

    def open(self, size: int) -> None:
        """Open the links and, the first time, add the circuits between them."""
        fresh = self._generator is None
        super().open(size)
        if not fresh:
            return
        wanted = [
            [self.source_port + c.source, c.number + 1, self.sink_port + c.sink, c.number + 0x10001]
            for c in self.circuits
        ]
        found = self._command({"circuits": wanted})
        if found["links"] != 2 * ENDS:
            raise Unavailable(f"{found['links']} links came up, not {2 * ENDS}")

    def notes(self, size: int) -> dict[str, Any]:
        """Return the engine's counters, and how long the generator's own sealing takes."""
        return {**self._command({"stats": True}), "seal_ns": self.ask(f"seal {size}")["ns"]}

    def _command(self, wanted: dict[str, Any]) -> dict[str, Any]:
        assert self._process is not None
        say(self._process, json.dumps(wanted))
        found: dict[str, Any] = json.loads(answer(self._process, self.folder / "relay.log"))
        return found


class Coturn(Relay):
    """coturn: TURN over UDP, ChannelData from the source, plain datagrams to the sink."""

    name = "coturn"

    def start(self) -> None:
        """Start one relay thread without authentication.  Raises: Unavailable."""
        if shutil.which("turnserver") is None:
            raise Unavailable("coturn is not installed: apt-get install coturn")
        said = subprocess.run(
            ["turnserver", "--version"], capture_output=True, text=True, check=False
        )
        lines = (said.stdout + said.stderr).strip().splitlines()
        self.version = f"coturn {lines[-1].split()[0]}" if lines else "coturn"
        self.port = turn.PORT + len(self.circuits)
        folder = str(self.folder)
        self._daemon(
            [
                "turnserver", "-n", "--no-auth", "--no-tls", "--no-dtls", "--no-cli",
                "--no-multicast-peers", "--relay-threads", "1", "--listening-ip", NEAR,
                "--relay-ip", FAR, "--listening-port", str(self.port), "--min-port", "30000",
                "--max-port", "39999", "--userdb", f"{folder}/turndb",
                "--pidfile", f"{folder}/turn.pid", "--log-file", f"{folder}/turn.log",
                "--simple-log",
            ]
        )  # fmt: skip
        self._relayed: dict[int, tuple[str, int]] = {}

    def plan(self, size: int) -> list[str]:
        """Allocate for every source end, bind a channel for every circuit, or refresh them."""
        lines = ["plain", *self._ports()]
        ends: dict[int, turn.Allocation] = {}
        try:
            for c in self.circuits:
                if c.source not in ends:
                    link = self.stage.source.socket(socket.AF_INET, socket.SOCK_DGRAM)
                    ends[c.source] = turn.Allocation(
                        link, self.source_port + c.source, (NEAR, self.port)
                    )
                    if ends[c.source].allocate():
                        self._relayed[c.source] = ends[c.source].relayed or ("", 0)
                channel = turn.CHANNEL + c.sink
                ends[c.source].bind(channel, (SINK, self.sink_port + c.sink))
                head = turn.channel_data(channel, size - 4).hex()
                host, port = self._relayed[c.source]
                ways = f"{NEAR}:{self.port} {head} {host}:{port} -"
                lines.append(f"circuit {c.source} {c.sink} {ways}")
        finally:
            for end in ends.values():
                end.close()
        return lines


class PeerRelay(Relay):
    """Tailscale's peer relay (net/udprelay), the server that tailscaled runs: UDP, no crypto."""

    name = "tailscale peer relay"

    def start(self) -> None:
        """Start the server and allocate the circuits.  Raises: Unavailable."""
        binary = PROGRAMS / "relay_peers"
        if not binary.exists():
            raise Unavailable(_why("relay_peers"))
        self.version = f"tailscale {dependency('relay_peers', 'tailscale.com')}"
        self.port = PEER_RELAY_PORT + len(self.circuits)
        self._process = self._daemon([str(binary), "serve", str(self.port), NEAR])
        self._generation = 0
        answer(self._process, self.folder / "relay.log")

    def plan(self, size: int) -> list[str]:  # noqa: ARG002 - Geneve's header has no length
        """Allocate (or find again) every circuit and bind both its ends."""
        lines, key = [], ""
        for c in self.circuits:
            say(self._process, f"circuit {c.source} {c.sink}")
            _, vni, key = answer(self._process, self.folder / "relay.log").split()
            lines.append((c, int(vni)))
        self._generation += 1
        told = "".join(f"circuit {c.source} {c.sink} {vni}\n" for c, vni in lines)
        for host, side, relay, first in (
            (self.stage.source, "in", NEAR, self.source_port),
            (self.stage.sink, "out", FAR, self.sink_port),
        ):
            argv = [str(PROGRAMS / "relay_peers"), "bind", side, f"{relay}:{self.port}"]
            host.run([*argv, str(first), str(self._generation), key], input=told, timeout_s=60)
        heads = {c.number: f"00000000{vni << 8:08x}" for c, vni in lines}
        ways = [
            f"circuit {c.source} {c.sink} {NEAR}:{self.port} {heads[c.number]} "
            f"{FAR}:{self.port} {heads[c.number]}"
            for c in self.circuits
        ]
        return ["plain", *self._ports(), *ways]


class Derper(Relay):
    """Tailscale's derper: packets in frames over TCP and TLS."""

    name = "derper"
    persistent = True

    def start(self) -> None:
        """Start it with a certificate of its own making.  Raises: Unavailable."""
        binary = PROGRAMS / "derper"
        if not binary.exists() or not (PROGRAMS / "relay_peers").exists():
            raise Unavailable(_why("derper"))
        self.version = f"derper {version('derper')}"
        self.port = DERP_PORT + len(self.circuits)
        self._daemon(
            [
                str(binary), "-a", f":{self.port}", "-certmode", "manual", "-certdir",
                str(self.folder), "-hostname", NEAR, "-http-port", "-1", "-stun=false",
                "-c", str(self.folder / "derper.conf"),
            ]
        )  # fmt: skip
        pause(1.0)

    def plan(self, size: int) -> list[str]:  # noqa: ARG002 - its packets say their length
        """Return the circuits; the generator speaks DERP."""
        return [f"circuit {c.source} {c.sink}" for c in self.circuits]

    def open(self, size: int) -> None:
        """Connect 32 clients on each side."""
        if self._generator is not None:
            return
        argv = [str(PROGRAMS / "relay_peers"), "derp", f"{NEAR}:{self.port},{FAR}:{self.port}"]
        argv.append(self.stage.sink_namespace())
        self._generator = child(self.stage.source, argv, OTHERS, self.generator_log)
        for line in self.plan(size):
            say(self._generator, line)
        say(self._generator, "go")
        answer(self._generator, self.generator_log)


def _why(name: str) -> str:
    reason = FOLDER / f"{name}.why"
    return reason.read_text().strip() if reason.exists() else f"{name} is not built"


def dependency(name: str, module: str) -> str:
    """Return the version of *module* inside the built program *name*."""
    said = subprocess.run(
        ["go", "version", "-m", str(PROGRAMS / name)], capture_output=True, text=True, check=False
    )
    words = [line.split() for line in said.stdout.splitlines()]
    return next((w[2] for w in words if w[:2] == ["dep", module]), "unknown")


RELAYS: dict[str, type[Relay]] = {
    relay.name: relay for relay in (Kernel, Direct, VeilNet, Coturn, PeerRelay, Derper)
}
