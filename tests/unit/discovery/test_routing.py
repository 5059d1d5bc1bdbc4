import random
from ipaddress import ip_network

import pytest

from tests.unit.discovery.crowd import address
from veilnet.discovery.contact import Contact, Horizon, prefix_of
from veilnet.discovery.locator import rank
from veilnet.discovery.routing import (
    BUCKETS,
    ENTRY_BYTES,
    FAR_K,
    NEAR_BUCKETS,
    PER_BUCKET,
    PER_TABLE,
    REGION_CONTACTS,
    Table,
    shared_bits,
)

OWN = bytes(32)


@pytest.fixture
def rng():
    """A random source that is none."""
    return random.Random(7)


def table(horizon=None):
    """Return an empty table of the node with id 0."""
    return Table(OWN, now=0.0, horizon=horizon or Horizon())


def contact(rng, number, bits=0):
    """Return a packed contact in a /24 of its own that shares *bits* bits with us."""
    value = 1 << (255 - bits) | rng.getrandbits(255 - bits)
    return Contact(value.to_bytes(32, "big"), address(number), 1).packed


def filled(rng, count, bits=0):
    """Return a table and what was offered to it."""
    offered = [contact(rng, number, bits) for number in range(count)]
    mine = table()
    for one in offered:
        mine.answered(one, 1.0)
    return mine, offered


def test_old_contacts_are_not_put_out_by_new_ones(rng):
    """A full bucket stays as it is while its contacts answer, whoever knocks."""
    mine, offered = filled(rng, 20)
    assert set(mine) == set(offered)
    for number in range(20, 200):
        assert not mine.answered(contact(rng, number), 2.0)
        assert not mine.heard_of(contact(rng, number))
    assert set(mine) == set(offered)


def test_one_that_does_not_answer_gives_its_place_to_one_that_does(rng):
    """Demoted first: it is told to nobody after two failures, replaced by whoever answers."""
    mine, offered = filled(rng, 20)
    for _ in range(2):
        mine.unanswered(offered[3], 2.0)
    assert offered[3] not in set(mine)
    assert offered[3] not in mine.nearest(offered[3][:32], 20, told=True)
    newcomer = contact(rng, 50)
    assert mine.would_take(newcomer)
    assert mine.answered(newcomer, 3.0)
    assert set(mine) == {*offered, newcomer} - {offered[3]}


def test_a_demoted_contact_that_answers_again_is_whole_again(rng):
    """Failures are counted in a row only."""
    mine, offered = filled(rng, 5)
    mine.unanswered(offered[0], 2.0)
    mine.unanswered(offered[0], 2.0)
    assert mine.answered(offered[0], 3.0)
    assert offered[0] in set(mine)


def test_nobody_is_put_out_while_nobody_answers(rng):
    """When everybody is silent it is our own network that is down: the table outlives that."""
    mine, offered = filled(rng, 10)
    for _ in range(20):
        for one in offered:
            mine.unanswered(one, 500.0)
    assert len(mine) == 10
    assert mine.answered(offered[0], 600.0)
    for one in offered[1:]:
        mine.unanswered(one, 601.0)
    assert list(mine) == [offered[0]]
    assert len(mine) == 1


@pytest.mark.parametrize("template", ["8.8.8.{}", "2600:1:2::{}"])
def test_a_prefix_has_at_most_two_contacts_of_a_bucket(rng, template):
    """A /24 or a /48 full of nodes is two nodes."""
    mine = table()
    for number in range(1, 40):
        packed = contact(rng, 0)[:32] + Contact(OWN, (template.format(number), 5)).packed[32:]
        mine.answered(packed, 1.0)
    assert len(mine) == PER_BUCKET


@pytest.mark.parametrize("most", [PER_BUCKET, PER_TABLE])
def test_what_would_be_taken_is_what_is_taken(rng, most):
    """A prefix that has its share of a bucket or of the table is not asked whether it is there."""
    mine = table()
    for number in range(most + 2):
        bits = 0 if most == PER_BUCKET else number
        packed = contact(rng, 0, bits)[:32] + Contact(OWN, (f"8.8.8.{number}", 5)).packed[32:]
        would = mine.would_take(packed)
        assert would == (number < most)
        assert mine.answered(packed, 1.0) == would
    mine.unanswered(next(iter(mine)), 2.0)
    packed = contact(rng, 0, 0)[:32] + Contact(OWN, ("8.8.8.99", 5)).packed[32:]
    assert mine.would_take(packed) == mine.answered(packed, 3.0)


def test_a_prefix_has_a_bounded_share_of_the_whole_table(rng):
    """... and eight of the table, over all its buckets."""
    mine = table()
    for bits in range(30):
        for number in range(4):
            endpoint = Contact(OWN, (f"8.8.8.{number * 30 + bits + 1}", 5)).packed[32:]
            mine.answered(contact(rng, 0, bits)[:32] + endpoint, 1.0)
    assert len(mine) == PER_TABLE


def test_hosts_of_our_own_network_are_not_capped(rng):
    """On one local link twenty nodes are twenty nodes."""
    mine = table(Horizon(near=(ip_network("10.0.0.0/24"),)))
    for number in range(1, 21):
        mine.answered(contact(rng, 0)[:32] + Contact(OWN, (f"10.0.0.{number}", 5)).packed[32:], 1.0)
    assert len(mine) == 20


