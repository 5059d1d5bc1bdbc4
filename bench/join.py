"""How soon a node is in: by an invite, a cache, a neighbour; and how soon a channel is back.

    python bench/join.py [--quick] [--json FILE] [--trials N]

```
 new, a --- NAT --- west --- one --- two --- east --- NAT --- b
                               |       |
     neighbour --- stranger5, inviter, strangers 1 to 4: public places, in the commons
```
Everybody is some way off: half of a round trip time of the PlanetLab set is shared out between the
two ends of a way.

- invite: from the start of `veilnet connect INVITE`, on a device where nothing runs, to its exit 0;
- cache: from the start of `veilnet up`, after `down`, until a contact of the commons answered;
- lan: the same on a device without any state, whose neighbour on the link is in the commons;
- resume: how much longer the first ping over a closed channel takes than one over the open channel,
  in round trips, to who can be called: the inviter, by the ticket that it gave; resume-nat: the
  same between a and b, whose NATs let nobody call.

Bytes are all that passed the node's wire until then.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nat import distances
from report import document, goals_table, table, write
from veilnet.errors import DaemonNotRunning, TimedOut, VeilError
from veilnet.testing import Delays, Internet, Lab, NatScene, Node, Strangers, enter
from veilnet.testing.capture import Capture
from veilnet.testing.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from veilnet.testing import Host

_READY_S = 60.0
_PATIENCE_S = 30.0
_AWAY_S, _TICKET_S = 2.0, 4.0
_PARTINGS = 6
_RTT = re.compile(r"time=([\d.]+) ms")
_MASQUERADE = """
table ip join_bench {
    chain out { type nat hook postrouting priority srcnat; oifname "eth0" masquerade
    }
}
"""
TITLES = {
    "invite": "by an invite, until the command succeeds",
    "cache": "from the cache, until a contact answers",
    "lan": "by a neighbour, until a contact answers",
    "resume": "back on a closed channel: the first ping's delay",
    "resume-nat": "the same between two behind NATs",
}
LIMITS_S = {"cache": 3.0, "invite": 5.0, "lan": 2.0}
LIMIT_BYTES = 300_000
LIMIT_RTTS = 1.2


@dataclass(frozen=True)
class Trial:
    """One way in.  Units: *took* seconds; of `resume` round trips."""

    took: float
    size_bytes: int = 0


class Scene:
    """The commons, a network whose members are behind NATs, and new devices one after the other."""

    def __init__(self, stack: contextlib.ExitStack, folder: Path) -> None:
        self._folder = folder
        self._lab = stack.enter_context(Lab())
        far = distances()
        delays = stack.enter_context(Delays())
        internet = Internet(self._lab, delays=delays, far_s=lambda: next(far))
        self._strangers = Strangers(internet, folder)
        self._nats = stack.enter_context(
            NatScene(self._lab, internet, folder, "port", "port", strangers=self._strangers)
        )
        self._nats.join()
        self._nats.wait_until_found(timeout_s=_READY_S)
        self._count = 0

    def trial(self) -> dict[str, Trial]:
        """Let a new device in by an invite, again from its cache, another by its neighbour.

        Raises: VeilError: one of them was not let in.
        """
        self._count += 1
        host = self._lab.host(f"new{self._count}")
        self._nats.nat_a.admit(host)
        node = Node(host, self._folder)
        node.configure(relay="off")
        found = {"invite": self._timed(host, lambda: self._by_invite(node))}
        wait_until(
            lambda: _contacts(node) > 0, "the new device is in the commons", timeout_s=_PATIENCE_S
        )
        node.down()
        time.sleep(_AWAY_S)
        found["cache"] = self._timed(host, lambda: self._up(node))
        node.down()
        found["lan"] = self._by_neighbour()
        found["resume"] = self._resume(self._nats.inviter)
        found["resume-nat"] = self._resume(self._nats.b)
        return found

    def _timed(self, host: Host, deed: Callable[[], None]) -> Trial:
        with Capture(host, "eth0") as wire:
            begun = time.monotonic()
            deed()
            took = time.monotonic() - begun
            return Trial(took, sum(len(frame.data) for frame in list(wire.frames)))

    def _by_invite(self, node: Node) -> None:
        invite = str(self._nats.inviter.tell("invite")["invite"])
        node.connect(invite, "--name", node.name)

    @staticmethod
    def _up(node: Node) -> None:
        node.start()
        wait_until(
            lambda: _contacts(node) > 0, f"{node.name} is in the commons", timeout_s=_PATIENCE_S
        )

    def _by_neighbour(self) -> Trial:
        neighbour = self._strangers.nodes[-1].host
        host = self._lab.host(f"neighbour{self._count}")
        net = f"192.168.{100 + self._count}"
        self._lab.wire(host, f"{net}.2/24", neighbour, f"{net}.1/24")
        host.route("default", via=f"{net}.1")
        neighbour.sysctl("net/ipv4/ip_forward", "1")
        if self._count == 1:
            neighbour.nft(_MASQUERADE)
        node = Node(host, self._folder)
        node.configure(relay="off")
        found = self._timed(host, lambda: self._up(node))
        node.down()
        return found

    def _resume(self, peer: Node) -> Trial:
        a, name = self._nats.a, peer.name
        a.tell("connect", peer=name, timeout_s=_PATIENCE_S)
        wait_until(
            lambda: a.paths(name)[0]["kind"] == "direct",
            f"a and {name} are direct",
            timeout_s=_PATIENCE_S,
        )
        address = peer.address(a.look()["networks"][0]["id"])
        time.sleep(_TICKET_S)
        open_s = min(_ping(a.host, address, count=5))
        self._part(a, peer)
        (first_s,) = _ping(a.host, address, count=1)
        took = (first_s - open_s) / open_s
        if took > LIMIT_RTTS:
            print(f"{took:.2f} RTT of {open_s:.3f} s. {a.logs(lines=30)}", file=sys.stderr)
            print(peer.logs(lines=30), file=sys.stderr)
        return Trial(took)

    @staticmethod
    def _part(a: Node, peer: Node) -> None:
        """Let a have no channel at all: for one that is open *peer* would be called, to relay.

        Raises: TimedOut: others call again and again.
        """
        for again in range(_PARTINGS):
            # Who was called meanwhile has given no ticket before its channel is two seconds old.
            time.sleep(_TICKET_S if again else 0.0)
            names = [
                str(each["name"]) for each in a.look()["peers"] if each["state"] == "connected"
            ]
            for other in names:
                a.tell("disconnect", peer=other)
            time.sleep(_AWAY_S)
            if not {_state(a, peer.name), _state(peer, "a")} & {"connected", "connecting"}:
                return
        raise TimedOut(f"a and {peer.name} do not stay apart")


def _state(node: Node, name: str) -> str:
    return next(str(peer["state"]) for peer in node.look()["peers"] if peer["name"] == name)


def _contacts(node: Node) -> int:
    with contextlib.suppress(DaemonNotRunning):
        return int((node.look().get("discovery") or {}).get("contacts", 0))
    return 0


def _ping(host: Host, address: str, *, count: int) -> list[float]:
    argv = ["ping", "-n", "-i", "0.3", "-c", str(count), "-W", "5", address]
    said = host.run(argv, check=False, timeout_s=_PATIENCE_S).stdout
    found = [float(ms) / 1e3 for ms in _RTT.findall(said)]
    if not found:
        raise TimedOut(f"no ping to {address} came back")
    return found


# -- the results ----------------------------------------------------------------------------------


def rows(done: dict[str, list[Trial]]) -> list[dict[str, Any]]:
    """Return one row per way in and measure."""
    found = []
    for name, trials in done.items():
        back = name.startswith("resume")
        measures = [("took", "RTT" if back else "s", [t.took for t in trials])]
        if not back:
            measures.append(("bytes", "bytes", [float(t.size_bytes) for t in trials]))
        for metric, unit, values in measures:
            spread = {"median": statistics.median(values), "min": min(values), "max": max(values)}
            found.append(
                {
                    "row": name,
                    "title": TITLES[name],
                    "metric": metric,
                    "unit": unit,
                    "n": len(values),
                    "congestion_control": [],
                    "systems": {"veilnet": {key: round(v, 3) for key, v in spread.items()}},
                }
            )
    return found


def goals(done: dict[str, list[Trial]]) -> list[dict[str, Any]]:
    """Return the goals of the design, and what was measured of them: medians."""
    took = {name: statistics.median(t.took for t in trials) for name, trials in done.items()}
    most = max((t.size_bytes for trials in done.values() for t in trials), default=0)
    ins = [f"{took[name]:.3g} s" if name in took else "not measured" for name in LIMITS_S]
    met = most <= LIMIT_BYTES and all(
        took.get(name, _PATIENCE_S) <= limit_s for name, limit_s in LIMITS_S.items()
    )
    resume = took.get("resume")
    return [
        {
            "goal": "join from cache / invite / LAN",
            "unit": "s",
            "measured": f"{' / '.join(ins)}; at most {most / 1e3:.0f} KB",
            "must": "<= 3 s / 5 s / 2 s and <= 300 KB",
            "moonshot": "-",
            "met": met,
            "moonshot_met": False,
        },
        {
            "goal": "cold first byte through a relay, real RTTs",
            "unit": "s",
            "measured": f"warm resume {'not measured' if resume is None else f'{resume:.3g} RTT'}",
            "must": "p50 <= 1.2 s, p95 <= 3 s; warm resume <= 1.2 RTT",
            "moonshot": "-",
            "met": resume is not None and resume <= LIMIT_RTTS,
            "moonshot_met": False,
        },
    ]


def main() -> int:
    """Run the bench and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two trials")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument("--trials", type=int, help="(15; --quick: 2)")
    options = parser.parse_args()
    enter()
    done: dict[str, list[Trial]] = defaultdict(list)
    failures: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory(prefix="veilnet-bench-") as name, contextlib.ExitStack() as st:
        try:
            scene = Scene(st, Path(name))
            for number in range(options.trials or (2 if options.quick else 15)):
                for way, trial in scene.trial().items():
                    done[way].append(trial)
                    size = f"  {trial.size_bytes / 1e3:.0f} KB" if trial.size_bytes else ""
                    print(f"{number + 1}  {way}  {trial.took:.3f}{size}", file=sys.stderr)
        except (VeilError, OSError) as error:
            failures.append({"what": "join", "reason": str(error)})
            print(f"FAILED {error}", file=sys.stderr)
    found = rows(done)
    result = document(found, goals(done), failures)
    if options.json:
        write(options.json, result)
    lines = [
        [
            row["title"],
            row["unit"],
            str(row["n"]),
            *(f"{row['systems']['veilnet'][key]:.4g}" for key in ("median", "min", "max")),
        ]
        for row in found
    ]
    print(table(["way", "unit", "n", "median", "least", "most"], lines))
    print()
    print(goals_table(result["goals"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
