import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from ipaddress import IPv6Address

import pytest
from attrs import evolve

from tests.unit.networks.world import DAY, HERE, NOW, Office, backend, identity
from veilnet.errors import (
    ClosedError,
    ConfigError,
    PeerRefused,
    RemoteProtocolError,
    UnknownPeer,
    UsageError,
)
from veilnet.networks import credential, members
from veilnet.networks.endpoint import Endpoint
from veilnet.networks.member import Member
from veilnet.networks.members import REFRESH_S, MemberTable, batches, part_of

SIGNATURES = backend().signatures(1)
THERE = Endpoint("198.51.100.9", 9)


@pytest.fixture
def office():
    """Return an issuer."""
    return Office.open()


@pytest.fixture
def people(office):
    """Return five members: alpha, beta, gamma, delta, echo."""
    invite = office.invite(uses=9)
    names = ["alpha", "beta", "gamma", "delta", "echo"]
    return [office.member(invite, number, name=name) for number, name in enumerate(names, 1)]


def held(table, peer_id):
    """Return the member that must be in the table."""
    member = table.get(peer_id)
    assert member is not None
    return member


def forged(member, **change):
    """Return the member with a credential that the issuer should not have signed."""
    changed = evolve(member.credential, **change)
    return Member(member.public_key, changed, credential.sign(changed, identity(0)))


def test_gossip_becomes_members(office, people):
    """What one table tells, another verifies and then holds, endpoints and times included."""
    seen = people[0].seen_at([HERE], NOW)
    table = MemberTable()
    entries = (seen.entry(), people[1].entry())
    merged = table.merge(table.verify(entries, office.genesis, SIGNATURES), NOW)
    assert merged.changed == {people[0].peer_id, people[1].peer_id}
    held_now = held(table, people[0].peer_id)
    assert held_now.encoding == seen.encoding
    assert (held_now.endpoints, held_now.observed_s) == (seen.endpoints, NOW)
    again = table.merge(table.verify(entries, office.genesis, SIGNATURES), NOW)
    assert not again.changed


def test_a_known_credential_is_not_verified_again(office, people):
    """Repeated gossip costs no signature check, but another key or bytes does."""
    table = MemberTable(people)

    class Never:
        def verify(self, *args):
            raise AssertionError("verified")

    entry = people[0].entry()
    assert table.verify((entry,), office.genesis, Never())[0].peer_id == people[0].peer_id
    with pytest.raises(AssertionError):
        table.verify((evolve(entry, public_key=bytes(1952)),), office.genesis, Never())


@pytest.mark.parametrize("part", ["key", "credential", "signature", "other key"])
def test_false_gossip_is_refused(office, people, part):
    """A key that is not the peer id's, or a credential that nobody signed, is the teller's
    fault.
    """
    entry = people[0].entry()
    match part:
        case "key":
            entry = evolve(entry, public_key=bytes(1952))
        case "other key":
            entry = evolve(entry, public_key=people[1].public_key)
        case "credential":
            entry = evolve(entry, credential=b"\x80")
        case "signature":
            entry = evolve(entry, credential=entry.credential[:-1] + b"?")
    for table in (MemberTable(), MemberTable(people)):
        with pytest.raises(RemoteProtocolError):
            table.verify((entry,), office.genesis, SIGNATURES)


def test_useless_endpoints_are_left_out(office, people):
    """Link-local, group and doubled addresses are dropped, the rest kept in order, at most 8."""
    many = [(f"192.0.2.{number}", 5) for number in range(1, 12)]
    entry = evolve(
        people[0].entry(),
        endpoints=(
            ("fe80::1", 5),
            ("224.0.0.1", 5),
            ("100::1", 1),
            ("100:1::1", 1),
            *many[:1],
            *many,
        ),
        observed_s=NOW,
    )
    member = MemberTable().verify((entry,), office.genesis, SIGNATURES)[0]
    assert list(member.endpoints) == many[:8]