def test_an_address_has_one_entry_and_the_newest_id(rng):
    """A new id at an address replaces the old one."""
    mine, offered = filled(rng, 3)
    reborn = contact(rng, 0, 5)
    assert mine.answered(reborn, 2.0)
    assert set(mine) == {reborn, *offered[1:]}


def test_an_id_cannot_be_squatted(rng):
    """Whoever claimed it first, its owner elsewhere has an entry too; a prefix has one of it."""
    mine, offered = filled(rng, 3)
    owner = offered[1][:32] + Contact(OWN, address(99)).packed[32:]
    assert mine.would_take(owner)
    assert mine.heard_of(owner)
    assert mine.answered(owner, 2.0)
    assert set(mine) == {owner, *offered}
    host, port = address(99)
    beside = offered[1][:32] + Contact(OWN, (host, port + 1)).packed[32:]
    assert not mine.answered(beside, 2.0)
    assert not mine.heard_of(beside)
    mine.unanswered(owner, 3.0)
    assert mine.answered(beside, 3.0)
    assert set(mine) == {beside, *offered}


def test_hearsay_fills_gaps_and_is_told_to_nobody(rng):
    """It can be asked, but goes at its first silence, and anybody who answers replaces it."""
    mine = table()
    told = [contact(rng, number) for number in range(20)]
    assert all(mine.heard_of(one) for one in told)
    assert list(mine) == []
    assert mine.nearest(told[0][:32], 20, told=True) == []
    assert mine.nearest(told[0][:32], 1) == [told[0]]
    assert mine.answered(contact(rng, 50), 1.0)
    mine.unanswered(told[1], 1.0)
    assert len(mine) in {18, 19}
    assert not mine.heard_of(OWN + told[0][32:])


def test_nearest_is_nearest(rng):
    """The bucket walk finds what sorting everything finds."""
    mine = table()
    for place in range(200):
        mine.answered(contact(rng, place, place % 12), 1.0)
    known = list(mine)
    assert len(known) > 100
    for _ in range(40):
        target = rng.randbytes(32) if rng.random() < 0.5 else contact(rng, 0, 6)[:32]
        aim = int.from_bytes(target, "big")
        wanted = sorted(known, key=lambda one: int.from_bytes(one[:32], "big") ^ aim)
        assert mine.nearest(target, 20) == wanted[:20]
        assert mine.nearest(target, 20, told=True) == wanted[:20]


def test_a_region_is_told_by_rank_whatever_the_ids(rng):
    """Of those in the region the lowest in rank come first; ids decide only who is in it."""
    mine, offered = filled(rng, 20, 3)
    where = contact(rng, 0, 3)[:32]
    inside = [one for one in offered if shared_bits(number(one), number(where)) >= 3]
    assert mine.region(where, 3, 8) == sorted(inside, key=lambda one: rank(where, one))[:8]
    narrow = mine.region(where, 6, 20)
    really = [one for one in offered if shared_bits(number(one), number(where)) >= 6]
    assert set(narrow[: len(really)]) == set(really)
    assert len(narrow) == 20


def number(packed):
    """Return the id of a packed contact as a number."""
    return int.from_bytes(packed[:32], "big")


def test_the_region_is_where_a_few_dozen_answered(rng):
    """Its bits follow how many nodes there are, not who sits right beside us."""
    mine = table()
    for place in range(20):
        for bits in range(6):
            mine.answered(contact(rng, place + 20 * bits, bits), 1.0)
    assert sum(shared_bits(number(one), 0) >= mine.bits() for one in mine) >= REGION_CONTACTS
    assert mine.bits() == 4
    assert table().bits() == 0


def test_far_buckets_are_smaller_so_that_a_table_hardly_grows(rng):
    """Once a bucket turns out to be far it keeps the ten oldest; near ones keep twenty."""
    mine = table()
    sizes = {}
    for depth in range(20):
        oldest = contact(rng, 30 * depth, depth)
        for place in range(20):
            one = oldest if not place else contact(rng, 30 * depth + place, depth)
            assert mine.answered(one, float(1_000 * depth + place))
        sizes[depth] = len(mine)
        assert set(mine) >= {oldest}
    far = mine.bits() - NEAR_BUCKETS
    assert far > 10
    assert len(mine) == far * FAR_K + (20 - far) * 20
    assert sizes[19] - sizes[18] == FAR_K
    assert not mine.answered(contact(rng, 900, 0), 30_000.0)


def test_the_table_is_bounded_and_packed(rng):
    """60 bytes for each contact and nothing else, at most 20 in each of 64 buckets."""
    mine = table()
    for offered in range(800):
        mine.answered(contact(rng, offered, offered % 80), 1.0)
    assert len(mine) <= 20 * BUCKETS
    assert mine.memory_bytes == len(mine) * ENTRY_BYTES + BUCKETS
    assert len({prefix_of(one) for one in mine}) == len(mine)


def test_who_was_there_for_long_is_probed_the_more_seldom(rng):
    """Of two that were heard at the same time the newer is looked after first."""
    mine = table()
    old, new = contact(rng, 1), contact(rng, 2)
    mine.answered(old, 0.0)
    mine.answered(new, 5_000.0)
    mine.answered(old, 5_000.0)
    assert mine.to_probe(6_000.0, rng) == new
    mine.answered(new, 6_000.0)
    assert mine.to_probe(20_000.0, rng) == new
    assert table().to_probe(0.0, rng) is None
