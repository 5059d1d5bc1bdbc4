import pytest
from attrs import evolve

from tests.unit.networks.world import DAY, HERE, NOW, backend, identity, seeded
from veilnet.errors import (
    ConfigError,
    InviteError,
    PeerIncompatible,
    PeerRefused,
    RemoteProtocolError,
    UnknownPeer,
)
from veilnet.networks import credential, join, keys
from veilnet.networks.collection import Networks
from veilnet.networks.genesis import Owner
from veilnet.networks.invite import Invite
from veilnet.networks.network import Network, check_none_lost, network_ids
from veilnet.networks.refusal import Refusal, Refused
from veilnet.protocol import messages
from veilnet.store import Store

FOUNDER, JOINER = identity(0), identity(1)
SIGNATURES = backend().signatures(1)
SEEN = ("198.51.100.9", 9)


@pytest.fixture
def store(tmp_path):
    """Return the founder's state folder."""
    with Store.open(tmp_path / "founder") as opened:
        yield opened


@pytest.fixture
def network(store):
    """Return a network that was just founded."""
    return Network.found(store, FOUNDER, node_name="laptop", now=NOW, rng=seeded())


def invited(network, **options):
    """Return an invite that went through its text form."""
    invite = network.invite(endpoints=[HERE], now=NOW, rng=seeded(1), **options)
    return Invite.parse(invite.format())


def granted(network, invite, number=1, *, name="server"):
    """Return the grant for identity *number*, through its encoding."""
    joiner = identity(number)
    admission = network.require_issuer().admit(
        invite_id=invite.invite_id, peer_id=joiner.peer_id, name=name, now=NOW
    )
    message = join.grant(
        network, admission, public_key=joiner.public_key, endpoints=[SEEN], now=NOW
    )
    return messages.decode(messages.encode(message, 1)).message


def joined(network, number=1, *, name="server"):
    """Let identity *number* in and return its side."""
    invite = invited(network)
    message = granted(network, invite, number, name=name)
    return join.accept(message, invite, identity(number), backend(), now=NOW)


def test_founding(network):
    """The founder is the only member, with addresses, a name and a credential of its own."""
    assert network.peer_id == FOUNDER.peer_id
    assert network.own.name == "laptop"
    assert [item.peer_id for item in network.members] == [FOUNDER.peer_id]
    assert network.addresses[0] in network.prefix
    assert network.addresses[1] in network.genesis.ipv4_range
    assert network.is_valid(network.own.credential, NOW)
    assert repr(network.k_net)[2:-1] not in repr(network)


def test_joining(network):
    """Both sides end with the same network: secret, doors, and each other's addresses."""
    other = joined(network)
    assert other.id == network.id
    assert other.k_net == network.k_net
    for peer_id in (FOUNDER.peer_id, JOINER.peer_id):
        assert other.door_key(peer_id) == network.door_key(peer_id)
        assert other.door_key(peer_id) == keys.door_key(network.k_net, peer_id)
    assert other.members.find("laptop").addresses == network.addresses
    assert network.members.find("server").addresses == other.addresses
    assert network.members.find("server").endpoints == (SEEN,)
    assert other.members.find("laptop").endpoints == (HERE,)


def test_three_members_learn_of_each_other(network):
    """The second joiner's grant tells of the first, and the first hears by gossip."""
    first, second = joined(network, 1, name="one"), joined(network, 2, name="two")
    assert second.members.find("one").endpoints == (SEEN,)
    told = network.members.entries(network.members.lacking(first.members.known()))
    merged = first.members.merge(first.members.verify(told, first.genesis, SIGNATURES), NOW)
    assert second.peer_id in merged.changed
    assert first.members.find("two").addresses == second.addresses


