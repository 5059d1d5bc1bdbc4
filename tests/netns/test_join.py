"""Joining, and opening channels to known members.

```
 founder 10.0.1.1 ======== 10.0.1.2 laptop
         10.0.2.1 ======== 10.0.2.2 phone
```
`founder` has a network of its own, `laptop` joins it with the first test that needs a member,
`phone` is whoever is not (yet) let in.
"""

from __future__ import annotations

import re
import time

import attrs
import pytest

from tests.netns.scenes import World, eventually, needs_nft, peer, status, two_lines
from veilnet.networks.endpoint import Endpoint
from veilnet.networks.invite import Invite

BLACK_HOLE = """
table ip black_hole {
    chain out { type filter hook output priority filter; udp dport 9 drop
    }
}
"""
PATH_FIELDS = {"kind", "endpoint", "veil", "rtt_ms", "state"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Three hosts; the founder's has two wires."""
    with World(tmp_path_factory.mktemp("join")) as made:
        founder = made.host("founder")
        for number, name in ((1, "laptop"), (2, "phone")):
            made.lab.wire(founder, f"10.0.{number}.1/24", made.host(name), f"10.0.{number}.2/24")
            made.host(name).route("default", via=f"10.0.{number}.1")
        yield made


@pytest.fixture(scope="module")
def founder(world):
    """Whose network it is."""
    return world.founder("founder", home_relays=0)


@pytest.fixture(scope="module")
def laptop(world, founder):
    """A member."""
    return world.member("laptop", founder, home_relays=0)


@pytest.fixture
def phone(world, founder, request):
    """A device of its own for each test: no state, no network."""
    node = world.node(f"phone-{request.node.name}"[:40], world.host("phone"))
    yield node
    node.run("down")


def the_invite(founder, **changes):
    """A good invite, with *changes* to what it says and a checksum that is right again."""
    return attrs.evolve(Invite.parse(founder.invite()), **changes).format()


def is_in_no_network(node):
    """Say whether a node that was started to join was kept out: it does not run on."""
    stopped = node.run("status").returncode == 3
    return stopped and not list(node.state.glob("networks/*/network.cbor"))


# -- by invite ------------------------------------------------------------------------------------


def test_a_cold_connect_by_invite_says_path_and_rtt(founder, phone):
    """On a device where nothing runs, one command joins, exits 0 and prints path and RTT."""
    done = phone.run("connect", founder.invite(), "--name", "phone")
    assert done.returncode == 0, done.stderr
    port = status(founder)["port"]
    words = rf"connected to founder \(\w+.*\): direct 10\.0\.[12]\.1:{port}, rtt \d+(\.\d+)? m?s"
    assert re.search(words, done.stdout), done.stdout


def test_a_cold_connect_in_json(founder, phone):
    """`connect veil:... --json` prints one object of the promised shape, and nothing else."""
    answer = phone.connect(founder.invite())
    assert set(answer) >= {"peer_id", "path", "handshake_ms", "first_byte_ms"}
    assert answer["peer_id"] == status(founder)["peer_id"]
    assert set(answer["path"]) >= PATH_FIELDS
    assert (answer["path"]["kind"], answer["path"]["state"]) == ("direct", "active")
    assert 0 < answer["path"]["rtt_ms"] < answer["first_byte_ms"]
    assert 0 < answer["handshake_ms"] < answer["first_byte_ms"]


def test_a_node_with_a_network_of_its_own_joins_another(founder, phone):
    """Whoever has founded a network is in two after joining, with addresses in both."""
    own = phone.up("--name", "phone")["networks"]
    phone.connect(founder.invite())
    networks = status(phone)["networks"]
    assert [network["id"] for network in networks if network["id"] != own[0]["id"]] == [
        status(founder)["networks"][0]["id"]
    ]
    assert all(len(network["addresses"]) == 2 for network in networks), networks


def test_who_leaves_is_gone_until_it_is_invited_again(founder, phone):
    """Channels, addresses and files go, at once and for good; the other network stays."""
    own = phone.up("--name", "phone")["networks"][0]
    phone.connect(founder.invite())
    left = next(item for item in status(phone)["networks"] if item["id"] != own["id"])
    assert phone.ask("network", "leave", left["name"]) == {
        "network": left["name"],
        "network_id": left["id"],
        "state": "left",
    }
    on_device = phone.host.run(["ip", "-o", "addr", "show", "dev", status(phone)["tun"]]).stdout
    assert not [address for address in left["addresses"] if f" {address}/" in on_device]
    assert all(f" {address}/" in on_device for address in own["addresses"])
    assert not list(phone.state.glob(f"networks/{left['id']}/*"))
    eventually(lambda: peer(founder, "phone")["state"] == "idle")
    assert phone.run("ping", "founder", "-c", "1").returncode == 6
    phone.run("down")
    assert [item["id"] for item in phone.up()["networks"]] == [own["id"]]
    assert phone.connect(founder.invite())["network"] == left["name"]


def test_a_founder_leaves_others_only_if_it_insists(founder, laptop, phone):
    """Without it nobody is invited or renewed; a network of one is nobody else's business."""
    name = status(founder)["networks"][0]["name"]
    done = founder.run("network", "leave", name)
    assert (done.returncode, two_lines(done)) == (2, True)
    assert "--force" in done.stderr
    assert status(founder)["networks"][0]["name"] == name
    assert peer(laptop, "founder")
    phone.up("--name", "phone")
    assert phone.run("network", "leave", status(phone)["networks"][0]["name"]).returncode == 0
    assert status(phone)["networks"] == []
    done = phone.run("network", "leave", "home")
    assert (done.returncode, two_lines(done)) == (2, True)


@needs_nft
def test_a_dead_first_endpoint_costs_little(founder, phone):
    """Of an invite's endpoints the first is a black hole: still joined, half a second later."""
    alive = Invite.parse(founder.invite()).endpoints
    dead = Endpoint("10.0.2.1", 9)
    phone.host.nft(BLACK_HOLE)
    text = the_invite(founder, endpoints=(dead, *alive))
    answer = phone.connect(text)
    assert answer["path"]["endpoint"] in {str(endpoint) for endpoint in alive}
    assert answer["first_byte_ms"] < 3000


def test_every_address_of_the_inviter_is_as_good(founder, phone):
    """Called at an address that is not the way back's first, the inviter answers from there."""
    port = status(founder)["port"]
    text = the_invite(founder, endpoints=(Endpoint("10.0.1.1", port),))
    answer = phone.connect(text, "--timeout", "2")
    assert answer["path"]["endpoint"] == f"10.0.1.1:{port}"


@pytest.mark.parametrize("position", [0, 40, -1])
def test_a_garbled_invite_is_exit_7(founder, phone, position):
    """One wrong character anywhere: exit 7, and nothing was started for it."""
    text = founder.invite()
    at = len("veil:") + position if position >= 0 else len(text) - 1
    other = "b" if text[at] != "b" else "c"
    done = phone.run("connect", text[:at] + other + text[at + 1 :])
    assert (done.returncode, two_lines(done)) == (7, True), done.stderr
    assert [item.name for item in phone.state.iterdir()] == ["config.toml"]


def test_a_used_up_invite_is_exit_6(founder, laptop, phone):
    """An invite for one device lets one in; the next is told that it is used up."""
    text = founder.invite()
    phone.connect(text)
    late = type(phone)(phone.host, phone.state.parent, name="late")
    try:
        done = late.run("connect", text)
        assert (done.returncode, two_lines(done)) == (6, True), done.stderr
        assert "used" in done.stderr
        assert is_in_no_network(late)
    finally:
        late.run("down")


def test_a_member_may_use_its_invite_again(founder, phone):
    """Who is in already connects by the same line, though it is used up."""
    text = founder.invite()
    first = phone.connect(text)
    again = phone.connect(text)
    assert again["peer_id"] == first["peer_id"]
    assert len(status(phone)["networks"]) == 1


def test_an_expired_invite_is_exit_6(founder, phone):
    """After its time an invite lets nobody in, and its door says why."""
    made = founder.ask("invite", "--expires", "1s")
    # Unix seconds: it is good in its last one.
    eventually(lambda: time.time() >= made["expires"] + 1)
    done = phone.run("connect", made["invite"])
    assert (done.returncode, two_lines(done)) == (6, True), done.stderr
    assert "expired" in done.stderr
    assert is_in_no_network(phone)


def test_an_invite_to_a_network_that_is_not_there_lets_nobody_in(founder, phone):
    """The network's id is part of what both sides prove: with a false one neither believes.

    Exit 5, not 6: whoever answered did not prove to be the inviter, so nobody has refused us.
    """
    text = the_invite(founder, network_id=bytes(32))
    done = phone.run("connect", text, "--timeout", "2")
    assert (done.returncode, two_lines(done)) == (5, True), done.stderr
    assert "could not prove" in done.stderr
    assert is_in_no_network(phone)


def test_an_invite_in_somebody_elses_name_lets_nobody_in(founder, laptop, phone):
    """An invite that names another inviter at the founder's address: exit 5, as above."""
    text = the_invite(founder, inviter=bytes.fromhex(status(laptop)["peer_id"]))
    done = phone.run("connect", text, "--timeout", "2")
    assert (done.returncode, two_lines(done)) == (5, True), done.stderr
    assert "could not prove" in done.stderr
    assert is_in_no_network(phone)


def test_an_invite_of_another_making_meets_silence(founder, phone):
    """Who does not hold the door's key gets no answer at all: exit 5 after the time-out."""
    text = the_invite(founder, seed=bytes(32))
    with phone.host.capture("eth0") as tap:
        done = phone.run("connect", text, "--timeout", "2")
    assert (done.returncode, two_lines(done)) == (5, True), done.stderr
    udp = [frame for frame in tap.frames if frame.data[12:14] == b"\x08\x00"]
    assert any(frame.outgoing for frame in udp)
    assert not any(frame for frame in udp if not frame.outgoing and frame.data[23] == 17)


def test_only_the_founder_invites(laptop):
    """A member that is no issuer is told so, exit 6."""
    done = laptop.run("invite")
    assert (done.returncode, two_lines(done)) == (6, True), done.stderr


# -- by name, id and address ----------------------------------------------------------------------


@pytest.mark.parametrize("form", ["name", "id", "prefix", "ipv6", "ipv4"])
def test_a_member_is_reached_again(founder, laptop, form):
    """After a disconnect every way to name a member opens a new channel to it."""
    peer_id = status(founder)["peer_id"]
    target = {
        "name": "founder",
        "id": peer_id,
        "prefix": peer_id[:10],
        "ipv6": founder.address(version=6),
        "ipv4": founder.address(version=4),
    }[form]
    laptop.ask("disconnect", "founder")
    eventually(lambda: peer(laptop, "founder")["state"] == "idle")
    answer = laptop.connect(target)
    assert answer["peer_id"] == peer_id
    assert peer(laptop, "founder")["state"] == "connected"


def test_the_founder_reaches_a_member(founder, laptop):
    """The inviter opens the channel just as well, to where it has seen the member."""
    founder.ask("disconnect", "laptop")
    answer = founder.connect("laptop")
    assert answer["path"]["endpoint"] == f"10.0.1.2:{status(laptop)['port']}"


def test_veilnet_ping(founder, laptop):
    """`veilnet ping` prints a line for each answer and a summary, exit 0."""
    done = laptop.run("ping", "founder", "-c", "2")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line[:10] for line in lines[:2]] == ["1: direct ", "2: direct "]
    assert lines[2] == "2 sent, 2 answered by founder"


