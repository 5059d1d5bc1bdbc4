"""Several members, their names, what the commands show of them, and channels that come and go.

```
 laptop 10.0.1.2 ====|
                     router ==== 10.0.3.2 server     (any two see each other)
 phone  10.0.2.2 ====|
```
`server` has founded the network; `laptop` and `phone` have each joined it by an invite of their
own, and know nothing of each other but what the server tells them.  `server` keeps names in a
hosts file and closes idle channels after five seconds.  None of them relays, so that channels are
there only when somebody wants them.
"""

from __future__ import annotations

import ipaddress
import re
import time

import pytest

from tests.netns.scenes import (
    World,
    configure,
    eventually,
    needs_ping,
    peer,
    peer_names,
    ping,
    status,
)

NUMBERS = {"laptop": 1, "phone": 2, "server": 3}
IDLE_S = 5.0
QUEUE_S = 5.0
"""As shipped: so long a packet waits for its channel."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Three hosts around a router."""
    with World(tmp_path_factory.mktemp("members")) as made:
        router = made.lab.router("router")
        for name, number in NUMBERS.items():
            host, net = made.host(name), f"10.0.{number}"
            made.lab.wire(host, f"{net}.2/24", router, f"{net}.1/24")
            host.route("default", via=f"{net}.1")
        yield made


@pytest.fixture(scope="module")
def hosts_file(world):
    """A hosts file with a line of the operator's own."""
    file = world.folder / "hosts"
    file.write_text("127.0.0.1\tlocalhost\n")
    return file


@pytest.fixture(scope="module")
def server(world, hosts_file):
    """The founder."""
    node = world.node("server")
    configure(node, idle_close_s=IDLE_S, relay="off")
    node.up("--name", "server", "--hosts-file", str(hosts_file))
    return node


@pytest.fixture(scope="module")
def laptop(world, server):
    """The first member."""
    return world.member("laptop", server, relay="off")


@pytest.fixture(scope="module")
def phone(world, server, laptop):
    """The second member, which joins when the first is there."""
    return world.member("phone", server, relay="off")


# -- three members --------------------------------------------------------------------------------


def test_members_learn_of_each_other(server, laptop, phone):
    """What the server let in is told to everybody: each of three knows the two others."""
    eventually(lambda: peer_names(server) == {"laptop", "phone"})
    eventually(lambda: peer_names(laptop) == {"server", "phone"})
    eventually(lambda: peer_names(phone) == {"server", "laptop"})


@needs_ping
def test_two_joiners_find_each_other(server, laptop, phone):
    """`connect phone` on the laptop: a channel of their own, past the server."""
    eventually(lambda: "phone" in peer_names(laptop))
    answer = laptop.connect("phone")
    assert answer["path"]["endpoint"] == f"10.0.2.2:{status(phone)['port']}"
    with server.host.capture("eth0") as tap:
        for version in (4, 6):
            assert ping(laptop.host, phone.address(version=version)) == 3
            assert ping(phone.host, laptop.address(version=version)) == 3
    # The server's own channels may keep alive; twelve echoes and their answers are not among it.
    assert len([frame for frame in tap.frames if len(frame.data) > 100]) < 12


@needs_ping
def test_members_talk_while_the_founder_is_away(server, laptop, phone):
    """With the founder's link down the others still open channels: nobody operates the network."""
    eventually(lambda: "phone" in peer_names(laptop))
    laptop.ask("disconnect", "phone")
    eventually(lambda: peer(phone, "laptop")["state"] == "idle")
    server.host.down("eth0")
    try:
        assert ping(phone.host, laptop.address(), count=1) == 1
    finally:
        server.host.up("eth0")
        server.host.route("default", via="10.0.3.1")


@needs_ping
def test_all_three_talk_at_once(server, laptop, phone):
    """Each of the three reaches each other one, by IPv4 and IPv6."""
    nodes = (server, laptop, phone)
    for version in (4, 6):
        addresses = {node: node.address(version=version) for node in nodes}
        for node in nodes:
            for other in nodes:
                if other is not node:
                    assert ping(node.host, addresses[other], count=1) == 1, (node, other)