def test_the_newest_of_each_part_wins(office, people):
    """Credential by serial, endpoints by time, each for itself."""
    old = people[0]
    renewed = office.issuer.renew(old.credential, NOW + 11 * DAY)
    new = Member(old.public_key, renewed.credential, renewed.encoding)
    table = MemberTable([new])
    table.merge([old.seen_at([HERE], NOW)], NOW)
    table.merge([old.seen_at([THERE], NOW - 5)], NOW)
    kept = held(table, old.peer_id)
    assert kept.encoding == new.encoding
    assert kept.endpoints == (HERE,)


def told(office, member, endpoints, observed_s):
    """Return the member as a teller's entry makes it."""
    entry = evolve(member.entry(), endpoints=tuple(endpoints), observed_s=observed_s)
    return MemberTable([member]).verify((entry,), office.genesis, SIGNATURES)


def test_an_observation_from_the_future_is_one_of_now(office, people):
    """A time to come would be the newest for ever."""
    table = MemberTable()
    table.merge(told(office, people[0], [HERE], NOW + DAY), NOW, teller=b"mallory")
    assert held(table, people[0].peer_id).observed_s == NOW


def test_hearsay_never_replaces_what_was_seen(office, people):
    """However new the lie, where we saw a member stays first, and few lies stand behind it."""
    table = MemberTable(people)
    peer_id = people[0].peer_id
    table.observe(peer_id, [HERE, THERE], NOW)
    lies = [Endpoint(f"198.51.100.{number}", 9) for number in range(1, 9)]
    table.merge(told(office, people[0], lies, NOW + 500), NOW + 5, teller=b"mallory")
    assert held(table, peer_id).endpoints == (HERE, THERE, *lies[:3])
    eight = [Endpoint(f"192.0.2.{number}", 9) for number in range(1, 9)]
    table.observe(peer_id, eight, NOW + 6)
    assert held(table, peer_id).endpoints == (*eight[:5], *lies[:3])


def test_one_teller_does_not_crowd_the_others_out(office, people, tmp_path):
    """Of a member that we never saw, a liar's endpoints stand beside the honest ones."""
    table = MemberTable(people)
    peer_id = people[0].peer_id
    table.merge(told(office, people[0], [HERE, THERE], NOW - 100), NOW, teller=b"honest")
    for late in range(20):
        lies = [Endpoint(f"198.51.100.{late + 1}", port) for port in range(1, 9)]
        table.merge(told(office, people[0], lies, NOW + late), NOW + late, teller=b"mallory")
    assert {HERE, THERE} <= set(held(table, peer_id).endpoints)
    table.settle(tmp_path / "members.db")
    again = MemberTable(path=tmp_path / "members.db")
    assert held(again, peer_id) == held(table, peer_id)


def test_a_members_own_word_comes_before_what_others_say(office, people):
    """Among hearsay, the member itself is believed first."""
    table = MemberTable(people)
    peer_id = people[0].peer_id
    table.merge(told(office, people[0], [HERE], NOW), NOW, teller=peer_id)
    table.merge(told(office, people[0], [THERE], NOW + 9), NOW + 9, teller=b"other")
    assert held(table, peer_id).endpoints == (HERE, THERE)


def test_what_one_more_says_is_no_news(office, people):
    """The same word from another teller is kept and not told on, or it would go round for ever."""
    table = MemberTable(people)
    first = table.merge(told(office, people[0], [HERE], NOW), NOW, teller=b"one")
    second = table.merge(told(office, people[0], [THERE], NOW), NOW, teller=b"two")
    assert (first.changed, second.changed) == ({people[0].peer_id}, frozenset())
    assert set(held(table, people[0].peer_id).endpoints) == {HERE, THERE}


def test_a_doubted_member_is_asked_for_as_if_unseen(office, people):
    """Whoever is asked answers with what it has, even if ours claims to be newer."""
    ours, theirs = MemberTable(people), MemberTable(people)
    ours.merge(told(office, people[0], [THERE], NOW + 9), NOW + 9, teller=b"mallory")
    theirs.observe(people[0].peer_id, [HERE], NOW)
    assert theirs.lacking(ours.known()) == []
    lacking = theirs.lacking(ours.known(doubted=people[0].peer_id))
    (entry,) = theirs.entries(lacking)
    assert entry.endpoints == (HERE,)