def test_veilnet_ping_in_json(founder, laptop):
    """`veilnet ping --json` counts, and gives every round trip."""
    answer = laptop.ask("ping", "founder", "-c", "2")
    assert (answer["sent"], answer["received"], len(answer["rtt_ms"])) == (2, 2, 2)
    assert 0 < answer["min_ms"] <= answer["avg_ms"] <= answer["max_ms"]


@pytest.mark.parametrize(
    "words",
    [
        ("connect", "nobody"),
        ("connect", "0123456789abcdef"),
        ("connect", "fd12::1"),
        ("connect", "100.64.0.99"),
        ("ping", "nobody"),
        ("peer", "show", "nobody"),
        ("disconnect", "nobody"),
    ],
    ids=" ".join,
)
def test_an_unknown_peer_is_exit_6(laptop, words):
    """Whatever is asked of a peer that no network has: exit 6, two lines."""
    done = laptop.run(*words)
    assert (done.returncode, two_lines(done)) == (6, True), done.stderr


def test_a_member_that_is_down_is_exit_5(founder, phone):
    """A known member that does not answer is a time-out: exit 5, in the time that was given."""
    phone.connect(founder.invite(), "--name", "sleeper")
    phone.down()
    began = time.monotonic()
    done = founder.run("connect", "sleeper", "--timeout", "1.5")
    assert (done.returncode, two_lines(done)) == (5, True), done.stderr
    assert time.monotonic() - began < 8


@pytest.mark.parametrize(
    "words", [("status",), ("connect", "founder"), ("invite",), ("down",), ("peer", "list")]
)
def test_without_a_daemon_it_is_exit_3(phone, words):
    """What needs a node says that none runs: exit 3, two lines."""
    done = phone.run(*words)
    assert (done.returncode, two_lines(done)) == (3, True), done.stderr