# -- channels on demand ---------------------------------------------------------------------------


@needs_ping
def test_an_idle_channel_closes_and_the_first_packet_opens_it(server, laptop):
    """Nothing sent for five seconds: idle at both ends; the next packet is not lost, either way."""
    laptop.connect("server")
    began = time.monotonic()
    eventually(lambda: peer(server, "laptop")["state"] == "idle", timeout_s=3 * IDLE_S)
    assert time.monotonic() - began > IDLE_S - 1
    eventually(lambda: peer(laptop, "server")["state"] == "idle")
    assert ping(laptop.host, server.address(), count=1) == 1
    assert peer(laptop, "server")["state"] == "connected"
    laptop.ask("disconnect", "server")
    eventually(lambda: peer(server, "laptop")["state"] == "idle")
    assert ping(server.host, laptop.address(version=6), count=1) == 1
    assert peer(server, "laptop")["state"] == "connected"


@needs_ping
def test_an_address_of_nobody_is_refused_at_once(laptop):
    """A packet to an overlay address that no member has: the kernel is told, nobody waits."""
    network = ipaddress.ip_network(f"{laptop.address()}/20", strict=False)
    taken = {laptop.address()} | {
        address for item in status(laptop)["peers"] for address in item["addresses"]
    }
    free = next(str(host) for host in network.hosts() if str(host) not in taken)
    done = laptop.host.run(["ping", "-n", "-c", "1", "-W", "5", free], check=False)
    assert re.search("unreachable|prohibited|not permitted", done.stdout, re.IGNORECASE), (
        done.stdout + done.stderr
    )


@needs_ping
def test_a_member_that_is_dead_is_refused_when_the_queue_has_waited(laptop, phone):
    """The packet waits for a channel as long as it may, and then its sender is told."""
    phone.connect("laptop")
    address = phone.address()
    laptop.ask("disconnect", "phone")
    phone.kill()
    try:
        began = time.monotonic()
        done = laptop.host.run(["ping", "-n", "-c", "1", "-W", "20", address], check=False)
        assert re.search("unreachable", done.stdout, re.IGNORECASE), done.stdout + done.stderr
        assert QUEUE_S - 1 < time.monotonic() - began < QUEUE_S + 3
    finally:
        phone.up()


# -- names ----------------------------------------------------------------------------------------


def _with_names(node, hosts_file, *argv):
    """Run *argv* on the node's host as if *hosts_file* were the system's."""
    script = 'mount --bind "$0" /etc/hosts && exec "$@"'
    line = ["unshare", "--mount", "sh", "-c", script, str(hosts_file), *argv]
    return node.host.run(line, check=False)


def test_names_resolve_as_for_ssh(server, laptop, phone, hosts_file):
    """`up --hosts`: the system's resolver, as ssh asks it, knows every member by both names."""
    eventually(lambda: "phone" in hosts_file.read_text())
    for name in ("laptop", "phone", "laptop.home.veil"):
        done = _with_names(server, hosts_file, "getent", "ahosts", name)
        node = laptop if "laptop" in name else phone
        found = {line.split()[0] for line in done.stdout.splitlines()}
        assert found == {node.address(version=4), node.address(version=6)}, done.stderr
    assert "127.0.0.1\tlocalhost\n" in hosts_file.read_text()


@needs_ping
def test_a_member_is_pinged_by_name(server, laptop, hosts_file):
    """`ping laptop` goes through the tunnel."""
    eventually(lambda: "laptop" in hosts_file.read_text())
    argv = ("ping", "-c", "1", "-W", "5", "laptop")
    assert " 1 received" in _with_names(server, hosts_file, *argv).stdout


# -- what is shown --------------------------------------------------------------------------------


