"""Parsers of networks: any input gives a value or the one typed error, and values come back."""

import base64
import tempfile
import zlib
from contextlib import suppress
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.networks.world import HERE, NOW, Office, backend, identity, seeded
from veilnet.errors import (
    ConfigError,
    InviteError,
    PeerIncompatible,
    RemoteProtocolError,
    UnknownPeer,
    UsageError,
)
from veilnet.networks import credential, frames
from veilnet.networks.credential import Credential
from veilnet.networks.endpoint import Endpoint
from veilnet.networks.genesis import Genesis, Owner
from veilnet.networks.invite import Invite
from veilnet.networks.issuer import Issuer
from veilnet.networks.member import verify as verify_member
from veilnet.networks.members import MemberTable
from veilnet.networks.names import free_name, is_name, name_from_host, printable
from veilnet.protocol import cbor
from veilnet.protocol.messages import MemberEntry
from veilnet.units import NetworkId, PeerId

SIGNATURES = backend().signatures(1)
GENESIS = Genesis.create(identity(0).public_key, now=NOW, rng=seeded())

ids = st.binary(min_size=32, max_size=32)
labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
times = st.integers(0, 2**40)


def usable(packed):
    """Tell whether an address may stand in an endpoint."""
    try:
        Endpoint.of(str(ip_address(packed)), 1)
    except UsageError:
        return False
    return True


endpoints = st.builds(
    lambda packed, port: Endpoint.of(str(ip_address(packed)), port),
    (st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16)).filter(usable),
    st.integers(1, 65_535),
)


@st.composite
def invites(draw):
    """Any invite that can be."""
    network_id, height = draw(ids), draw(st.integers(0, 2**32 - 1))
    return Invite(
        invite_id=draw(st.binary(min_size=8, max_size=8)),
        network_id=NetworkId(network_id),
        inviter=PeerId(draw(ids)),
        seed=draw(ids),
        endpoints=tuple(draw(st.lists(endpoints, min_size=1, max_size=8))),
        log_head=draw(ids) if height else network_id,
        log_height=height,
    )


@st.composite
def credentials(draw):
    """Any credential that its issuer may sign."""
    begin = draw(st.integers(0, 2**39))
    label_sets = st.lists(labels, max_size=8, unique=True).map(lambda item: tuple(sorted(item)))
    networks = st.builds(
        lambda address, length: IPv4Network((address, length), strict=False),
        st.integers(0, 2**32 - 1),
        st.integers(0, 32),
    ) | st.builds(
        lambda address, length: IPv6Network((address, length), strict=False),
        st.integers(0, 2**128 - 1),
        st.integers(0, 128),
    )
    return Credential(
        network_id=NetworkId(draw(ids)),
        peer_id=PeerId(draw(ids)),
        name=draw(labels),
        ipv4=draw(st.none() | st.integers(0, 2**32 - 1).map(IPv4Address)),
        prefixes=tuple(draw(st.lists(networks, max_size=16))),
        roles=draw(label_sets),
        tags=draw(label_sets),
        epoch=draw(st.integers(0, 2**63 - 1)),
        serial=draw(st.integers(0, 2**63 - 1)),
        not_before=begin,
        not_after=begin + draw(st.integers(1, 2**39)),
        issuer=PeerId(draw(ids)),
        log_head=draw(ids),
        log_height=draw(st.integers(0, 2**63 - 1)),
    )


@st.composite
def geneses(draw):
    """Any genesis that can be."""
    suite, key_bytes = draw(st.sampled_from([(1, 1952), (2, 2592)]))
    keys = st.binary(min_size=4, max_size=4).map(lambda head: head + bytes(key_bytes - 4))
    owner_keys = draw(st.lists(keys, min_size=1, max_size=4, unique=True))
    owners = tuple(Owner(key, draw(st.integers(1, 255))) for key in owner_keys)
    weight = sum(owner.weight for owner in owners)
    return Genesis(
        suite=suite,
        created=draw(times),
        owners=owners,
        t_admin=draw(st.integers(1, weight)),
        t_revoke=draw(st.integers(1, weight)),
        max_credential_life_s=draw(st.integers(60, 30 * 86_400)),
        commons=draw(st.booleans()),
        recovery_key=draw(st.none() | keys),
        nonce=draw(ids),
    )


@cache
def samples():
    """Return one valid encoding of each format, with what reads it and what it may raise."""
    office = Office.open()
    office.issuer.enrol_self("laptop", NOW)
    invite = office.invite(uses=3, tags=["web"])
    member = office.member(invite, 1).seen_at([HERE], NOW)
    genesis = office.genesis
    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name, "members.db")
    table = MemberTable([member], path=path)
    table.set_petname("pet", member.peer_id)
    table.flush()
    table.close()

    def read_table(data, folder=folder):
        path = Path(folder.name, "read.db")
        path.write_bytes(data)
        table = MemberTable(path=path)
        try:
            assert all(item.encoding == member.encoding for item in table)
            table.merge([member], NOW)
            assert table.get(member.peer_id).encoding == member.encoding
            with suppress(UnknownPeer):
                table.find("pet")
            table.flush()
        finally:
            table.close()

    def read_issuer(data):
        return Issuer.load(data, genesis, identity(0), office.persist)

    def read_member(data):
        entry = MemberEntry(public_key=member.public_key, credential=data)
        return verify_member(entry, genesis, SIGNATURES)

    return (
        (genesis.encoding, Genesis.decode, (RemoteProtocolError, PeerIncompatible)),
        (member.encoding, credential.decode, (RemoteProtocolError,)),
        (
            member.encoding,
            lambda data: credential.verify(data, genesis, SIGNATURES),
            (RemoteProtocolError,),
        ),
        (member.encoding, read_member, (RemoteProtocolError,)),
        (HERE.pack(), Endpoint.unpack, (RemoteProtocolError,)),
        (path.read_bytes(), read_table, (ConfigError,)),
        (office.disk[-1], read_issuer, (ConfigError,)),
    )


