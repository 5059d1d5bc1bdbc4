import pytest

from veilnet.errors import RemoteProtocolError, UsageError
from veilnet.networks.endpoint import Endpoint


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("192.0.2.7:41000", "192.0.2.7", 41_000),
        (" [2001:DB8:0::7]:1 ", "2001:db8::7", 1),
        ("[::ffff:192.0.2.7]:5", "192.0.2.7", 5),
        ("127.0.0.1:65535", "127.0.0.1", 65_535),
    ],
)
def test_endpoints_have_one_form(text, host, port):
    """Text, packed form and value are one to one, an IPv4-mapped address being IPv4."""
    endpoint = Endpoint.parse(text)
    assert endpoint == (host, port)
    assert Endpoint.parse(str(endpoint)) == endpoint
    assert Endpoint.unpack(endpoint.pack()) == endpoint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "192.0.2.7",
        "192.0.2.7:",
        "192.0.2.7:0",
        "192.0.2.7:65536",
        "192.0.2.7:+5",
        "192.0.2.7:٣",
        "host:1",
        "2001:db8::7:1",
        "[192.0.2.7:1",
        "[fe80::1%eth0]:1",
        "[fe80::1]:1",
        "0.0.0.0:1",
        "[::]:1",
        "224.0.0.1:1",
        "[100:0:1:2::3:4]:1",
        "[100:1:1:2::3]:1",
        "255.255.255.255:1",
        "[ff02::1]:1",
    ],
)
def test_what_is_no_nodes_address_is_refused(text):
    """Names, zones, groups, broadcast and ports out of range are not endpoints."""
    with pytest.raises(UsageError):
        Endpoint.parse(text)


def test_a_packed_form_that_is_not_normal_is_refused():
    """An IPv4-mapped IPv6 address has another packed form, so this one is not accepted."""
    with pytest.raises(RemoteProtocolError, match="normal form"):
        Endpoint.unpack(bytes(10) + b"\xff\xff\xc0\x00\x02\x07\x00\x05")
