"""The member table converges: any order, any repetition, any partition gives one table."""

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.networks.world import NOW, identity
from veilnet.networks.credential import Credential
from veilnet.networks.endpoint import Endpoint
from veilnet.networks.member import Member
from veilnet.networks.members import MemberTable
from veilnet.protocol import cbor
from veilnet.units import NetworkId, PeerId

NETWORK = NetworkId(bytes(32))
# `merge` takes what `verify` has checked, so these need no signatures.
PEERS = [PeerId(bytes([number]) * 32) for number in range(1, 7)]
ENDPOINTS = [Endpoint(f"192.0.2.{number}", 5) for number in range(1, 6)]


def credential(peer, serial):
    """Return the credential of that serial."""
    return Credential(
        network_id=NETWORK,
        peer_id=peer,
        name=f"n{peer[0]}",
        ipv4=None,
        serial=serial,
        not_before=NOW,
        not_after=NOW + 86_400,
        issuer=identity(0).peer_id,
        log_head=NETWORK,
    )


@st.composite
def views(draw):
    """Somebody's view of a member: one of few credentials, endpoints and times, so that they
    often meet, even equal serials with other bytes.
    """
    peer, serial = draw(st.sampled_from(PEERS)), draw(st.integers(1, 4))
    observed = draw(st.sampled_from([0, NOW - 5, NOW - 4, NOW, NOW + 5_000]))
    chosen = tuple(draw(st.lists(st.sampled_from(ENDPOINTS), unique=True))) if observed else ()
    known = credential(peer, serial)
    signature = bytes([draw(st.integers(0, 1))])
    return Member(
        b"key of " + peer,
        known,
        cbor.encode([known.body(), signature]),
        chosen,
        observed if chosen else 0,
    )


def table_of(*deliveries, max_members=4_096):
    """Return the table after *deliveries*, each merged at once."""
    table = MemberTable(max_members=max_members)
    for delivery in deliveries:
        table.merge(delivery, NOW)
    return table


@given(told=st.lists(views(), max_size=25), data=st.data())
def test_any_order_and_repetition_gives_one_table(told, data):
    """All at once, one by one in another order, and everything twice end the same."""
    expected = list(table_of(told))
    shuffled = data.draw(st.permutations(told))
    assert list(table_of(*([view] for view in shuffled))) == expected
    assert list(table_of(told, shuffled, told[::-1])) == expected


@given(told=st.lists(views(), max_size=25), data=st.data())
def test_a_full_table_converges_too(told, data):
    """Which three of six members stay depends on the credentials, not on the order."""
    shuffled = data.draw(st.permutations(told))
    one, other = table_of(told, max_members=3), table_of(shuffled, max_members=3)
    assert len(one) <= 3
    assert {item.peer_id for item in one} == {item.peer_id for item in other}
    assert {item.encoding for item in one} == {item.encoding for item in other}


@given(told=st.lists(views(), max_size=25), cut=st.integers(0, 25))
def test_partitions_heal_by_exchanging_what_is_lacking(told, cut):
    """Two halves that heard different things agree after one exchange each way, and then have
    nothing more to tell each other.
    """
    left, right = table_of(told[:cut]), table_of(told[cut:])

    def tell(teller, listener):
        lacking = [teller.get(peer_id) for peer_id in teller.lacking(listener.known())]
        return listener.merge(lacking, NOW)

    tell(left, right)
    tell(right, left)
    same_serial_other_bytes = any(
        one.credential.serial == other.credential.serial and one.encoding != other.encoding
        for one in told
        for other in told
        if one.peer_id == other.peer_id
    )
    if not same_serial_other_bytes:
        assert [(item.peer_id, item.encoding) for item in left] == [
            (item.peer_id, item.encoding) for item in right
        ]
        assert left.lacking(right.known()) == []
        assert right.lacking(left.known()) == []


@given(told=st.lists(views(), min_size=1, max_size=25))
def test_nothing_goes_backwards(told):
    """A member's serial and observation time never fall, and its endpoints stay bounded."""
    table = MemberTable()
    for view in told:
        before = table.get(view.peer_id)
        table.merge([view], NOW)
        after = table.get(view.peer_id)
        assert after is not None
        assert after.credential.serial >= view.credential.serial
        assert len(after.endpoints) <= 8
        if before is not None:
            assert after.credential.serial >= before.credential.serial
            assert after.observed_s >= before.observed_s
