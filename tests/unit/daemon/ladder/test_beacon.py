"""The beacon on a Mainline DHT: a real one on loopback, and one that fails in all ways."""

from __future__ import annotations

import random

import pytest
import trio

from tests.unit.daemon.ladder.steps import at_once, drained, line, scope, started, until
from veilnet import _engine
from veilnet.daemon.ladder.beacon import Beacon, days, infohash
from veilnet.daemon.ladder.scope import DAY_S
from veilnet.errors import ClosedError, ConfigError, LocalProtocolError, TimedOut
from veilnet.networks.endpoint import Endpoint

OURS = scope(b"n", b"s")
OTHER = scope(b"m", b"t")
NOON = 20_000 * DAY_S + DAY_S // 2


def beacon(port, *, scopes=(OURS,), **options):
    """Return a step that announces *port*."""
    options.setdefault("wall", lambda: NOON)
    return Beacon(scopes=lambda: scopes, port=lambda: port, rng=random.Random(port), **options)


@pytest.fixture
def testnet():
    """Eight Mainline nodes on loopback."""
    made = _engine.BeaconTestnet(8)
    yield made.bootstrap
    made.close()


async def test_two_who_share_a_secret_meet(nursery, testnet):
    """One announces itself; the other finds it by the secret and the day alone."""
    on_loopback = {
        "bootstrap": testnet,
        "open_client": lambda first: _engine.Beacon.open(bootstrap=list(first), bind="127.0.0.1"),
    }
    alice = await started(nursery, beacon(41_000, **on_loopback))
    await until(lambda: "announced under 1" in line(alice, "beacon").get("note", ""))
    bob = await started(nursery, beacon(42_000, **on_loopback))
    with trio.fail_after(10):
        found = await bob.contacts.receive()
    assert (found.endpoint, found.network_id) == (Endpoint("127.0.0.1", 41_000), OURS.network_id)
    stranger = await started(nursery, beacon(43_000, scopes=(OTHER,), **on_loopback))
    await until(lambda: "announced" in line(stranger, "beacon").get("note", ""))
    assert drained(stranger) == []


def test_the_binding_says_whose_fault_it_is(testnet):
    """A closed beacon, a short infohash and first nodes without addresses are each an error."""
    made = _engine.Beacon.open(bootstrap=testnet[:1], bind="127.0.0.1")
    with pytest.raises(LocalProtocolError, match="20"):
        made.peers(b"short", most=1, timeout_s=1.0)
    assert made.peers(b"i" * 20, most=1, timeout_s=0.0) == []
    made.close()
    assert repr(made) == "<Beacon closed>"
    with pytest.raises(ClosedError):
        made.announce(b"i" * 20, port=1, timeout_s=1.0)
    with pytest.raises(ConfigError):
        _engine.Beacon.open(bootstrap=["[::1]:1"])


class Fake:
    """A client that does what the test wants."""

    def __init__(self, peers=(), refuses=None):
        self.known, self.refuses = list(peers), refuses
        self.announced, self.looked, self.closed = [], [], 0

    def peers(self, infohash, *, most, timeout_s):
        """Return who the test says is there."""
        self.looked.append(infohash)
        return self.known[:most]

    def announce(self, infohash, *, port, timeout_s):
        """Note it, or refuse it."""
        if self.refuses:
            raise self.refuses
        self.announced.append((infohash, port))

    def nodes(self, *, timeout_s):
        """Return one node."""
        return ["192.0.2.9:6881"]

    def close(self):
        """Count it."""
        self.closed += 1


def opening(fake, *, seen=None):
    """Return what opens *fake*, and notes with which first nodes."""

    def open_client(first):
        if seen is not None:
            seen.append(tuple(first))
        return fake

    return open_client


async def test_a_round_looks_and_announces_for_every_scope_and_closes(nursery):
    """Nothing of the client is left between rounds."""
    fake = Fake()
    ladder = await started(nursery, beacon(41_000, scopes=(OURS, OTHER), open_client=opening(fake)))
    await until(lambda: line(ladder, "beacon").get("note"))
    today = NOON // DAY_S
    assert fake.announced == [(infohash(scope, today), 41_000) for scope in (OURS, OTHER)]
    assert fake.looked == [infohash(scope, today) for scope in (OURS, OTHER)]
    assert fake.closed == 1


async def test_addresses_of_no_public_host_are_not_believed(nursery):
    """The public DHT cannot point us into our own house."""
    fake = Fake([("192.168.1.1", 53), ("127.0.0.1", 25), ("0.0.0.0", 1), ("9.9.9.9", 7)])
    ladder = await started(nursery, beacon(41_000, open_client=opening(fake)))
    with trio.fail_after(5):
        assert (await ladder.contacts.receive()).endpoint == Endpoint("9.9.9.9", 7)
    await until(lambda: line(ladder, "beacon").get("note"))
    assert drained(ladder) == []


async def test_a_dht_that_cannot_be_reached_is_a_line(nursery):
    """An announcement that nobody took is told, with what to look at."""
    fake = Fake(refuses=TimedOut("no node answered", hint="Is UDP open?"))
    ladder = await started(nursery, beacon(41_000, open_client=opening(fake)))
    await until(lambda: line(ladder, "beacon")["state"] == "failed")
    assert line(ladder, "beacon")["failed"] == "no node answered"
    assert line(ladder, "beacon")["remedy"] == "Is UDP open?"
    assert fake.closed == 1


async def test_rounds_are_far_apart_whatever_changes(nursery, autojump_clock):
    """A host whose links flap does not hammer strangers; who answered is asked first next time."""
    del autojump_clock
    seen = []
    ladder = await started(
        nursery, beacon(41_000, open_client=opening(Fake(), seen=seen), in_thread=at_once)
    )
    for _ in range(100):
        await trio.sleep(1)
        ladder.nudge()
    assert len(seen) == 2
    assert seen[0] == ()
    assert seen[1] == ("192.0.2.9:6881",)


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (NOON, [20_000]),
        (20_000 * DAY_S + 60, [20_000, 19_999]),
        (20_000 * DAY_S - 60, [19_999, 20_000]),
    ],
)
def test_midnight_is_no_gap(now, expected):
    """Within an hour of it the neighbouring day is looked under too."""
    assert days(now) == expected


def test_infohashes_tell_nothing_apart():
    """Another day or another secret is another infohash, of the length that Mainline has."""
    made = {infohash(scope, day) for scope in (OURS, OTHER) for day in (1, 2)}
    assert len(made) == 4
    assert {len(item) for item in made} == {20}
