"""The identity of a node: one ML-DSA key pair, 32 bytes of seed on disk.

``peer_id = SHA-256("veilnet/id/1" || alg || mldsa_pk)`` with alg the name, ``ML-DSA-65``.  The key
has a fixed length for each alg and no alg is a prefix of another, so nothing is length-prefixed.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import attrs

from veilnet.crypto.sign import Signatures, SigningKey
from veilnet.crypto.suites import ML_DSA_65, ML_DSA_SEED_BYTES, S1
from veilnet.errors import ConfigError, InternalError
from veilnet.units import PeerId

if TYPE_CHECKING:
    from veilnet.crypto.backend import Backend

ID_LABEL: Final = b"veilnet/id/1"


def peer_id(public_key: bytes, algorithm: str = ML_DSA_65.name) -> PeerId:
    """Return the name that needs no trust: the hash of the key that proves it."""
    return PeerId(hashlib.sha256(ID_LABEL + algorithm.encode() + public_key).digest())


@attrs.frozen(eq=False)
class Identity:
    """A node's key pair; signs as the node.  May be used from any thread."""

    peer_id: PeerId = attrs.field(repr=lambda value: value.hex())
    public_key: bytes = attrs.field(repr=False)
    algorithm: str
    _seed: bytes = attrs.field(repr=False)
    _key: SigningKey[Any] = attrs.field(repr=False)
    _signatures: Signatures[Any] = attrs.field(repr=False)

    @classmethod
    def create(cls, backend: Backend, *, suite: int = S1.number) -> Self:
        """Return a new identity, from the operating system's randomness, not yet on disk."""
        return cls.from_seed(secrets.token_bytes(ML_DSA_SEED_BYTES), backend, suite=suite)

    @classmethod
    def from_seed(cls, seed: bytes, backend: Backend, *, suite: int = S1.number) -> Self:
        """Return the identity of a 32-byte *seed*.

        Raises: LocalProtocolError: another length.  InternalError: the backends derive different
        keys, so that a change of backend would change who the node is.
        """
        signatures = backend.signatures(suite)
        key = signatures.key(seed)
        if backend.other is not None:
            checked = backend.other.signatures(suite).key(seed)
            if checked.public_key != key.public_key:
                raise InternalError(
                    f"{backend.name} and {backend.other.name} derive different keys from one seed"
                )
        algorithm = signatures.parameters.name
        name = peer_id(key.public_key, algorithm)
        return cls(name, key.public_key, algorithm, seed, key, signatures)

    @classmethod
    def load(cls, path: Path, backend: Backend, *, suite: int = S1.number) -> Self:
        """Return the identity that `save` wrote to *path*.

        Raises: ConfigError: missing, readable by others, or not a seed.
        """
        return cls.from_seed(_read_seed(path), backend, suite=suite)

    @classmethod
    def load_or_create(cls, path: Path, backend: Backend, *, suite: int = S1.number) -> Self:
        """Return the identity at *path*, making and saving one at the node's first start."""
        if not path.exists():
            identity = cls.create(backend, suite=suite)
            identity.save(path)
            return identity
        return cls.load(path, backend, suite=suite)

    def save(self, path: Path) -> None:
        """Write the seed to *path*, mode 0600, durably, or not at all.

        Raises: ConfigError: something is there already (an identity is never overwritten), or the
        folder cannot be written.
        """
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            descriptor = os.open(
                temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
            )
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(self._seed)
                    file.flush()
                    os.fsync(file.fileno())
                # A hard link, because a rename would replace an identity that is there already.
                os.link(temporary, path)
            finally:
                with suppress(FileNotFoundError):
                    temporary.unlink()
            _sync_folder(path.parent)
        except FileExistsError as error:
            raise ConfigError(
                f"{path} exists already, and an identity is never overwritten",
                hint="Move it away first if the node is to become another one.",
            ) from error
        except OSError as error:
            raise ConfigError(
                f"the identity cannot be written to {path}: {error.strerror}",
                hint=f"Check the owner, the mode and the free space of {path.parent}.",
            ) from error

    def sign(self, message: bytes, context: bytes) -> bytes:
        """Return this node's signature of *message* in *context*."""
        return self._signatures.sign(self._key, message, context)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_seed(path: Path) -> bytes:
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            seed = file.read(ML_DSA_SEED_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"the identity at {path} cannot be read: {error.strerror}",
            hint="Run as the user that owns the state folder, or name another with --state.",
        ) from error
    if mode & 0o077:
        raise ConfigError(
            f"the identity at {path} can be read by others (mode {mode:04o})",
            hint=f"If nobody else can have seen it: chmod 600 {path}",
        )
    if len(seed) != ML_DSA_SEED_BYTES:
        raise ConfigError(
            f"{path} is not an identity: it does not have {ML_DSA_SEED_BYTES} bytes",
            hint="Restore it from a backup; without it the node becomes another peer.",
        )
    return seed
