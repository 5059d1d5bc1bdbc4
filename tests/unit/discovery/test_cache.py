import random
from ipaddress import ip_network

import pytest

from tests.unit.discovery.crowd import address
from veilnet.discovery.cache import (
    MAX_CONTACTS,
    MAX_FILE_BYTES,
    PER_BLOCK,
    PER_PREFIX,
    ContactCache,
)
from veilnet.discovery.contact import UNKNOWN_ID, Contact, Horizon, prefix_of
from veilnet.errors import ConfigError
from veilnet.protocol import cbor

DAY = 86_400


def contact(number, endpoint=None):
    """Return a contact."""
    return Contact(number.to_bytes(32, "big"), endpoint or address(number * 37), 1)


def wide(number):
    """Return a contact in a /16 of its own, nearly."""
    return contact(number + 1, (f"{20 + number // 200}.{number % 200}.1.1", 5))


def test_it_keeps_enough_over_many_prefixes():
    """At least 200 of a thousand, in as many prefixes, in a file below 32 KB."""
    cache = ContactCache()
    cache.note([wide(number) for number in range(1_000)], 1)
    assert len(cache) == MAX_CONTACTS >= 200
    chosen = cache.contacts(1_000, random.Random(1))
    assert len({prefix_of(one.packed) for one in chosen}) >= 200
    assert len(cache.encode()) <= MAX_FILE_BYTES


@pytest.mark.parametrize(
    ("template", "most"),
    [("8.8.8.{}", PER_PREFIX), ("8.8.{}.1", PER_BLOCK), ("2600:1:{:x}::1", PER_BLOCK)],
)
def test_one_network_is_a_bounded_part_of_it(template, most):
    """Two of a /24 or /48, sixteen of a /16 or /32."""
    cache = ContactCache()
    cache.note([contact(at, (template.format(at), 5)) for at in range(1, 101)], 1)
    assert len(cache) == most


def test_it_comes_back_from_its_file():
    """Written and read, the same contacts with the same past."""
    cache = ContactCache()
    cache.note([wide(1), wide(2)], 100)
    cache.note([wide(2)], 200)
    again = ContactCache.decode(cache.encode())
    assert again.encode() == cache.encode()
    assert len(again) == 2


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"junk",
        cbor.encode([2, []]),
        cbor.encode([1, [[b"short", 1, 1]]]),
        cbor.encode([1, [[bytes(51), -1, 1]]]),
        cbor.encode([1, [[bytes(51), 1, 1]] * 257]),
    ],
)
def test_a_file_of_another_kind_is_refused(data):
    """Nothing but ConfigError, so that the node can start without it."""
    with pytest.raises(ConfigError):
        ContactCache.decode(data)


def test_what_may_not_be_asked_is_not_kept():
    """Private addresses only where we are ourselves; nobody without an id; also from a file."""
    near = Horizon(near=(ip_network("10.0.0.0/8"),))
    cache = ContactCache(near)
    inside = contact(1, ("10.0.0.1", 5))
    cache.note([inside, Contact(UNKNOWN_ID, ("8.8.8.8", 5)), contact(2, ("127.0.0.1", 5))], 1)
    assert cache.contacts(9, random.Random(1)) == [inside]
    assert len(ContactCache.decode(cache.encode())) == 0
    assert len(ContactCache.decode(cache.encode(), near)) == 1


def test_the_steady_are_kept_and_come_first():
    """Who was there for days leads in, after a week as well; newcomers fill up."""
    cache = ContactCache()
    steady = [wide(number) for number in range(50)]
    cache.note(steady, 0)
    cache.note(steady, 7 * DAY)
    cache.note([wide(number) for number in range(100, 600)], 7 * DAY + 10)
    kept = cache.contacts(MAX_CONTACTS, random.Random(1))
    assert set(steady) <= set(kept)
    first = cache.contacts(40, random.Random(2))
    assert len(first) == 40
    assert len(set(first) & set(steady)) >= 20


def test_one_that_is_gone_is_left_out_while_there_are_others():
    """The last half is never forgotten: silence may be our own."""
    cache = ContactCache()
    many = [wide(number) for number in range(MAX_CONTACTS)]
    cache.note(many, 1)
    for one in many:
        cache.forget(one)
    assert len(cache) == MAX_CONTACTS // 2