def test_observing(people):
    """What we see stands first; the same again is news only once an hour."""
    table = MemberTable(people)
    peer_id = people[0].peer_id
    assert table.observe(peer_id, [HERE], NOW)
    assert not table.observe(peer_id, [HERE], NOW + REFRESH_S - 1)
    assert table.observe(peer_id, [THERE], NOW + 5)
    assert held(table, peer_id).endpoints == (THERE, HERE)
    assert table.observe(peer_id, [THERE], NOW + 5 + REFRESH_S)
    assert not table.observe(identity(99).peer_id, [HERE], NOW)


def test_only_what_the_other_lacks_is_told(people):
    """The answer to `known` holds members that are unknown or older there, and no others."""
    ours = MemberTable(people[:4])
    theirs = MemberTable(people[:3])
    ours.observe(people[1].peer_id, [HERE], NOW)
    told = ours.lacking(theirs.known())
    assert set(told) == {people[1].peer_id, people[3].peer_id}
    credentials = {entry.credential for entry in ours.entries([*told, identity(99).peer_id])}
    assert credentials == {people[1].encoding, people[3].encoding}
    assert ours.lacking(ours.known()) == []
    assert [len(batch) for batch in batches([people[0].entry()] * 17)] == [8, 8, 1]


def test_a_long_table_is_told_in_parts(people, monkeypatch):
    """Each part fits a message, is compared for itself, and all parts together are the table."""
    monkeypatch.setattr(members, "MAX_KNOWN", 2)
    ours, theirs = MemberTable(people), MemberTable()
    parts = ours.parts
    assert (theirs.parts, MemberTable(people[:2]).parts, parts) == (1, 1, 8)
    told = [ours.known(part, parts) for part in range(parts)]
    ids = [item.peer_id for message in told for item in message.known]
    assert sorted(ids) == sorted(member.peer_id for member in people)
    for part, message in enumerate(told):
        assert all(part_of(item.peer_id, parts) == part for item in message.known)
        assert ours.lacking(message) == []
        assert ours.lacking(theirs.known(part, parts)) == [item.peer_id for item in message.known]
    for false in ({"part": 8}, {"parts": 0}):
        with pytest.raises(RemoteProtocolError):
            ours.lacking(evolve(told[0], **false))


def test_an_answer_is_bounded(people, monkeypatch):
    """Whoever lacks much is told the newest credentials first, and asks again for the rest."""
    monkeypatch.setattr(members, "MAX_LACKING", 3)
    ours, theirs = MemberTable(people), MemberTable()
    first = ours.lacking(theirs.known())
    assert first == [people[number].peer_id for number in (4, 3, 2)]
    theirs.merge(people[2:], NOW)
    assert ours.lacking(theirs.known()) == [people[1].peer_id, people[0].peer_id]


def test_what_did_not_fit_is_not_lacking(people, monkeypatch):
    """A message that is full speaks of the newest alone, and not of who is older."""
    monkeypatch.setattr(members, "MAX_KNOWN", 2)
    ours, theirs = MemberTable(people), MemberTable(people[:4])
    assert ours.lacking(theirs.known()) == [people[4].peer_id]


def test_finding(people):
    """Name, petname, peer id, unique prefix and both addresses mean the member."""
    table = MemberTable(people)
    alpha = people[0]
    table.set_petname("Mine", alpha.peer_id)
    targets = ["alpha", " ALPHA ", "mine", alpha.peer_id.hex(), alpha.peer_id.hex()[:10]]
    targets += [str(address) for address in alpha.addresses]
    assert len(alpha.addresses) == 2
    assert all(table.find(target) == alpha for target in targets)
    for target in ("nobody", "", "fd00::1", "ffffffffffff", "\x1b[2J"):
        with pytest.raises(UnknownPeer) as caught:
            table.find(target)
        assert caught.value.message.isprintable()


