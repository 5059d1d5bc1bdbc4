"""Every kind of NAT does what its name says: plain sockets behind each, before any VeilNet.

```
 host -- NAT of each kind -- west -- one -- two -- east
                                      |      |
                         near: two ports     far: one
```
"""

from __future__ import annotations

import contextlib
import socket
from typing import ClassVar

import attrs
import pytest

from tests.netns.scenes import needs_nft
from veilnet.testing import KINDS, Internet, Lab, Nat

pytestmark = needs_nft

WAIT_S = 5.0
TOKEN = b"how do I look?"


@attrs.frozen
class Seen:
    """What three observers saw of one socket, and who of them could answer it unasked.

    *ports*: as near's first port, its second and far's saw it, asked in that order.
    """

    address: str
    ports: tuple[int, int, int]
    own_port: int
    let_in: frozenset[str]


class Street:
    """The Internet, two hosts in it, and one network of every kind."""

    ROOMS: ClassVar = ("near", "near2", "far")

    def __init__(self, lab):
        self.lab = lab
        self.internet = Internet(lab)
        self.places = {name: self.internet.place(name) for name in ("near", "far")}
        self.nats, self.hosts = {}, {}
        for kind in KINDS:
            nat = self.nats[kind] = Nat(lab, self.internet, f"nat-{kind}", kind, at=0)
            host = self.hosts[kind] = lab.host(f"host-{kind}")
            nat.admit(host)

    def udp(self, host, kind):
        """Open a socket on *host*, of the IP version that *kind* has, at a port of its own."""
        family = socket.AF_INET6 if kind == "ipv6_only" else socket.AF_INET
        made = host.socket(family, socket.SOCK_DGRAM)
        made.bind(("", 0))
        made.settimeout(WAIT_S)
        return made

    def observers(self, kind):
        """Return the sockets of the three observers by name."""
        hosts = {name: self.places[name.rstrip("2")][0] for name in self.ROOMS}
        return {name: self.udp(host, kind) for name, host in hosts.items()}

    def address(self, name, kind):
        """Return the public address of a place."""
        uplink = self.places[name.rstrip("2")][1]
        return uplink.address6 if kind == "ipv6_only" else uplink.address4

    def look(self, kind):
        """Ask the three observers, from two sockets behind a NAT of *kind*."""
        with contextlib.ExitStack() as stack:
            observers = self.observers(kind)
            mine, other = (self.udp(self.hosts[kind], kind) for _ in range(2))
            for made in (*observers.values(), mine, other):
                stack.enter_context(made)
            places = {
                name: (self.address(name, kind), made.getsockname()[1])
                for name, made in observers.items()
            }
            ports = []
            for name, observer in observers.items():
                mine.sendto(TOKEN, places[name])
                assert observer.recv(100) == TOKEN
                ports.append(self._source(mine, observer, places[name]))
            # A second socket, which has sent to nobody but near's first port.
            at = self._source(other, observers["near"], places["near"])
            for name in ("far", "near2", "near", "near"):
                observers[name].sendto(name.encode(), at)
            let_in, told = set(), 0
            while told < 2:
                said = other.recv(100).decode()
                told += said == "near"
                let_in.add(said)
            return Seen(
                at[0],
                tuple(port for _, port in ports),
                mine.getsockname()[1],
                frozenset(let_in - {"near"}),
            )

    @staticmethod
    def _source(sender, observer, place):
        sender.sendto(TOKEN, place)
        said, source = observer.recvfrom(100)
        assert said == TOKEN
        return source[:2]


@pytest.fixture(scope="module")
def street():
    """One scene for all."""
    with Lab() as lab:
        yield Street(lab)


EVERYBODY = frozenset({"near2", "far"})


@pytest.mark.parametrize(
    ("kind", "let_in"),
    [
        ("open", EVERYBODY),
        ("full", EVERYBODY),
        ("hairpin", EVERYBODY),
        ("address", frozenset({"near2"})),
        ("port", frozenset()),
        ("leaky", frozenset()),
        ("double", frozenset()),
        ("ipv6_only", frozenset()),
    ],
)
def test_one_port_for_everybody(street, kind, let_in):
    """All see the same port, the host's own; who else gets in at it makes the kinds differ."""
    seen = street.look(kind)
    assert set(seen.ports) == {seen.own_port}
    assert seen.let_in == let_in


@pytest.mark.parametrize("kind", ["symmetric_random", "symmetric_sequential"])
def test_a_port_for_each(street, kind):
    """Each sees another port, by chance or the next one, and each gets in at its own only."""
    seen = street.look(kind)
    assert len(set(seen.ports)) == 3
    assert seen.let_in == frozenset()
    first, second, third = seen.ports
    in_a_row = second == first + 1 and third == first + 2
    assert in_a_row == (kind == "symmetric_sequential")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "udp_blocked"])
def test_the_address_outside(street, kind):
    """Behind a NAT it is the outermost router's; without one the host's own."""
    own = {"open": "net4", "ipv6_only": "net6"}.get(kind)
    seen, uplink = street.look(kind), street.nats[kind].uplink
    if own is None:
        assert seen.address == uplink.address4
    else:
        assert seen.address.startswith(getattr(uplink, own))
        assert seen.address not in {uplink.address4, uplink.address6}


@pytest.mark.parametrize("kind", ["port", "leaky"])
def test_knocking_too_early_moves_a_leaky_port(street, kind):
    """Far knocks at the port before the host has sent to far: what is leaky gives far another."""
    nat = street.nats[kind]
    with (
        street.udp(street.hosts[kind], kind) as mine,
        street.udp(street.places["near"][0], kind) as near,
        street.udp(street.places["far"][0], kind) as far,
    ):
        at = street._source(mine, near, (street.address("near", kind), near.getsockname()[1]))
        assert at[0] == nat.address
        far.sendto(b"too early", at)
        moved = street._source(mine, far, (street.address("far", kind), far.getsockname()[1]))
        assert (moved != at) == (kind == "leaky")


