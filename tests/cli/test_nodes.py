"""Real nodes on one host without TUN or root, talking over the real engine on its own addresses."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import quiet


def start(host, name, *more):
    """Start a node with a network of its own; return its status."""
    return host.ok("up", "--no-tun", "--name", name, *more, "--json").json


def join(inviter, joiner, name, *more):
    """Invite and connect; return what `connect --json` printed."""
    invite = inviter.ok("invite", "--json").json["invite"]
    return joiner.ok("connect", invite, "--no-tun", "--name", name, "--json", *more).json


def peers(host):
    """Return the peers of a node by name."""
    return {peer["name"]: peer for peer in host.ok("status", "--json").json["peers"]}


def daemon_pid(host):
    """Return the process that holds the node's state folder."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if b"veilnet.daemon" in words and str(host.state).encode() in words:
            return int(folder.name)
    raise AssertionError(f"no daemon of {host.state}")


@pytest.fixture
def pair(hosts):
    """Alice, who founded a network, and bob, who joined it."""
    alice, bob = hosts("alice"), hosts("bob")
    start(alice, "alice")
    join(alice, bob, "bob")
    return alice, bob


def test_two_commands_make_a_tunnel(hosts):
    """`up`, `invite` and `connect` end in an authenticated round trip, in the documented shapes."""
    alice, bob = hosts("alice"), hosts("bob")
    status = start(alice, "alice")
    assert set(status) >= {"version", "peer_id", "state", "networks", "peers"}
    assert status["state"] == "up"
    assert (status["networks"][0]["name"], status["networks"][0]["members"]) == ("home", 1)
    value = join(alice, bob, "bob")
    assert set(value) >= {"peer_id", "path", "handshake_ms", "first_byte_ms"}
    assert (value["name"], value["network"]) == ("alice", "home")
    assert value["address"] == next(a for a in status["networks"][0]["addresses"] if "." in a)
    assert value["peer_id"] == status["peer_id"]
    assert (value["path"]["kind"], value["path"]["veil"]) == ("direct", "mist")
    assert 0 < value["path"]["rtt_ms"] < 5000
    assert 0 < value["handshake_ms"] <= value["first_byte_ms"]
    for host, other in ((alice, "bob"), (bob, "alice")):
        peer = peers(host)[other]
        assert (peer["state"], peer["network"]) == ("connected", "home")
        assert peer["suite"] == "X25519+ML-KEM-768/ML-DSA-65/AES-256-GCM"
        assert (peer["paths"][0]["loss"], peer["paths"][0]["share"]) == (0.0, 1.0)
    status = bob.ok("status", "--json").json
    assert (status["relay"]["for"], status["relay"]["circuits"]) == (["own"], 0)
    assert status["discovery"]["contacts"] == 0
    assert "commons" not in status["discovery"]


def test_whoever_joined_is_found_by_every_name(pair):
    """Name, qualified name, peer id, its prefix and both addresses mean the same peer."""
    alice, _ = pair
    peer = peers(alice)["bob"]
    targets = ["bob", "BOB", "bob.home", "bob.home.veil", peer["id"], peer["id"][:8]]
    for target in (*targets, *peer["addresses"]):
        assert alice.ok("connect", target, "--json").json["peer_id"] == peer["id"]


def test_ping_and_the_plain_words(pair):
    """`ping` counts its answers; plain output says the same as JSON."""
    alice, bob = pair
    value = bob.ok("ping", "alice", "-c", "1", "--json").json
    assert (value["sent"], value["received"], len(value["rtt_ms"])) == (1, 1, 1)
    assert "1 answered by alice" in bob.ok("ping", "alice", "-c", "1").out
    assert "bob.home" in alice.ok("status").out
    assert "this node is alice" in alice.ok("status").out
    address = next(a for a in peers(alice)["bob"]["addresses"] if "." in a)
    for words in (("status",), ("connect", "bob"), ("peer", "list")):
        assert address in alice.ok(*words).out
    assert "network home" in alice.ok("invite").err
    assert "bob" in alice.ok("peer", "list").out
    assert "direct" in alice.ok("connect", "bob").out
    assert "alice" in bob.ok("member", "list").out
    assert "home" in bob.ok("network", "list").out
    assert "founder" in alice.ok("network", "show", "home").out
    assert "X25519" in alice.ok("key", "status").out
    assert "endpoints" in alice.ok("peer", "show", "bob").out


