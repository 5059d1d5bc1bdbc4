"""Which of several sessions with one peer carries, seen from both ends."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from veilnet.daemon.sessions import (
    LOOKUPS_MAX,
    OF_PLACE_MAX,
    SESSIONS_PER_PEER_MAX,
    STRANGERS_MAX,
    Session,
    SessionTable,
)
from veilnet.networks.endpoint import Endpoint
from veilnet.protocol.handshake import NOBODY, Mode

SMALL, LARGE, NETWORK = b"\x01" * 32, b"\x02" * 32, b"n" * 32


def session(sid, peer_id, *, initiator, started_s, established_s, mode=Mode.FULL):
    """Make a session with what the table looks at."""
    return Session(
        sid=sid,
        network_id=NETWORK,
        peer_id=peer_id,
        public_key=b"",
        mode=mode,
        suite=1,
        initiator=initiator,
        schedule=None,
        link=SimpleNamespace(),
        endpoint=None,
        started_s=started_s,
        established_s=established_s,
    )


class End:
    """One end's table, which closes at both ends what the arbiter says."""

    def __init__(self, own_id, peer_id):
        self.table = SessionTable(own_id)
        self.peer_id = peer_id
        self.sessions = {}

    def add(self, sid, **more):
        """Add a session; return the ids of those to close."""
        made = session(sid, self.peer_id, **more)
        self.sessions[sid] = made
        return [loser.sid for loser in self.table.add(made)]

    def close(self, sid):
        """Remove a session."""
        self.table.remove(self.sessions[sid])

    @property
    def carrier(self):
        """The id of the session that carries."""
        found = self.table.carrier(NETWORK, self.peer_id)
        return None if found is None else found.sid


def test_the_first_session_carries_and_its_end_leaves_none():
    """One session carries until it is removed; removing it twice is harmless."""
    end = End(SMALL, LARGE)
    assert end.add(1, initiator=True, started_s=0, established_s=1) == []
    assert end.carrier == 1
    end.close(1)
    end.close(1)
    assert end.carrier is None
    assert len(end.table) == 0


def test_simultaneous_open_goes_to_the_smaller_ids_session():
    """Both opened at once: the arbiter keeps its own, and the other end ends with the same."""
    small, large = End(SMALL, LARGE), End(LARGE, SMALL)
    small.add(1, initiator=True, started_s=0, established_s=2)
    assert small.add(2, initiator=False, started_s=1, established_s=3) == [2]
    large.add(2, initiator=True, started_s=0, established_s=2)
    assert large.add(1, initiator=False, started_s=1, established_s=3) == []
    large.close(2)
    small.close(2)
    assert small.carrier == large.carrier == 1


def test_a_restarted_peers_new_session_replaces_the_old_one():
    """A handshake that began long after the old session was up is no rival: the newest wins."""
    small = End(SMALL, LARGE)
    small.add(1, initiator=True, started_s=0, established_s=1)
    assert small.add(2, initiator=False, started_s=50, established_s=51) == [1]
    assert small.carrier == 2


def test_what_was_begun_later_stays_though_it_was_judged_sooner():
    """Who gave up a handshake and began another has the second one, not the one it gave up."""
    small, large = End(SMALL, LARGE), End(LARGE, SMALL)
    for end, closed in ((small, [1]), (large, [])):
        assert end.add(2, initiator=False, started_s=5, established_s=6) == []
        assert end.add(1, initiator=False, started_s=1, established_s=7) == closed
        assert end.carrier == 2


def test_an_unconfirmed_session_is_no_rival():
    """Ours may never come about: what the peer opened meanwhile carries, whoever is the arbiter."""
    small = End(SMALL, LARGE)
    small.add(1, initiator=True, started_s=0, established_s=1)
    small.sessions[1].confirmed = False
    assert small.add(2, initiator=False, started_s=0.5, established_s=2) == [1]
    assert small.carrier == 2


def test_the_larger_id_uses_the_newest_until_told():
    """Without the arbiter's word the larger id carries on the newest, and falls back after it."""
    large = End(LARGE, SMALL)
    large.add(1, initiator=True, started_s=0, established_s=1)
    assert large.add(2, initiator=False, started_s=50, established_s=51) == []
    assert large.carrier == 2
    large.close(2)
    assert large.carrier == 1


def test_a_joiners_session_never_carries():
    """A session in join mode is known by its id, and carries no packets."""
    end = End(SMALL, LARGE)
    end.add(1, initiator=False, started_s=0, established_s=1, mode=Mode.JOIN)
    assert end.carrier is None
    assert end.table.get(1) is end.sessions[1]
    end.close(1)
    assert end.table.get(1) is None


