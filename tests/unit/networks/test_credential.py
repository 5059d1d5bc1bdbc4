from ipaddress import IPv4Address, IPv4Network, IPv6Network

import pytest
from attrs import evolve

from tests.unit.networks.world import DAY, NOW, backend, identity, seeded
from veilnet.errors import RemoteProtocolError
from veilnet.networks.address import ipv4_range
from veilnet.networks.credential import CONTEXT, Credential, decode, sign, verify
from veilnet.networks.genesis import Genesis
from veilnet.protocol import cbor

SIGNATURES = backend().signatures(1)
GENESIS = Genesis.create(identity(0).public_key, now=NOW, rng=seeded())
CREDENTIAL = Credential(
    network_id=GENESIS.network_id,
    peer_id=identity(1).peer_id,
    name="server",
    ipv4=ipv4_range(GENESIS.network_id)[5],
    prefixes=(IPv4Network("10.0.0.0/8"), IPv6Network("2001:db8::/32")),
    roles=("exit", "relay"),
    tags=("web",),
    epoch=3,
    serial=7,
    not_before=NOW,
    not_after=NOW + 30 * DAY,
    issuer=identity(0).peer_id,
    log_head=GENESIS.network_id,
)


def test_an_owners_word_is_read_back():
    """What an owner signed is what everybody reads."""
    data = sign(CREDENTIAL, identity(0))
    assert verify(data, GENESIS, SIGNATURES) == CREDENTIAL
    assert decode(data) == CREDENTIAL


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"network_id": bytes(32)}, "another network"),
        ({"issuer": identity(1).peer_id}, "no owner"),
        ({"not_after": NOW + 30 * DAY + 1}, "longer than"),
        ({"not_after": NOW}, "ends before"),
        ({"ipv4": IPv4Address("10.0.0.1")}, "IPv4 address is not"),
        ({"name": "UPPER"}, "DNS label"),
        ({"name": "a.b"}, "DNS label"),
        ({"tags": ("b", "a")}, "sorted"),
        ({"tags": ("a", "a")}, "sorted"),
        ({"roles": ("no\n",)}, "sorted"),
        ({"serial": -1}, "number"),
        ({"peer_id": bytes(31)}, "32"),
    ],
)
def test_a_claim_beyond_the_rules_is_refused(change, why):
    """Even with an owner's signature, a credential stays within its network and format."""
    data = sign(evolve(CREDENTIAL, **change), identity(0))
    with pytest.raises(RemoteProtocolError, match=why):
        verify(data, GENESIS, SIGNATURES)


def test_a_member_cannot_issue():
    """A signature by another key than the issuer's, or in another context, does not hold."""
    body = CREDENTIAL.body()
    for key, context in ((identity(1), CONTEXT), (identity(0), b"veilnet/hs1/resp")):
        data = cbor.encode([body, key.sign(body, context)])
        with pytest.raises(RemoteProtocolError, match="signature"):
            verify(data, GENESIS, SIGNATURES)
    for cut in (b"", bytes(3309), bytes(3308)):
        with pytest.raises(RemoteProtocolError):
            verify(cbor.encode([body, cut]), GENESIS, SIGNATURES)


def test_life_and_renewal():
    """A credential holds at both ends of its life; renewal begins at a third of it."""
    assert not CREDENTIAL.valid_at(NOW - 1)
    assert CREDENTIAL.valid_at(NOW)
    assert CREDENTIAL.valid_at(NOW + 30 * DAY)
    assert not CREDENTIAL.valid_at(NOW + 30 * DAY + 1)
    assert CREDENTIAL.renew_at == NOW + 10 * DAY
    assert not CREDENTIAL.renewal_due(NOW + 10 * DAY - 1)
    assert CREDENTIAL.renewal_due(NOW + 10 * DAY)


def test_it_fits_the_handshake():
    """In S1, key, credential and a second signature stay within nine fragments of AUTH."""
    plain = evolve(CREDENTIAL, prefixes=(), roles=(), tags=())
    assert len(sign(plain, identity(0))) + 1_952 + 3_309 < 9 * 1_040
