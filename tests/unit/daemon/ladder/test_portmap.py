"""The port mapping's life: asked for, renewed at half of it, given back whatever happens."""

from __future__ import annotations

import threading

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.unit.daemon.ladder.steps import at_once, line, started, until
from veilnet.daemon.ladder import portmap
from veilnet.daemon.ladder.portmap import Gateway, PortMap
from veilnet.errors import PeerRefused, TimedOut
from veilnet.networks.endpoint import Endpoint

HOME = Gateway("192.168.1.1", "192.168.1.5")
PUBLIC = Endpoint("203.0.113.7", 41_000)


class Given:
    """A mapping that counts what is done with it."""

    protocol = "PCP"

    def __init__(self, external=PUBLIC, life_s=7_200):
        self.external, self.life_s = tuple(external), life_s
        self.renewed, self.removed, self.fails = [], 0, None

    def renew(self):
        """Note when, and fail if the test says so."""
        self.renewed.append(trio.current_time())
        if self.fails:
            raise self.fails

    def remove(self):
        """Count it."""
        self.removed += 1


def giving(mapping):
    """Return a protocol whose gateway gives *mapping*."""
    return lambda gateway, port: mapping


def refusing(error):
    """Return a protocol that fails."""

    def way(gateway, port):
        raise error

    return way


def step(*ways, gateway=lambda tun: HOME, **options):
    """Return the step with these protocols."""
    return PortMap(port=41_000, ways=ways, gateway=gateway, **options)


async def test_a_mapping_is_renewed_at_half_its_life(nursery, autojump_clock):
    """Long before it ends, again and again, as long as the gateway answers."""
    del autojump_clock
    given = Given()
    made = step(giving(given), in_thread=at_once)
    ladder = await started(nursery, made)
    await trio.sleep(4 * 3_600 + 1)
    assert [round(at / 3_600) for at in given.renewed] == [1, 2, 3, 4]
    assert made.mapped == PUBLIC
    assert "203.0.113.7:41000 leads here, by PCP of 192.168.1.1" in line(ladder, "portmap")["note"]


async def test_a_failing_renewal_is_tried_ever_sooner_and_then_the_mapping_is_lost(
    nursery, autojump_clock
):
    """At 1/2, 3/4, 7/8 ... of its life; when it has ended it is said so, and asked for anew."""
    del autojump_clock
    given, again = Given(), Given(Endpoint("203.0.113.7", 41_001))
    given.fails = TimedOut("no gateway answered", hint="Look at it.")
    mappings = iter([given, again])
    changes = []
    made = step(
        lambda gateway, port: next(mappings),
        in_thread=at_once,
        changed=lambda: changes.append(made.mapped),
    )
    await started(nursery, made)
    await trio.sleep(3_601)
    assert made.mapped == PUBLIC
    assert len(given.renewed) == 1
    await trio.sleep(3_700)
    assert 8 <= len(given.renewed) <= 12
    assert given.renewed[1] == pytest.approx(5_400, abs=1)
    assert made.mapped == Endpoint("203.0.113.7", 41_001)
    assert changes == [PUBLIC, None, made.mapped]
    assert given.removed == 1


async def test_it_is_given_back_at_the_end(nursery, autojump_clock):
    """The gateway has no hole left when the node stops."""
    del autojump_clock
    given = Given()
    made = step(giving(given), in_thread=at_once)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as inner:
            await started(inner, made)
            await trio.sleep(10)
            assert given.removed == 0
            scope.cancel()
    assert given.removed == 1
    assert made.mapped is None


async def test_a_gateway_that_hangs_does_not_hold_up_the_end(monkeypatch):
    """REMOVE_S is all the time that giving back may take."""
    monkeypatch.setattr(portmap, "REMOVE_S", 0.02)
    free = threading.Event()
    given = Given()
    given.remove = free.wait
    made = step(giving(given))
    with trio.fail_after(5), trio.CancelScope() as scope:
        async with trio.open_nursery() as inner:
            await started(inner, made)
            await until(lambda: made.mapped)
            scope.cancel()
    free.set()


async def test_a_mapping_that_comes_after_the_end_goes_back_at_once():
    """Nobody is left to remove it but the thread that was asking."""
    free, given = threading.Event(), Given()
    gone, asking = threading.Event(), threading.Event()
    given.remove = gone.set

    def slow(gateway, port):
        asking.set()
        free.wait()
        return given

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as inner:
            await started(inner, step(slow))
            await until(asking.is_set)
            scope.cancel()
    assert not gone.is_set()
    free.set()
    await until(gone.is_set)


async def test_the_next_protocol_is_asked_when_one_is_silent(nursery):
    """UPnP after PCP; what a refusal says counts more than silence."""
    given = Given()
    made = step(refusing(TimedOut("no gateway answered (PCP)")), giving(given))
    await started(nursery, made)
    await until(lambda: made.mapped == PUBLIC)


async def test_a_gateway_that_gives_nothing_is_a_line_with_a_remedy(nursery):
    """Every protocol's reason, and what to do about the one that answered."""
    ladder = await started(
        nursery,
        step(
            refusing(TimedOut("no gateway answered (PCP)", hint="Switch it on.")),
            refusing(PeerRefused("the gateway refused: not authorized", hint="Allow it.")),
        ),
    )
    await until(lambda: line(ladder, "portmap")["state"] == "failed")
    assert "192.168.1.1 gave no port" in line(ladder, "portmap")["failed"]
    assert "(PCP); the gateway refused" in line(ladder, "portmap")["failed"]
    assert line(ladder, "portmap")["remedy"] == "Allow it."


@pytest.mark.parametrize(
    ("gateway", "said"),
    [(None, "no gateway"), (Gateway("9.9.9.1", "9.9.9.9"), "9.9.9.9 is a public address")],
)
async def test_where_nothing_is_to_map_nobody_is_asked(nursery, gateway, said):
    """A public host, and one with no way out, ask no gateway."""
    asked = []
    ladder = await started(
        nursery, step(lambda *given: asked.append(given), gateway=lambda tun: gateway)
    )
    await until(lambda: line(ladder, "portmap").get("note"))
    assert said in line(ladder, "portmap")["note"]
    await wait_all_tasks_blocked()
    assert not asked


async def test_another_gateway_is_another_mapping(nursery, autojump_clock):
    """When the host moves, the old mapping is given back and the new gateway is asked."""
    del autojump_clock
    old, new = Given(), Given(Endpoint("198.51.100.7", 41_000))
    here = [HOME]
    made = step(
        lambda gateway, port: old if gateway == HOME else new,
        in_thread=at_once,
        gateway=lambda tun: here[0],
    )
    ladder = await started(nursery, made)
    await trio.sleep(1)
    here[0] = Gateway("10.0.0.1", "10.0.0.5")
    ladder.nudge()
    await trio.sleep(1)
    assert made.mapped == Endpoint("198.51.100.7", 41_000)
    assert (old.removed, new.removed) == (1, 0)


async def test_behind_a_second_nat_it_is_said(nursery):
    """A mapped port on an address that is private again leads nobody here."""
    ladder = await started(nursery, step(giving(Given(Endpoint("100.64.3.4", 41_000)))))
    await until(lambda: "another NAT" in line(ladder, "portmap").get("note", ""))
