"""Where the socket is looked for and offered."""

from __future__ import annotations

from pathlib import Path

import pytest

from veilnet.control import location


@pytest.fixture
def no_system_socket(monkeypatch, tmp_path):
    """A machine on which the system's socket would be elsewhere."""
    monkeypatch.setattr(location, "SYSTEM_SOCKET", tmp_path / "run" / "veilnet.sock")
    return tmp_path / "run" / "veilnet.sock"


@pytest.fixture
def user_state(monkeypatch, tmp_path):
    """A user's own state folder."""
    monkeypatch.setattr(location, "_user_state", lambda: tmp_path / "own")
    return tmp_path / "own"


def test_the_given_path_wins(no_system_socket):
    """--socket is taken as it is, by client and daemon."""
    given = Path("/tmp/x")
    assert list(location.socket_places(given, Path("/s"), {})) == [given]
    assert location.socket_to_offer(given, Path("/s"), {}, euid=0) == given


def test_the_order_in_which_a_node_is_looked_for(no_system_socket, user_state, tmp_path):
    """The folder that was named, the system, the user's runtime folder, the user's state folder."""
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    runtime, own = tmp_path / "veilnet" / "veilnet.sock", user_state / "veilnet.sock"
    places = location.socket_places
    assert list(places(None, None, environ)) == [no_system_socket, runtime, own]
    assert list(places(None, None, {})) == [no_system_socket, own]
    assert next(places(None, Path("/s"), environ)) == Path("/s/veilnet.sock")


@pytest.mark.parametrize("euid", [0, 7])
@pytest.mark.parametrize("state", [None, Path("/s")])
@pytest.mark.parametrize("environ", [{}, {"XDG_RUNTIME_DIR": "/run/user/7"}])
def test_a_new_node_listens_where_it_is_looked_for(
    no_system_socket, user_state, euid, state, environ
):
    """Without a folder named root offers the system's socket, a user the first of their own."""
    offered = location.socket_to_offer(None, state, environ, euid=euid)
    assert offered in list(location.socket_places(None, state, environ))
    if state is not None:
        assert offered == Path("/s/veilnet.sock")
    elif euid == 0:
        assert offered == no_system_socket
    else:
        user = Path("/run/user/7/veilnet") if environ else user_state
        assert offered == user / "veilnet.sock"


def test_default_state():
    """Root's state is the system's; a user's lies in the user's own state folder."""
    assert location.default_state(0) == Path("/var/lib/veilnet")
    assert location.default_state(7) != Path("/var/lib/veilnet")