@pytest.mark.parametrize("kind", ["hairpin", "full"])
def test_hairpin(street, kind):
    """Two hosts behind one router: by its public address they meet if it is of that kind only."""
    nat = street.nats[kind]
    neighbour = street.lab.host(f"neighbour-{kind}")
    nat.admit(neighbour)
    with (
        street.udp(street.hosts[kind], kind) as mine,
        street.udp(neighbour, kind) as theirs,
        street.udp(street.places["near"][0], kind) as near,
    ):
        place = (street.address("near", kind), near.getsockname()[1])
        my_place, their_place = (street._source(one, near, place) for one in (mine, theirs))
        theirs.sendto(b"neighbour", my_place)
        near.sendto(b"near", my_place)
        first = mine.recv(100)
        if kind == "full":
            assert first == b"near"
            return
        assert {first, mine.recv(100)} == {b"neighbour", b"near"}
        mine.sendto(b"back", their_place)
        assert theirs.recvfrom(100) == (b"back", my_place)


def test_a_hairpin_parts_the_networks_behind_it(street):
    """By their own addresses its hosts do not meet: nothing but the loop through it joins them."""
    nat = street.nats["hairpin"]
    neighbour = street.lab.host("neighbour-parted")
    address = nat.admit(neighbour)
    with (
        street.udp(street.hosts["hairpin"], "hairpin") as mine,
        street.udp(neighbour, "hairpin") as theirs,
        street.udp(street.places["near"][0], "hairpin") as near,
    ):
        mine.sendto(b"over the fence", (address, theirs.getsockname()[1]))
        place = (street.address("near", "hairpin"), near.getsockname()[1])
        near.sendto(b"near", street._source(theirs, near, place))
        assert theirs.recv(100) == b"near"


def test_where_udp_is_blocked_tcp_and_names_pass(street):
    """Nothing of UDP goes out but to port 53, while TCP connects."""
    kind = "udp_blocked"
    host, (place, uplink) = street.hosts[kind], street.places["near"]
    with (
        street.udp(host, kind) as mine,
        place.socket(socket.AF_INET, socket.SOCK_DGRAM) as names,
        street.udp(place, kind) as other,
        place.socket(socket.AF_INET, socket.SOCK_STREAM) as listening,
        host.socket(socket.AF_INET, socket.SOCK_STREAM) as calling,
    ):
        names.bind(("", 53))
        names.settimeout(WAIT_S)
        mine.sendto(TOKEN, (uplink.address4, other.getsockname()[1]))
        mine.sendto(b"a name", (uplink.address4, 53))
        said, source = names.recvfrom(100)
        assert said == b"a name"
        names.sendto(b"an address", source)
        assert mine.recv(100) == b"an address"
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.recv(100)
        listening.bind(("", 0))
        listening.listen()
        calling.settimeout(WAIT_S)
        calling.connect((uplink.address4, listening.getsockname()[1]))


@pytest.mark.parametrize("kind", ["address", "port"])
def test_what_a_router_forgot_it_does_not_let_in(street, kind):
    """After `forget` the host's port is closed to whoever it had sent to."""
    nat = street.nats[kind]
    with (
        street.udp(street.hosts[kind], kind) as mine,
        street.udp(street.places["near"][0], kind) as near,
        street.udp(street.places["far"][0], kind) as far,
    ):
        place = (street.address("near", kind), near.getsockname()[1])
        at = street._source(mine, near, place)
        nat.forget()
        near.sendto(b"before", at)
        there = street._source(mine, far, (street.address("far", kind), far.getsockname()[1]))
        far.sendto(b"after", there)
        assert mine.recv(100) == b"after"


@pytest.mark.parametrize("kind", ["address", "port"])
def test_a_router_forgets_one_network_and_no_other(street, kind):
    """After `forget(other)` the hole towards the other is closed, the others are open."""
    east = Nat(street.lab, street.internet, f"nat-forgot-{kind}", "open", at=3)
    host = street.lab.host(f"host-forgot-{kind}")
    nat, address = street.nats[kind], east.admit(host)
    with (
        street.udp(street.hosts[kind], kind) as mine,
        street.udp(host, kind) as theirs,
        street.udp(street.places["near"][0], kind) as near,
    ):
        there = street._source(mine, theirs, (address, theirs.getsockname()[1]))
        at = street._source(mine, near, (street.address("near", kind), near.getsockname()[1]))
        theirs.sendto(b"while it is open", there)
        assert mine.recv(100) == b"while it is open"
        nat.forget(east)
        theirs.sendto(b"too late", there)
        near.sendto(b"by the other hole", at)
        assert mine.recv(100) == b"by the other hole"


def test_a_hop_limit_of_five_dies_on_the_way(street):
    """From behind a NAT in the west it opens that NAT and never reaches a network in the east."""
    nat = Nat(street.lab, street.internet, "nat-east", "port", at=3)
    host = street.lab.host("host-east")
    nat.admit(host)
    with (
        street.udp(street.hosts["port"], "port") as mine,
        street.udp(host, "port") as theirs,
        street.udp(street.places["near"][0], "port") as near,
    ):
        place = (street.address("near", "port"), near.getsockname()[1])
        my_place, their_place = (street._source(one, near, place) for one in (mine, theirs))
        mine.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 5)
        mine.sendto(b"an opener", their_place)
        theirs.sendto(b"through the hole", my_place)
        assert mine.recv(100) == b"through the hole"
        mine.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 64)
        mine.sendto(b"an answer", their_place)
        assert theirs.recv(100) == b"an answer"
