import pytest

from veilnet.discovery.quota import (
    ASKS_PER_PREFIX_S,
    ASKS_PER_S,
    ASKS_PER_SESSION,
    BURST,
    BURST_PER_PREFIX,
    BYTES_PER_SESSION,
    STORES_PER_PREFIX,
    STORES_PER_SESSION,
    WINDOW_S,
    Quota,
)
from veilnet.discovery.storage import (
    CANDIDATES,
    LIFE_MAX_S,
    LIFE_S,
    OVERHEAD_BYTES,
    Refusal,
    Storage,
    digest_of,
)

A, B = bytes(32), bytes([1]) * 32


def put(storage, blob, *, owner=0, prefix=0, locator=A, now=0.0):
    """Store a blob as somebody."""
    return storage.put(
        locator,
        blob,
        owner=owner.to_bytes(16, "big"),
        prefix=prefix.to_bytes(15, "big"),
        now=now,
    )


def test_what_was_put_is_there_until_it_expires():
    """2 h without its owner, and it is gone."""
    storage = Storage()
    assert put(storage, b"one") is None
    assert storage.get(A, LIFE_S - 1) == (b"one",)
    assert storage.get(B, 0.0) == ()
    assert storage.get(A, LIFE_S) == ()
    storage.sweep(LIFE_S)
    assert len(storage) == storage.size_bytes == 0


def test_asking_by_digest_keeps_it_on_but_not_for_ever():
    """A refresh is another 2 h; after a day and two hours only the owner brings it back."""
    storage = Storage()
    put(storage, b"one")
    now = 0.0
    while now < LIFE_MAX_S - 1_800:
        now += 1_800
        assert storage.have(A, digest_of(b"one"), now)
    assert not storage.have(A, digest_of(b"two"), now)
    assert not storage.have(B, digest_of(b"one"), now)
    assert not storage.have(A, digest_of(b"one"), LIFE_MAX_S)


def test_an_owner_has_one_candidate_and_replaces_it():
    """A new descriptor takes the place of the old, and nobody else's."""
    storage = Storage()
    put(storage, b"mine", owner=1)
    put(storage, b"other", owner=2, prefix=1)
    put(storage, b"newer", owner=1, prefix=9)
    assert set(storage.get(A, 0.0)) == {b"newer", b"other"}
    assert storage.size_bytes == 10 + 2 * OVERHEAD_BYTES


def test_candidates_are_few_and_the_first_stay():
    """Junk that comes after the true blob does not push it out."""
    storage = Storage()
    put(storage, b"true", owner=99, prefix=99)
    for number in range(20):
        refused = put(storage, b"junk%d" % number, owner=number, prefix=number)
        assert (refused is Refusal.FULL) is (number >= CANDIDATES - 1)
    assert len(storage.get(A, 0.0)) == CANDIDATES
    assert storage.get(A, 0.0)[0] == b"true"


def test_a_prefix_has_two_candidates_of_a_locator():
    """One network cannot fill all the places of a locator before its publisher comes."""
    storage = Storage()
    assert [put(storage, b"junk%d" % at, owner=at) for at in range(4)] == [
        None,
        None,
        Refusal.FULL,
        Refusal.FULL,
    ]
    assert put(storage, b"true", owner=9, prefix=9) is None


def test_a_full_store_takes_from_the_prefix_that_holds_the_most():
    """A flood from one prefix makes room for others, never the other way round."""
    room = 10 * (OVERHEAD_BYTES + 4)
    storage = Storage(max_bytes=room)
    assert put(storage, b"good", owner=1, prefix=1, locator=B) is None
    for at in range(50):
        put(storage, b"junk", owner=2, prefix=2, locator=at.to_bytes(32, "little"))
    assert storage.size_bytes <= room
    assert storage.get(B, 0.0) == (b"good",)
    for at in range(4):
        assert put(storage, b"more", owner=3, prefix=3, locator=bytes([at + 60]) * 32) is None
    assert storage.get(B, 0.0) == (b"good",)
    assert storage.size_bytes <= room


def test_locators_are_bounded():
    """Many locators of one candidate each are no way around the bound."""
    storage = Storage(max_locators=8)
    for at in range(40):
        put(storage, b"x", owner=at, prefix=at % 3, locator=at.to_bytes(32, "big"))
    assert len(storage) == 8
    assert storage.size_bytes == 8 * (OVERHEAD_BYTES + 1)


def test_a_session_asks_so_much_and_no_more():
    """128 questions or half a megabyte of answers, in an hour."""
    quota = Quota()
    assert [quota.ask("s", 0.0) for _ in range(ASKS_PER_SESSION + 2)][-3:] == [True, False, False]
    assert quota.ask("s", WINDOW_S)
    quota.answer("t", BYTES_PER_SESSION + 1, 0.0)
    assert not quota.ask("t", 1.0)


@pytest.mark.parametrize("sessions", [1, 20])
def test_stores_are_counted_by_session_and_by_prefix(sessions):
    """New sessions are free, so the prefix counts as well."""
    quota = Quota()
    taken = sum(quota.store(at % sessions, b"prefix", 0.0) for at in range(1_000))
    assert taken == (STORES_PER_SESSION if sessions == 1 else STORES_PER_PREFIX)


def test_a_prefix_asks_at_its_pace_whatever_its_sessions():
    """Its burst, then so many a second; another prefix has its own."""
    quota = Quota()
    assert sum(quota.pace(b"one", 0.0) for _ in range(1_000)) == BURST_PER_PREFIX
    assert sum(quota.pace(b"one", 2.0) for _ in range(1_000)) == 2 * ASKS_PER_PREFIX_S
    assert quota.pace(b"other", 2.0)


def test_all_prefixes_together_have_a_pace():
    """Many prefixes take no more of this node than one core's share; excess takes nothing."""
    quota = Quota()
    for _ in range(2_000):
        quota.pace(b"greedy", 0.0)
    others = sum(quota.pace(at.to_bytes(2, "big"), 0.0) for at in range(3_000))
    assert others == BURST - BURST_PER_PREFIX
    assert sum(quota.pace(at.to_bytes(2, "big"), 1.0) for at in range(3_000)) == ASKS_PER_S


def test_the_quota_tables_are_bounded():
    """A million sessions leave no more than the newest."""
    quota = Quota(most=10)
    for at in range(100):
        quota.store(at, at.to_bytes(2, "big"), 0.0)
        quota.pace(at.to_bytes(2, "big"), 0.0)
    assert len(quota) == 30
