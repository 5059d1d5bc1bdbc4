import pytest

from tests.unit.networks.world import DAY, HERE, NOW, Office, backend, identity
from veilnet.errors import ConfigError, UnknownPeer, UsageError
from veilnet.networks import credential
from veilnet.networks.invite import Invite
from veilnet.networks.issuer import MAX_INVITES, Issuer
from veilnet.networks.refusal import Refusal, Refused


@pytest.fixture
def office():
    """Return an issuer that has signed for its founder."""
    made = Office.open()
    made.issuer.enrol_self("laptop", NOW)
    return made


def refusal_of(call, *args, **kwargs):
    """Return why *call* was refused."""
    with pytest.raises(Refused) as caught:
        call(*args, **kwargs)
    assert caught.value.code == 6
    assert caught.value.message
    return caught.value.refusal


def test_an_invite_lets_as_many_in_as_it_has_uses(office):
    """Two uses admit two peers; the third is told that the invite is used up."""
    invite = office.invite(uses=2)
    assert Invite.parse(invite.format()) == invite
    first, second = office.admit(invite, 1), office.admit(invite, 2)
    for admission in (first, second):
        verified = credential.verify(admission.encoding, office.genesis, backend().signatures(1))
        assert verified == admission.credential
        assert verified.valid_at(NOW)
        assert verified.not_after == NOW + 30 * DAY
    assert second.credential.serial > first.credential.serial
    assert refusal_of(office.admit, invite, 3) is Refusal.USED_UP


def test_the_same_peer_asking_again_takes_no_second_use(office):
    """A joiner that lost the answer gets another, with its name and address as before."""
    invite = office.invite(uses=1)
    first, again = office.admit(invite, 1), office.admit(invite, 1)
    assert again.credential.name == first.credential.name
    assert again.credential.ipv4 == first.credential.ipv4
    assert again.credential.serial > first.credential.serial


def test_expiry_and_taking_back(office):
    """An invite works in its last second, not after it, and not once it was taken back."""
    invite, other = office.invite(uses=9, life_s=60), office.invite(uses=9)
    office.admit(invite, 1, now=NOW + 60)
    assert refusal_of(office.admit, invite, 2, now=NOW + 61) is Refusal.EXPIRED
    assert refusal_of(office.admit, invite, 1, now=NOW + 61) is Refusal.EXPIRED
    office.issuer.cancel(other.invite_id, NOW)
    office.issuer.cancel(other.invite_id, NOW)
    assert refusal_of(office.admit, other, 2) is Refusal.CANCELLED
    assert office.issuer.invites(NOW + 61) == ()
    with pytest.raises(UnknownPeer):
        office.issuer.cancel(bytes(8), NOW)


def test_the_door_outlives_the_invite_by_a_day(office):
    """For 24 h after its end an invite's door is open to refuse with a reason, then silent."""
    spent, lapsing = office.invite(uses=1), office.invite(life_s=3_600)
    office.admit(spent, 1, now=NOW + 5)
    until = {door.invite_id: door.until for door in office.issuer.doors(NOW + 5)}
    assert until == {spent.invite_id: NOW + 5 + DAY, lapsing.invite_id: NOW + 3_600 + DAY}
    door = next(d for d in office.issuer.doors(NOW) if d.invite_id == spent.invite_id)
    assert (door.key, door.join_secret) == (spent.door_key, spent.join_secret)
    late = NOW + 6 + DAY
    assert [door.invite_id for door in office.issuer.doors(late)] == [lapsing.invite_id]
    assert refusal_of(office.admit, spent, 2, now=late) is Refusal.UNKNOWN_INVITE
    assert refusal_of(office.admit, lapsing, 2, now=late) is Refusal.EXPIRED


def test_doors_are_bounded(office):
    """At most twelve doors: open invites are never silenced, closed ones make room."""
    invites = [office.invite() for _ in range(MAX_INVITES)]
    with pytest.raises(UsageError, match="no more can be"):
        office.invite()
    office.admit(invites[3], 1)
    newest = office.invite()
    doors = {door.invite_id for door in office.issuer.doors(NOW)}
    expected = {item.invite_id for item in invites} - {invites[3].invite_id} | {newest.invite_id}
    assert doors == expected


