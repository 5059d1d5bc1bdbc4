import pytest
from hypothesis import given
from hypothesis import strategies as st

from veilnet.errors import RemoteProtocolError
from veilnet.protocol import cbor
from veilnet.protocol.identity import Identity

PARSERS = (Identity.of_response, Identity.of_auth)
identities = st.builds(
    Identity,
    public_key=st.binary(min_size=1, max_size=80),
    credential=st.binary(max_size=80),
    signature=st.binary(min_size=1, max_size=80),
    psk_name=st.none() | st.binary(min_size=1, max_size=32),
)
members = st.none() | st.integers() | st.binary(max_size=40) | st.text(max_size=4)


@given(identities)
def test_both_messages_come_back(identity):
    """AUTH carries all of an identity, RESP all but the name of a psk."""
    assert Identity.of_auth(identity.auth()) == identity
    answered = Identity.of_response(identity.response())
    assert (answered.public_key, answered.credential, answered.signature, answered.psk_name) == (
        identity.public_key,
        identity.credential,
        identity.signature,
        None,
    )


@given(
    st.binary(max_size=120)
    | st.lists(members.filter(lambda m: not isinstance(m, int) or abs(m) < 2**63), max_size=6).map(
        cbor.encode
    )
)
def test_anything_else_is_the_peers_fault(data):
    """Noise and arrays of the wrong shape raise RemoteProtocolError and nothing else."""
    for parse, write in zip(PARSERS, (Identity.response, Identity.auth), strict=True):
        try:
            identity = parse(data)
        except RemoteProtocolError:
            continue
        assert write(identity) == data


@pytest.mark.parametrize(
    "identity",
    [
        Identity(public_key=b"", credential=b"", signature=b"s"),
        Identity(public_key=b"k" * 2_593, credential=b"", signature=b"s"),
        Identity(public_key=b"k", credential=b"c" * 8_193, signature=b"s"),
        Identity(public_key=b"k", credential=b"", signature=b""),
        Identity(public_key=b"k", credential=b"", signature=b"s" * 4_628),
        Identity(public_key=b"k", credential=b"", signature=b"s", psk_name=b""),
        Identity(public_key=b"k", credential=b"", signature=b"s", psk_name=b"n" * 33),
    ],
)
def test_impossible_sizes_are_refused(identity):
    """No member is longer than the largest suite needs, or empty where it cannot be."""
    with pytest.raises(RemoteProtocolError):
        Identity.of_auth(identity.auth())


def test_one_is_not_the_other():
    """RESP never parses as AUTH, nor AUTH as RESP."""
    identity = Identity(public_key=b"k", credential=b"c", signature=b"s")
    with pytest.raises(RemoteProtocolError):
        Identity.of_auth(identity.response())
    with pytest.raises(RemoteProtocolError):
        Identity.of_response(identity.auth())
