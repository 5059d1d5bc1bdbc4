import pytest
from attrs import evolve

from tests.unit.networks.world import NOW, Office, backend, identity, seeded
from veilnet.discovery import descriptor as descriptors
from veilnet.discovery import locator
from veilnet.discovery.descriptor import (
    LIFE_MAX_S,
    LIFE_S,
    Descriptor,
    NameRecord,
    open_,
    open_name,
    seal,
    seal_name,
)
from veilnet.errors import LocalProtocolError, RemoteProtocolError
from veilnet.networks import credential as credentials
from veilnet.networks.endpoint import Endpoint
from veilnet.protocol.dht_messages import MAX_BLOB_BYTES

SECRET = locator.secret_of(b"k" * 32)
DAY = locator.epoch_day(SECRET, NOW)
ANNA, EVE = identity(1), identity(2)


def said(**changes):
    """Return a descriptor of Anna's."""
    whole = Descriptor(
        peer_id=ANNA.peer_id,
        seq=5,
        expires_s=NOW + LIFE_S,
        endpoints=(Endpoint("192.0.2.7", 41_000), Endpoint("2001:db8::7", 41_000)),
        nat=2,
        stride=-3,
        relays=((EVE.peer_id, Endpoint("198.51.100.9", 443)),),
        commons_id=b"c" * 32,
        name="anna",
        credential=b"credential",
    )
    return evolve(whole, **changes)


def sealed(what=None, *, signer=ANNA, secret=SECRET, day=DAY, **options):
    """Return what is stored."""
    return seal(what or said(), signer, secret, day, rng=seeded(3), **options)


def opened(blob, **changes):
    """Open a blob as somebody who looks for Anna."""
    named = {
        "peer_id": ANNA.peer_id,
        "network_secret": SECRET,
        "epoch_day": DAY,
        "signatures": backend().signatures(1),
        "unix_s": NOW,
    }
    return open_(blob, **named | changes)


def test_who_knows_the_network_and_the_member_reads_what_it_said():
    """Sealed and opened, with the real signature; stored under the day's locator."""
    where, blob = sealed()
    assert where == locator.locator(SECRET, ANNA.peer_id, DAY)
    result = opened(blob)
    assert result.descriptor == said()
    assert result.public_key == ANNA.public_key


def test_a_blob_is_whole_kibibytes_of_noise():
    """Its length tells a storer next to nothing, and no byte of what is in it shows."""
    few = said(endpoints=(), relays=(), name="", credential=b"")
    sizes = {len(sealed(what)[1]) for what in (said(), few)}
    assert sizes == {6 * 1_024}
    blob = sealed()[1]
    for secret in (ANNA.public_key[:16], ANNA.peer_id, b"anna", bytes(32)):
        assert secret not in blob
    assert len(sealed(with_key=False)[1]) == 4 * 1_024


def test_without_the_key_it_needs_a_reader_who_has_it():
    """2 KB less for those who have the member in their table."""
    _, blob = sealed(with_key=False)
    assert opened(blob, public_key=ANNA.public_key).descriptor == said()
    with pytest.raises(RemoteProtocolError):
        opened(blob)
    with pytest.raises(RemoteProtocolError):
        opened(blob, public_key=EVE.public_key)


@pytest.mark.parametrize(
    "changes",
    [
        {"peer_id": EVE.peer_id},
        {"network_secret": b"x" * 32},
        {"epoch_day": DAY + 1},
        {"epoch_day": DAY - 1},
    ],
)
def test_it_opens_for_its_network_member_and_day_only(changes):
    """Another locator means another key as well."""
    with pytest.raises(RemoteProtocolError):
        opened(sealed()[1], **changes)


def test_a_replayed_older_descriptor_is_refused():
    """Who has seen number 6 does not go back to number 5."""
    _, blob = sealed()
    assert opened(blob, least_seq=5).descriptor.seq == 5
    with pytest.raises(RemoteProtocolError, match="older"):
        opened(blob, least_seq=6)


def test_it_holds_until_it_expires_and_promises_no_more_than_a_day():
    """A replay of yesterday's, and one that would never end, are refused."""
    _, blob = sealed()
    assert opened(blob, unix_s=NOW + LIFE_S - 1)
    with pytest.raises(RemoteProtocolError, match="expired"):
        opened(blob, unix_s=NOW + LIFE_S)
    _, blob = sealed(said(expires_s=NOW + LIFE_MAX_S + 1))
    with pytest.raises(RemoteProtocolError, match="promises"):
        opened(blob)


def test_a_storer_cannot_change_a_bit():
    """Every byte counts, the version's too."""
    _, blob = sealed()
    for at in (0, 1, 12, 13, 100, len(blob) - 1):
        broken = blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :]
        with pytest.raises(RemoteProtocolError):
            opened(broken)
    for broken in (b"", b"\x01", blob[:-1], blob + b"x", bytes(MAX_BLOB_BYTES + 1)):
        with pytest.raises(RemoteProtocolError):
            opened(broken)


def resealed(monkeypatch, what, signer, public_key=None):
    """Return what a member who knows all secrets makes in somebody else's name."""
    monkeypatch.setattr(descriptors, "_check_signer", lambda *_: None)

    class Forger:
        peer_id = what.peer_id
        sign = staticmethod(signer.sign)

    Forger.public_key = public_key or signer.public_key
    return sealed(what, signer=Forger())[1]