def test_names_are_made_unique_and_usable(office):
    """The issuer suffixes duplicates and makes a name of whatever a joiner asks for."""
    invite = office.invite(uses=9)
    names = [
        office.admit(invite, number, name=name).credential.name
        for number, name in enumerate(["laptop", "server", "Server", "\x1b[2J", "a.b", ""], 1)
    ]
    assert names == ["laptop-2", "server", "server-2", "2j", "a", "node"]


def test_a_name_stays_with_its_first_holder(office):
    """Who renews keeps its name, and a newcomer does not get it even when it has lapsed."""
    invite = office.invite(uses=9, life_s=30 * DAY)
    first = office.admit(invite, 1, name="server")
    later = NOW + 29 * DAY
    assert office.admit(invite, 2, name="server", now=later).credential.name == "server-2"
    back = office.issuer.renew(first.credential, NOW + 90 * DAY)
    assert back.credential.name == "server"


def test_ipv4_addresses_are_the_holders_while_it_lives(office):
    """Each member has an address of the range; nobody else gets it while a fresh one is left."""
    invite = office.invite(uses=50)
    given = [office.admit(invite, number).credential.ipv4 for number in range(1, 20)]
    assert len(set(given)) == 19
    assert all(address in office.genesis.ipv4_range for address in given)


def test_ipv4_runs_out_politely(office, monkeypatch):
    """With every address alive a member has none; a lapsed one is lent anew, and then its
    former holder renews with another or none.
    """
    monkeypatch.setattr(
        "veilnet.networks.issuer.ipv4_hosts", lambda net: iter(list(net.hosts())[:3])
    )
    invite = office.invite(uses=9, life_s=30 * DAY)
    first, second = office.admit(invite, 1), office.admit(invite, 2, now=NOW + DAY)
    assert office.admit(invite, 3, now=NOW + 2 * DAY).credential.ipv4 is None
    office.issuer.enrol_self("laptop", NOW + 11 * DAY)
    reopened = office.invite(now=NOW + 30 * DAY + 1, uses=9)
    heir = office.admit(reopened, 4, now=NOW + 30 * DAY + 1)
    assert heir.credential.ipv4 == first.credential.ipv4
    assert office.issuer.renew(first.credential, NOW + 30 * DAY + 2).credential.ipv4 is None
    kept = office.issuer.renew(second.credential, NOW + 30 * DAY + 3).credential
    assert kept.ipv4 == second.credential.ipv4


def test_renewal_is_due_from_a_third_of_life_and_for_ever(office):
    """Earlier is refused; a laptop back from two months on the shelf is renewed with its tags."""
    invite = office.invite(tags=["web", "db"])
    first = office.admit(invite, 1).credential
    assert first.tags == ("db", "web")
    assert refusal_of(office.issuer.renew, first, NOW + 10 * DAY - 1) is Refusal.NOT_DUE
    second = office.issuer.renew(first, NOW + 10 * DAY).credential
    assert second.serial > first.serial
    assert second.tags == first.tags
    assert second.not_after == NOW + 40 * DAY
    assert office.issuer.renew(second, NOW + 100 * DAY).credential.valid_at(NOW + 100 * DAY)


def test_a_clock_that_fell_back_does_not_sign_in_the_past(office):
    """Others judge by the newest signed time, so what is signed next must not lie before it."""
    invite = office.invite(uses=2, life_s=30 * DAY)
    ahead = office.admit(invite, 1, now=NOW + 20 * DAY).credential
    behind = office.admit(invite, 2, now=NOW).credential
    assert behind.not_before == ahead.not_before
    office.reboot()
    assert office.issuer.enrol_self("laptop", NOW).credential.not_before == ahead.not_before


def test_nothing_is_signed_that_could_not_be_written(office):
    """With the disk full, admitting fails and takes no use; afterwards it works."""
    invite = office.invite(uses=1)
    office.broken = True
    with pytest.raises(OSError, match="No space left"):
        office.admit(invite, 1)
    with pytest.raises(OSError, match="No space left"):
        office.invite()
    office.broken = False
    assert len(office.issuer.doors(NOW)) == 1
    assert office.admit(invite, 2).credential.peer_id == identity(2).peer_id


