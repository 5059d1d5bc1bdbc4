"""What a known idle member costs a node: its memory and its disk, at 1,000 and at 10,000 of them.

    python bench/state.py [--quick] [--json FILE] [--trials N] [--settle SECONDS]

```
founder --- leaf, a member that runs; both know all the others, who are away
```
The others have keys and credentials of their own, signed as the founder signs.  Each trial starts
both nodes anew, first with the small table, then with the large one, and lets them compare tables
every ten seconds; then the kernel tells what is resident of the leaf (``VmRSS``).
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circle import Circle
from report import document, goals_table, row, table, write
from veilnet import crypto
from veilnet.daemon.host import unix_now
from veilnet.daemon.run import IDENTITY
from veilnet.errors import VeilError
from veilnet.networks import credential as credentials
from veilnet.networks.credential import Credential
from veilnet.networks.endpoint import Endpoint
from veilnet.networks.member import Hearsay, Member
from veilnet.networks.members import MemberTable
from veilnet.testing import enter
from veilnet.testing.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from veilnet.testing import Node
    from veilnet.units import NetworkId

SIZES = (1_000, 10_000)
GOSSIP_S = 10
LIFE_S = 30 * 86_400
LIMIT_BYTES = 400
_SERIAL = 1_000_000
_PATIENCE_S = 60.0
TITLES = {
    "rss": "resident memory of a member that runs",
    "rss-status": "the same after `veilnet status`",
    "disk": "its member table on the disk",
}
QUIET: dict[str, Any] = {"commons": "", "lan": "off", "port_mapping": False}


class Pair:
    """Founder and leaf, and the files with which they start."""

    def __init__(self, circle: Circle) -> None:
        self._circle = circle
        self._founder = circle.add("founder", zone=1, gossip_s=GOSSIP_S, **QUIET)
        self._leaf = circle.add("leaf", zone=2, gossip_s=GOSSIP_S, **QUIET)
        for node in self._nodes:
            node.down()
        (folder,) = (self._founder.state / "networks").iterdir()
        self._network = folder.name
        backend = crypto.load("liboqs")
        self._owner = crypto.Identity.load(self._founder.state / IDENTITY, backend)
        for size in SIZES:
            others = self._others(size, backend)
            for node in self._nodes:
                shutil.copy(self._table(node), self._kept(node, size))
                members = MemberTable(path=self._kept(node, size))
                members.merge(others, unix_now(), teller=self._owner.peer_id)
                members.flush()
                members.close()
            print(f"{size} members", file=sys.stderr, flush=True)

    @property
    def _nodes(self) -> tuple[Node, Node]:
        return self._founder, self._leaf

    def _table(self, node: Node) -> Path:
        return node.state / "networks" / self._network / "members.db"

    def _kept(self, node: Node, size: int) -> Path:
        return node.state / f"members-{size}.db"

    def _others(self, count: int, backend: crypto.Backend) -> list[Member]:
        return list(self._made(count, backend))

    def _made(self, count: int, backend: crypto.Backend) -> Iterator[Member]:
        now, network = unix_now(), self._network_id()
        for number in range(count):
            one = crypto.Identity.from_seed(number.to_bytes(32), backend)
            given = Credential(
                network_id=network,
                peer_id=one.peer_id,
                name=f"member-{number}",
                ipv4=None,
                serial=_SERIAL + number,
                not_before=now,
                not_after=now + LIFE_S,
                issuer=self._owner.peer_id,
                log_head=network,
            )
            place = Endpoint(f"198.18.{number >> 8}.{number & 255}", 41_000)
            yield Member(
                one.public_key,
                given,
                credentials.sign(given, self._owner),
                hearsay=(Hearsay(now, (place,)),),
            )

    def _network_id(self) -> NetworkId:
        from veilnet.units import NetworkId

        return NetworkId(bytes.fromhex(self._network))

    def trial(self, size: int, settle_s: float) -> dict[str, float]:
        """Start both with tables of *size* others and return what that costs the leaf, in bytes.

        Raises: VeilError: they do not find each other.
        """
        for node in self._nodes:
            for old in self._table(node).parent.glob("members.db*"):
                old.unlink()
            shutil.copy(self._kept(node, size), self._table(node))
            self._circle.start(node)
        self._leaf.connect("founder", "--timeout", str(_PATIENCE_S))
        begun = time.monotonic()
        while time.monotonic() < begun + settle_s:
            time.sleep(GOSSIP_S)
            self._leaf.connect("founder")
        found = {"rss": _resident_bytes(self._leaf)}
        known = len(self._leaf.status()["peers"])
        if known < size:
            raise VeilError(f"the leaf knows {known} of {size} members")
        found["rss-status"] = _resident_bytes(self._leaf)
        found["disk"] = float(self._table(self._leaf).stat().st_size)
        for node in self._nodes:
            node.down()
        wait_until(lambda: not any(node.pids() for node in self._nodes), "both ended", timeout_s=30)
        return found


def _resident_bytes(node: Node) -> float:
    (pid,) = node.pids()
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (kib,) = (line.split()[1] for line in lines if line.startswith("VmRSS:"))
    return 1024.0 * int(kib)


Samples = dict[tuple[str, int], list[float]]


def rows(done: Samples) -> list[dict[str, Any]]:
    """Return what each measure was at each size."""
    return [
        row(f"{name}/{size}", f"{TITLES[name]}, {size:,} known", "bytes", "bytes", values)
        for (name, size), values in done.items()
    ]


def slope(done: Samples, name: str) -> float | None:
    """Return the bytes of one more member: the difference of the medians over that of the sizes."""
    few, many = (done.get((name, size)) for size in SIZES)
    if not few or not many:
        return None
    return (statistics.median(many) - statistics.median(few)) / (SIZES[1] - SIZES[0])


def goal(done: Samples) -> dict[str, Any]:
    """Return the goal of the design, and what was measured of its first part."""
    found, n = slope(done, "rss"), min((len(values) for values in done.values()), default=0)
    return {
        "goal": "state: RSS slope per known idle peer from 1k to 10k peers (packed storage, "
        "descriptor on disk) / routing 1k -> 1M nodes",
        "unit": "bytes; x",
        "measured": "slope: not measured" if found is None else f"slope: {found:.0f} B, n = {n}",
        "must": "<= 400 B / < 2x growth",
        "moonshot": "-",
        "met": found is not None and found <= LIMIT_BYTES,
        "moonshot_met": False,
    }


def main() -> int:
    """Run the bench and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one trial")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument("--trials", type=int, help="(5; --quick: 1)")
    parser.add_argument("--settle", type=float, default=60.0, help="seconds (%(default)g)")
    options = parser.parse_args()
    enter()
    done: Samples = defaultdict(list)
    failures: list[dict[str, str]] = []
    with (
        tempfile.TemporaryDirectory(prefix="veilnet-bench-") as folder,
        Circle(Path(folder)) as circle,
    ):
        try:
            pair = Pair(circle)
            for _ in range(options.trials or (1 if options.quick else 5)):
                for size in SIZES:
                    for name, value in pair.trial(size, options.settle).items():
                        done[name, size].append(value)
                        print(f"{size}  {name}  {value / 1e6:.2f} MB", file=sys.stderr, flush=True)
        except (VeilError, OSError) as error:
            failures.append({"what": "state", "reason": f"{error}\n{circle.logs()}"})
            print(f"FAILED {failures[-1]['reason']}", file=sys.stderr)
    found = rows(done)
    result = document(found, [goal(done)], failures)
    if options.json:
        write(options.json, result)
    ends = ("median", "min", "max")
    lines = [
        [each["title"], str(each["n"])]
        + [f"{each['systems']['veilnet'][end] / 1e6:.2f}" for end in ends]
        for each in found
    ]
    print(table(["what", "n", "median MB", "least", "most"], lines))
    for name in TITLES:
        if (each := slope(done, name)) is not None:
            print(f"one more member: {each:,.0f} bytes of {name}")
    print()
    print(goals_table(result["goals"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