PARSERS = ["genesis", "credential", "verified", "member", "endpoint", "table", "issuer"]


@pytest.mark.parametrize("which", range(len(PARSERS)), ids=PARSERS)
@given(data=st.data())
def test_any_bytes_give_a_value_or_the_typed_error(which, data):
    """Noise, and valid data cut, spliced and flipped, never raises anything else."""
    valid, read, errors = samples()[which]
    read(valid)
    noise = data.draw(st.binary(max_size=64))
    start = data.draw(st.integers(0, len(valid)))
    end = data.draw(st.integers(start, min(len(valid), start + 40)))
    for mutant in (noise, valid[:start] + noise + valid[end:], valid[:start]):
        try:
            read(mutant)
        except errors:
            continue


@pytest.mark.parametrize("which", [0, 1, 2, 3, 6], ids=lambda which: PARSERS[which])
@given(data=st.data())
def test_any_cbor_gives_a_value_or_the_typed_error(which, data):
    """Well-formed CBOR of the wrong shape is refused as cleanly as noise: one field is changed."""
    valid, read, errors = samples()[which]
    values = st.recursive(
        st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.binary() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2),
        max_leaves=5,
    )
    framed = which >= 5
    records = list(frames.decode(valid, max_frames=99, blame=ConfigError)) if framed else []
    record = data.draw(st.sampled_from(records)) if framed else cbor.decode(valid)
    assert isinstance(record, list)
    index = data.draw(st.integers(0, len(record) - 1))
    changed = [*record[:index], data.draw(values), *record[index + 1 :]]
    if framed:
        mutant = frames.encode([changed if item is record else item for item in records])
    else:
        mutant = cbor.encode(changed)
    try:
        read(mutant)
    except errors:
        return


@given(invite=invites())
def test_invites_come_back(invite):
    """Whatever can be invited to survives the line, upper case and broken lines included."""
    text = invite.format()
    assert Invite.parse(text) == invite
    assert Invite.parse("\n".join(text.upper())) == invite


@given(invite=invites(), data=st.data())
def test_a_single_wrong_character_is_always_found(invite, data):
    """No replacement of one character by any other gives an invite, right or wrong."""
    text = invite.format()
    index = data.draw(st.integers(0, len(text) - 1))
    wrong = data.draw(st.characters().filter(lambda c: c.lower() != text[index]))
    with pytest.raises(InviteError):
        Invite.parse(text[:index] + wrong + text[index + 1 :])


@given(text=st.text(max_size=300))
@example("veil:")
@example("VEIL:" + "a" * 5000)
@example("veil:\u0130")
@example("veil:ſſſſ")  # noqa: RUF001 - its upper case is a letter of the alphabet
def test_any_text_is_an_invite_or_an_invite_error(text):
    """Parsing is total, with and without the prefix."""
    for line in (text, "veil:" + text):
        try:
            Invite.parse(line)
        except InviteError:
            continue


@given(payload=st.binary(max_size=200), version=st.sampled_from([b"", b"\x01"]))
def test_a_right_checksum_over_nonsense_is_refused_as_cleanly(payload, version):
    """Whoever can compute a CRC gets no further than the reader of the payload."""
    body = version + payload
    data = body + zlib.crc32(body).to_bytes(4, "little")
    text = "veil:" + base64.b32encode(data).decode().rstrip("=")
    try:
        parsed = Invite.parse(text)
    except InviteError:
        return
    assert parsed.format() == text.lower()


@given(item=credentials())
def test_credentials_come_back(item):
    """Any credential within the rules is read as it was signed."""
    assert credential.decode(cbor.encode([item.body(), bytes(10)])) == item


@given(item=geneses())
def test_geneses_come_back(item):
    """Any genesis within the rules has one encoding and is read back from it."""
    again = Genesis.decode(item.encoding)
    assert again == item
    assert again.encoding == item.encoding


@given(endpoint=endpoints)
def test_endpoints_come_back(endpoint):
    """Text and packed form name the same endpoint."""
    assert Endpoint.unpack(endpoint.pack()) == endpoint
    assert Endpoint.parse(str(endpoint)) == endpoint


@given(text=st.text(max_size=60))
def test_any_text_is_an_endpoint_or_a_usage_error(text):
    """Parsing an endpoint is total."""
    for line in (text, text + ":1", f"[{text}]:1"):
        try:
            Endpoint.parse(line)
        except UsageError:
            continue


@given(host=st.text(max_size=100), taken=st.sets(labels))
def test_names_are_always_names(host, taken):
    """Whatever a host is called and whoever is there already, the result is a free name."""
    name = free_name(name_from_host(host), taken)
    assert is_name(name)
    assert name not in taken
    assert printable(host).isascii()
    assert printable(host).isprintable()
