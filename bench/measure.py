"""One measurement of one system: throughput, packets per second, round trips, CPU."""

from __future__ import annotations

import itertools
import json
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from peers import Unavailable, program

if TYPE_CHECKING:
    import subprocess

    from systems import System

_ports = itertools.count(20_000)


@dataclass(frozen=True)
class Sample:
    """What one run gave: values by metric, all of one unit per metric."""

    values: dict[str, float]
    congestion_control: str = ""


def tcp(system: System, *, seconds: float, streams: int = 1, both_ways: bool = False) -> Sample:
    """Run iperf3 from left to right; with *both_ways* the sum of both directions at once.

    Units: ``gbps`` Gbit/s received; ``cpu_s_per_gbit`` of both VPN processes.
    """
    port = str(next(_ports))
    server = system.right.popen(
        ["iperf3", "-s", "-1", "-p", port, "--forceflush"], stdout=-1, stderr=-1, text=True
    )
    try:
        _wait_for_line(server, "listening")
        before = system.cpu_s()
        argv = ["iperf3", "-c", system.address, "-p", port, "-J", "-t", str(max(1, round(seconds)))]
        argv += ["-P", str(streams), *(["--bidir"] if both_ways else [])]
        done = system.left.run(argv, timeout_s=seconds + 20, check=False)
        after = system.cpu_s()
    finally:
        server.kill()
        server.communicate()
    said = json.loads(done.stdout)
    if "error" in said:
        raise Unavailable(f"iperf3 through {system.name}: {said['error']}")
    end = said["end"]
    sums = [end["sum_received"]] + ([end["sum_received_bidir_reverse"]] if both_ways else [])
    values = {"gbps": sum(part["bits_per_second"] for part in sums) / 1e9}
    gbit = sum(part["bytes"] for part in sums) * 8 / 1e9
    if before is not None and after is not None and gbit > 0:
        values["cpu_s_per_gbit"] = (after - before) / gbit
    return Sample(values, end.get("sender_tcp_congestion", ""))


def udp_flood(system: System, *, seconds: float, size_bytes: int = 64) -> Sample:
    """Flood right with small datagrams.

    Units: ``pps`` datagrams received per second; ``lost`` share of those sent.
    """
    binary, port = str(program("udpgen")), str(next(_ports))
    sink = system.right.popen([binary, "sink", port], stdout=-1, stderr=-1, text=True)
    try:
        _wait_for_line(sink, "ready")
        argv = [binary, "flood", system.address, port, f"{seconds:g}", str(size_bytes)]
        sent = json.loads(system.left.run(argv, timeout_s=seconds + 20).stdout)
        out, _ = sink.communicate(timeout=20)
    finally:
        sink.kill()
        sink.communicate()
    received = json.loads(out)["received"]
    return Sample(
        {"pps": received / sent["seconds"], "lost": 1 - received / max(1, int(sent["sent"]))}
    )


def idle_rtt(system: System, *, count: int) -> Sample:
    """Ping right *count* times by UDP while nothing else runs.  Units: microseconds."""
    binary, port = str(program("udpgen")), str(next(_ports))
    echo = system.right.popen([binary, "echo", port], stdout=-1, stderr=-1, text=True)
    try:
        _wait_for_line(echo, "ready")
        argv = [binary, "ping", system.address, port, str(count)]
        said = json.loads(system.left.run(argv, timeout_s=60).stdout)
    finally:
        echo.kill()
        echo.communicate()
    if len(said["rtt_ns"]) < count / 2:
        raise Unavailable(f"{system.name} lost {said['lost']} of {count} pings")
    cuts = statistics.quantiles(said["rtt_ns"], n=100)
    return Sample({"p50_us": cuts[49] / 1e3, "p99_us": cuts[98] / 1e3})


def _wait_for_line(process: subprocess.Popen[Any], word: str) -> None:
    stream = process.stdout
    for line in stream or ():
        if word in line:
            return
    raise Unavailable(f"{process.args!r} ended early: {process.communicate()[1]}")