def test_a_crash_between_writing_and_signing_loses_no_use_twice(office, monkeypatch):
    """After the crash the same peer gets its credential, and nobody else takes the use."""
    invite = office.invite(uses=1)

    def crash(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(credential, "sign", crash)
        with pytest.raises(KeyboardInterrupt):
            office.admit(invite, 1)
    office.reboot()
    assert refusal_of(office.admit, invite, 2) is Refusal.USED_UP
    assert office.admit(invite, 1).credential.peer_id == identity(1).peer_id


def test_the_state_is_read_back(office):
    """What `persist` was given makes the same issuer."""
    invite = office.invite(uses=3, tags=["web"])
    office.admit(invite, 1)
    office.issuer.cancel(office.invite().invite_id, NOW)
    before = office.issuer._state
    office.reboot()
    assert office.issuer._state == before
    with pytest.raises(ConfigError):
        Issuer.load(office.disk[-1][:-1], office.genesis, identity(0), office.persist)


def test_a_full_network_forgets_only_the_lapsed(office, monkeypatch):
    """At the limit a newcomer is refused, unless somebody's credential has lapsed."""
    monkeypatch.setattr("veilnet.networks.issuer.MAX_MEMBERS", 2)
    invite = office.invite(uses=9, life_s=30 * DAY)
    office.admit(invite, 1)
    assert refusal_of(office.admit, invite, 2) is Refusal.FULL
    office.issuer.enrol_self("laptop", NOW + 25 * DAY)
    reopened = office.invite(now=NOW + 31 * DAY, uses=9)
    assert office.admit(reopened, 2, now=NOW + 31 * DAY).credential.serial


def test_a_second_id_for_an_address_in_use_is_refused(office, monkeypatch):
    """A key whose overlay address is another member's gets no credential."""
    monkeypatch.setattr("veilnet.networks.issuer.overlay_ipv6", lambda network, peer: peer[0] >> 8)
    assert refusal_of(office.admit, office.invite(), 1) is Refusal.ADDRESS_IN_USE


@pytest.mark.parametrize(
    "options",
    [
        {"endpoints": []},
        {"uses": 0},
        {"uses": 1_001},
        {"life_s": 0},
        {"life_s": 31 * DAY},
        {"tags": ["no good"]},
        {"tags": [f"t{number}" for number in range(17)]},
    ],
)
def test_an_invite_out_of_bounds_is_the_callers_mistake(office, options):
    """Uses, life, tags and endpoints have limits, each of them enforced."""
    with pytest.raises(UsageError):
        office.invite(**options)


def test_an_invite_names_at_most_eight_endpoints(office):
    """More are cut, doubles count once."""
    ports = [HERE._replace(port=number) for number in (1, 1, *range(2, 20))]
    assert [item.port for item in office.invite(endpoints=ports).endpoints] == list(range(1, 9))


def test_refusals_cross_the_wire_by_number():
    """A known number says our own sentence; an unknown one quotes the peer, escaped."""
    for refusal in Refusal:
        heard = Refused.heard(int(refusal), "why\x07")
        assert heard.refusal == refusal
        assert "\x07" not in str(heard)
    assert "'why\\x07'" in Refused.heard(999, "why\x07").message


def test_no_repr_shows_a_seed(office):
    """Neither the issuer nor its invites and doors show their secrets."""
    invite = office.invite()
    shown = f"{office.issuer!r} {office.issuer.invites(NOW)} {office.issuer.doors(NOW)}"
    for secret in (invite.seed, invite.door_key, invite.join_secret):
        assert repr(secret)[2:-1] not in shown


def test_reserved_names_are_not_given_out():
    """A joiner may ask for `localhost`; it is called something else."""
    office = Office.open()
    invite = office.invite(uses=3)
    names = ["localhost", "ip6-allnodes", "gateway"]
    found = [office.member(invite, n, name=name).name for n, name in enumerate(names, 1)]
    assert found == ["node", "node-2", "node-3"]
