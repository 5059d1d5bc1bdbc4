"""Where relaying is measured, and what one core spent on it.

```
 source 10.91.1.2 ---- 10.91.1.1 relay 10.91.2.1 ---- 10.91.2.2 sink
        10.91.3.1 ------------------------------------ 10.91.3.2          (direct, for comparison)
        core 1                   core 0                core 1
```
The relay's wires end like a network card with interrupt moderation whose interrupts go to core 0,
where the relaying program is pinned too: a kernel thread there (threaded NAPI) takes what has
arrived every 50 us.  Generator and sink have core 1.  So "one core" is the whole relay: the
kernel's forwarding as well as a program with the kernel work that it causes; putting datagrams
into the sink's sockets is the last of that work, in everybody's figure.  (Handing each packet from
core to core by RPS would cost an interrupt between cores, 10 us and more on a virtual machine,
which no real relay pays.)  For round trips there is no moderation.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from dataclasses import dataclass
from pathlib import Path

from veilnet.testing import Lab

CORE, OTHERS = 0, 1
NEAR, FAR = "10.91.1.1", "10.91.2.1"  # the relay, as source and sink see it
SINK, DIRECT_SOURCE, DIRECT_SINK = "10.91.2.2", "10.91.3.1", "10.91.3.2"
SOURCE = "10.91.1.2"
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_LINKS = ("eth0", "eth1")
_SEGMENTATION = ("tx_tcp_segmentation", "tx_tcp6_segmentation", "tx_udp_segmentation")
_MODERATION_NS, _IDLE_LOOKS = 50_000, 200
_SET = "mount -t sysfs sysfs /sys && cd /sys/class/net/{link} && echo {value} > {name}"


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
        before = set(_napi_threads())
        for link in _LINKS:
            # veth hands UDP to NAPI only where gluing for forwarding is on.
            self.relay.offload(link, rx_gro=True, rx_udp_gro_forwarding=True)
            self._set(link, threaded=1)
        for pid in set(_napi_threads()) - before:
            os.sched_setaffinity(pid, {CORE})
        self._single = False
        self._moderated = False

    def _set(self, link: str, **values: int) -> None:
        for name, value in values.items():
            script = _SET.format(link=link, name=name, value=value)
            self.relay.run(["unshare", "--mount", "sh", "-c", script])

    def moderate(self, *, on: bool) -> None:
        """Say whether what arrives at the relay waits for the next look, at most 50 us."""
        if on == self._moderated:
            return
        for link in _LINKS:
            self._set(
                link,
                gro_flush_timeout=_MODERATION_NS if on else 0,
                napi_defer_hard_irqs=_IDLE_LOOKS if on else 0,
            )
        self._moderated = on

    def single(self, *, on: bool) -> None:
        """Let the wires carry one datagram at a time, glued again for a program that wants it.

        That is what network cards do; bare veth hands super-packets through as they are.
        """
        if on == self._single:
            return
        for host in (self.source, self.relay, self.sink):
            for link in _LINKS:
                relays = host is self.relay
                # veth glues what arrives only from a peer that segments nothing, TCP included.
                host.offload(
                    link,
                    **dict.fromkeys(_SEGMENTATION, not on),
                    rx_gro=on or relays,
                    rx_udp_gro_forwarding=relays and not on,
                )
        self._single = on

    def sink_namespace(self) -> str:
        """Return the path by which a program gets into the sink's namespace."""
        return f"/proc/{os.getpid()}/fd/{self.sink.fd}"

    def close(self) -> None:
        """Take everything down."""
        self.lab.close()


def _napi_threads() -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if (entry / "comm").read_text().startswith("napi/"):
                    found.append(int(entry.name))
    return found


def pause(seconds: float) -> None:
    """Let what was just sent settle."""
    select.select([], [], [], seconds)
