"""The lab itself: what the other tests here stand on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from veilnet.errors import ClosedError, PrivilegeError, TimedOut, UsageError
from veilnet.testing import Lab, _launch, command, nft
from veilnet.testing.entry import forbidding_settings

needs_nft = pytest.mark.skipif(not nft.available(), reason="nft is not installed")


def _pair(lab, **options):
    left, right = lab.host("left"), lab.host("right")
    wire = lab.wire(left, "10.0.0.1/24", right, "10.0.0.2/24", **options)
    return left, right, wire


def _sink(host):
    sink = host.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sink.bind(("0.0.0.0", 0))
    sink.settimeout(5)
    return sink


def test_datagrams_cross_a_router_in_both_families(lab):
    """left -- router -- right: what left sends to right's address arrives, IPv4 and IPv6."""
    left, router, right = lab.host("left"), lab.router("router"), lab.host("right")
    lab.wire(left, ["10.0.1.2/24", "fd00:1::2/64"], router, ["10.0.1.1/24", "fd00:1::1/64"])
    lab.wire(router, ["10.0.2.1/24", "fd00:2::1/64"], right, ["10.0.2.2/24", "fd00:2::2/64"])
    for host, net in ((left, "1"), (right, "2")):
        host.route("default", via=f"10.0.{net}.1")
        host.route("default", via=f"fd00:{net}::1")
    for family, address, source in (
        (socket.AF_INET, "10.0.2.2", "10.0.1.2"),
        (socket.AF_INET6, "fd00:2::2", "fd00:1::2"),
    ):
        with (
            right.socket(family, socket.SOCK_DGRAM) as sink,
            left.socket(family, socket.SOCK_DGRAM) as sender,
        ):
            sink.bind((address, 7))
            sink.settimeout(5)
            sender.sendto(b"over there", (address, 7))
            data, origin = sink.recvfrom(100)
            assert (data, origin[0]) == (b"over there", source)


def test_hosts_do_not_reach_each_other_without_a_wire(lab):
    """Two hosts of a lab share nothing: the route is missing, not only the answer."""
    left, right = lab.host("left"), lab.host("right")
    with (
        _sink(right) as sink,
        left.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        pytest.raises(OSError, match="unreachable"),
    ):
        sender.sendto(b"?", ("10.0.0.2", sink.getsockname()[1]))


def test_a_cut_wire_carries_nothing_and_a_mended_one_does(lab):
    """Cut, nothing can be sent; mended, datagrams arrive again."""
    left, right, wire = _pair(lab)
    with _sink(right) as sink, left.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        to = ("10.0.0.2", sink.getsockname()[1])
        wire.cut()
        with pytest.raises(OSError, match="unreachable"):
            sender.sendto(b"lost", to)
        wire.mend()
        sender.sendto(b"back", to)
        assert sink.recv(100) == b"back"


def test_a_link_keeps_its_mtu(lab):
    """A datagram with DF set that is larger than the wire's MTU is refused at the sender."""
    left, _, _ = _pair(lab, mtu_bytes=1280)
    with left.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO
        sender.sendto(bytes(1280 - 28), ("10.0.0.2", 9))
        with pytest.raises(OSError, match="too long"):
            sender.sendto(bytes(1280 - 27), ("10.0.0.2", 9))


