"""What `doctor` says of translators: cause and remedy, in words."""

from __future__ import annotations

import pytest

from veilnet.cli.doctor import translators
from veilnet.nat.classify import Mapping

SEEN = {
    "contacts": 0,
    "nat": "random",
    "nat_sure": True,
    "observers": 4,
    "public": ["198.51.100.7:50000"],
    "mapped": [],
    "reachable": ["udp4"],
}


@pytest.mark.parametrize("mapping", Mapping)
def test_every_class_has_words(mapping):
    """None is bad: a node runs behind all of them."""
    reachable, nat = translators(SEEN | {"nat": mapping.word}, 41_000)
    assert (reachable.detail, reachable.ok) == ("over udp4", True)
    assert nat.detail.startswith(f"{mapping.word}: ")
    assert nat.ok is (None if mapping is Mapping.UNKNOWN else True)
    assert "{" not in nat.hint


def test_the_remedy_names_the_port():
    """What to forward, and to where."""
    _, nat = translators(SEEN, 41_000)
    assert "port 41000 of this host" in nat.hint
    assert "198.51.100.7:50000 from 4 places" in nat.detail


def test_a_mapped_port_needs_no_remedy():
    """The router was asked and forwards: there is nothing left to do."""
    _, nat = translators(SEEN | {"mapped": ["198.51.100.7:41000"]}, 41_000)
    assert nat.hint == ""
    assert "forwards 198.51.100.7:41000" in nat.detail


def test_who_was_never_seen_is_told_so():
    """Nothing is said to be reachable that nobody reached."""
    nothing = {"public": [], "reachable": [], "nat": "unknown", "observers": 0, "nat_sure": False}
    reachable, nat = translators(SEEN | nothing, 41_000)
    assert reachable.ok is None
    assert nat.ok is None


def test_whom_too_few_have_seen_is_not_told_that_nobody_has():
    """One place sees no difference: others settle it, not another try."""
    _, nat = translators(SEEN | {"nat": "unknown", "observers": 1, "nat_sure": False}, 41_000)
    assert nat.ok is None
    assert "too few have said" in nat.detail
    assert "nobody" not in nat.detail
    assert "another member elsewhere" in nat.hint
