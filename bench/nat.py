"""Which pairs of NATs let two members meet, how soon, and by which way: the matrix.

    python bench/nat.py [--json FILE] [--pairs A:B,...] [--kinds A,B,...] [--trials N] [--lanes N]
                        [--minutes M] [--logs DIR] [--rtt] [--cold] [--relays commons|inviter]

```
a --- NAT --- west --- one --- two --- east --- NAT --- b
                        |       |
                 inviter, relays: public places
```
Each trial is a first meeting: new NATs, new nodes, new keys.  Both join by an invite through their
NATs, the inviter is killed, and a connects to b, with which it never had a session.

- usable: the first byte came back, by whatever path;
- direct: both ends send over a direct path within 35 s of the command, and pings pass there.

With --rtt everybody is some way off: half of a round trip time of the PlanetLab set is shared out
between the two ends, so that the times of the first bytes mean something.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nat_goals import goals
from plot_nat import matrix as draw
from report import commit, goals_table, machine, table, write
from veilnet.errors import TimedOut, VeilError
from veilnet.testing import KINDS, Delays, Internet, Lab, NatScene, Strangers, enter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HERE = Path(__file__).parent
DIRECT_S = 35.0
_CONNECT_S = 30.0
_READY_S = 15.0
_LOOK_S = 0.1
_FOUND = re.compile(r"event='direct way found'.*tries_before=(\d+)")
_RECEIVED = re.compile(r"(\d+) packets transmitted, (\d+) received")

Pair = tuple[str, str]


@dataclass(frozen=True)
class Trial:
    """What became of one meeting.  Units: seconds since the command began; datagrams."""

    first_path: str
    """``direct``, ``relayed`` or, if no byte came back, why."""
    first_byte_s: float | None
    direct_s: float | None
    attempt: str
    """To punch, that found the direct path; 0: an address that was known did."""
    datagrams: int
    """That the one who sent more sent towards the other's network, until it was direct."""
    pings: int
    answered: int

    @property
    def usable(self) -> bool:
        """Whether a byte came back."""
        return self.first_byte_s is not None

    @property
    def direct(self) -> bool:
        """Whether it became direct in time."""
        return self.direct_s is not None and self.direct_s <= DIRECT_S


def may_become_direct(pair: Pair) -> bool:
    """Say whether a direct path of UDP can exist at all."""
    return "udp_blocked" not in pair and (pair.count("ipv6_only") in (0, 2))


@contextlib.contextmanager
def pinging(scene: NatScene) -> Iterator[list[int]]:
    """Let a ping b, five times a second; afterwards the list has the counts sent and answered."""
    argv = ["ping", "-n", "-q", "-i", "0.2", scene.b.address()]
    process = scene.a.host.popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    counts: list[int] = []
    try:
        yield counts
    finally:
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=20)
        found = _RECEIVED.search(said)
        counts += map(int, found.groups()) if found else (0, 0)


def meet(scene: NatScene) -> Trial:
    """Let a connect to b and watch.  Raises: VeilError: the nodes are broken, not their network."""
    scene.nat_a.count(scene.nat_b)
    scene.nat_b.count(scene.nat_a)
    try:
        answer = scene.a.tell("connect", wait_s=_CONNECT_S + 10, peer="b", timeout_s=_CONNECT_S)
    except VeilError as error:
        return Trial(error.message, None, None, "", 0, 0, 0)
    first_byte_s = answer["first_byte_ms"] / 1000
    began = time.monotonic() - first_byte_s
    direct_s = None
    with pinging(scene) as counts:
        while may_become_direct(scene.kinds) and time.monotonic() < began + DIRECT_S:
            if scene.direct():
                direct_s = time.monotonic() - began
                break
            time.sleep(_LOOK_S)
        if direct_s is None and may_become_direct(scene.kinds):
            for node, peer in ((scene.a, "b"), (scene.b, "a")):
                said = node.tell("path", peer=peer)
                say(f"{node.name} explains: {json.dumps(said)}")
        datagrams = max(scene.nat_a.counted(), scene.nat_b.counted())
        if answer["path"]["kind"] == "direct" and direct_s is not None:
            direct_s = first_byte_s
    attempt = attempt_of(scene) if direct_s is not None else ""
    return Trial(
        answer["path"]["kind"], first_byte_s, direct_s, attempt, datagrams, counts[0], counts[1]
    )


def attempt_of(scene: NatScene) -> str:
    """Return which attempt to punch found the direct path: 0 if it needed none, by the logs."""
    found = [_FOUND.findall(node.logs(lines=4_000)) for node in (scene.a, scene.b)]
    return str(max((int(one[-1]) + 1 for one in found if one), default=0))


def distances(seed: int = 5) -> Iterator[float]:
    """Yield how far hosts are from the middle of the Internet.  Units: seconds, one way.

    Raises: FileNotFoundError: the data is not here; VEILNET_RTT names its folder.
    """
    folder = Path(os.environ.get("VEILNET_RTT", HERE.parent.parent / "shared/data/rtt"))
    with np.load(folder / "planetlab.npz") as data:
        eighths = data["rtt_eighth_ms"][0]
    known = eighths[eighths > 0]
    rng = np.random.default_rng(seed)
    while True:
        # A quarter of a round trip: there and back, and half of the way is the other end's.
        yield float(rng.choice(known)) / 8 / 1000 / 4