def test_a_name_that_several_hold_answers_nothing(people):
    """A conflict is reported and finds nobody; a petname settles it."""
    table = MemberTable([people[0], forged(people[1], name="alpha")])
    assert table.conflicts() == ("alpha",)
    with pytest.raises(UnknownPeer, match="several"):
        table.find("alpha")
    table.set_petname("alpha", people[1].peer_id)
    assert table.find("alpha").peer_id == people[1].peer_id


def test_a_name_cannot_pose_as_an_id(people):
    """A member called like the start of another's peer id makes the target ambiguous."""
    posing = forged(people[1], name=people[0].peer_id.hex()[:8])
    with pytest.raises(UnknownPeer, match="several"):
        MemberTable([people[0], posing]).find(posing.name)


def test_petnames(people):
    """A petname is a name, of one member at a time, and can be dropped."""
    table = MemberTable(people)
    alpha, beta = people[0].peer_id, people[1].peer_id
    table.set_petname("pet", alpha)
    table.set_petname("cat", alpha)
    assert table.name_of(alpha) == "cat"
    table.set_petname("pet", beta)
    with pytest.raises(UsageError, match="another member"):
        table.set_petname("pet", alpha)
    with pytest.raises(UsageError):
        table.set_petname("no good", alpha)
    with pytest.raises(UnknownPeer):
        table.set_petname("ghost", identity(99).peer_id)
    table.drop_petname(alpha)
    assert table.name_of(alpha) == "alpha"


def test_a_second_id_for_an_ipv4_address_in_use_is_refused(people):
    """The holder keeps its address and the claimant is not taken, with a clear reason."""
    thief = forged(people[1], ipv4=people[0].credential.ipv4)
    table = MemberTable([people[0]])
    merged = table.merge([thief], NOW)
    assert not merged.changed
    assert "alpha" in merged.refused[0].message
    assert thief.peer_id not in table
    assert table.by_address(people[0].credential.ipv4) == people[0]


def test_a_second_id_for_an_ipv6_address_is_refused(people, monkeypatch):
    """Two keys with one overlay address: the first stays, however long ago it was."""
    monkeypatch.setattr("veilnet.networks.member.overlay_ipv6", lambda *_: IPv6Address("fd00::1"))
    table = MemberTable([people[0]])
    with pytest.raises(PeerRefused, match="claims"):
        table.check_addresses(people[1].credential, NOW + 900 * DAY)


def test_a_lapsed_holders_address_is_its_successors(people):
    """Whatever order they come in, both are members and the newer credential has the address."""
    later = NOW + 31 * DAY
    heir = forged(
        people[1],
        ipv4=people[0].credential.ipv4,
        serial=99,
        not_before=later,
        not_after=later + DAY,
    )
    for order in ([people[0], heir], [heir, people[0]]):
        table = MemberTable()
        for member in order:
            # A clock of ours that is behind must not matter.
            assert not table.merge([member], NOW).refused
        assert len(table) == 2
        assert table.by_address(heir.credential.ipv4) == held(table, heir.peer_id)


def test_the_table_is_bounded(people):
    """The oldest credentials go first, pinned members never."""
    table = MemberTable(pinned=[people[0].peer_id], max_members=3)
    table.merge(people, NOW)
    assert {item.name for item in table} == {"alpha", "delta", "echo"}
    assert table.by_address(people[1].ipv6) is None


def test_on_disk(people, tmp_path):
    """A table is read back whole, petnames included."""
    path = tmp_path / "members.db"
    table = MemberTable(people, path=path)
    table.observe(people[0].peer_id, [HERE, THERE], NOW)
    table.set_petname("pet", people[1].peer_id)
    table.flush()
    expected = list(table)
    table.close()
    again = MemberTable(path=path)
    assert list(again) == expected
    assert held(again, people[0].peer_id).endpoints == (HERE, THERE)
    assert again.find("pet").name == "beta"
    assert again.newest_signed == max(item.credential.not_before for item in people)


def test_a_table_in_memory_moves_to_a_file(people, tmp_path):
    """Over what an unfinished network left there, even one still open; later changes go there."""
    path = tmp_path / "members.db"
    left = MemberTable(people[:1], path=path)
    table = MemberTable(people[1:3])
    assert not table.settled
    table.settle(path)
    assert table.settled
    left.close()
    table.merge([people[3]], NOW)
    table.flush()
    table.close()
    assert {item.name for item in MemberTable(path=path)} == {"beta", "gamma", "delta"}
    assert path.stat().st_mode & 0o077 == 0


