"""The lines of the control protocol."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veilnet.control.lines import (
    Event,
    Failure,
    Request,
    Result,
    encode_reply,
    encode_request,
    parse_reply,
    parse_request,
)
from veilnet.errors import InviteError, RemoteProtocolError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.text(min_size=1), st.dictionaries(st.text(), JSON, max_size=4))
def test_a_request_survives_the_way(command, args):
    """Whatever a client asks, the daemon reads the same, from exactly one line."""
    line = encode_request(Request(command, args))
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert parse_request(line) == Request(command, args)


@pytest.mark.parametrize("reply", [Event({"stage": "joining\n"}), Result({"a": [1, None]})])
def test_a_reply_survives_the_way(reply):
    """Events and results arrive as they were sent."""
    assert parse_reply(encode_reply(reply)) == reply


def test_an_error_arrives_as_the_same_class():
    """A VeilError keeps class, message and hint over the socket."""
    error = InviteError("garbled", hint="ask again")
    reply = parse_reply(encode_reply(Failure(error)))
    assert isinstance(reply, Failure)
    assert type(reply.error) is InviteError
    assert (reply.error.message, reply.error.hint) == ("garbled", "ask again")


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_junk_is_a_remote_error_or_a_request(line):
    """No line, however made, does more than raise RemoteProtocolError."""
    for parse in (parse_request, parse_reply):
        try:
            parse(line)
        except RemoteProtocolError:
            continue


@pytest.mark.parametrize(
    "line", [b"", b"[]", b"{}", b'{"command": 1}', b'{"command": "x", "args": []}', b"[" * 100_000]
)
def test_what_is_no_request_is_refused(line):
    """Not JSON, not an object, no command, no argument object, nested beyond sense: refused."""
    with pytest.raises(RemoteProtocolError):
        parse_request(line)