class Run:
    """Trials of many pairs, some at once, until every pair has enough."""

    def __init__(
        self, pairs: Sequence[Pair], trials: int, lanes: int, end_s: float, *, real_rtts: bool
    ) -> None:
        self.pairs, self.trials, self.lanes, self.real_rtts = pairs, trials, lanes, real_rtts
        self.done: dict[Pair, list[Trial]] = defaultdict(list)
        self.failures: list[dict[str, str]] = []
        self.logs: Path | None = None
        self.strangers: Strangers | None = None
        self.commons = self.cold = False
        self._end_s = end_s
        self._lock = threading.Lock()
        self._work = iter([pair for _ in range(trials) for pair in pairs])
        self._count = itertools.count(1)

    def play(self, folder: Path) -> None:
        """Run it all."""
        with contextlib.ExitStack() as stack:
            lab = stack.enter_context(Lab())
            if self.real_rtts:
                delays, far = stack.enter_context(Delays()), distances()
                internet = Internet(lab, delays=delays, far_s=lambda: next(far))
            else:
                internet = Internet(lab)
            if self.commons:
                self.strangers = Strangers(internet, folder)
            with ThreadPoolExecutor(self.lanes) as pool:
                lanes = [pool.submit(self._lane, lab, internet, folder) for _ in range(self.lanes)]
                for lane in lanes:
                    lane.result()

    def _next(self) -> tuple[int, Pair] | None:
        with self._lock:
            if time.monotonic() >= self._end_s:
                return None
            pair = next(self._work, None)
            return None if pair is None else (next(self._count), pair)

    def _lane(self, lab: Lab, internet: Internet, folder: Path) -> None:
        while (work := self._next()) is not None:
            number, pair = work
            name = f"t{number}"
            try:
                with NatScene(
                    lab, internet, folder, *pair, name=name, strangers=self.strangers
                ) as scene:
                    self._trial(scene, number)
            except (VeilError, OSError, subprocess.SubprocessError) as error:
                self._failed(f"{' x '.join(pair)}, trial {number}", str(error))

    def _trial(self, scene: NatScene, number: int) -> None:
        try:
            scene.join()
            if self.strangers is not None:
                scene.lose_inviter()
            if self.cold or "udp_blocked" in scene.kinds:
                scene.return_later()
            with contextlib.suppress(TimedOut):
                scene.wait_until_found(timeout_s=_READY_S)
            scene.forget_each_other()
            trial = meet(scene)
        finally:
            if self.logs is not None:
                place = self.logs / f"{number:04d}-{'-'.join(scene.kinds)}.log"
                place.write_text(scene.logs(lines=4_000))
        with self._lock:
            self.done[scene.kinds].append(trial)
        say(f"{number:4d}  {' x '.join(scene.kinds):44s}  {told(trial)}")

    def _failed(self, what: str, why: str) -> None:
        with self._lock:
            self.failures.append({"what": what, "reason": why})
        say(f"FAILED {what}: {why}")


def told(trial: Trial) -> str:
    """Return a trial in a line."""
    if trial.first_byte_s is None:
        return f"NOT USABLE: {trial.first_path}"
    words = f"{trial.first_path:8s} first byte {trial.first_byte_s:5.2f} s"
    if trial.direct_s is not None:
        words += f"  direct {trial.direct_s:5.2f} s attempt {trial.attempt}"
    return f"{words}  {trial.datagrams} datagrams  {trial.answered}/{trial.pings} pings"


def say(text: str) -> None:
    """Tell how it goes."""
    print(text, file=sys.stderr, flush=True)


# -- the results ----------------------------------------------------------------------------------


def cell(trials: Sequence[Trial]) -> str:
    """Return what a cell of the matrix says: how, how often, how soon."""
    if not trials:
        return ""
    n, direct = len(trials), [t.direct_s for t in trials if t.direct and t.direct_s is not None]
    usable = sum(trial.usable for trial in trials)
    if direct:
        words = f"D {len(direct)}/{n} {statistics.median(direct):.1f}s"
        return words if usable == n else f"{words} !{usable}/{n}"
    return f"{'R' if usable else '-'} {usable}/{n}"


def add_earlier(path: Path, run: Run) -> None:
    """Add the trials that another run has written, and those that it could not make."""
    document = json.loads(path.read_text())
    for name, pair in document["matrix"].items():
        one, other = name.split(" x ")
        run.done[one, other] += [Trial(**trial) for trial in pair["trials"]]
    run.failures += document["failures"]


