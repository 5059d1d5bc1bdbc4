"""What a node that carries nothing sends and receives, all of it, on the wire.

    python bench/idle.py [--quick] [--json FILE] [--settle MINUTES] [--minutes MINUTES]

```
 a, b --- NAT --- strangers 1 to 8: public places, in the commons; two of them are a's havens
      --- inviter, whose network a and b are in
```
`a` is a leaf: behind a NAT, with no channel open, found by its havens. Whole minutes are counted,
headers included, once what begins with a start is over; an hour holds what comes seldom: new
keys, the hourly handshake, the refresh of what is published.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from report import document, goals_table, table, write
from veilnet.testing import Internet, Lab, NatScene, Strangers, enter
from veilnet.testing.capture import Capture

if TYPE_CHECKING:
    from veilnet.testing import Host

_MINUTE_S = 60
_IP = 14
"""Where the IP packet begins in a frame."""
LIMIT_BPS = 100.0


def watch(host: Host, minutes: int) -> tuple[list[int], Counter[str]]:
    """Return the bytes of each minute on a host's wire, and the bytes by peer."""
    each, peers, seen = [], Counter[str](), 0
    with Capture(host, "eth0") as wire:
        for minute in range(minutes):
            time.sleep(_MINUTE_S)
            new = list(wire.frames[seen:])
            seen += len(new)
            each.append(sum(len(frame.data) - _IP for frame in new))
            for frame in new:
                peers[_peer(frame.data[_IP:], outgoing=frame.outgoing)] += len(frame.data) - _IP
            print(f"minute {minute + 1}  {each[-1] / _MINUTE_S:.0f} B/s", file=sys.stderr)
    return each, peers


def _peer(packet: bytes, *, outgoing: bool) -> str:
    if packet[0] >> 4 != 4:
        return "IPv6"
    return ".".join(map(str, packet[16:20] if outgoing else packet[12:16]))


def rows(each: list[int], peers: Counter[str]) -> list[dict[str, Any]]:
    """Return what was counted: the mean, the minute in the middle, and the havens' part."""
    minutes = [count / _MINUTE_S for count in each]
    most = sum(count for _, count in peers.most_common(2)) / (_MINUTE_S * len(each))
    measures = {
        "mean": ("all on the wire, both ways", statistics.fmean(minutes)),
        "median": ("the minute in the middle", statistics.median(minutes)),
        "most": ("the busiest minute", max(minutes)),
        "havens": ("of the mean, the two peers that take most", most),
    }
    return [
        {
            "row": name,
            "title": title,
            "metric": "idle_bytes_per_s",
            "unit": "bytes/s",
            "n": len(minutes),
            "congestion_control": [],
            "systems": {"veilnet": {"median": round(value, 1)}},
        }
        for name, (title, value) in measures.items()
    ]


def goal(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the goal of the design, and what was measured of it."""
    mean = found[0]["systems"]["veilnet"]["median"]
    hour = found[0]["n"] >= 60
    return {
        "goal": "idle traffic of a leaf",
        "unit": "bytes/s",
        "measured": f"{mean:.0f} B/s on its wire, {found[0]['n']} minutes",
        "must": "<= 100 B/s",
        "moonshot": "-",
        "met": hour and mean <= LIMIT_BPS,
        "moonshot_met": False,
    }


def main() -> int:
    """Run the bench and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two minutes after one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument("--settle", type=float, help="minutes before (10; --quick: 1)")
    parser.add_argument("--minutes", type=int, help="that are counted (90; --quick: 2)")
    options = parser.parse_args()
    enter()
    settle = (1 if options.quick else 10) if options.settle is None else options.settle
    with tempfile.TemporaryDirectory(prefix="veilnet-bench-") as name, ExitStack() as stack:
        lab = stack.enter_context(Lab())
        internet = Internet(lab)
        strangers = Strangers(internet, Path(name))
        scene = NatScene(lab, internet, Path(name), "port", "port", strangers=strangers)
        stack.enter_context(scene)
        scene.join()
        time.sleep(settle * _MINUTE_S)
        each, peers = watch(scene.a.host, options.minutes or (2 if options.quick else 90))
    found = rows(each, peers)
    result = document(found, [goal(found)], [])
    if options.json:
        write(options.json, result)
    lines = [[row["title"], f"{row['systems']['veilnet']['median']:.1f}"] for row in found]
    print(table(["what", "bytes/s"], lines))
    print()
    print(goals_table(result["goals"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
