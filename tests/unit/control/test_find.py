"""Which node a command means, of several that listen."""

from __future__ import annotations

import contextlib
import json
import socket
import threading

import pytest

from veilnet.control import client, location
from veilnet.errors import ConfigError, DaemonNotRunning, PrivilegeError


@contextlib.contextmanager
def node(path, state):
    """A node that can say which state folder it has, and nothing else."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    with listener.accept()[0] as each:
                        if each.recv(4096):
                            answer = {"result": {"state_folder": str(state)}}
                            each.sendall(json.dumps(answer).encode() + b"\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield path
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.fixture
def places(monkeypatch, tmp_path):
    """A machine of its own: the system's socket and the user's."""
    system, own = tmp_path / "run" / "veilnet.sock", tmp_path / "own" / "veilnet.sock"
    monkeypatch.setattr(location, "SYSTEM_SOCKET", system)
    monkeypatch.setattr(location, "_user_state", lambda: own.parent)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    return system, own


def test_a_users_node_without_a_runtime_folder_is_found(places, tmp_path):
    """It listens in the user's state folder, and there a client looks, after the system."""
    system, own = places
    with pytest.raises(DaemonNotRunning):
        client.find()
    with node(own, own.parent):
        assert location.socket_to_offer(None, None, {}, euid=7) == own
        assert client.find() == own
        with node(system, tmp_path / "system"):
            assert client.find() == system


def test_a_dead_nodes_socket_is_passed_over(places):
    """A socket that nobody listens on is no node."""
    system, own = places
    with node(system, "/s"):
        pass
    assert system.exists()
    with node(own, own.parent):
        assert client.find() == own


def test_another_nodes_folder_is_not_the_one_that_was_named(places, tmp_path):
    """`down --state X` must not stop the system's node."""
    system, _ = places
    mine = tmp_path / "mine"
    with node(system, tmp_path / "system"):
        with pytest.raises(DaemonNotRunning, match="mine"):
            client.find(None, mine)
        with node(mine / "veilnet.sock", mine):
            assert client.find(None, mine) == mine / "veilnet.sock"
    with node(tmp_path / "run2.sock", mine):
        assert client.find(tmp_path / "run2.sock", mine) == tmp_path / "run2.sock"


def test_a_node_that_is_closed_to_this_user_is_a_matter_of_permission(places, monkeypatch):
    """Exit 4 and not 3, unless the user has a node of their own."""
    system, own = places
    really = client._open

    def opened(path):
        if path == system:
            raise PrivilegeError("not open to this user")
        return really(path)

    monkeypatch.setattr(client, "_open", opened)
    with pytest.raises(PrivilegeError):
        client.find()
    with node(own, own.parent):
        assert client.find() == own


def test_the_given_socket_is_not_looked_for(tmp_path):
    """--socket means that one, whether or not anybody listens."""
    assert client.find(tmp_path / "s") == tmp_path / "s"
    assert list(tmp_path.iterdir()) == []


def test_a_socket_and_a_folder_of_two_nodes_are_no_node(places, tmp_path):
    """`--state X --socket Y` must not command the node of Y, whose folder is another."""
    del places
    mine, other = tmp_path / "mine", tmp_path / "other"
    with node(tmp_path / "y.sock", other) as there:
        assert client.find(there, other) == there
        assert client.find(there) == there
        with pytest.raises(ConfigError, match="other"):
            client.find(there, mine)