def test_disconnect_and_the_next_connect(pair):
    """A closed channel is idle at both ends, and `connect` opens it again."""
    alice, bob = pair
    bob.ok("disconnect", "alice")
    assert peers(bob)["alice"]["state"] == "idle"
    assert 0 <= peers(bob)["alice"]["heard_s"] < 60
    assert "seen " in bob.ok("status").out
    assert peers(alice)["bob"]["state"] == "idle"
    alice.ok("connect", "bob")
    assert peers(alice)["bob"]["state"] == "connected"


def test_three_members_find_each_other(hosts, pair):
    """Bob and carol joined by alice; they connect by name though they never met."""
    alice, bob = pair
    carol = hosts("carol")
    join(alice, carol, "carol")
    assert carol.ok("connect", "bob", "--json").json["peer_id"] == peers(alice)["bob"]["id"]
    assert set(peers(bob)) == {"alice", "carol"}
    assert bob.ok("connect", "carol", "--json").json["peer_id"] == peers(alice)["carol"]["id"]


def test_a_name_that_is_new_is_asked_for(hosts, pair):
    """Bob was away when carol joined: his `connect carol` asks the founder for her first."""
    alice, bob = pair
    bob.ok("down")
    carol = hosts("carol")
    join(alice, carol, "carol")
    bob.ok("up", "--no-tun")
    assert bob.ok("connect", "carol", "--json").json["peer_id"] == peers(alice)["carol"]["id"]


def test_names_are_given_once(hosts, pair):
    """A second bob becomes bob-2, and both can be named."""
    alice, _ = pair
    join(alice, hosts("other"), "bob")
    assert set(peers(alice)) == {"bob", "bob-2"}


def test_an_invite_works_once(hosts, pair):
    """A used-up invite is refused with its reason: exit 6."""
    alice, _ = pair
    invite = alice.ok("invite", "--json").json["invite"]
    hosts("carol").ok("connect", invite, "--no-tun")
    ran = hosts("dave").run("connect", invite, "--no-tun")
    assert ran.code == 6
    assert "used up" in ran.err


def test_an_invite_of_a_network_that_one_is_in(pair):
    """Used or not, it says so and connects."""
    alice, bob = pair
    ran = bob.ok("connect", alice.ok("invite", "--json").json["invite"])
    assert "already a member of home" in ran.err
    assert "connected to alice" in ran.out


def test_a_node_is_found_by_its_state_folder_alone(tmp_path):
    """Without XDG_RUNTIME_DIR and --socket: `up`, then `status` and `down`."""
    environ = {"HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state")}

    def run(*words):
        clean = {key: value for key, value in os.environ.items() if not key.startswith("VEILNET_")}
        clean.pop("XDG_RUNTIME_DIR", None)
        argv = [sys.executable, "-m", "veilnet", "--state", str(tmp_path / "node"), *words]
        return subprocess.run(
            argv, env=clean | environ, capture_output=True, text=True, check=False, timeout=60
        )

    quiet(tmp_path / "node")
    assert run("up", "--no-tun").returncode == 0
    try:
        assert (tmp_path / "node" / "veilnet.sock").exists()
        done = run("status", "--json")
        assert json.loads(done.stdout)["state_folder"] == str(tmp_path / "node")
    finally:
        assert run("down").returncode == 0
    assert run("down").returncode == 3


def test_ctrl_c_in_ping_prints_the_summary(pair):
    """What was measured so far is told, and the exit code is that of an interrupt."""
    _, bob = pair
    argv = [sys.executable, "-m", "veilnet", "ping", "alice", "-c", "100", *bob.arguments]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().startswith("1: direct")
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(timeout=20) == 130
    assert "answered by alice" in rest
    assert "min/avg/max" in rest


def test_an_invite_ends(hosts, pair):
    """An expired invite is refused with its reason: exit 6."""
    alice, _ = pair
    invite = alice.ok("invite", "--expires", "1s", "--json").json
    carol = hosts("carol")
    carol.ok("up", "--no-tun")
    # Its end is a matter of the wall clock, in whole seconds: commands pass the time.
    while time.time() <= invite["expires"] + 1:
        carol.ok("status")
    ran = carol.run("connect", invite["invite"])
    assert ran.code == 6
    assert "expired" in ran.err


