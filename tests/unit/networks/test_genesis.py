import hashlib

import pytest
from attrs import evolve

from tests.unit.networks.world import NOW, identity, seeded
from veilnet.errors import PeerIncompatible, RemoteProtocolError
from veilnet.networks.genesis import Genesis, Owner
from veilnet.protocol import cbor


@pytest.fixture
def genesis():
    """Return the genesis of founder 0."""
    return Genesis.create(identity(0).public_key, now=NOW, rng=seeded())


def test_the_name_is_the_digest_of_the_record(genesis):
    """The network id is SHA-256 of the encoding, and the encoding is read back the same."""
    assert genesis.network_id == hashlib.sha256(genesis.encoding).digest()
    again = Genesis.decode(genesis.encoding)
    assert again == genesis
    assert again.network_id == genesis.network_id
    assert list(genesis.owner_ids) == [identity(0).peer_id]


def test_founding_twice_makes_two_networks(genesis):
    """The nonce alone makes another network of the same founder and time."""
    other = Genesis.create(identity(0).public_key, now=NOW, rng=seeded(1))
    assert other.network_id != genesis.network_id


def test_what_a_later_release_may_say_is_incompatible_not_false(genesis):
    """A suite or prefix unknown here says that releases differ, not that somebody cheats."""
    changes: dict[int, cbor.Value] = {1: 3, 7: [b"\xfd" + bytes(15), 48]}
    for index, value in changes.items():
        fields = cbor.decode(genesis.encoding)
        assert isinstance(fields, list)
        fields[index] = value
        with pytest.raises(PeerIncompatible):
            Genesis.decode(cbor.encode(fields))


@pytest.mark.parametrize(
    "change",
    [
        {"owners": ()},
        {"owners": (Owner(b"short", 1),)},
        {"t_admin": 0},
        {"t_admin": 2},
        {"t_revoke": 2},
        {"max_credential_life_s": 31 * 86_400},
        {"nonce": b"short"},
        {"recovery_key": b"short"},
        {"created": -1},
    ],
)
def test_a_genesis_that_cannot_be_is_refused(genesis, change):
    """Owners, thresholds and life are within what the design allows."""
    with pytest.raises(RemoteProtocolError):
        Genesis.decode(evolve(genesis, **change).encoding)


def test_an_owner_counts_once(genesis):
    """A key listed twice would give one signer two voices."""
    twice = evolve(genesis, owners=genesis.owners * 2)
    with pytest.raises(RemoteProtocolError, match="twice"):
        Genesis.decode(twice.encoding)
