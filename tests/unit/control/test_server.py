"""The control server against real sockets: who may ask, and what nobody can do to it."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
import trio

from veilnet.control import client, peercred
from veilnet.control.location import short_address
from veilnet.control.peercred import Access, Caller, caller_of
from veilnet.control.server import ControlServer, bind
from veilnet.errors import (
    ConfigError,
    DaemonNotRunning,
    InternalError,
    PrivilegeError,
    UnknownPeer,
    UsageError,
)

EVERYBODY = Access(os.getuid())


async def echo(args, tell):
    """Say what was asked, after an event."""
    await tell({"stage": "thinking"})
    return {"echo": dict(args)}


async def fail(args, tell):
    """Fail as a command fails."""
    raise UnknownPeer("nobody is called bob")


async def fail_in_a_group(args, tell):
    """Fail inside a nursery."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail, args, tell)


async def bug(args, tell):
    """Fail as no command should."""
    return {}[1]


COMMANDS = {"echo": echo, "fail": fail, "group": fail_in_a_group, "bug": bug}


@asynccontextmanager
async def serving(path, access=EVERYBODY, commands=COMMANDS):
    """Serve on *path* inside the block."""
    server = ControlServer(bind(path, group=None), access, commands)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve)
        yield
        nursery.cancel_scope.cancel()


def ask(path, command, args=None, **more):
    """Ask from a thread, as another process would."""
    return trio.to_thread.run_sync(lambda: client.ask(path, command, args, timeout_s=5, **more))


async def test_result_follows_events(tmp_path):
    """A client sees the events of its command, and then its result."""
    path = tmp_path / "socket"
    seen = []
    async with serving(path):
        result = await ask(path, "echo", {"x": "ü"}, on_event=seen.append)
    assert result == {"echo": {"x": "ü"}}
    assert seen == [{"stage": "thinking"}]


@pytest.mark.parametrize("command", ["fail", "group"])
async def test_an_error_crosses_even_out_of_a_group(tmp_path, command):
    """A VeilError reaches the client as itself, also where trio wrapped it in a group."""
    path = tmp_path / "socket"
    async with serving(path):
        with pytest.raises(UnknownPeer, match="bob"):
            await ask(path, command)


async def test_a_bug_in_one_command_costs_only_that_answer(tmp_path):
    """A command that fails by a bug gives InternalError, and the server goes on."""
    path = tmp_path / "socket"
    async with serving(path):
        with pytest.raises(InternalError):
            await ask(path, "bug")
        assert await ask(path, "echo") == {"echo": {}}


async def test_an_unknown_command_is_the_callers_fault(tmp_path):
    """A command that the daemon does not know is a usage error."""
    path = tmp_path / "socket"
    async with serving(path):
        with pytest.raises(UsageError, match="frobnicate"):
            await ask(path, "frobnicate")


async def test_a_stranger_is_refused(tmp_path, monkeypatch):
    """Whoever is neither root, the daemon's user nor the operator gets exit 4, and no command."""
    path = tmp_path / "socket"
    monkeypatch.setattr(peercred, "caller_of", lambda _: Caller(pid=1, uid=4321, gid=0))
    async with serving(path):
        with pytest.raises(PrivilegeError):
            await ask(path, "echo")


@pytest.mark.parametrize(
    ("uid", "allowed"), [(0, True), (1000, True), (1001, True), (1002, False), (65534, False)]
)
def test_who_may_ask(uid, allowed):
    """Root, the daemon's own user and the operator may ask; nobody else."""
    access = Access(daemon_uid=1000, operator_uid=1001)
    assert access.allows(Caller(pid=1, uid=uid, gid=0)) is allowed


def test_no_operator_means_nobody_more():
    """Without a recorded operator only root and the daemon's user remain."""
    access = Access(daemon_uid=1000)
    assert [uid for uid in (0, 1000, 1001) if access.allows(Caller(1, uid, 0))] == [0, 1000]


def test_members_of_the_group_may_ask(monkeypatch):
    """By the group a caller runs as, or that the host's own list puts it in; nobody else."""
    access = Access(daemon_uid=0, group=777)
    lists = {"carol": [100, 777], "dave": [100]}
    users = {1001: "carol", 1002: "dave"}

    def user(uid):
        return SimpleNamespace(pw_name=users[uid], pw_gid=100)

    monkeypatch.setattr(peercred.pwd, "getpwuid", user)
    monkeypatch.setattr(peercred.os, "getgrouplist", lambda name, _: lists[name])
    asked = [(1001, 100), (1002, 100), (1002, 777), (1003, 100)]
    assert [access.allows(Caller(1, uid, gid)) for uid, gid in asked] == [True, False, True, False]
    assert not Access(daemon_uid=0).allows(Caller(1, 1001, 777))


