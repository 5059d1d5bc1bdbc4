from typing import TYPE_CHECKING, Any

import pytest
from attrs import NOTHING, fields
from hypothesis import given
from hypothesis import strategies as st

from veilnet.errors import LocalProtocolError, RemoteProtocolError
from veilnet.protocol import cbor, messages, relay_messages
from veilnet.protocol.fields import Blob, EndpointPair, Flag, Integer, ListOf, Maybe, Text

if TYPE_CHECKING:
    from collections.abc import Callable

printable = st.characters(codec="utf-8").filter(str.isprintable)
cbor_scalars = (
    st.none()
    | st.booleans()
    | st.integers(-5, 2**33)
    | st.binary(max_size=40)
    | st.text(st.characters(codec="utf-8"), max_size=8)
)
cbor_values = st.recursive(
    cbor_scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.integers(0, 6), inner, max_size=4)
    ),
    max_leaves=12,
)


def members_of(codec: Any) -> st.SearchStrategy[Any]:
    """Typed values that *codec* writes and reads."""
    few = min(getattr(codec, "maximum", 0), 3)
    strategies: dict[type, Callable[[], st.SearchStrategy[Any]]] = {
        Flag: st.booleans,
        Integer: lambda: st.integers(codec.minimum, codec.maximum),
        Blob: lambda: st.binary(min_size=codec.minimum, max_size=min(codec.maximum, 600)),
        Text: lambda: st.text(printable, max_size=min(codec.maximum, 20)),
        EndpointPair: lambda: st.tuples(st.ip_addresses().map(str), st.integers(1, 65_535)),
        ListOf: lambda: st.lists(members_of(codec.item), max_size=few).map(tuple),
        Maybe: lambda: st.none() | members_of(codec.item),
        messages._Layout: lambda: objects_of(codec),
    }
    return strategies[type(codec)]()


def objects_of(layout: Any) -> st.SearchStrategy[Any]:
    """Instances of the layout's class, members with defaults left out at times."""
    required: dict[str, st.SearchStrategy[Any]] = {}
    optional: dict[str, st.SearchStrategy[Any]] = {}
    for name, codec in layout.members.values():
        has_default = layout.defaults[name] is not NOTHING
        (optional if has_default else required)[name] = members_of(codec)
    return st.fixed_dictionaries(required, optional=optional).map(lambda kw: layout.cls(**kw))


any_message = st.sampled_from(sorted(messages.REGISTRY)).flatmap(
    lambda number: objects_of(messages._LAYOUTS[messages.REGISTRY[number]])
)


@given(any_message, st.integers(0, 2**32 - 1))
def test_every_message_comes_back(message, message_id):
    """Every type of the registry is read as it was written."""
    envelope = messages.decode(messages.encode(message, message_id))
    assert envelope == messages.Envelope(message_id, message)


@given(st.binary(max_size=300))
def test_noise_is_the_peers_fault(data):
    """Bytes that are no message raise RemoteProtocolError and nothing else."""
    try:
        envelope = messages.decode(data)
    except RemoteProtocolError:
        return
    assert 0 <= envelope.id < 2**32


@given(
    st.sampled_from(sorted(messages.REGISTRY)) | st.integers(-1, 2**17),
    st.integers(-1, 2**33) | st.booleans(),
    st.dictionaries(st.integers(0, 8) | st.text(max_size=2), cbor_values, max_size=6) | cbor_values,
)
def test_a_wellformed_body_with_wrong_members_is_the_peers_fault(number, message_id, body):
    """CBOR of any shape behind a known type parses into that type or is refused."""
    try:
        envelope = messages.decode(cbor.encode([number, message_id, body]))
    except RemoteProtocolError:
        return
    if isinstance(envelope.message, messages.Unknown):
        assert number not in messages.REGISTRY
    else:
        assert isinstance(envelope.message, messages.REGISTRY[number])
        # What was accepted is within the limits that `encode` checks as well.
        assert messages.decode(messages.encode(envelope.message, envelope.id)) == envelope


@given(any_message, st.dictionaries(st.integers(100, 200), cbor_scalars, min_size=1, max_size=3))
def test_a_later_release_is_understood(message, extra):
    """Members that this release does not know are skipped, and so are unknown types."""
    decoded: Any = cbor.decode(messages.encode(message, 7))
    kind, message_id, body = decoded
    later = cbor.encode([kind, message_id, {**body, **extra}])
    assert messages.decode(later) == messages.Envelope(7, message)
    unknown = cbor.encode([60_000, 7, body])
    assert messages.decode(unknown).message == messages.Unknown(type=60_000)


def test_every_type_has_one_number_and_a_whole_layout():
    """The registry, the union and the layouts name the same classes and members."""
    assert set(messages.REGISTRY.values()) == set(messages.Message.__args__)
    assert len(set(messages.REGISTRY.values())) == len(messages.REGISTRY)
    for cls in messages.REGISTRY.values():
        layout = messages._LAYOUTS[cls]
        assert {name for name, _ in layout.members.values()} == {a.name for a in fields(cls)}


@pytest.mark.parametrize(
    "message",
    [
        messages.ReturnKey(key=b"short"),
        messages.Close(code=70_000),
        relay_messages.CircuitOpen(circuit=b"short", target=bytes(32)),
        relay_messages.CircuitOpen(circuit=bytes(16), target=bytes(32), hops=3),
        relay_messages.CircuitOpen(circuit=bytes(16), target=bytes(32), through=(bytes(32),) * 2),
        relay_messages.CircuitOpened(circuit=bytes(16), label=2**32),
        relay_messages.CircuitConfirm(circuit=b""),
        relay_messages.PathOpen(path=0),
        relay_messages.PathOpen(path=255),
        messages.Close(reason="two\nlines"),
        messages.Close(reason="x" * 257),
        messages.JoinRequest(name="a", endpoints=(("192.0.2.1", 0),)),
        messages.Members(
            entries=(messages.MemberEntry(public_key=b"k", credential=b"c"),)
            * (messages.MAX_MEMBERS + 1)
        ),
    ],
)
def test_what_the_peer_would_refuse_is_not_sent(message):
    """A member outside its limits is our fault, before it is the peer's problem."""
    with pytest.raises(LocalProtocolError):
        messages.encode(message)


def test_a_full_message_of_members_fits():
    """The most entries of the largest S1 members stay below 64 KB."""
    entry = messages.MemberEntry(
        public_key=bytes(1_952),
        credential=bytes(4_096),
        endpoints=((("2001:db8::1", 65_535),) * 16),
        observed_s=2**40,
    )
    assert messages.encode(messages.Members(entries=(entry,) * messages.MAX_MEMBERS))


def test_secrets_stay_out_of_reprs():
    """A message that carries a key does not show it."""
    key = b"\xaa" * 32
    grant = messages.JoinGrant(genesis=b"g", network_name="n", k_net=key, credential=b"c")
    for message in (messages.ReturnKey(key=key), grant):
        assert repr(key) not in repr(message)
        assert key.hex() not in repr(message)
