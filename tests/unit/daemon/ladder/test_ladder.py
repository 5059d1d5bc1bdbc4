"""All ways at once: the first that works ends the climb, and what fails is a line."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.unit.daemon.ladder.steps import drained, line, started
from veilnet.daemon.ladder import Found, Off
from veilnet.daemon.ladder import ladder as core
from veilnet.errors import ConfigError
from veilnet.networks.endpoint import Endpoint

HERE = Endpoint("192.0.2.1", 1000)
THERE = Endpoint("192.0.2.2", 1000)


class Scripted:
    """A step that does what the test says."""

    limit_s = 30.0
    remedy = "ask the test"

    def __init__(self, name, act, *, standing=False):
        self.name, self.act, self.standing = name, act, standing
        self.began, self.cancelled = 0, 0

    async def climb(self, rung):
        """Act, and count how it began and ended."""
        self.began += 1
        try:
            await self.act(rung)
        except trio.Cancelled:
            self.cancelled += 1
            raise


def finds(*endpoints, after_s=0.0):
    """Return an act that finds these."""

    async def act(rung):
        await trio.sleep(after_s)
        for endpoint in endpoints:
            await rung.found(endpoint)

    return act


async def hangs(rung):
    """Never come to an end."""
    del rung
    await trio.sleep_forever()


def raises(error):
    """Return an act that fails."""

    async def act(rung):
        del rung
        raise error

    return act


@pytest.fixture
def climbing(nursery):
    """Start a ladder of these steps."""
    return partial(started, nursery)


async def test_all_steps_begin_at_once_and_the_first_success_calls_the_others_off(
    climbing, autojump_clock
):
    """Slow steps are cancelled when an endpoint of a fast one has proved itself."""
    slow = Scripted("slow", hangs)
    ladder = await climbing(slow, Scripted("fast", finds(HERE, after_s=0.5)))
    found = await ladder.contacts.receive()
    assert (found.endpoint, found.step) == (HERE, "fast")
    assert (slow.began, slow.cancelled) == (1, 0)
    ladder.worked(found)
    await wait_all_tasks_blocked()
    assert slow.cancelled == 1
    assert ladder.first == found
    assert ladder.to_json()["first"] == "fast"
    assert line(ladder, "fast") == {
        "name": "fast",
        "state": "worked",
        "tried": 1,
        "found": 1,
        "worked": 1,
        "took_s": 0.5,
    }


async def test_an_endpoint_that_was_found_is_not_a_success(climbing, autojump_clock):
    """Only whoever dialled can say so: until then the other steps go on."""
    slow = Scripted("slow", finds(THERE, after_s=3))
    ladder = await climbing(Scripted("fast", finds(HERE)), slow)
    assert (await ladder.contacts.receive()).endpoint == HERE
    assert (await ladder.contacts.receive()).endpoint == THERE
    assert not ladder.has_won


async def test_a_lost_contact_begins_a_climb_at_once(climbing, autojump_clock):
    """The node that lost everybody climbs again, without the pause of a failed climb."""
    step = Scripted("step", finds(HERE))
    ladder = await climbing(step)
    ladder.worked(await ladder.contacts.receive())
    await trio.sleep(1_000)
    assert step.began == 1
    before = trio.current_time()
    ladder.lost()
    assert (await ladder.contacts.receive()).endpoint == HERE
    assert trio.current_time() == before
    assert step.began == 2


async def test_climbs_that_lead_nowhere_come_ever_more_rarely(climbing, autojump_clock):
    """Pauses double from FIRST_PAUSE_S to MAX_PAUSE_S, give or take a quarter."""
    times = []

    async def act(rung):
        del rung
        times.append(trio.current_time())

    await climbing(Scripted("step", act))
    await trio.sleep(3_000)
    pauses = [after - before for before, after in pairwise(times)]
    for number, pause in enumerate(pauses):
        expected = min(core.FIRST_PAUSE_S * 2**number, core.MAX_PAUSE_S)
        assert 0.75 * expected <= pause <= 1.25 * expected
    assert len(pauses) > 10


async def test_a_nudge_spares_the_pause(climbing, autojump_clock):
    """When the world changes nobody waits for the end of a long pause."""
    step = Scripted("step", finds())
    ladder = await climbing(step)
    await trio.sleep(2_000)
    began = step.began
    ladder.nudge()
    await wait_all_tasks_blocked()
    assert step.began == began + 1


async def test_what_fails_is_a_line_with_a_remedy(climbing, autojump_clock):
    """Neither a refusal, an operating system's error, a bug nor a time-out reaches anybody else."""
    ladder = await climbing(
        Scripted("refused", raises(ConfigError("it does not resolve", hint="Check the name."))),
        Scripted("broken", raises(OSError(101, "Network is unreachable"))),
        Scripted("bug", raises(ZeroDivisionError())),
        Scripted("hangs", hangs),
        Scripted("fine", finds(HERE)),
        Off("beacon", "switched off", "Set beacon = true in config.toml."),
    )
    assert (await ladder.contacts.receive()).endpoint == HERE
    await trio.sleep(30.5)
    assert line(ladder, "refused")["failed"] == "it does not resolve"
    assert line(ladder, "refused")["remedy"] == "Check the name."
    assert "Network is unreachable" in line(ladder, "broken")["failed"]
    assert line(ladder, "broken")["remedy"] == "ask the test"
    assert "bug of ours: ZeroDivisionError()" in line(ladder, "bug")["failed"]
    assert line(ladder, "hangs")["failed"] == "nothing within 30 s"
    assert line(ladder, "fine")["state"] == "found"
    assert line(ladder, "beacon") == {
        "name": "beacon",
        "state": "off",
        "tried": 0,
        "found": 0,
        "worked": 0,
        "failed": "switched off",
        "remedy": "Set beacon = true in config.toml.",
    }