@pytest.mark.parametrize(
    "change",
    ["network", "genesis", "forged genesis", "credential", "members", "inviter", "expired"],
)
def test_the_joiner_believes_nothing_but_its_invite(network, store, change):
    """Another network, a genesis that hashes elsewhere, another's credential, a table without
    the inviter or with a false entry, an expired credential: each refused as the inviter's
    fault.
    """
    invite = invited(network, uses=2)
    message, other = granted(network, invite), granted(network, invite, 2)
    now = NOW
    match change:
        case "network":
            # All of it true, but of another network of the same founder.
            elsewhere = Network.found(store, FOUNDER, node_name="x", now=NOW, rng=seeded(9))
            message = granted(elsewhere, invited(elsewhere))
        case "forged genesis":
            # The joiner's own key as an owner: it would believe whatever it likes.
            forged = evolve(network.genesis, owners=(Owner(JOINER.public_key, 1),))
            message = evolve(message, genesis=forged.encoding)
        case "genesis":
            message = evolve(message, genesis=message.genesis[:-1] + b"?")
        case "credential":
            message = evolve(message, credential=other.credential)
        case "members":
            false = evolve(message.members[0], public_key=JOINER.public_key)
            message = evolve(message, members=(false,))
        case "inviter":
            message = evolve(message, members=())
        case "expired":
            now = NOW + 31 * DAY
    with pytest.raises(RemoteProtocolError):
        join.accept(message, invite, JOINER, backend(), now=now)


def test_an_identity_of_another_suite_cannot_join(network):
    """The suite is pinned by the genesis; an identity of another one is told so."""
    invite = invited(network)
    other = type(JOINER).from_seed(bytes(32), backend(), suite=2)
    with pytest.raises(PeerIncompatible, match="ML-DSA-65"):
        join.accept(granted(network, invite), invite, other, backend(), now=NOW)


def test_a_joiner_with_a_slow_clock(network):
    """A clock ten years behind joins: time is the newest that an owner signed."""
    invite = invited(network)
    message = granted(network, invite)
    other = join.accept(message, invite, JOINER, backend(), now=NOW - 3650 * DAY)
    assert other.time(NOW - 3650 * DAY) == NOW
    assert other.is_valid(other.own.credential, NOW - 3650 * DAY)


def test_only_the_founder_invites_and_renews(network):
    """A member that is asked to invite refuses, with exit code 6."""
    other = joined(network)
    for call in (
        lambda: other.invite(endpoints=[HERE], now=NOW, rng=seeded()),
        lambda: other.renew_own(NOW),
    ):
        with pytest.raises(Refused) as caught:
            call()
        assert caught.value.code == 6
        assert caught.value.refusal is Refusal.NOT_ISSUER
        refuse = join.refuse(caught.value)
        assert Refused.heard(refuse.code, refuse.reason).message == caught.value.message


def test_saved_and_loaded(network, store, tmp_path):
    """Founder and joiner come back from disk as they were, the founder with its open invites."""
    other = joined(network)
    still_open = invited(network)
    network.save(store)
    again = Network.load(store, network.id, FOUNDER, backend())
    assert again is not None
    assert (again.k_net, again.own, again.name) == (network.k_net, network.own, network.name)
    assert list(again.members) == list(network.members)
    late = again.require_issuer().admit(
        invite_id=still_open.invite_id, peer_id=identity(5).peer_id, name="x", now=NOW
    )
    assert late.credential.serial > other.own.credential.serial
    with Store.open(tmp_path / "joiner") as theirs:
        other.save(theirs)
        loaded = Networks.load(theirs, JOINER, backend())
        assert [item.own for item in loaded] == [other.own]
        with pytest.raises(ConfigError, match="another identity"):
            Networks.load(theirs, identity(7), backend())


def test_an_unfinished_folder_is_no_network(network, store):
    """What a crash during founding left behind is not loaded and harms nothing."""
    store.remove(f"networks/{network.id.hex()}/network.cbor")
    assert network_ids(store) == (network.id,)
    assert len(Networks.load(store, FOUNDER, backend())) == 0


