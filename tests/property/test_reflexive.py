"""Own addresses told by honest observers and by liars, in any order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from veilnet.nat.classify import Mapping, classify
from veilnet.nat.reflexive import Reflexive

LOCAL = ("192.168.0.2", 41_000)
TRUE = ("100.1.0.1", 500)
lies = st.tuples(st.sampled_from(["66.6.6.6", "100.1.0.1", LOCAL[0]]), st.integers(1, 65_535))


@given(st.integers(3, 8), st.lists(lies, max_size=2), st.data())
def test_a_minority_of_liars_changes_nothing(honest, liars, data):
    """As long as more than half tell the truth, and at least three of four places."""
    words = [TRUE] * honest + liars[: (honest - 1) // 2]
    made = Reflexive()
    for number in data.draw(st.permutations(range(len(words)))):
        made.heard(
            number, at=(f"20.{number}.0.1", 1), said=words[number], now=data.draw(st.floats(0, 1e6))
        )
    found = classify(made.own(4, local={LOCAL[0]}), local=[LOCAL])
    assert found.public == TRUE
    assert found.mapping is Mapping.INDEPENDENT
    assert found.sure == (len(words) >= 4)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3), lies), max_size=60))
def test_any_words_give_some_answer_or_none(words):
    """Whatever is said by whom: no failure, and never more votes than places."""
    made = Reflexive()
    for at_s, (observer, place, said) in enumerate(words):
        made.heard(observer, at=(f"20.{place}.0.{observer + 1}", 1), said=said, now=float(at_s))
    own = made.own(4)
    assert (own is None) == (not words)
    if own is not None:
        assert 1 <= own.votes <= own.places <= 4
        assert len(own.ports) == own.votes
        classify(own, local=[LOCAL])
