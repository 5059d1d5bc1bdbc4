"""Python stands still and packets flow: no packet ever waits for the interpreter.

```
left 10.0.0.1 ========== 10.0.0.2 right      in both daemons a thread takes the GIL and keeps it
```
"""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.netns import flows, programs
from tests.netns.scenes import World, configure, eventually, needs_iperf3, pair, ping, status
from veilnet.control import client

HELD_S = 30
_BEFORE_S = 6
_STEP_DATAGRAMS = 20_000

HOLD = f"""
import ctypes, signal, threading

signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGUSR2}})

def hold():
    while True:
        signal.sigwait({{signal.SIGUSR2}})
        # Unlike CDLL, PyDLL keeps the GIL over the call.
        ctypes.PyDLL(None).sleep({HELD_S})

threading.Thread(target=hold, daemon=True).start()
"""


def _rate(intervals):
    return sum(item["bytes"] for item in intervals) / sum(item["seconds"] for item in intervals)


def _keys(node):
    (keys,) = client.ask(node.socket, "keys")["keys"]
    return keys


@needs_iperf3
@pytest.mark.slow
def test_the_gil_held_for_thirty_seconds_costs_no_throughput(tmp_path):
    """With the GIL of both daemons held, TCP runs at 80 % and more of its rate before.

    The daemons answer no command meanwhile, keys step all the same, and the session survives.
    """
    with World(tmp_path) as world:
        pair(world)
        left, right = world.node("left"), world.node("right")
        for node in (left, right):
            configure(node, rekey_s=240, step_datagrams=_STEP_DATAGRAMS)
        with programs.changed(left, HOLD) as one, programs.changed(right, HOLD) as other:
            right.connect(left.invite(), "--name", "right")
            address = right.address(status(left)["networks"][0]["id"])
            assert ping(left.host, address) == 3
            # A busy machine may spoil one round; a daemon that needs Python spoils both.
            for _ in range(2):
                before, during = _round(left, right, address, (one, other))
                if during >= 0.8 * before:
                    break
            assert during >= 0.8 * before, f"{during / before:.2f} of it"
            assert ping(left.host, address) == 3
            for node in (left, right):
                # The session of before, not one after it.
                assert _keys(node)["last_rekey_s"] > HELD_S


def _round(left, right, address, processes):
    """Return the bytes per second of one stream before and while the GIL is held."""
    with flows.Iperf(
        left.host, right.host, address, seconds=_BEFORE_S + HELD_S - 2, every_s=1.0
    ) as stream:
        ready = time.monotonic() + _BEFORE_S
        eventually(lambda: time.monotonic() > ready)
        then = _keys(left)
        for process in processes:
            os.kill(process.pid, signal.SIGUSR2)
        with programs.started(left, "status") as asked:
            # iperf3 ends a second or so before the hold does.
            report = stream.report()
            assert asked.poll() is None, "a daemon answered while its GIL was held"
            asked.communicate(timeout=20)
            assert asked.returncode == 0
    now = _keys(left)
    assert (now["epoch"], now["step_tx"]) >= (then["epoch"], then["step_tx"] + 8)
    assert flows.longest_pause_s(report) <= 1.0
    intervals = [item["sum"] for item in report["intervals"]]
    before = [item for item in intervals if 1 <= item["start"] < _BEFORE_S - 1.5]
    during = [item for item in intervals if _BEFORE_S + 0.5 < item["start"] < _BEFORE_S + HELD_S]
    return _rate(before), _rate(during)