async def test_text_of_others_is_made_harmless(climbing, autojump_clock):
    """A reason that a server made up is bounded and has no control characters."""
    ladder = await climbing(Scripted("step", raises(ConfigError("\x1b[2J" + "x" * 5_000))))
    await wait_all_tasks_blocked()
    said = line(ladder, "step")["failed"]
    assert len(said) < 300
    assert "\x1b" not in said


async def test_an_endpoint_comes_once_a_climb_and_again_when_more_sources_name_it(
    climbing, autojump_clock
):
    """Duplicates of several steps are dialled once; agreement is news."""

    async def act(rung):
        for sources in (1, 1, 2, 1):
            await rung.found(HERE, sources=sources)

    ladder = await climbing(Scripted("one", act), Scripted("two", finds(HERE)))
    await trio.sleep(0.1)
    got = [item.sources for item in drained(ladder)]
    assert sorted(got) in ([1, 2], [2])


async def test_what_is_remembered_is_bounded(climbing, autojump_clock):
    """A step that finds without end neither fills the memory nor runs ahead of the dialler."""

    async def act(rung):
        for number in range(5_000):
            rung.offer(Endpoint(f"10.0.{number // 250}.{number % 250 + 1}", 1))

    ladder = await climbing(Scripted("flood", act, standing=True))
    await wait_all_tasks_blocked()
    assert ladder.contacts.statistics().current_buffer_used == core.CONTACTS_MAX
    assert len(ladder._seen) <= core.SEEN_MAX

    for number in range(2 * core.SEEN_MAX):
        ladder.is_new(Found(Endpoint(f"10.1.{number // 250}.{number % 250 + 1}", 1), "flood"))
    assert len(ladder._seen) == core.SEEN_MAX


async def test_a_climbing_step_waits_for_the_dialler(climbing, autojump_clock):
    """Whoever dials sets the pace: nothing is dropped."""
    many = [Endpoint(f"10.0.0.{number}", 1) for number in range(1, 200)]
    ladder = await climbing(Scripted("step", finds(*many)))
    got = [(await ladder.contacts.receive()).endpoint for _ in many]
    assert got == many


async def test_a_standing_step_goes_on_after_the_climb_and_starts_again_when_it_fails(
    climbing, autojump_clock
):
    """It serves others too; what ended it is told, and it is tried again after a pause."""
    attempts = []

    async def act(rung):
        attempts.append(trio.current_time())
        rung.offer(HERE)
        if len(attempts) < 3:
            raise OSError(19, "No such device")
        await trio.sleep_forever()

    standing = Scripted("standing", act, standing=True)
    ladder = await climbing(standing)
    ladder.worked(await ladder.contacts.receive())
    await trio.sleep(0.1)
    assert "No such device" in line(ladder, "standing")["failed"]
    await trio.sleep(100)
    assert len(attempts) == 3
    assert attempts[1] - attempts[0] < attempts[2] - attempts[1]
    assert standing.cancelled == 0


async def test_rest_ends_with_its_time_or_a_nudge_and_misses_none(climbing, autojump_clock):
    """A change while the step was busy ends its next rest at once."""
    told = []

    async def act(rung):
        told.append(await rung.rest(10))
        ladder.nudge()
        told.append(await rung.rest(10))
        told.append(await rung.rest(10))
        await trio.sleep_forever()

    ladder = await climbing(Scripted("standing", act, standing=True))
    await trio.sleep(25)
    assert told == [False, True, False]
