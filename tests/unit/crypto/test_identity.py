import errno
import hashlib
import os
import stat

import pytest

from veilnet import crypto
from veilnet.errors import ConfigError, InternalError


def test_the_peer_id_is_the_hash_of_label_algorithm_and_key(backend):
    """The bytes under the hash are those of the design, and nothing between them."""
    identity = crypto.Identity.from_seed(bytes(range(32)), backend)
    digest = hashlib.sha256(b"veilnet/id/1" + b"ML-DSA-65" + identity.public_key).digest()
    assert identity.peer_id == digest == crypto.peer_id(identity.public_key)


def test_the_peer_id_of_a_seed_never_changes(backend):
    """A known answer: nodes keep their name over releases and backends."""
    identity = crypto.Identity.from_seed(bytes(range(32)), backend)
    assert identity.peer_id.hex() == (
        "718071e432a3b8ff26177bf8dc101f87a2c0a871c8d319d4b0ceee3631ed9d98"
    )


def test_a_saved_identity_comes_back(backend, tmp_path):
    """Saved by one backend, loaded by the other: the same peer, mode 0600, no leftovers."""
    path = tmp_path / "identity"
    identity = crypto.Identity.load_or_create(path, backend)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_size == 32
    assert list(tmp_path.iterdir()) == [path]
    again = crypto.Identity.load_or_create(path, backend.other)
    assert again.peer_id == identity.peer_id
    signature = again.sign(b"m", b"c")
    assert backend.signatures(1).verify(identity.public_key, b"m", signature, b"c")


def test_an_identity_is_never_overwritten(backend, tmp_path):
    """Saving over a file fails and leaves the file and nothing else."""
    path = tmp_path / "identity"
    first = crypto.Identity.create(backend)
    first.save(path)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="never overwritten"):
        crypto.Identity.create(backend).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_nothing(backend, tmp_path, monkeypatch):
    """ENOSPC on fsync: an error that says so, and no truncated identity."""

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="No space left"):
        crypto.Identity.create(backend).save(tmp_path / "identity")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", bytes(31), bytes(33), b"0" * 64])
def test_what_is_not_a_seed_is_refused(backend, tmp_path, content):
    """A truncated or foreign file is an error of the operator's file, exit code 7."""
    path = tmp_path / "identity"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="not an identity") as caught:
        crypto.Identity.load(path, backend)
    assert caught.value.code == 7


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_seed_that_others_can_read_is_refused(backend, tmp_path, mode):
    """As ssh does: a key that others could read is not a secret."""
    path = tmp_path / "identity"
    crypto.Identity.create(backend).save(path)
    path.chmod(mode)
    with pytest.raises(ConfigError, match="read by others"):
        crypto.Identity.load(path, backend)


def test_a_missing_file_and_a_link_are_refused(backend, tmp_path):
    """Loading never creates and never follows a link."""
    with pytest.raises(ConfigError, match="cannot be read"):
        crypto.Identity.load(tmp_path / "none", backend)
    crypto.Identity.create(backend).save(tmp_path / "identity")
    (tmp_path / "link").symlink_to(tmp_path / "identity")
    with pytest.raises(ConfigError, match="cannot be read"):
        crypto.Identity.load(tmp_path / "link", backend)


def test_backends_that_derive_different_keys_are_refused(backend, monkeypatch):
    """A backend that expands a seed differently would silently make the node another peer."""
    other = type(backend.other.signatures(1))
    expand = other._expand
    monkeypatch.setattr(other, "_expand", lambda self, seed: expand(self, seed[::-1]))
    with pytest.raises(InternalError, match="different keys"):
        crypto.Identity.create(backend)


def test_an_identity_shows_no_secret(backend):
    """The repr names the peer and not its seed."""
    seed = b"\x5a" * 32
    identity = crypto.Identity.from_seed(seed, backend)
    assert identity.peer_id.hex() in repr(identity)
    assert "5a5a5a" not in repr(identity)
    assert "ZZZ" not in repr(identity)