def test_a_capture_sees_what_crosses_and_counts_the_needle(lab):
    """Both taps of a wire see a clear text, as often as it was sent, with its direction."""
    left, right, _ = _pair(lab)
    with (
        left.capture("eth0", needle=b"canary") as here,
        right.capture("eth0", needle=b"canary") as there,
        _sink(right) as sink,
        left.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        for _ in range(3):
            sender.sendto(b"a canary sings", ("10.0.0.2", sink.getsockname()[1]))
        here.wait_until(lambda tap: tap.hits == 3)
        there.wait_until(lambda tap: tap.hits == 3)
        with pytest.raises(TimedOut):
            here.wait_until(lambda tap: tap.hits > 3, timeout_s=0.05)
    assert {frame.outgoing for frame in here.frames if b"canary" in frame.data} == {True}
    assert {frame.outgoing for frame in there.frames if b"canary" in frame.data} == {False}
    assert here.count(b"canary") == 3
    assert here.dropped == 0


def test_closing_a_lab_ends_what_daemonised_itself(lab):
    """A process that left its session and its parent still ends with the lab."""
    host = lab.host("only")
    shell = host.run(["sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 & echo $!"])
    pid = int(shell.stdout)
    assert pid in list(host.processes())
    lab.close()
    assert not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text()
    with pytest.raises(ClosedError):
        host.run(["true"])


def test_offloads_are_switched_or_refused_aloud(lab):
    """A feature that the link has is switched; one it lets nobody change raises."""
    left, _, _ = _pair(lab)
    left.offload("eth0", tx_tcp_segmentation=False, tx_udp_segmentation=False)
    left.offload("eth0", tx_tcp_segmentation=True)
    with pytest.raises((UsageError, KeyError)):
        left.offload("eth0", no_such_feature=True)


@needs_nft
def test_a_masquerading_router_hides_the_inside(lab):
    """inside -- nat -- outside: outside sees the router's address and cannot open a way in."""
    inner, router, outer = lab.host("inner"), lab.router("router"), lab.host("outer")
    lab.wire(inner, "192.168.0.2/24", router, "192.168.0.1/24")
    lab.wire(router, "10.0.0.1/24", outer, "10.0.0.2/24")
    inner.route("default", via="192.168.0.1")
    outer.route("192.168.0.0/24", via="10.0.0.1")
    router.nft(nft.masquerade("eth1"))
    with (
        _sink(outer) as sink,
        _sink(inner) as victim,
        outer.socket(socket.AF_INET, socket.SOCK_DGRAM) as intruder,
        router.capture("eth1") as seen,
    ):
        intruder.sendto(b"let me in", ("192.168.0.2", victim.getsockname()[1]))
        seen.wait_until(lambda tap: tap.count(b"let me in") == 1)
        victim.sendto(b"hello", ("10.0.0.2", sink.getsockname()[1]))
        _, origin = sink.recvfrom(100)
        assert origin[0] == "10.0.0.1"
        sink.sendto(b"welcome", origin)
        assert victim.recv(100) == b"welcome"  # and not what was sent before it


@needs_nft
def test_a_lossy_router_loses_about_what_it_was_told(lab):
    """left -- router -- right: of 4000 datagrams, 20 % are lost, give or take five deviations."""
    left, router, right = lab.host("left"), lab.router("router"), lab.host("right")
    lab.wire(left, "10.0.1.2/24", router, "10.0.1.1/24")
    lab.wire(router, "10.0.2.1/24", right, "10.0.2.2/24")
    left.route("default", via="10.0.1.1")
    router.nft(nft.loss(0.2))
    with right.capture("eth0") as tap, left.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(4000):
            sender.sendto(b"datagram", ("10.0.2.2", 9))
        router.nft(nft.clear())
        sender.sendto(b"the last one", ("10.0.2.2", 9))
        tap.wait_until(lambda t: t.count(b"the last one") == 1)
    lost = 4000 - tap.count(b"datagram")
    assert 800 - 5 * 25.3 < lost < 800 + 5 * 25.3


def test_nobody_outlives_a_launcher_that_is_killed():
    """SIGKILL to the launcher ends the command and what the command started."""
    read, write = os.pipe()
    launcher = subprocess.Popen(
        command(["sh", "-c", "echo up; setsid sleep 1000 & sleep 1000"]),
        stdout=write,
        stdin=subprocess.DEVNULL,
    )
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        assert pipe.readline() == b"up\n"
        launcher.kill()
        launcher.wait()
        assert pipe.read() == b""  # the end of file: nobody holds the other end any more


@pytest.mark.parametrize(("script", "code"), [("exit 7", 7), ("kill -9 $$", 137)])
def test_a_launcher_ends_as_its_command_does(script, code):
    """The exit code, or 128 + the signal, is passed on."""
    assert subprocess.run(command(["sh", "-c", script]), check=False).returncode == code


def test_a_launcher_passes_sigterm_on():
    """SIGTERM reaches the command, which may clean up before it goes."""
    script = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))\n"
        "print('up', flush=True)\n"
        "time.sleep(1000)\n"
    )
    with subprocess.Popen(
        command([sys.executable, "-c", script]), stdout=subprocess.PIPE
    ) as launcher:
        assert launcher.stdout is not None
        assert launcher.stdout.readline() == b"up\n"
        launcher.send_signal(signal.SIGTERM)
        assert launcher.wait(timeout=10) == 5


def test_a_lab_outside_of_namespaces_is_refused(monkeypatch):
    """Without namespaces a lab would change the host: it raises instead, with what to do."""
    monkeypatch.delenv(_launch.ENVIRONMENT)
    with pytest.raises(PrivilegeError, match="enter"):
        Lab()


@pytest.mark.parametrize(
    ("setting", "forbids", "allows"),
    [
        ("kernel/unprivileged_userns_clone", "0", "1"),
        ("user/max_user_namespaces", "0", "15000"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "0"),
    ],
)
def test_the_setting_that_forbids_namespaces_is_named(tmp_path, setting, forbids, allows):
    """Each of the three settings is found when it forbids, and left alone when it allows."""
    file = tmp_path / setting
    file.parent.mkdir(parents=True)
    file.write_text(f"{forbids}\n")
    name = setting.replace("/", ".")
    assert forbidding_settings(tmp_path) == [f"{name}={allows}"]
    file.write_text(f"{allows}\n")
    assert forbidding_settings(tmp_path) == []