def document_of(run: Run, options: argparse.Namespace) -> dict[str, Any]:
    """Return the results under the benches' contract."""
    return {
        "commit": commit(),
        "machine": machine(),
        "command": f"python bench/nat.py {' '.join(sys.argv[1:])}".strip(),
        "trials": options.trials,
        "missing": {},
        "failures": run.failures,
        "matrix": {
            f"{a} x {b}": {
                "n": len(trials),
                "trials": [asdict(trial) for trial in trials],
                "usable": sum(trial.usable for trial in trials),
                "direct": sum(trial.direct for trial in trials),
                "said": cell(trials),
            }
            for (a, b), trials in run.done.items()
        },
        "rows": rows(run.done),
        "goals": goals(run.done, failed=len(run.failures), real_rtts=options.rtt),
    }


def rows(done: dict[Pair, list[Trial]]) -> list[dict[str, Any]]:
    """Return one row per pair, whoever of the two calls: in how many trials they met directly."""
    found = []
    for one, other in itertools.combinations_with_replacement(KINDS, 2):
        trials = [t for pair in {(one, other), (other, one)} for t in done.get(pair, ())]
        if trials:
            n, direct = len(trials), sum(trial.direct for trial in trials)
            usable = sum(trial.usable for trial in trials)
            found.append(_row(f"{one} x {other}: direct in {direct}, usable in {usable} of {n}",
                              "direct", "%", [100 * direct / n], n))  # fmt: skip
    for word, metric, values in (
        ("first byte", "first_byte_s", [t.first_byte_s for ts in done.values() for t in ts]),
        ("until direct", "direct_s", [t.direct_s for ts in done.values() for t in ts if t.direct]),
    ):
        if kept := [value for value in values if value is not None]:
            found.append(_row(f"all pairs: {word}", metric, "s", kept, len(kept)))
    return found


def _row(title: str, metric: str, unit: str, values: Sequence[float], n: int) -> dict[str, Any]:
    ordered = sorted(values)
    spread = {
        "median": statistics.median(ordered),
        "min": ordered[0],
        "max": ordered[-1],
        "p95": ordered[max(0, math.ceil(0.95 * len(ordered)) - 1)],
    }
    kept = {name: float(f"{value:.4g}") for name, value in spread.items()}
    return {"row": title.partition(":")[0], "title": title, "metric": metric, "unit": unit, "n": n,
            "systems": {"veilnet": kept}}  # fmt: skip


def show(run: Run, document: dict[str, Any]) -> None:
    """Print the matrix and the goals."""
    across = [kind for kind in KINDS if any(b == kind for _, b in run.done)]
    down = [kind for kind in KINDS if any(a == kind for a, _ in run.done)]
    lines = [[a, *(cell(run.done.get((a, b), [])) for b in across)] for a in down]
    print(table(["a calls b", *across], lines))
    print("D direct within 35 s (median), R relayed only, - not usable; in how many trials")
    if run.failures:
        print(f"{len(run.failures)} trials could not be made; see the JSON")
    print()
    print(goals_table(document["goals"]))


def picked(options: argparse.Namespace) -> list[Pair]:
    """Return the pairs that were asked for.  Raises: SystemExit: one has no such kind."""
    if options.pairs:
        pairs = [tuple(text.split(":")) for text in options.pairs.split(",")]
    else:
        pairs = list(itertools.product(options.kinds.split(","), repeat=2))
    for pair in pairs:
        if len(pair) != 2 or not set(pair) <= set(KINDS):
            sys.exit(f"{':'.join(pair)} is no pair of {', '.join(KINDS)}")
    return [(pair[0], pair[1]) for pair in pairs]


def main() -> int:
    """Run the bench and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument("--pairs", help="A:B,... where A calls B (all of --kinds)")
    parser.add_argument("--kinds", default=",".join(KINDS), help="%(default)s")
    parser.add_argument(
        "--trials", type=int, default=1, help="per pair and caller; 0: --also alone (%(default)s)"
    )
    parser.add_argument("--lanes", type=int, default=2, help="trials at once (%(default)s)")
    parser.add_argument("--minutes", type=float, default=math.inf, help="no trial begins later")
    parser.add_argument("--also", type=Path, nargs="*", default=(), metavar="FILE",
                        help="add the trials of these runs")  # fmt: skip
    parser.add_argument("--logs", type=Path, metavar="DIR", help="keep the logs of every trial")
    parser.add_argument(
        "--relays", choices=("commons", "inviter"), default="commons",
        help="who relays: strangers, and the inviter is dead; or the inviter (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--cold", action="store_true", help="both start anew before they meet")
    parser.add_argument("--rtt", action="store_true", help="everybody is some way off")
    options = parser.parse_args()
    pairs = picked(options)
    enter()
    end_s = time.monotonic() + options.minutes * 60
    run = Run(pairs, options.trials, options.lanes, end_s, real_rtts=options.rtt)
    run.commons, run.cold = options.relays == "commons", options.cold
    if options.logs is not None:
        options.logs.mkdir(parents=True, exist_ok=True)
        run.logs = options.logs
    if options.trials:
        with tempfile.TemporaryDirectory(prefix="veilnet-bench-") as folder:
            run.play(Path(folder))
    for path in options.also:
        add_earlier(path, run)
    document = document_of(run, options)
    if options.json:
        write(options.json, document)
        draw(options.json.with_suffix(".svg"), run.done)
    show(run, document)
    return 0


if __name__ == "__main__":
    sys.exit(main())