def test_an_invite_with_two_uses(hosts, pair):
    """--uses 2 lets two devices in, and not a third."""
    alice, _ = pair
    invite = alice.ok("invite", "--uses", "2", "--json").json["invite"]
    codes = [hosts(name).run("connect", invite, "--no-tun").code for name in ("c", "d", "e")]
    assert codes == [0, 0, 6]


def test_only_the_founder_invites(pair):
    """A member that did not found the network cannot invite to it: exit 6."""
    _, bob = pair
    ran = bob.run("invite")
    assert ran.code == 6
    assert "founder of the network home, alice," in ran.err
    assert ran.error_lines[-1].endswith("there: veilnet invite")
    assert "veilnet invite" not in bob.ok("up").err


def test_an_inviter_that_is_gone_is_a_timeout(hosts, pair):
    """Nobody at the invite's endpoints: exit 5 within the timeout, and nothing joined."""
    alice, _ = pair
    invite = alice.ok("invite", "--json").json["invite"]
    alice.ok("down")
    carol = hosts("carol")
    ran = carol.run("connect", invite, "--no-tun", "--timeout", "2")
    assert ran.code == 5
    assert len(ran.error_lines[-2:]) == 2
    assert "stopped again" in ran.err
    # It was started for nothing but to join, so nothing of it is left running.
    assert carol.run("status").code == 3


def test_a_dead_first_endpoint_is_a_small_delay(hosts):
    """An invite whose first endpoint leads nowhere still connects by the second."""
    alice, bob = hosts("alice"), hosts("bob")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        start(alice, "alice", "--endpoint", f"127.0.0.1:{silent.getsockname()[1]}")
        value = join(alice, bob, "bob")
    assert value["path"]["endpoint"].endswith(f":{alice.ok('status', '--json').json['port']}")


def test_an_invite_that_reaches_nowhere_warns(hosts):
    """Only private addresses: the warning says what to do; a public endpoint silences it."""
    alice = hosts("alice")
    start(alice, "alice", "--endpoint", "203.0.113.7:41000")
    value = alice.ok("invite", "--json").json
    assert (value["reachable"], value["warnings"]) == (True, [])
    assert value["endpoints"][0] == "203.0.113.7:41000"


@pytest.mark.parametrize("words", [("connect", "zed"), ("ping", "zed"), ("disconnect", "zed")])
def test_an_unknown_peer_is_6(pair, words):
    """A name that no network knows is exit 6, in two lines."""
    _, bob = pair
    ran = bob.run(*words)
    assert ran.code == 6
    assert len(ran.error_lines) == 2


def test_a_peer_that_is_down_is_5(pair):
    """A known peer that does not answer is exit 5 within --timeout."""
    alice, bob = pair
    alice.ok("down")
    ran = bob.run("connect", "alice", "--timeout", "2")
    assert ran.code == 5
    ran = bob.run("ping", "alice", "-c", "1", "--timeout", "0.5", "--json")
    assert (ran.code, json.loads(ran.err)["code"]) == (5, 5)
    assert (ran.json["sent"], ran.json["received"], ran.json["rtt_ms"]) == (1, 0, [])
    assert ran.json["peer_id"] == peers(bob)["alice"]["id"]
    assert ran.json["avg_ms"] is None


def test_this_node_is_no_peer(pair):
    """Connecting to oneself is a usage error."""
    _, bob = pair
    assert bob.run("connect", "bob").code == 2


def test_identity_port_and_networks_survive_a_restart(pair):
    """After down and up a node is the same peer, on the same port, in the same networks."""
    alice, _ = pair
    before = alice.ok("status", "--json").json
    alice.ok("down")
    assert alice.run("status").code == 3
    after = alice.ok("up", "--no-tun", "--json").json
    assert {key: after[key] for key in ("peer_id", "port")} == {
        key: before[key] for key in ("peer_id", "port")
    }
    assert after["networks"] == before["networks"]


@pytest.mark.parametrize("victim", [0, 1])
def test_killed_and_started_again(pair, victim):
    """After SIGKILL and a new start either side is reached again, without a new invite."""
    host, other = pair[victim], pair[1 - victim]
    os.kill(daemon_pid(host), signal.SIGKILL)
    host.ok("up", "--no-tun")
    other.ok("ping", ("alice", "bob")[victim], "-c", "1")


