import pytest

from veilnet.errors import UsageError
from veilnet.networks.names import (
    free_name,
    is_name,
    is_reserved,
    name_from_host,
    parse_name,
    parse_node_name,
    printable,
)


@pytest.mark.parametrize("text", ["a", "laptop", "a-b", "7", "x" * 63])
def test_labels_are_names(text):
    """Whatever is a DNS label of the host-name alphabet is a name."""
    assert is_name(text)
    assert parse_name(f" {text.upper()} ") == text


@pytest.mark.parametrize(
    "text", ["", "-a", "a-", "a.b", "a_b", "ä", "a\n", "x" * 64, "a b", "\x1b[2J", "\u017f"]
)
def test_others_are_not(text):
    """Anything else is refused, and the message that quotes it cannot move a cursor."""
    assert not is_name(text)
    with pytest.raises(UsageError) as caught:
        parse_name(text + "\x07")
    assert caught.value.message.isascii()
    assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("Laptop.local", "laptop"),
        ("my_host", "my-host"),
        ("---", "node"),
        ("", "node"),
        ("ü" * 5, "node"),
        ("x" * 80, "x" * 63),
        ("x" * 62 + "__y", "x" * 62),
    ],
)
def test_a_host_name_becomes_the_nearest_name(host, name):
    """The default name is always a name."""
    assert name_from_host(host) == name
    assert is_name(name)


@pytest.mark.parametrize(
    "name",
    ["localhost", "gateway", "ip6-localhost", "local", "localhost-2", "127", "0x7f000001", "xn--a"],
)
def test_what_a_host_means_by_itself_is_no_members_name(name):
    """Nobody is called what a resolver or a browser gives a meaning of its own."""
    assert is_reserved(name)
    assert not is_reserved(name_from_host(name))
    with pytest.raises(UsageError, match="meaning"):
        parse_node_name(name)
    assert parse_node_name("laptop-7") == "laptop-7"


def test_duplicates_get_a_number():
    """The suffix is the first free one, and the name stays within 63 characters."""
    assert free_name("a", {"b"}) == "a"
    assert free_name("a", {"a"}) == "a-2"
    assert free_name("a", {"a", "a-2", "a-3"}) == "a-4"
    long = "x" * 63
    assert free_name(long, {long}) == "x" * 61 + "-2"
    # The cut must not leave two hyphens that end a label wrongly.
    assert is_name(free_name("x" * 60 + "-yz", {"x" * 60 + "-yz"}))


def test_printable_is_short_and_plain():
    """Text of a peer reaches a message escaped and cut."""
    shown = printable("\x1b[31m" + "ü" * 500)
    assert shown.isascii()
    assert shown.isprintable()
    assert len(shown) < 500
