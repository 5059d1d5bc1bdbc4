from ipaddress import ip_network

import pytest

from veilnet.discovery.contact import (
    PACKED_BYTES,
    RELAYS,
    STORES,
    Contact,
    Horizon,
    is_global,
    pack_endpoint,
    prefix_of,
    split,
)
from veilnet.errors import LocalProtocolError, RemoteProtocolError

ID = bytes(range(32))


def packed(host, port=4_000):
    """Return a packed contact at an address."""
    return Contact(ID, (host, port)).packed


@pytest.mark.parametrize("host", ["8.8.8.8", "2001:db8::1", "::ffff:1.2.3.4"])
def test_a_contact_has_one_form_of_51_bytes(host):
    """Packed and back, with the endpoint in its normal form."""
    contact = Contact(ID, (host, 4_000), STORES | RELAYS)
    assert len(contact.packed) == PACKED_BYTES <= 80
    assert Contact.unpack(contact.packed) == contact
    assert (contact.id, contact.flags) == (ID, STORES | RELAYS)
    assert contact.endpoint == (host.removeprefix("::ffff:"), 4_000)


def test_what_is_no_contact_is_refused():
    """Our own mistakes are ours, a peer's are the peer's."""
    with pytest.raises(LocalProtocolError):
        Contact(b"short", ("8.8.8.8", 1))
    with pytest.raises(LocalProtocolError):
        Contact(ID, ("host.example", 1))
    with pytest.raises(RemoteProtocolError):
        Contact.unpack(bytes(50))
    with pytest.raises(RemoteProtocolError):
        Contact.unpack(bytes(51))
    with pytest.raises(RemoteProtocolError):
        split(bytes(52))
    with pytest.raises(RemoteProtocolError):
        split(packed("8.8.8.8") * 21)


NOT_GLOBAL = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.127.255.255",
    "127.0.0.1",
    "169.254.1.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.8",
    "192.168.1.1",
    "198.18.0.1",
    "198.19.255.255",
    "224.0.0.1",
    "239.1.2.3",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::7f00:1",
    "64:ff9b::a00:1",
    "100::1",
    "100:0:1:2::3:4",
    "2001::1",
    "2002:a00:1::",
    "fc00::1",
    "fd12:3456:789a::1",
    "fe80::1",
    "fec0::1",
    "ff02::1",
]


@pytest.mark.parametrize("host", NOT_GLOBAL)
def test_strangers_cannot_make_us_ask_an_address_of_no_internet_host(host):
    """Private, shared, overlay, loopback, multicast, wrapped: never, whoever tells of it."""
    teller = pack_endpoint(("8.8.8.8", 1))[:16]
    assert not Horizon().allows(packed(host), teller)
    assert not Horizon().allows(packed(host))


@pytest.mark.parametrize(
    "host", ["1.1.1.1", "100.63.0.1", "100.128.0.1", "172.15.0.1", "172.32.0.1", "2600::1"]
)
def test_addresses_of_the_internet_may_be_asked(host):
    """The neighbours of what is forbidden are not forbidden."""
    assert is_global(pack_endpoint((host, 1))[:16])
    assert Horizon().allows(packed(host), pack_endpoint(("8.8.8.8", 1))[:16])


def test_a_near_address_counts_from_near_tellers_only():
    """Our own prefix may be asked when we found it, or a neighbour told; nobody else."""
    horizon = Horizon(near=(ip_network("10.1.0.0/16"), ip_network("fd99::/64")))
    near, far = pack_endpoint(("10.1.2.3", 1))[:16], pack_endpoint(("8.8.8.8", 1))[:16]
    for host in ("10.1.9.9", "fd99::7"):
        assert horizon.allows(packed(host))
        assert horizon.allows(packed(host), near)
        assert not horizon.allows(packed(host), far)
    for host in ("10.2.0.1", "fd98::1", "127.0.0.1"):
        assert not horizon.allows(packed(host))
        assert not horizon.allows(packed(host), near)


def test_overlay_prefixes_are_never_asked():
    """Whatever is near: an address of the overlay leads into a tunnel of our own."""
    horizon = Horizon(near=(ip_network("10.0.0.0/8"),), never=(ip_network("10.7.0.0/16"),))
    assert horizon.allows(packed("10.6.0.1"))
    assert not horizon.allows(packed("10.7.0.1"))


def test_port_zero_is_never_asked():
    """A packed contact with no port is nobody."""
    nobody = packed("8.8.8.8")[:48] + bytes(3)
    assert not Horizon().allows(nobody)


def test_prefixes_are_24_and_48_bits_and_near_addresses_stand_alone():
    """Caps count by prefix, but hosts of our own network are not each other's Sybils."""
    assert prefix_of(packed("8.8.8.1")) == prefix_of(packed("8.8.8.2"))
    assert prefix_of(packed("8.8.8.1")) != prefix_of(packed("8.8.9.1"))
    assert prefix_of(packed("2600:1:2:3::1")) == prefix_of(packed("2600:1:2:4::1"))
    assert prefix_of(packed("2600:1:2::1")) != prefix_of(packed("2600:1:3::1"))
    horizon = Horizon(near=(ip_network("10.1.0.0/16"),))
    assert horizon.group_of(packed("10.1.0.1")) != horizon.group_of(packed("10.1.0.2"))
    assert horizon.group_of(packed("8.8.8.1")) == horizon.group_of(packed("8.8.8.2"))


def test_a_version_of_ip_that_this_host_lacks_is_not_asked():
    """Nor told of to others; what is near is, whatever it is."""
    horizon = Horizon(near=(ip_network("fd99::/64"),), versions=frozenset({4}))
    assert horizon.allows(packed("8.8.8.8"))
    assert not horizon.allows(packed("2a00::1"))
    assert horizon.allows(packed("fd99::1"))
    assert Horizon(versions=frozenset({6})).allows(packed("2a00::1"))
    assert not Horizon(versions=frozenset({6})).allows(packed("8.8.8.8"))