def test_both_call_at_once(pair):
    """Simultaneous connects leave one session that both ends use."""
    alice, bob = pair
    for _ in range(3):
        bob.ok("disconnect", "alice")
        both = [
            subprocess.Popen(
                [sys.executable, "-m", "veilnet", "connect", name, *host.arguments],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for host, name in ((alice, "bob"), (bob, "alice"))
        ]
        for process in both:
            _, err = process.communicate(timeout=30)
            assert process.returncode == 0, err
        alice.ok("ping", "bob", "-c", "1")
        bob.ok("ping", "alice", "-c", "1")


def test_up_twice_is_up(hosts):
    """A second `up` for the same node changes nothing and exits 0."""
    alice = hosts("alice")
    first = start(alice, "alice")
    assert start(alice, "other")["peer_id"] == first["peer_id"]


def test_two_nodes_never_share_a_state_folder_or_a_socket(hosts, tmp_path):
    """The folder's lock and the socket's owner are named: exit 7."""
    alice = hosts("alice")
    start(alice, "alice")
    other_socket = ["--state", str(alice.state), "--socket", str(tmp_path / "s")]
    other_state = ["--state", str(tmp_path / "x"), "--socket", str(alice.folder / "socket")]
    for words in (other_socket, other_state):
        done = subprocess.run(
            [sys.executable, "-m", "veilnet", "up", "--no-tun", *words],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 7, done.stderr
        assert str(alice.state) in done.stderr or "--state" in done.stderr


def test_a_port_that_is_taken_is_7(hosts):
    """--listen-port N with N in use says so, and what to do."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as other:
        other.bind(("::", 0))
        port = other.getsockname()[1]
        ran = hosts("alice").run("up", "--no-tun", "--listen-port", str(port))
    assert ran.code == 7
    assert str(port) in ran.err
    assert "--listen-port" in ran.error_lines[-1]


def test_a_foreground_node_says_up_and_stops_on_a_signal(hosts):
    """`up --foreground` prints `up`, logs to stderr, and ends with 0 on SIGTERM and Ctrl-C."""
    alice = hosts("alice")
    quiet(alice.state)
    for number in (signal.SIGTERM, signal.SIGINT):
        process = subprocess.Popen(
            [sys.executable, "-m", "veilnet", "up", "--foreground", "--no-tun", *alice.arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout.readline() == "up\n"
        assert alice.ok("status", "--json").json["state"] == "up"
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
        assert process.returncode == 0, err
        assert "event='down'" in err
        assert not (alice.folder / "socket").exists()


def test_names_in_a_hosts_file(hosts, tmp_path):
    """--hosts-file has every member while the node is up, and nothing of it afterwards."""
    file = tmp_path / "hosts"
    file.write_text("127.0.0.1 localhost\n")
    alice, bob = hosts("alice"), hosts("bob")
    start(alice, "alice")
    invite = alice.ok("invite", "--json").json["invite"]
    bob.ok("up", "--no-tun", "--hosts-file", str(file), VEILNET_INVITE=invite)
    bob.ok("connect", invite)
    address = peers(bob)["alice"]["addresses"][0]
    bob.ok("disconnect", "alice")
    lines = [line.split() for line in file.read_text().splitlines()]
    assert [address, "alice", "alice.home.veil"] in lines
    bob.ok("down")
    assert file.read_text() == "127.0.0.1 localhost\n"


def test_secrets_stay_out_of_the_log_and_the_status(pair):
    """Neither the log nor any JSON shows the network's key, the identity or an invite's seed."""
    alice, _ = pair
    alice.ok("invite")
    identity = (alice.state / "identity").read_bytes().hex()
    shown = alice.log() + alice.ok("status", "--json").out + alice.ok("network", "show", "home").out
    assert identity not in shown
    assert "veil:" not in alice.log()


def test_the_state_folder_is_private(pair):
    """Folder 0700, files 0600: nobody else reads keys."""
    for host in pair:
        assert host.state.stat().st_mode & 0o077 == 0
        files = [path for path in host.state.rglob("*") if path.is_file()]
        assert files
        assert all(path.stat().st_mode & 0o077 == 0 for path in files if path.name != "veilnet.log")
