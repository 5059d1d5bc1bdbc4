import random
from itertools import count

import pytest
from attrs import evolve

from tests.unit.networks.world import NOW, backend, identity, seeded
from veilnet.discovery import locator
from veilnet.discovery.contact import Contact
from veilnet.discovery.descriptor import LIFE_S, open_, open_name
from veilnet.discovery.events import Failed, Reason, Stored
from veilnet.discovery.locator import DAY_S, MARGIN_S
from veilnet.discovery.publisher import (
    REFRESH_S,
    RETRY_MAX_S,
    RETRY_S,
    SETTLE_MAX_S,
    SETTLE_S,
    Content,
    Publisher,
)
from veilnet.errors import ConfigError
from veilnet.networks.endpoint import Endpoint

SECRET = locator.secret_of(b"k" * 32)
ANNA = identity(1)
END = locator.day_ends(SECRET, locator.epoch_day(SECRET, NOW))
NOON = END - DAY_S // 2
HERE = Content(endpoints=(Endpoint("192.0.2.7", 41_000),), nat=1)
THERE = evolve(HERE, endpoints=(Endpoint("192.0.2.8", 41_000),))
STORERS = tuple(Contact(bytes([at + 1]) * 32, ("8.8.8.8", at + 1), 1) for at in range(20))


class World:
    """A publisher and its clocks."""

    def __init__(self, unix_s=NOON, state=None):
        self.start = unix_s
        self.now = 0.0
        self.publisher = Publisher(
            ANNA,
            SECRET,
            rng=random.Random(1),
            octets=seeded(2),
            next_id=count(1).__next__,
            state=state,
        )

    @property
    def unix_s(self):
        """Wall clock."""
        return self.start + self.now

    def say(self, content):
        """Update, and let it settle."""
        self.publisher.update(content, self.now)
        return self.later(SETTLE_S)

    def later(self, pause):
        """Return what is put after a pause."""
        self.now += pause
        return self.publisher.tick(self.now, self.unix_s)

    def stored(self, put):
        """End a put well."""
        assert self.publisher.done(Stored(put.id, len(STORERS), STORERS), self.now)

    def read(self, put, day=None):
        """Open what was put."""
        return open_(
            put.blob,
            peer_id=ANNA.peer_id,
            network_secret=SECRET,
            epoch_day=day if day is not None else locator.epoch_day(SECRET, self.unix_s),
            signatures=backend().signatures(1),
            unix_s=int(self.unix_s),
        ).descriptor


@pytest.fixture
def world():
    """A publisher at noon of its network's day."""
    return World()


def test_what_is_said_is_published_under_the_days_locator(world):
    """Sealed, with an owner's proof, for twenty storers."""
    (put,) = world.say(HERE)
    assert put.locator == locator.locator(SECRET, ANNA.peer_id, locator.epoch_day(SECRET, NOON))
    assert put.want_storers == 20
    assert len(put.owner) == 16
    assert world.read(put).endpoints == HERE.endpoints
    assert world.later(1.0) == []


def test_changes_settle_before_they_are_published(world):
    """An interface that flaps is one publication, and one that never rests is put off for 10 s."""
    published = []
    for at in range(12):
        world.publisher.update(HERE if at % 2 else THERE, world.now)
        published.append(len(world.later(1.0)))
    assert sum(published[: int(SETTLE_MAX_S) - 1]) == 0
    assert sum(published) == 1


def test_the_refresh_offers_the_same_blob_to_the_same_storers(world):
    """Every 45 minutes by digest: nothing is signed again while nothing changes."""
    (put,) = world.say(HERE)
    world.stored(put)
    assert world.publisher.storers == 20
    assert world.later(REFRESH_S * 0.75) == []
    (again,) = world.later(REFRESH_S * 0.4)
    assert (again.blob, again.locator, again.owner) == (put.blob, put.locator, put.owner)
    assert again.known == STORERS
    assert again.id != put.id


def test_a_change_is_sent_at_once_to_those_who_had_the_old_one(world):
    """With a higher number and the same owner."""
    (put,) = world.say(HERE)
    world.stored(put)
    (moved,) = world.say(THERE)
    assert world.read(moved).endpoints == THERE.endpoints
    assert world.read(moved).seq > world.read(put).seq
    assert (moved.known, moved.owner) == (STORERS, put.owner)
    world.publisher.update(THERE, world.now)
    assert world.later(5.0) == []


def test_another_order_is_no_change(world):
    """What strangers see first changes all the time, and 20 storers would each be sent 5 KB."""
    both = evolve(HERE, endpoints=(*HERE.endpoints, *THERE.endpoints))
    (put,) = world.say(both)
    world.stored(put)
    assert world.say(evolve(both, endpoints=both.endpoints[::-1])) == []
    assert world.later(SETTLE_MAX_S) == []
    assert len(world.say(THERE)) == 1


def test_nothing_is_put_twice_at_once(world):
    """A change during a put waits for its end."""
    (put,) = world.say(HERE)
    assert world.say(THERE) == []
    world.stored(put)
    (moved,) = world.later(0.0)
    assert world.read(moved).endpoints == THERE.endpoints


