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


def test_the_given_path_wins(no_system_socket):
    """--socket is taken as it is, by client and daemon."""
    given = Path("/tmp/x")
    assert location.socket_to_ask(given, {}) == given
    assert location.socket_to_offer(given, Path("/s"), {}, euid=0) == given


def test_the_systems_socket_comes_before_the_users(no_system_socket, tmp_path):
    """A client asks /run/veilnet first, then the user's runtime folder."""
    user = tmp_path / "veilnet" / "veilnet.sock"
    user.parent.mkdir()
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    assert location.socket_to_ask(None, environ) == no_system_socket
    user.touch()
    assert location.socket_to_ask(None, environ) == user
    no_system_socket.parent.mkdir()
    no_system_socket.touch()
    assert location.socket_to_ask(None, environ) == no_system_socket


def test_where_a_new_daemon_listens(no_system_socket, tmp_path):
    """Root offers the system's socket; a user the runtime folder's, else the state folder's."""
    offer = location.socket_to_offer
    assert offer(None, tmp_path, {}, euid=0) == no_system_socket
    environ = {"XDG_RUNTIME_DIR": "/run/user/7"}
    assert offer(None, tmp_path, environ, euid=7) == Path("/run/user/7/veilnet/veilnet.sock")
    assert offer(None, tmp_path, {}, euid=7) == tmp_path / "veilnet.sock"


def test_default_state():
    """Root's state is the system's; a user's lies in the user's own state folder."""
    assert location.default_state(0) == Path("/var/lib/veilnet")
    assert location.default_state(7) != Path("/var/lib/veilnet")