def test_a_founder_without_its_issuers_state_is_refused(network, store):
    """A new state would give out serials and addresses twice."""
    store.remove(f"networks/{network.id.hex()}/issuer.cbor")
    with pytest.raises(ConfigError, match=r"issuer\.cbor is missing"):
        Network.load(store, network.id, FOUNDER, backend())


def test_every_damaged_file_is_named(network, store):
    """One flipped bit anywhere in a file is a ConfigError or a file that is still read whole."""
    folder = f"networks/{network.id.hex()}"
    for name in ("network.cbor", "issuer.cbor"):
        data = store.read(f"{folder}/{name}")
        for index in range(0, len(data), max(1, len(data) // 60)):
            store.write(
                f"{folder}/{name}", data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]
            )
            try:
                Network.load(store, network.id, FOUNDER, backend())
            except ConfigError:
                continue
            except PeerIncompatible:
                continue
        store.write(f"{folder}/{name}", data[: len(data) // 2])
        with pytest.raises(ConfigError):
            Network.load(store, network.id, FOUNDER, backend())
        store.write(f"{folder}/{name}", data)


def test_a_damaged_file_is_named_with_its_path(network, store):
    """So that nobody looks for the fault in config.toml."""
    folder = f"networks/{network.id.hex()}"
    for name in ("network.cbor", "issuer.cbor"):
        data = store.read(f"{folder}/{name}")
        store.write(f"{folder}/{name}", b"\xff" * 40)
        with pytest.raises(ConfigError, match=name) as caught:
            Network.load(store, network.id, FOUNDER, backend())
        assert "backup" in caught.value.hint
        store.write(f"{folder}/{name}", data)


def test_a_damaged_member_table_is_put_aside(network, store):
    """Members are learnt again; the node starts, and what was there is kept for who wants it."""
    folder = f"networks/{network.id.hex()}"
    joined(network)
    network.close()
    store.write(f"{folder}/members.db", b"nonsense" * 500)
    again = Network.load(store, network.id, FOUNDER, backend())
    assert [item.name for item in again.members] == ["laptop"]
    assert store.read(f"{folder}/members.db.damaged") == b"nonsense" * 500
    again.save(store)
    again.close()
    assert len(Network.load(store, network.id, FOUNDER, backend()).members) == 1


def test_a_network_of_others_is_not_replaced_by_a_new_one(network, store):
    """Its file is lost: who would found another in its place is told so; alone, nothing is lost."""
    name = f"networks/{network.id.hex()}/network.cbor"
    store.remove(name)
    check_none_lost(store)
    joined(network)
    network.save(store)
    check_none_lost(store)
    store.remove(name)
    with pytest.raises(ConfigError, match="missing"):
        check_none_lost(store)


def test_renewal(network):
    """From a third of its life on the member asks; what it gets must be its own and newer."""
    other = joined(network)
    first = other.own
    assert not other.renewal_due(NOW + 10 * DAY - 1)
    assert other.renewal_due(NOW + 10 * DAY)
    later = NOW + 10 * DAY
    admission = network.require_issuer().renew(other.own.credential, later)
    network.welcome(admission, JOINER.public_key, [SEEN], later)
    other.adopt(admission.encoding, JOINER, SIGNATURES, later)
    assert other.own.encoding == admission.encoding
    assert other.members.get(other.peer_id).encoding == admission.encoding
    assert not other.renewal_due(later)
    with pytest.raises(RemoteProtocolError, match="older"):
        other.adopt(first.encoding, JOINER, SIGNATURES, later)
    with pytest.raises(RemoteProtocolError, match="another peer id"):
        other.adopt(network.own.encoding, JOINER, SIGNATURES, later)


def test_the_founder_renews_itself(network):
    """The founder needs nobody for its own next credential."""
    before = network.own.credential
    network.renew_own(NOW + 12 * DAY)
    assert network.own.credential.serial > before.serial
    assert network.own.credential.ipv4 == before.ipv4
    assert not network.renewal_due(NOW + 12 * DAY)
    assert network.members.get(network.peer_id).encoding == network.own.encoding


def test_recognising_a_peer(network):
    """Key and credential make a member; lapsed, it may only renew, and only at the founder."""
    other = joined(network)
    member = network.recognise(JOINER.public_key, other.own.encoding, SIGNATURES)
    assert network.judge(member, NOW)
    assert not network.judge(member, NOW + 31 * DAY)
    founder = other.recognise(FOUNDER.public_key, network.own.encoding, SIGNATURES)
    with pytest.raises(PeerRefused, match="lapsed"):
        other.judge(founder, NOW + 31 * DAY)
    with pytest.raises(RemoteProtocolError):
        network.recognise(identity(3).public_key, other.own.encoding, SIGNATURES)


def test_a_second_id_for_an_address_is_not_let_in(network):
    """A recognised peer whose IPv4 address another living member holds is refused by name."""
    other = joined(network)
    stolen = evolve(other.own.credential, peer_id=identity(3).peer_id, name="thief", serial=99)
    data = credential.sign(stolen, FOUNDER)
    member = network.recognise(identity(3).public_key, data, SIGNATURES)
    with pytest.raises(PeerRefused, match="which server"):
        network.judge(member, NOW)


def test_a_second_network_with_a_prefix_in_use_is_refused(network, store, monkeypatch):
    """No packet could be told apart, so the second one is not taken."""
    other = Network.found(store, FOUNDER, node_name="x", now=NOW, rng=seeded(2))
    shared = network.prefix
    monkeypatch.setattr("veilnet.networks.genesis.network_prefix", lambda _: shared)
    networks = Networks([network])
    networks.add(network)
    with pytest.raises(ConfigError, match="uses already"):
        networks.add(other)
    assert len(networks) == 1


def test_networks_of_one_name_are_told_apart(network, store):
    """The second `home` becomes `home-2`; a name in both needs its network said."""
    other = Network.found(store, identity(4), node_name="laptop", now=NOW, rng=seeded(2))
    networks = Networks([network, other])
    assert [item.name for item in networks] == ["home", "home-2"]
    with pytest.raises(UnknownPeer, match=r"laptop\.home-2"):
        networks.find("laptop")
    assert networks.find("laptop.home")[1].peer_id == FOUNDER.peer_id
    assert networks.find("Laptop.home-2.veil") == (other, other.members.find("laptop"))
    assert networks.find(str(other.addresses[0]))[0] is other
    with pytest.raises(UnknownPeer, match="no network"):
        networks.find("nobody")


def test_the_same_ipv4_range_twice_switches_the_later_off(network, store, monkeypatch):
    """The earlier network keeps its IPv4, the later one has IPv6 only."""
    other = Network.found(store, FOUNDER, node_name="x", now=NOW, rng=seeded(2))
    networks = Networks([network, other])
    assert networks.ipv4_of(other) == other.genesis.ipv4_range
    shared = network.genesis.ipv4_range
    monkeypatch.setattr("veilnet.networks.genesis.ipv4_range", lambda _: shared)
    assert networks.ipv4_of(network) == shared
    assert networks.ipv4_of(other) is None


def test_an_issuers_own_trouble_is_not_told_to_strangers(network):
    """A full disk is refused as `other`, without the path that it happened at."""
    error = ConfigError("cannot write /var/lib/veilnet/x: No space left on device")
    for message in (join.refuse(error), join.refuse_renewal(error)):
        assert message.code == Refusal.OTHER
        assert "/var" not in message.reason


def test_a_garbled_invite_is_a_bad_input(network):
    """Exit code 7, before anything is sent."""
    text = invited(network).format()
    with pytest.raises(InviteError) as caught:
        Invite.parse(text.replace(text[50], "x" if text[50] != "x" else "y", 1))
    assert caught.value.code == 7
