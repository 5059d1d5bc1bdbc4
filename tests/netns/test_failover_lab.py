"""What the failover tests stand on: a backbone to break, wires that take time, a flow with a clock.

```
left --+
       router -- far (20 ms away, when asked for)
right -+
```
"""

from __future__ import annotations

import socket
import time

import pytest

from tests.netns.scenes import needs_nft, needs_ping, ping
from veilnet.demo.icmp import ping as echoes
from veilnet.errors import UsageError
from veilnet.testing import Arrivals, Backbone, Delays, Flow


@pytest.fixture
def scene(lab):
    """Three hosts around a router."""
    backbone = Backbone(lab)
    hosts = [lab.host(name) for name in ("left", "right", "third")]
    for host in hosts:
        backbone.attach(host)
    return backbone, *hosts


def _reaches(backbone, one, other):
    return bool(echoes(one, backbone.address(other), count=1, wait_s=0.3))


def test_a_parted_pair_is_silent_and_all_others_are_not(scene):
    """Parted, two hosts hear nothing of each other, no error either; joined, they do again."""
    backbone, left, right, third = scene
    backbone.part(left, right)
    backbone.part(right, left)  # it is parted already
    assert not _reaches(backbone, left, right)
    assert _reaches(backbone, left, third)
    assert _reaches(backbone, third, right)
    with left.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(2):  # an ICMP error after the first would fail the second
            sender.connect((backbone.address(right), 9))
            sender.send(b"?")
    backbone.join(left, right)
    assert _reaches(backbone, left, right)


def test_an_isolated_host_reaches_nobody_until_it_is_readmitted(scene):
    """A partition takes one host from all others, both ways, and can be undone."""
    backbone, left, right, third = scene
    backbone.isolate(third)
    assert not _reaches(backbone, left, third)
    assert not _reaches(backbone, third, left)
    assert _reaches(backbone, left, right)
    backbone.readmit(third)
    assert _reaches(backbone, third, left)


def test_zones_are_parted_whole(lab):
    """Hosts of a zone that is parted from itself reach other zones only."""
    backbone = Backbone(lab)
    one, other, relay = (lab.host(name) for name in ("one", "other", "relay"))
    for host, zone in ((one, 2), (other, 2), (relay, 1)):
        backbone.attach(host, zone=zone)
    backbone.part_zones(2, 2)
    assert not _reaches(backbone, one, other)
    assert _reaches(backbone, one, relay)
    assert _reaches(backbone, relay, other)


@needs_nft
def test_a_lossy_host_loses_only_its_own(scene):
    """Half of what passes to one host is lost, nothing between the others, and mended nothing."""
    backbone, left, right, third = scene
    backbone.lose(0.5, third)
    arrived = len(echoes(left, backbone.address(third), count=60, wait_s=0.02))
    assert 10 <= arrived <= 50  # a half: the answers are not lost
    assert len(echoes(left, backbone.address(right), count=20, wait_s=0.5)) == 20
    backbone.mend(third)
    assert len(echoes(left, backbone.address(third), count=20, wait_s=0.5)) == 20


@pytest.mark.parametrize("how", ["police", "narrow"])
@needs_nft
def test_a_throttled_host_gets_about_what_it_may(scene, how):
    """A TCP stream through 2 Mbit/s carries less than that, and some of it."""
    backbone, left, right, _ = scene
    with Flow(left, right, backbone.address(right), rate_bps=8e6) as flow:
        flow.wait_for(1 << 17)
        getattr(backbone, how)(*((2e6, right) if how == "police" else (right, 2e6)))
        at = time.monotonic()
        seen = flow.wait_until(lambda seen: seen.times[-1] > at + 2)
        assert 0.1e6 < seen.rate_bps(at + 1, at + 2) < 2.4e6
        {"police": backbone.mend, "narrow": backbone.widen}[how](right)
        assert flow.finish().intact


@needs_ping
def test_a_delayed_wire_takes_its_time_and_carries_super_packets(lab):
    """20 ms each way make a round trip of 40 ms; a stream through it arrives as it was."""
    with Delays() as delays:
        backbone = Backbone(lab, delays=delays)
        near, far = lab.host("near"), lab.host("far")
        backbone.attach(near, super_packets=True)
        backbone.attach(far, delay_s=0.02, super_packets=True)
        assert ping(near, backbone.address(far), count=1) == 1
        (rtt_ms,) = echoes(near, backbone.address(far), count=1)
        assert 40 <= rtt_ms < 80
        with Flow(near, far, backbone.address(far), rate_bps=100e6) as flow:
            flow.wait_for(10 << 20)
            assert flow.finish().intact


def test_a_backbone_without_delays_refuses_one(lab):
    """Who asks for a delay where nothing can delay is told so."""
    with pytest.raises(UsageError, match="delays"):
        Backbone(lab).attach(lab.host("far"), delay_s=0.01)


def test_a_flow_measures_how_long_it_was_silent(scene):
    """A partition of half a second is a gap of at least that; then the flow is on time again."""
    backbone, left, right, _ = scene
    with Flow(left, right, backbone.address(right)) as flow:
        flow.wait_for(1 << 17)
        before = time.monotonic()
        assert flow.arrivals().gap_s(before - 0.2) < 0.3
        backbone.isolate(right)
        at = time.monotonic()
        while time.monotonic() < at + 0.5:
            assert flow.arrivals().recovered_s(at) is None
        backbone.readmit(right)
        outage = flow.outage(at)
        assert 0.5 <= outage.silence_s <= 5
        assert outage.recovered_s >= 0.5 - 0.1
        ended = flow.finish()
    assert ended.intact
    assert ended.sent_bytes == ended.received_bytes


def test_a_gap_and_a_recovery_are_what_the_arrivals_say():
    """Known arrivals: every 10 ms, silent from 0.5 s to 1.2 s, in debt until 1.3 s."""
    times = [0.01 * n for n in range(50)] + [1.2 + 0.001 * n for n in range(100)]
    times += [1.3 + 0.01 * n + 0.205 for n in range(150)]
    seen = Arrivals(0.0, 100, 0.01, tuple(times), tuple(100 * (n + 1) for n in range(len(times))))
    assert seen.gap_s(0.5) == pytest.approx(1.2 - 0.49)
    assert seen.gap_s(1.25) == pytest.approx(0.206)
    assert seen.gap_s(0.1, until_s=0.4) == pytest.approx(0.01)
    assert seen.gap_s(0.5, until_s=0.9) == pytest.approx(0.9 - 0.49)
    assert seen.gap_s(9.0, until_s=10.0) == pytest.approx(10.0 - times[-1])
    # Byte 119 is due at 1.19 - and in debt by less than 0.1 s from the 113th on.
    late = next(n for n in range(50, 150) if seen.late_s(n) <= 0.1)
    assert seen.recovered_s(0.4) == pytest.approx(times[late - 1] - 0.4)
    assert Arrivals(0.0, 100, 0.01, (), ()).recovered_s(0.4) is None