def test_a_full_disk_loses_nothing(people, tmp_path):
    """What it does not take is a member all the same, and is on it once there is room."""
    path = tmp_path / "members.db"
    table = MemberTable(people[:1], path=path)
    database = table._roster._connection
    (pages,) = database.execute("PRAGMA page_count").fetchone()
    database.execute(f"PRAGMA max_page_count = {pages}")
    assert table.merge(people[1:], NOW).changed == {item.peer_id for item in people[1:]}
    assert held(table, people[4].peer_id) == people[4]
    assert people[4].peer_id in table
    with pytest.raises(ConfigError, match="full"):
        table.flush()
    assert held(table, people[4].peer_id) == people[4]
    database.execute("PRAGMA max_page_count = 1000000")
    table.flush()
    table.close()
    assert sorted(item.name for item in MemberTable(path=path)) == sorted(
        item.name for item in people
    )


def test_threads_may_ask_and_flush_while_one_changes(office, people, tmp_path):
    """And while it is closed: who comes late is told so."""
    table = MemberTable(path=tmp_path / "members.db")
    entries = [item.entry() for item in people]
    late = []

    def again_and_again(work):
        try:
            while True:
                work()
        except ClosedError as error:
            late.append(error)

    def verify():
        table.verify(entries, office.genesis, SIGNATURES)

    with ThreadPoolExecutor(3) as pool:
        done = [pool.submit(again_and_again, work) for work in (verify, verify, table.flush)]
        for round_ in range(100):
            for item in people:
                table.observe(item.peer_id, [HERE, THERE][:: 1 - round_ % 2 * 2], NOW + round_)
                table.merge([item], NOW)
        table.close()
        for each in done:
            each.result(30)
    assert len(late) == 3
    with pytest.raises(ClosedError):
        table.get(people[0].peer_id)


def test_a_member_that_the_disk_changed_is_none(people, tmp_path):
    """It is forgotten, not told on as false gossip, and may be learnt again."""
    path = tmp_path / "members.db"
    table = MemberTable(people[:2], path=path)
    table.flush()
    table.close()
    with closing(sqlite3.connect(path)) as db:
        rotten = people[0].encoding[:-1] + bytes([people[0].encoding[-1] ^ 1])
        db.execute(
            "UPDATE paper SET credential = ? WHERE credential = ?", (rotten, people[0].encoding)
        )
        db.commit()
    again = MemberTable(path=path)
    assert again.get(people[0].peer_id) is None
    assert [item.name for item in again] == ["beta"]
    assert people[0].peer_id not in again
    again.merge(people[:1], NOW)
    assert again.find("alpha") == people[0]


def test_members_need_no_memory(people, tmp_path):
    """However many there are, few are held: those that the node dealt with last."""
    table = MemberTable(people, path=tmp_path / "members.db")
    roster = table._roster
    assert len(list(table)) == 5
    assert not roster._recent
    for _ in range(2):
        table.find("alpha")
    assert list(roster._recent) == [people[0].peer_id]


@pytest.mark.parametrize("content", ["other", "text", "later", "cut"])
def test_what_is_no_table_is_refused(people, tmp_path, content):
    """A file of something else, or a damaged one, is named, and what to do about it."""
    path = tmp_path / "members.db"
    match content:
        case "other":
            with closing(sqlite3.connect(path)) as db:
                db.execute("CREATE TABLE x (y)")
        case "text":
            path.write_bytes(b"hello" * 1000)
        case "later":
            MemberTable(path=path).close()
            with closing(sqlite3.connect(path)) as db:
                db.execute("PRAGMA user_version = 9")
        case "cut":
            table = MemberTable(people, path=path)
            table.flush()
            table.close()
            path.write_bytes(path.read_bytes()[:-9_000])
    with pytest.raises(ConfigError, match=r"members\.db"):
        MemberTable(path=path)