@pytest.mark.parametrize(
    ("operator", "group", "owner"),
    [(None, None, None), (1001, None, 100), (None, 777, 777), (1001, 777, 777), (1002, 777, 100)],
)
def test_which_group_owns_the_socket(monkeypatch, operator, group, owner):
    """The group `veilnet`, unless its members do not include the operator."""
    monkeypatch.setattr(peercred, "is_in_group", lambda uid, gid, group: uid == 1001)
    gid = None if operator is None else 100
    assert peercred.socket_group(operator_uid=operator, operator_gid=gid, group=group) == owner


def test_the_kernel_names_the_caller():
    """SO_PEERCRED tells the uid and pid of the other end."""
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        assert caller_of(ours) == Caller(os.getpid(), os.getuid(), os.getgid())


async def test_an_endless_request_ends(tmp_path):
    """A client that sends no line end is refused at 64 KB, not buffered for ever."""
    path = tmp_path / "socket"
    async with serving(path):
        stream = await trio.open_unix_socket(str(path))
        async with stream:
            with contextlib.suppress(trio.BrokenResourceError):
                for _ in range(64):
                    await stream.send_all(b"x" * 4096)
            with contextlib.suppress(trio.BrokenResourceError):
                assert b"beyond all bounds" in await stream.receive_some(4096)
        assert await ask(path, "echo") == {"echo": {}}


async def test_a_client_that_leaves_cancels_its_command(tmp_path):
    """Ctrl-C at the client ends the command in the daemon."""
    path = tmp_path / "socket"
    started, cancelled = trio.Event(), trio.Event()

    async def wait(args, tell):
        started.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with serving(path, commands={"wait": wait}):
        stream = await trio.open_unix_socket(str(path))
        await stream.send_all(b'{"command": "wait"}\n')
        await started.wait()
        await stream.aclose()
        with trio.fail_after(5):
            await cancelled.wait()


async def test_a_client_that_hangs_up_before_its_answer_costs_nobody_anything(tmp_path):
    """A client gone at any moment, with or without an event on its way, never ends the server."""
    path = tmp_path / "socket"
    heard, go = trio.Event(), trio.Event()

    async def late(args, tell):
        heard.set()
        await go.wait()
        with trio.CancelScope(shield=True):  # the hang-up is not noticed before the answer is sent
            await tell({"stage": "late"})
            await tell({"stage": "later"})
        return {}

    def ask_and_go(command):
        for _ in range(10):
            with socket.socket(socket.AF_UNIX) as client_end:
                client_end.connect(str(path))
                client_end.sendall(b'{"command": "%s"}\n' % command)

    async with serving(path, commands={**COMMANDS, "late": late}):
        for command in (b"echo", b"bug", b"none", b"late"):
            await trio.to_thread.run_sync(ask_and_go, command)
        with trio.fail_after(5):
            await heard.wait()
        go.set()
        for _ in range(3):
            assert await ask(path, "echo") == {"echo": {}}


async def test_a_bug_in_the_server_itself_costs_only_that_connection(tmp_path, monkeypatch):
    """Whatever is raised while one connection is answered, the next one is answered."""
    path = tmp_path / "socket"

    def broken(_):
        raise OSError("the kernel will not say")

    async with serving(path):
        with monkeypatch.context() as patch:
            patch.setattr(peercred, "caller_of", broken)
            with pytest.raises(DaemonNotRunning):
                await ask(path, "echo")
        assert await ask(path, "echo") == {"echo": {}}


def test_nobody_listens(tmp_path):
    """No socket, and a socket that nobody listens on, both mean: not running."""
    with pytest.raises(DaemonNotRunning):
        client.ask(tmp_path / "none", "status")
    bind(tmp_path / "dead", group=None).close()
    with pytest.raises(DaemonNotRunning):
        client.ask(tmp_path / "dead", "status")
    assert not client.is_running(tmp_path / "dead")


def test_the_socket_is_ours_and_our_groups_alone(tmp_path):
    """The socket has mode 0660 from its first moment, whatever the umask is."""
    with bind(tmp_path / "socket", group=None):
        assert stat.S_IMODE((tmp_path / "socket").stat().st_mode) == 0o660


def test_a_dead_socket_is_replaced_and_a_live_one_is_not(tmp_path):
    """What a killed daemon left is replaced; a living daemon is never pushed aside."""
    path = tmp_path / "socket"
    bind(path, group=None).close()
    with bind(path, group=None), pytest.raises(ConfigError, match="another node"):
        bind(path, group=None)


def test_a_file_in_the_sockets_place_is_left_alone(tmp_path):
    """A wrong --socket must not cost the user a file."""
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(ConfigError, match="not a socket"):
        bind(path, group=None)
    assert path.read_text() == "data"


def test_a_deep_folder_is_no_obstacle(tmp_path):
    """A path longer than the kernel's 107 bytes works through a descriptor of its folder."""
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    path = deep / "socket"
    with bind(path, group=None), short_address(path) as address:
        assert len(address) < 108
        assert client.is_running(path)
