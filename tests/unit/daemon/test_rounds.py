"""What goes on for as long as the node runs: through trouble and bugs, not past a broken engine."""

from __future__ import annotations

from functools import partial

import pytest
import trio

from veilnet.daemon.rounds import Alarm, rounds
from veilnet.errors import BrokenEngineError, ConfigError


async def test_trouble_and_bugs_end_one_time_only(autojump_clock):
    """Each is waited out; a broken engine ends it all."""
    del autojump_clock
    ends = [ConfigError("full"), None, ZeroDivisionError(), OSError("disk"), BrokenEngineError("x")]
    at = []

    async def act():
        at.append(trio.current_time() - start)
        end = ends[len(at) - 1]
        if end is not None:
            raise end

    start = trio.current_time()
    with pytest.raises(BrokenEngineError):
        await rounds(partial(trio.sleep, 1), act, trouble_s=10)
    assert at == pytest.approx([1, 12, 13, 24, 35])


async def test_an_alarm_follows_its_deadline(nursery, autojump_clock):
    """A deadline that comes nearer is kept, one that is gone is waited for no more."""
    del autojump_clock
    start, rung = trio.current_time(), []
    deadlines = {"next": start + 100}
    alarm = Alarm(lambda: deadlines["next"])

    async def ring():
        while True:
            await alarm.wait()
            rung.append(trio.current_time() - start)
            deadlines["next"] = None

    nursery.start_soon(ring)
    await trio.sleep(1)
    deadlines["next"] = start + 5
    await trio.sleep(10)
    assert rung == []  # nobody told it
    alarm.changed()
    await trio.sleep(1)
    assert rung == pytest.approx([11])
    deadlines["next"] = start + 20
    alarm.changed()
    await trio.sleep(30)
    assert rung == pytest.approx([11, 20])


async def test_an_alarm_that_is_past_lets_others_run(nursery):
    """What is due all the time starves nobody."""
    alarm = Alarm(lambda: 0.0)

    async def spin():
        while True:
            await alarm.wait()

    nursery.start_soon(spin)
    with trio.fail_after(5):
        for _ in range(3):
            await trio.lowlevel.checkpoint()
