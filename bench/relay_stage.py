"""Where relaying is measured, and what one core spent on it.

```
 source 10.91.1.2 ---- 10.91.1.1 relay 10.91.2.1 ---- 10.91.2.2 sink
        10.91.3.1 ------------------------------------ 10.91.3.2          (direct, for comparison)
        core 1                   core 0                core 1
```
What reaches the relay is processed on core 0 (RPS), where the relaying program is pinned too;
generator and sink have core 1.  So "one core" is the whole relay: the kernel's forwarding as well
as a program with the kernel work that it causes.  Putting datagrams into the sink's sockets is the
last of that work, in everybody's figure: handing it to core 1 costs an interrupt between cores,
which on a virtual machine is dearer than the work.
"""

from __future__ import annotations

import os
import select
import time
from dataclasses import dataclass
from pathlib import Path

from veilnet.testing import Host, Lab

CORE, OTHERS = 0, 1
NEAR, FAR = "10.91.1.1", "10.91.2.1"  # the relay, as source and sink see it
SINK, DIRECT_SOURCE, DIRECT_SINK = "10.91.2.2", "10.91.3.1", "10.91.3.2"
SOURCE = "10.91.1.2"
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_SEGMENTATION = ("tx_tcp_segmentation", "tx_tcp6_segmentation", "tx_udp_segmentation")
_RPS = "mount -t sysfs sysfs /sys && echo {mask} > /sys/class/net/{link}/queues/rx-0/rps_cpus"


@dataclass(frozen=True)
class Clock:
    """A reading of the relay's core and of the relaying program.  Units: seconds."""

    wall: float
    idle: float
    program: float | None

    @staticmethod
    def read(pids: list[int]) -> Clock:
        """Read the clock of the relay's core and that of *pids* together."""
        line = next(
            ln for ln in Path("/proc/stat").read_text().splitlines() if ln.startswith(f"cpu{CORE} ")
        )
        ticks = [int(word) for word in line.split()[1:]]
        idle = (ticks[3] + ticks[4] + ticks[7]) / _TICKS_PER_S  # idle, iowait, steal
        used = [_used(pid) for pid in pids]
        return Clock(time.monotonic(), idle, sum(used) if used else None)

    def busy_s(self, before: Clock) -> float:
        """Return how long the core was not idle since *before*.

        Idle time is measured, but what it is not (interrupts, a program) is only sampled 250 times
        a second, and not at all where an interrupt meets an idle core: so this is what counts.
        """
        return max(1e-2, (self.wall - before.wall) - (self.idle - before.idle))

    def program_s(self, before: Clock) -> float | None:
        """Return the CPU time of the relaying program since *before*.

        The kernel counts the interrupts that met the program as the program's.
        """
        if self.program is None or before.program is None:
            return None
        return self.program - before.program


def _used(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


class Stage:
    """Source, relay and sink, their wires, and which core does what."""

    def __init__(self) -> None:
        self.lab = Lab()
        self.source, self.sink = self.lab.host("source"), self.lab.host("sink")
        self.relay = self.lab.router("relay")
        self.lab.wire(self.source, f"{SOURCE}/24", self.relay, f"{NEAR}/24")
        self.lab.wire(self.relay, f"{FAR}/24", self.sink, f"{SINK}/24")
        self.lab.wire(self.source, f"{DIRECT_SOURCE}/24", self.sink, f"{DIRECT_SINK}/24")
        self.source.route("10.91.2.0/24", via=NEAR)
        self.sink.route("10.91.1.0/24", via=FAR)
        for link in ("eth0", "eth1"):
            pin(self.relay, link, CORE)
        self._single = False

    def single(self, *, on: bool) -> None:
        """Let the wires carry one datagram at a time, glued again where they arrive (or not).

        That is what network cards do; bare veth hands super-packets through as they are.
        """
        if on == self._single:
            return
        for host, link in (
            (host, link)
            for host in (self.source, self.relay, self.sink)
            for link in ("eth0", "eth1")
        ):
            # veth glues what arrives only from a peer that segments nothing, TCP included.
            host.offload(link, **dict.fromkeys(_SEGMENTATION, not on), rx_gro=on)
        self._single = on

    def sink_namespace(self) -> str:
        """Return the path by which a program gets into the sink's namespace."""
        return f"/proc/{os.getpid()}/fd/{self.sink.fd}"

    def close(self) -> None:
        """Take everything down."""
        self.lab.close()


def pin(host: Host, link: str, core: int) -> None:
    """Let *core* process what arrives on *link*."""
    script = _RPS.format(mask=f"{1 << core:x}", link=link)
    host.run(["unshare", "--mount", "sh", "-c", script])


def pause(seconds: float) -> None:
    """Let what was just sent settle."""
    select.select([], [], [], seconds)