def test_status_in_json(server, laptop, phone):
    """`status --json` has the promised shape."""
    laptop.connect("phone")
    shown = laptop.status()
    assert (shown["state"], len(shown["peer_id"])) == ("up", 64)
    assert shown["discovery"]["contacts"] == 0
    (network,) = shown["networks"]
    assert network["members"] == 3
    prefix = ipaddress.ip_network(network["prefix"])
    assert (prefix.version, prefix.prefixlen) == (6, 48)
    ours = [ipaddress.ip_address(address) for address in network["addresses"]]
    assert sorted(address.version for address in ours) == [4, 6]
    assert all(address in prefix for address in ours if address.version == 6)
    found = next(item for item in shown["peers"] if item["name"] == "phone")
    assert (found["id"], found["network"]) == (status(phone)["peer_id"], network["name"])
    assert set(found["addresses"]) == {phone.address(version=4), phone.address(version=6)}
    assert (found["state"], found["suite"]) == (
        "connected",
        "X25519+ML-KEM-768/ML-DSA-65/AES-256-GCM",
    )
    assert found["epoch"] >= 0
    assert found["last_rekey_s"] >= 0
    (path,) = found["paths"]
    assert (path["kind"], path["veil"], path["state"]) == ("direct", "mist", "active")
    assert (path["share"], path["loss"], path["via"]) == (1.0, 0.0, [])
    assert all(found[f"{way}_{what}"] >= 0 for way in ("tx", "rx") for what in ("bytes", "packets"))


@needs_ping
def test_traffic_is_counted(laptop, phone):
    """A hundred bytes in five packets more are five packets and at least as many bytes more."""
    laptop.connect("phone")
    before = peer(laptop, "phone")
    assert ping(laptop.host, phone.address(), "-s", "100", count=5) == 5
    after = peer(laptop, "phone")
    for way in ("tx", "rx"):
        assert after[f"{way}_packets"] - before[f"{way}_packets"] >= 5
        assert after[f"{way}_bytes"] - before[f"{way}_bytes"] >= 5 * 128


def test_peer_list(laptop, phone):
    """`peer list` as a table and as JSON name the same peers."""
    listed = laptop.ask("peer", "list")["peers"]
    assert {item["name"] for item in listed} == {"server", "phone"}
    done = laptop.run("peer", "list")
    assert done.returncode == 0
    head, *rows = done.stdout.splitlines()
    assert head.split()[:3] == ["NAME", "NETWORK", "STATE"]
    assert {row.split()[0] for row in rows} == {"server", "phone"}


def test_doctor_in_json(laptop):
    """`doctor --json` finds a node that is well: every check has a name, a verdict and words."""
    shown = laptop.ask("doctor")
    assert shown["ok"] is True
    checks = {check["name"]: check for check in shown["checks"]}
    assert {"crypto", "engine", "tun", "config", "node"} <= set(checks)
    assert "the running node uses" in checks["crypto"]["detail"]
    assert all(check["ok"] is True and check["detail"] for check in checks.values())
    assert str(status(laptop)["port"]) in checks["node"]["detail"]


def test_members_are_listed(laptop, phone):
    """`member list --json` has this node too, and says which it is."""
    listed = laptop.ask("member", "list")["members"]
    assert {item["name"]: item["self"] for item in listed} == {
        "laptop": True,
        "phone": False,
        "server": False,
    }


# -- going ----------------------------------------------------------------------------------------


def test_down_takes_device_names_and_socket_away(server, laptop, phone, hosts_file):
    """After `down` the host is as before: no TUN device, no names, no socket; peers are told."""
    assert status(server)["tun"] in server.host.links()
    laptop.connect("server")
    server.down()
    assert not any(name.startswith("veil") for name in server.host.links())
    assert hosts_file.read_text() == "127.0.0.1\tlocalhost\n"
    assert not server.socket.exists()
    eventually(lambda: server.pids() == [])
    eventually(lambda: peer(laptop, "server")["state"] == "idle")
