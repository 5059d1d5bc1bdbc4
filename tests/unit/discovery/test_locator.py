import random

from tests.unit.networks.test_keys import hkdf_expand
from veilnet.discovery import locator
from veilnet.discovery.contact import Contact
from veilnet.discovery.locator import DAY_S, MARGIN_S

SECRET, PEER = b"s" * 32, b"p" * 32
NOW = 1_800_000_000


def test_derivations_are_hkdf_expand_with_the_labels_of_the_protocol():
    """What a reader of docs/protocol.md computes is what we compute."""
    label, end = b"veilnet/dht", PEER + (20_000).to_bytes(4, "big")
    assert locator.secret_of(SECRET) == hkdf_expand(SECRET, label)
    assert locator.locator(SECRET, PEER, 20_000) == hkdf_expand(SECRET, label + b"/loc" + end)
    assert locator.seal_key(SECRET, PEER, 20_000) == hkdf_expand(SECRET, label + b"/seal" + end)


def test_locators_tell_nothing_to_who_lacks_the_secret_or_the_day():
    """Another member, another network, another day, another use: nothing in common."""
    values = {
        locator.locator(SECRET, PEER, 1),
        locator.locator(SECRET, PEER, 2),
        locator.locator(b"t" * 32, PEER, 1),
        locator.locator(SECRET, b"q" * 32, 1),
        locator.seal_key(SECRET, PEER, 1),
        locator.name_locator("anna", SECRET, 1),
        locator.name_locator("bert", SECRET, 1),
        locator.name_key("anna", SECRET, 1),
    }
    assert len(values) == 8


def test_a_network_turns_its_day_at_a_moment_of_its_own():
    """Of many networks no two move at the same second."""
    ends = {
        locator.day_ends(bytes([at]) * 32, locator.epoch_day(bytes([at]) * 32, NOW))
        for at in range(20)
    }
    assert len(ends) == 20
    assert all(NOW < end <= NOW + DAY_S for end in ends)


def test_around_the_turn_of_the_day_two_days_are_kept_up():
    """An hour before and after, so that clocks which differ look where something is."""
    end = locator.day_ends(SECRET, locator.epoch_day(SECRET, NOW))
    today = locator.epoch_day(SECRET, NOW)
    assert locator.days(SECRET, end - MARGIN_S - 1) == (today,)
    assert locator.days(SECRET, end - MARGIN_S) == (today, today + 1)
    assert locator.days(SECRET, end - 1) == (today, today + 1)
    assert locator.days(SECRET, end) == (today + 1, today)
    assert locator.days(SECRET, end + MARGIN_S - 1) == (today + 1, today)
    assert locator.days(SECRET, end + MARGIN_S) == (today + 1,)


def test_a_rank_does_not_depend_on_the_id_nor_on_what_is_free_to_choose():
    """Any id, any host of a /24, any port and any /48 of a /32 has the same place."""
    rng = random.Random(1)
    ranks = {
        locator.rank(SECRET, Contact(rng.randbytes(32), (host, port), 1).packed)
        for host in ("8.8.8.1", "8.8.8.200")
        for port in (1, 2)
    }
    assert len(ranks) == 1
    other = {
        locator.rank(SECRET, Contact(rng.randbytes(32), (host, 1), 1).packed)
        for host in ("2600:1:2::1", "2600:1:3::1")
    }
    assert len(other) == 1
    assert locator.rank(PEER, Contact(PEER, ("8.8.8.1", 1), 1).packed) not in ranks


def test_an_owners_proof_is_another_for_each_locator():
    """So that storers of two locators cannot tell that one publisher stored both."""
    proofs = {locator.owner_of(SECRET, bytes([at]) * 32) for at in range(5)}
    assert len(proofs) == 5
    assert all(len(proof) == 16 for proof in proofs)