def test_no_peer_fills_the_table():
    """A peer that opens session upon session has the oldest closed beyond the bound."""
    large = End(LARGE, SMALL)
    for sid in range(100):
        for loser in large.add(sid, initiator=False, started_s=sid, established_s=sid + 0.5):
            large.close(loser)
    assert len(large.table) == SESSIONS_PER_PEER_MAX
    assert large.carrier == 99


@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(0, 20), st.integers(0, 3), st.integers(0, 3)),
        min_size=1,
        max_size=6,
    ),
    st.data(),
)
def test_both_ends_agree_whatever_the_order(handshakes, data):
    """However handshakes overlap and in whatever order each end sees them end, one carrier is left.

    The arbiter's Close messages are delivered once both ends have the session.
    """
    small, large = End(SMALL, LARGE), End(LARGE, SMALL)
    seen = {}
    for sid, (by_small, start, at_small, at_large) in enumerate(handshakes):
        first, second = start + 1 + at_small, start + 1 + at_large
        seen[sid] = (by_small, start, first, second)
    order = data.draw(st.permutations(list(itertools.product(seen, (small, large)))))
    closed: list[int] = []
    for sid, end in order:
        by_small, start, first, second = seen[sid]
        losers = end.add(
            sid,
            initiator=by_small == (end is small),
            started_s=start,
            established_s=first if end is small else second,
        )
        closed += losers
    for sid in dict.fromkeys(closed):
        small.close(sid)
        large.close(sid)
    assert small.carrier is not None
    assert small.carrier == large.carrier


def lookup(sid, *, initiator, at):
    """Make a lookup session."""
    more = {"mode": Mode.LOOKUP, "initiator": initiator}
    return session(sid, NOBODY, started_s=at, established_s=at, **more)


def test_lookup_sessions_stand_beside_each_other():
    """Two of them share nobody's id and do not replace each other, and neither ever carries."""
    table = SessionTable(SMALL)
    both = [lookup(1, initiator=True, at=0), lookup(2, initiator=False, at=0)]
    assert [table.add(each) for each in both] == [[], []]
    assert table.carrier(NETWORK, NOBODY) is None
    assert table.carriers() == []
    assert (table.get(1), table.get(2)) == tuple(both)
    table.remove(both[0])
    assert (table.get(1), table.get(2), len(table)) == (None, both[1], 1)


def test_lookup_sessions_are_bounded():
    """One more makes the oldest stranger's go, first of all one on which nothing was asked."""
    table = SessionTable(SMALL)
    ours = lookup(1, initiator=True, at=0)
    asked = lookup(2, initiator=False, at=1)
    asked.heard.set()
    table.add(ours)
    table.add(asked)
    for sid in range(3, LOOKUPS_MAX + 1):
        assert table.add(lookup(sid, initiator=False, at=sid)) == []
    (loser,) = table.add(lookup(LOOKUPS_MAX + 1, initiator=False, at=9_999))
    assert loser.sid == 3
    table.remove(loser)
    assert len(table) == LOOKUPS_MAX


COMMONS = b"c" * 32


class Commons:
    """A table in which strangers come and go as the node has them do."""

    def __init__(self):
        self.table = SessionTable(SMALL, {COMMONS: SMALL})
        self.needed = set()
        self.count = 0

    def come(self, host, *, initiator=False, needed=False):
        """Let somebody in; return who had to go."""
        self.count += 1
        made = session(
            self.count,
            self.count.to_bytes(32, "big"),
            initiator=initiator,
            started_s=self.count,
            established_s=self.count,
        )
        made.network_id, made.endpoint = COMMONS, Endpoint(host, 41_000)
        if needed:
            self.needed.add(made.sid)
        self.table.add(made)
        loser = self.table.crowded(made, lambda each: each.sid in self.needed)
        if loser is not None:
            self.table.remove(loser)
        return loser and loser.sid


def test_strangers_are_bounded():
    """However many there are and wherever they come from, so many are kept, and the newest is."""
    house = Commons()
    for number in range(2 * STRANGERS_MAX):
        house.come(f"10.{number // 200}.{number % 200}.1")
    assert len(house.table) == STRANGERS_MAX
    assert house.table.get(house.count) is not None


def test_one_prefix_takes_only_its_share():
    """Whoever has a whole /24 takes no place from others, and is told so by its own oldest."""
    house = Commons()
    house.come("198.51.100.7")
    gone = [house.come(f"192.0.2.{number}") for number in range(20)]
    assert gone == [None] * OF_PLACE_MAX + [2 + number for number in range(20 - OF_PLACE_MAX)]


def test_strangers_displace_nobody_who_is_needed():
    """Whose circuits or reservation we serve stays, and so do those whom we called ourselves."""
    house = Commons()
    for number in range(100):
        house.come("192.0.2.1", needed=number % 2 == 0, initiator=number % 2 == 1)
    assert len(house.table) == 100
    for number in range(100):
        house.come(f"192.0.2.{number}")
    assert len(house.table) == 100 + OF_PLACE_MAX