def test_another_member_cannot_speak_for_one(monkeypatch):
    """It has the keys that encrypt, but not the one that signs, and no other key will do."""
    for key in (EVE.public_key, ANNA.public_key):
        blob = resealed(monkeypatch, said(), EVE, key)
        with pytest.raises(RemoteProtocolError):
            opened(blob)


def test_a_signed_body_does_not_move_to_another_network_or_day(monkeypatch):
    """What Anna signed for one network another member cannot publish in the next."""
    _, blob = sealed()
    key = locator.seal_key(SECRET, ANNA.peer_id, DAY)
    where = locator.locator(SECRET, ANNA.peer_id, DAY)
    body, public_key, signature = descriptors._unseal(blob, key, where)

    class Replayer:
        peer_id = ANNA.peer_id

        def sign(self, *_):
            return signature

    Replayer.public_key = public_key
    for secret, day in ((b"other" * 8, DAY), (SECRET, DAY + 1)):
        where = locator.locator(secret, ANNA.peer_id, day)
        key = locator.seal_key(secret, ANNA.peer_id, day)
        moved = descriptors._seal(
            body,
            descriptors.CONTEXT,
            Replayer(),
            key=key,
            where=where,
            rng=seeded(),
            with_key=True,
        )
        with pytest.raises(RemoteProtocolError, match="another network"):
            opened(moved, network_secret=secret, epoch_day=day)


@pytest.mark.parametrize(
    "changes",
    [
        {"endpoints": (Endpoint("192.0.2.7", 1),) * 9},
        {"relays": ((EVE.peer_id, Endpoint("192.0.2.7", 1)),) * 5},
        {"relays": ((b"short", Endpoint("192.0.2.7", 1)),)},
        {"commons_id": b"short"},
        {"nat": 16},
        {"stride": 40_000},
        {"seq": -1},
        {"name": "NOT A NAME"},
        {"credential": bytes(8_193)},
    ],
)
def test_what_others_would_refuse_is_not_sealed(changes):
    """Our own limits are our own fault."""
    with pytest.raises(LocalProtocolError):
        sealed(said(**changes))


def test_nobody_publishes_for_somebody_else():
    """A descriptor is its signer's."""
    with pytest.raises(LocalProtocolError):
        sealed(signer=EVE)


def test_the_largest_of_s1_fits_a_storer():
    """Eight endpoints, four relays and a credential as long as they get in S1."""
    large = said(
        endpoints=(Endpoint("2001:db8::7", 41_000),) * 8,
        relays=((EVE.peer_id, Endpoint("2001:db8::9", 443)),) * 4,
        credential=bytes(6_400),
    )
    assert len(sealed(large)[1]) <= MAX_BLOB_BYTES


def named(**changes):
    """Return the record of Anna's name."""
    whole = NameRecord(
        name="anna", peer_id=ANNA.peer_id, seq=5, expires_s=NOW + LIFE_S, credential=b"c"
    )
    return evolve(whole, **changes)


def open_named(blob, name="anna", **changes):
    """Open a blob as somebody who looks for a name."""
    return open_name(
        blob,
        name=name,
        network_secret=SECRET,
        epoch_day=DAY,
        signatures=backend().signatures(1),
        unix_s=changes.get("unix_s", NOW),
        least_seq=changes.get("least_seq", 0),
    )


def test_a_name_leads_to_a_peer_id_and_the_credential_that_proves_it():
    """Found by name alone; the credential verifies against the genesis and says the same name."""
    office = Office.open()
    member = office.member(office.invite(), 1, name="anna")
    record = named(credential=member.encoding)
    where, blob = seal_name(record, ANNA, SECRET, DAY, rng=seeded())
    assert where == locator.name_locator("anna", SECRET, DAY)
    result = open_named(blob)
    assert result.record == record
    proven = credentials.verify(result.record.credential, office.genesis, backend().signatures(1))
    assert (proven.name, proven.peer_id) == ("anna", result.record.peer_id)


def test_a_name_record_is_checked_as_a_descriptor_is():
    """Another name, another key, expiry and age: refused."""
    _, blob = seal_name(named(), ANNA, SECRET, DAY, rng=seeded())
    for changes in (
        {"name": "bert"},
        {"unix_s": NOW + LIFE_S},
        {"least_seq": 6},
    ):
        with pytest.raises(RemoteProtocolError):
            open_named(blob, **changes)
    with pytest.raises(LocalProtocolError):
        seal_name(named(), EVE, SECRET, DAY, rng=seeded())
    with pytest.raises(LocalProtocolError):
        seal_name(named(name=""), ANNA, SECRET, DAY, rng=seeded())
    _, other = sealed()
    with pytest.raises(RemoteProtocolError):
        open_named(other)


def test_no_secret_or_key_is_in_a_repr():
    """Credentials and keys stay out of logs."""
    opened_one = opened(sealed()[1])
    for text in (repr(opened_one), repr(opened_one.descriptor), repr(named())):
        assert "credential" not in text
        assert repr(ANNA.public_key)[2:40] not in text
