import errno
import os
import shutil
import stat
import subprocess
import sys

import pytest

from veilnet.errors import ClosedError, ConfigError, InternalError, PrivilegeError
from veilnet.store import Store


@pytest.fixture
def store(tmp_path):
    """Return an open store in an empty folder."""
    with Store.open(tmp_path / "state") as opened:
        yield opened


def mode(path):
    """Return the permission bits."""
    return stat.S_IMODE(path.stat().st_mode)


def test_round_trip(store):
    """What was written is read back, and a file that never was is None."""
    store.write("a/b/file.cbor", b"one")
    store.write("a/b/file.cbor", b"two")
    assert store.read("a/b/file.cbor") == b"two"
    assert store.read("a/b/other") is None
    assert store.read("x/y") is None
    assert store.names("a/b") == ["file.cbor"]
    assert store.names("nowhere") == []
    store.remove("a/b/file.cbor")
    store.remove("a/b/file.cbor")
    assert store.read("a/b/file.cbor") is None


def test_modes_whatever_the_umask(tmp_path):
    """Folders are 0700 and files 0600, also under umask 0 and in a folder that was open."""
    loose = tmp_path / "state"
    loose.mkdir(mode=0o777)
    loose.chmod(0o777)
    before = os.umask(0)
    try:
        with Store.open(loose) as store:
            store.write("sub/secret", b"x")
    finally:
        os.umask(before)
    assert mode(loose) == mode(loose / "sub") == 0o700
    assert mode(loose / "sub" / "secret") == mode(loose / "lock") == 0o600


def test_one_daemon_per_folder(tmp_path):
    """A second daemon is refused while the first holds the folder, and let in afterwards."""
    first = Store.open(tmp_path)
    with pytest.raises(ConfigError, match="in use by another"):
        Store.open(tmp_path)
    first.close()
    first.close()
    Store.open(tmp_path).close()


def test_a_killed_daemon_holds_nothing(tmp_path):
    """SIGKILL releases the folder: the lock is the kernel's, not a file's existence."""
    code = (
        "import sys, pathlib; from veilnet.store import Store\n"
        "store = Store.open(pathlib.Path(sys.argv[1])); print('held', flush=True); input()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError):
            Store.open(tmp_path)
        child.kill()
        child.wait()
        Store.open(tmp_path).close()


@pytest.mark.parametrize("call", ["fsync", "rename", "fchmod"])
def test_failed_write_leaves_the_old_file(store, monkeypatch, call):
    """Whichever step finds the disk full, the old content stays and no fragment does."""
    store.write("file", b"old")

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(ConfigError, match="No space left") as caught:
            store.write("file", b"new")
    assert "Free some space" in caught.value.hint
    assert store.read("file") == b"old"
    assert sorted(item.name for item in store.path.iterdir()) == ["file", "lock"]


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare(1)")
def test_full_disk_leaves_the_old_file(tmp_path):
    """On a tmpfs of 64 KB that really is full, the old file survives and can be read."""
    code = (
        "import sys, pathlib\nfrom veilnet.store import Store\n"
        "from veilnet.errors import ConfigError\n"
        "store = Store.open(pathlib.Path(sys.argv[1]) / 'state')\n"
        "store.write('file', b'old')\n"
        "try: store.write('file', bytes(200_000))\n"
        "except ConfigError as error: print(error.message)\n"
        "print(store.read('file'), store.names())"
    )
    script = 'mount -t tmpfs -o size=64k veilnet "$1" && exec "$2" -c "$3" "$1"'
    probe = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*probe, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine's policy forbids user namespaces")
    run = subprocess.run(
        [*probe, "sh", "-c", script, "sh", tmp_path, sys.executable, code],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    message, after = run.stdout.splitlines()
    assert "No space left on device" in message
    assert after == "b'old' ['file', 'lock']"


def test_what_a_killed_write_left_is_ignored_and_swept(store):
    """A temporary file of a process that was killed is no file of ours, and goes."""
    store.write("sub/file", b"whole")
    (store.path / "sub" / ".new-0123456789abcdef").write_bytes(b"half")
    assert store.names("sub") == ["file"]
    store.sweep("sub")
    assert [item.name for item in (store.path / "sub").iterdir()] == ["file"]


def test_symbolic_links_are_not_followed(store, tmp_path):
    """A link in the place of a file or a folder leads nowhere; writing replaces the link."""
    target = tmp_path / "target"
    target.write_bytes(b"theirs")
    (store.path / "file").symlink_to(target)
    (store.path / "sub").symlink_to(tmp_path)
    with pytest.raises(ConfigError):
        store.read("file")
    with pytest.raises(ConfigError):
        store.read("sub/target")
    with pytest.raises(ConfigError):
        store.write("sub/target", b"ours")
    store.write("file", b"ours")
    assert target.read_bytes() == b"theirs"
    assert store.read("file") == b"ours"


def test_a_pipe_in_a_files_place_blocks_nobody(store):
    """A named pipe is refused at once instead of being waited for."""
    os.mkfifo(store.path / "pipe", 0o600)
    with pytest.raises(ConfigError, match="not a regular file"):
        store.read("pipe")


def test_a_file_that_others_can_read_is_refused(store):
    """A secret that others could have seen is not used in silence."""
    store.write("secret", b"x")
    (store.path / "secret").chmod(0o640)
    with pytest.raises(ConfigError, match="other users"):
        store.read("secret")


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a//b", "", ".hidden", "a/../b", "a\0b"])
def test_names_stay_inside(store, name):
    """No name leads out of the folder, or to what is not ours."""
    with pytest.raises(InternalError):
        store.read(name)
    with pytest.raises(InternalError):
        store.write(name, b"")


def test_too_long_a_file_is_refused(store):
    """The caller's limit holds, at the last byte."""
    store.write("file", bytes(10))
    assert store.read("file", max_bytes=10) == bytes(10)
    with pytest.raises(ConfigError, match="longer than"):
        store.read("file", max_bytes=9)


def test_a_closed_store_says_so(store):
    """Use after close is the caller's fault."""
    store.close()
    with pytest.raises(ClosedError):
        store.read("file")


def test_a_file_in_the_folders_place(tmp_path):
    """A path that is no folder is the operator's mistake, and named."""
    path = tmp_path / "state"
    path.write_bytes(b"")
    with pytest.raises(ConfigError, match="cannot open"):
        Store.open(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else(tmp_path):
    """A folder that another user owns is not trusted, not even by root."""
    os.chown(tmp_path, 12_345, -1)
    try:
        with pytest.raises(PrivilegeError, match="belongs to user 12345"):
            Store.open(tmp_path)
    finally:
        # A later run inside a user namespace could not clear it away.
        os.chown(tmp_path, 0, -1)
