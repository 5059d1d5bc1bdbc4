"""What keeps a pair's paths known: all that is no data on the wire of a node that sends.

    python bench/overhead.py [--quick] [--json FILE] [--seconds S] [--rounds N]

```
a --+                 +-- r1, r2, r3       relays, each 5 ms further away than a and b are
    +---- router -----+
b --+                                      a and b: parted
```
a sends b datagrams of one size at a steady rate over its relays.  On a's wire every datagram of
data weighs the same, headers included.  What else is small or of the size of a path under test is
probes and reports, and a few control messages and keepalives, which look alike.  The nodes are in
no commons and look for nobody on the link: what that weighs is in `idle.py` and `join.py`.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from circle import Circle, pause_until
from report import document, row, show, write
from veilnet.testing import enter
from veilnet.testing.capture import Capture
from veilnet.testing.waiting import wait_until

if TYPE_CHECKING:
    from veilnet.testing import Host

SIZE = 1_200
RATES_BPS = {"5 Mbit/s": 5e6, "64 kbit/s": 64e3}
LIMIT = 0.01
"""Of all bytes where that much or more is sent."""
LIMIT_BPS = 1_000.0
SMALL = 160
"""Probes and reports with padding, over a relay, IP and UDP included."""
LEG_S = 0.005
QUIET: dict[str, Any] = {"commons": "", "lan": "off", "port_mapping": False}
_IP = 14
_SETTLE_S = 20.0
"""By then the path MTU is known, the shares rest, and no probe is as large as data."""


class Sender:
    """Datagrams from one host to another, evenly; a context manager."""

    def __init__(self, source: Host, sink: Host, address: str, rate_bps: float) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = source.socket(family, socket.SOCK_DGRAM)
        # Bound, or its kernel would answer each second that nobody listens there.
        self._sink = sink.socket(family, socket.SOCK_DGRAM)
        self._sink.bind((address, 0))
        self._socket.connect(self._sink.getsockname())
        self._period_s = SIZE * 8 / rate_bps
        self.sent = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._send, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._socket.close()
        self._sink.close()

    def _send(self) -> None:
        start, data = time.monotonic(), bytes(SIZE)
        while not self._over.is_set():
            self._socket.send(data)
            self.sent += 1
            pause_until(start + self.sent * self._period_s)


def weigh(host: Host, sender: Sender, seconds: float) -> tuple[float, float, float]:
    """Return probes and reports, all that was no data, and all on a wire.  Units: bytes/s."""
    with Capture(host, "eth0", keep_bytes=1 << 30) as wire:
        before, start = sender.sent, time.monotonic()
        time.sleep(seconds)
        sent, took_s = sender.sent - before, time.monotonic() - start
    sizes = [len(frame.data) - _IP for frame in wire.frames]
    if wire.dropped:
        raise RuntimeError(f"the capture missed {wire.dropped} frames, so it proves nothing")
    data = statistics.mode(size for size in sizes if size > SIZE)
    told = sum(size for size in sizes if size < SMALL or size > data)
    return told / took_s, (sum(sizes) - sent * data) / took_s, sum(sizes) / took_s


def rows(found: dict[str, list[tuple[float, ...]]]) -> list[dict[str, Any]]:
    """Return what was weighed, by rate."""
    lines = []
    for rate, weights in found.items():
        told, rest, _ = (list(part) for part in zip(*weights, strict=True))
        shares = [100 * w[0] / w[2] for w in weights]
        title = f"{rate} over relays: probes and reports"
        lines.append(row(f"told, {rate}", title, "bytes_per_s", "bytes/s", told))
        lines.append(row(f"share, {rate}", f"{title}, of all", "percent", "%", shares))
        title = f"{rate} over relays: all that is no data"
        lines.append(row(f"rest, {rate}", title, "bytes_per_s", "bytes/s", rest))
    return lines


def goal(found: dict[str, list[tuple[float, ...]]]) -> dict[str, Any]:
    """Return the part of the design's goal that is measured here, by the worst round."""
    fast, slow = (found[rate] for rate in RATES_BPS)
    share = max(told / whole for told, _, whole in fast)
    told_bps = max(told for told, _, _ in slow)
    return {
        "goal": "decision; memory; probe and report load",
        "unit": "ratio; bytes; %",
        "measured": f"on the wire: {100 * share:.2g} % of 5 Mb/s, {told_bps:.0f} B/s at 64 kb/s",
        "must": "<= 2x the prototype's numpy cost measured in the same run; <= 1 KB per "
        "destination; <= 1 % of bytes at >= 5 Mb/s, else <= 1 kB/s",
        "moonshot": "-",
        "met": share <= LIMIT and told_bps <= LIMIT_BPS,
        "moonshot_met": False,
    }


def main() -> int:
    """Run the bench and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="once, 20 s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument("--seconds", type=float, help="that are weighed (60; --quick: 20)")
    parser.add_argument("--rounds", type=int, help="(5; --quick: 1)")
    options = parser.parse_args()
    enter()
    seconds = options.seconds or (20.0 if options.quick else 60.0)
    found: dict[str, list[tuple[float, ...]]] = {rate: [] for rate in RATES_BPS}
    with tempfile.TemporaryDirectory(prefix="veilnet-bench-") as name, Circle(Path(name)) as circle:
        for number in range(3):
            circle.add(f"r{number + 1}", zone=number + 1, delay_s=LEG_S, **QUIET)
        a = circle.add("a", zone=10, relay="off", **QUIET)
        b = circle.add("b", zone=11, relay="off", **QUIET)
        circle.backbone.part(a.host, b.host)
        a.connect("b", "--timeout", "30")
        inside = b.address()
        for number in range(options.rounds or (1 if options.quick else 5)):
            for rate, rate_bps in RATES_BPS.items():
                with Sender(a.host, b.host, inside, rate_bps) as sender:
                    wait_until(lambda: len(a.paths("b")) >= 3, "three paths", timeout_s=60)
                    time.sleep(_SETTLE_S)
                    told, rest, whole = weigh(a.host, sender, seconds)
                    shares = [path["share"] for path in a.paths("b")]
                found[rate].append((told, rest, whole))
                print(
                    f"{number + 1}  {rate}  {told:.0f}, {rest:.0f} of {whole:.0f} B/s; {shares}",
                    file=sys.stderr,
                    flush=True,
                )
    found_rows = rows(found)
    result = document(found_rows, [goal(found)], [])
    if options.json:
        write(options.json, result)
    show(found_rows, result["goals"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
