"""Nodes on one link find each other, and nobody else learns anything.

```
 alice 192.168.0.2    bob 192.168.0.3    carol 192.168.0.4
       fd77::2              fd77::3            fd77::4
          ||                  ||                 ||
          ================  switch  ===============
```
Each runs the LAN step of a ladder and nothing else.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address
from typing import NamedTuple

import pytest

from tests.netns.ladder_scenes import Program
from tests.netns.scenes import eventually

ALICE, BOB, CAROL, SECRET, OTHER = (letter * 64 for letter in "abc12")


@pytest.fixture
def link(lab):
    """Return what puts hosts on the link; what runs there ends with the test."""
    switch = lab.host("switch")
    switch.netlink("link", "add", ifname="br0", kind="bridge")
    switch.up("br0")
    programs = []

    class Link:
        def __init__(self):
            self.lab = lab

        def host(self, name, *addresses):
            host = lab.host(name)
            self.plug(host, *addresses)
            return host

        def plug(self, host, *addresses):
            wire = lab.wire(host, addresses, switch, [])
            bridge = switch.index("br0")
            switch.netlink("link", "set", index=switch.index(wire.right_link), master=bridge)

        def seek(self, host, port, peer, secret, *public):
            programs.append(Program(host, "seek", str(port), peer, secret, *public))
            return programs[-1]

    yield Link()
    for program in programs:
        program.end()


@pytest.mark.parametrize("kind", ["of a network", "of the commons"])
def test_two_nodes_find_each_other_within_two_seconds(link, kind):
    """Whichever was there first, both learn the other's addresses on the link."""
    public = ["public"] if kind == "of the commons" else []
    alice = link.seek(
        link.host("alice", "192.168.0.2/24", "fd77::2/64"), 41_000, ALICE, SECRET, *public
    )
    bob = link.seek(link.host("bob", "192.168.0.3/24", "fd77::3/64"), 42_000, BOB, SECRET, *public)
    eventually(lambda: BOB in alice.found() and ALICE in bob.found())
    there = bob.found()[ALICE]
    assert set(there) == {"192.168.0.2:41000", "[fd77::2]:41000"}
    assert set(alice.found()[BOB]) == {"192.168.0.3:42000", "[fd77::3]:42000"}
    # Who starts last finds at once; the first one is found by the other's question.
    assert min(max(alice.found()[BOB].values()), max(there.values())) < 2
    assert set(alice.found()) == {BOB}


@pytest.mark.parametrize(
    ("left", "right"),
    [("192.168.0.2/24", "192.168.0.3/24"), ("fd77::2/64", "fd77::3/64")],
    ids=["IPv4 only", "IPv6 only"],
)
def test_one_family_is_enough(link, left, right):
    """A link with one IP version is as good."""
    alice = link.seek(link.host("alice", left), 41_000, ALICE, SECRET).up()
    bob = link.seek(link.host("bob", right), 42_000, BOB, SECRET)
    eventually(lambda: BOB in alice.found() and ALICE in bob.found())
    assert max(bob.found()[ALICE].values()) < 2


def test_without_the_secret_nothing_is_found_answered_or_seen(link):
    """Carol, of another network, hears uniform bytes of one length and meets silence."""
    alice_host = link.host("alice", "192.168.0.2/24")
    carol_host = link.host("carol", "192.168.0.4/24")
    with alice_host.capture("eth0") as capture:
        alice = link.seek(alice_host, 41_000, ALICE, SECRET).up()
        carol = link.seek(carol_host, 43_000, CAROL, OTHER).up()
        bob = link.seek(link.host("bob", "192.168.0.3/24"), 42_000, BOB, SECRET)
        eventually(lambda: BOB in alice.found() and ALICE in bob.found())
        capture.wait_until(
            lambda seen: sum(item.source == "192.168.0.4" for item in datagrams(seen)) >= 2
        )
    assert not carol.found()
    assert CAROL not in {**alice.found(), **bob.found()}
    # Nobody spoke to carol: all she got was what everybody got.
    heard = datagrams(capture)
    assert not [item for item in heard if item.to == "192.168.0.4"]
    assert {len(item.data) for item in heard} == {156}
    assert len({item.data for item in heard}) == len(heard)
    for known in (ALICE, BOB, SECRET):
        assert not capture.count(bytes.fromhex(known)[:8])


def test_a_link_that_comes_later_is_used_at_once(link):
    """A cable that is plugged in is asked on without waiting for the next round."""
    alice = link.seek(link.host("alice", "192.168.0.2/24"), 41_000, ALICE, SECRET).up()
    late = link.lab.host("bob")
    bob = link.seek(late, 42_000, BOB, SECRET).up()
    link.plug(late, "192.168.0.3/24")
    eventually(lambda: BOB in alice.found() and ALICE in bob.found())


class Datagram(NamedTuple):
    """A UDP datagram of the link."""

    source: str
    to: str
    data: bytes


def datagrams(capture):
    """Return every UDP datagram that was seen."""
    return [found for frame in list(capture.frames) if (found := parsed(frame.data)) is not None]


def parsed(frame):
    """Return the UDP datagram in an Ethernet frame, None if there is none."""
    kind, at = frame[12:14], 14
    if kind == b"\x08\x00" and frame[23] == socket.IPPROTO_UDP:
        source, to = ip_address(frame[26:30]), ip_address(frame[30:34])
        at += 4 * (frame[14] & 0x0F)
    elif kind == b"\x86\xdd" and frame[20] == socket.IPPROTO_UDP:
        source, to = ip_address(frame[22:38]), ip_address(frame[38:54])
        at += 40
    else:
        return None
    (length,) = struct.unpack_from("!H", frame, at + 4)
    return Datagram(str(source), str(to), frame[at + 8 : at + length])
