import copy
import json
import pickle

import pytest

from veilnet import errors
from veilnet.errors import VeilError

CODES = {
    "UsageError": 2,
    "DaemonNotRunning": 3,
    "PrivilegeError": 4,
    "TimedOut": 5,
    "PeerUnreachable": 5,
    "PeerError": 6,
    "PeerRefused": 6,
    "UnknownPeer": 6,
    "PeerIncompatible": 6,
    "PeerMisbehaved": 6,
    "ProtocolError": 6,
    "LocalProtocolError": 6,
    "RemoteProtocolError": 6,
    "ConfigError": 7,
    "InviteError": 7,
    "ClosedError": 70,
    "BrokenEngineError": 70,
    "InternalError": 70,
}
CLASSES = [getattr(errors, name) for name in CODES]


def test_every_class_has_the_exit_code_of_the_product_page():
    """Scripts rely on exit codes, so the table is written twice."""
    found = {
        name: value.code
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, VeilError) and value is not VeilError
    }
    assert found == CODES


@pytest.mark.parametrize("cls", CLASSES)
def test_an_error_survives_the_control_socket(cls):
    """Class, message, hint and code come back from JSON as they went in."""
    error = cls("server said no", hint="ask it")
    again = VeilError.from_json(json.loads(json.dumps(error.to_json())))
    assert type(again) is cls
    assert (again.message, again.hint, again.code) == ("server said no", "ask it", cls.code)


@pytest.mark.parametrize("cls", CLASSES)
def test_an_error_is_two_lines(cls):
    """What happened; what to do next, which no class leaves open."""
    assert str(cls("it broke")).splitlines() == ["it broke", cls.default_hint]
    assert str(cls("it broke", hint="mend it")).splitlines() == ["it broke", "mend it"]


@pytest.mark.parametrize("duplicate", [copy.copy, lambda e: pickle.loads(pickle.dumps(e))])
def test_an_error_can_be_copied(duplicate):
    """trio and multiprocessing copy errors; the hint must come along."""
    again = duplicate(errors.UnknownPeer("who?", hint="them"))
    assert (type(again), again.message, again.hint) == (errors.UnknownPeer, "who?", "them")


@pytest.mark.parametrize(
    ("value", "cls"),
    [
        ({"error": "FromTheFuture", "code": 4, "message": "m"}, errors.PrivilegeError),
        ({"error": "FromTheFuture", "code": 99, "message": "m"}, errors.InternalError),
        ({"error": ["?"], "code": {}, "message": 7, "hint": None}, errors.InternalError),
        ({}, errors.InternalError),
    ],
)
def test_an_unknown_error_keeps_its_exit_code(value, cls):
    """A newer daemon's error class ends the command with the same code; nonsense never raises."""
    error = VeilError.from_json(value)
    assert type(error) is cls
    assert error.hint


def test_two_classes_cannot_share_a_name():
    """The name is what crosses the socket, so a second class of that name is a bug."""
    with pytest.raises(TypeError, match="UsageError"):
        type("UsageError", (VeilError,), {})