def test_failures_are_tried_again_ever_more_seldom(world):
    """30 s, doubling to 10 min."""
    (put,) = world.say(HERE)
    pauses = []
    for _ in range(8):
        world.publisher.done(Failed(put.id, Reason.NO_ANSWER), world.now)
        began = world.now
        puts = []
        while not puts:
            puts = world.later(1.0)
        (put,) = puts
        pauses.append(world.now - began)
    assert 24 <= pauses[0] <= 37
    assert all(RETRY_MAX_S * 0.8 <= pause <= RETRY_MAX_S * 1.2 + 1 for pause in pauses[-2:])
    assert world.publisher.storers == 0


def test_where_most_did_not_take_it_it_is_tried_again(world):
    """Few storers are what a small commons has; many that refused are somebody in the way."""
    (put,) = world.say(HERE)
    world.publisher.done(Stored(put.id, 3, STORERS[:3], sent=3, lost=40), world.now)
    assert world.publisher.storers == 3
    (again,) = world.later(RETRY_S * 1.3)
    assert again.known == STORERS[:3]
    world.publisher.done(Stored(again.id, 3, STORERS[:3], sent=0, lost=0), world.now)
    assert world.later(REFRESH_S * 0.75) == []


def test_ends_of_other_lookups_are_not_ours(world):
    """`done` says so, and changes nothing."""
    world.say(HERE)
    assert not world.publisher.done(Stored(77, 20), world.now)


def test_the_next_day_is_published_before_it_begins_and_the_last_kept_for_an_hour():
    """Around the turn two locators, otherwise one; nothing in common between the two."""
    world = World(END - MARGIN_S - 100)
    (today,) = world.say(HERE)
    world.stored(today)
    deadline = world.publisher.deadline(world.now, world.unix_s)
    assert world.now < deadline <= world.now + 101
    (tomorrow,) = world.later(deadline - world.now)
    assert tomorrow.locator != today.locator
    assert tomorrow.owner != today.owner
    assert tomorrow.known == ()
    next_day = locator.epoch_day(SECRET, END)
    assert world.read(tomorrow, next_day).endpoints == HERE.endpoints
    world.stored(tomorrow)
    world.now = END + MARGIN_S - 60 - world.start
    both = world.publisher.tick(world.now, world.unix_s)
    assert {put.locator for put in both} == {today.locator, tomorrow.locator}
    for put in both:
        world.stored(put)
    only = world.later(2 * REFRESH_S)
    assert [put.locator for put in only] == [tomorrow.locator]


def test_a_signature_is_renewed_before_it_ends():
    """While the content stays, storers have one that holds."""
    world = World(END - DAY_S + MARGIN_S + 10)
    (put,) = world.say(HERE)
    first = world.read(put)
    while world.now < LIFE_S * 0.8:
        world.stored(put)
        (put,) = world.later(REFRESH_S * 1.1)
        assert world.read(put).expires_s > world.unix_s + LIFE_S // 5
    assert world.read(put).seq > first.seq


def test_a_name_is_published_with_its_credential_and_says_nothing_of_where(world):
    """A second locator; it changes only when name or credential do."""
    puts = world.say(evolve(HERE, name="anna", credential=b"c"))
    day = locator.epoch_day(SECRET, NOON)
    (name,) = [put for put in puts if put.locator == locator.name_locator("anna", SECRET, day)]
    assert len(puts) == 2
    record = open_name(
        name.blob,
        name="anna",
        network_secret=SECRET,
        epoch_day=day,
        signatures=backend().signatures(1),
        unix_s=NOON,
    ).record
    assert record.peer_id == ANNA.peer_id
    assert name.want_storers < 20
    for put in puts:
        world.stored(put)
    (moved,) = world.say(evolve(THERE, name="anna", credential=b"c"))
    assert moved.locator != name.locator


def test_numbers_rise_over_restarts_and_clocks_that_go_back(world):
    """The state outlives the process; an hour lost by the clock is no older number."""
    (put,) = world.say(HERE)
    assert world.publisher.unsaved
    state = world.publisher.state
    again = World(NOON - 3_600, state)
    assert not again.publisher.unsaved
    (later,) = again.say(HERE)
    assert again.publisher.unsaved
    assert again.read(later).seq > world.read(put).seq
    assert later.owner == put.owner


def test_without_its_state_the_clock_carries_the_number_on(world):
    """A node restored from nothing is not held for a replay of itself."""
    (put,) = world.say(HERE)
    fresh = World(NOON + 60)
    (later,) = fresh.say(HERE)
    assert fresh.read(later).seq > world.read(put).seq


def test_a_state_of_another_kind_is_refused():
    """A file of the operator's that cannot be used is said to be one."""
    for state in (b"", b"junk", b"\x83\x02\x00\x40"):
        with pytest.raises(ConfigError):
            World(state=state)


def test_who_stops_publishes_no_more(world):
    """No record, no deadline."""
    (put,) = world.say(HERE)
    world.publisher.stop()
    assert world.later(REFRESH_S * 2) == []
    assert world.publisher.deadline(world.now, world.unix_s) is None
    assert not world.publisher.done(Stored(put.id, 20), world.now)
