"""ML-KEM and ML-DSA by liboqs, through liboqs-python, from the library inside our own package.

``import oqs`` is dangerous in a daemon: without a liboqs it prints to stdout, counts down five
seconds, clones a repository and raises SystemExit; with one it still greets on stdout, and prefers
whatever ``ldconfig`` knows to what it was told.  So `load` does it once, like this:

1. the shared library is there, loads, and has the symbols the binding needs (the only way the
   installer inside liboqs-python can start is a library that does not load);
2. ``OQS_INSTALL_PATH`` points at it, `ctypes.util.find_library` finds nothing, logger ``oqs.oqs``
   is off and warnings are caught, for the time of the import;
3. the library that was loaded is that file.

The liboqs project advises against relying on its library in production: ``--kem-backend
cryptography`` chooses the other backend.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import veilnet
from veilnet.crypto import suites
from veilnet.crypto.kem import Kem
from veilnet.crypto.sign import Signatures
from veilnet.errors import InternalError, RemoteProtocolError, VeilError

_NEEDED_SYMBOLS: Final = (
    "OQS_KEM_keypair_derand",
    "OQS_SIG_sign_with_ctx_str",
    "OQS_SIG_supports_ctx_str",
    "VEILNET_SIG_keypair_seed",
)
_import_lock = threading.Lock()


class LiboqsUnavailable(VeilError):
    """liboqs cannot be used in this installation."""

    default_hint = "Install VeilNet again from its wheel, or use --kem-backend cryptography."


def shipped_library() -> Path:
    """Return where the wheel puts liboqs, whether it is there or not."""
    return Path(veilnet.__file__).parent / "_native" / "lib" / "liboqs.so"


def load(library: Path | None = None) -> ModuleType:
    """Import liboqs-python on *library* (default: the wheel's) and return the module.

    Never prints, never reaches for the network, never ends the process.
    Raises: LiboqsUnavailable: with the reason.
    """
    path = (library or shipped_library()).absolute()
    with _import_lock:
        _check_library(path)
        try:
            with _guarded_import(path):
                import oqs
        except (Exception, SystemExit) as error:
            raise LiboqsUnavailable(f"liboqs-python could not be imported: {error}") from error
        module: ModuleType = oqs
    loaded = Path(module.native()._name)  # noqa: SLF001 - CDLL has no public name for it
    if not (loaded.is_absolute() and loaded.exists() and loaded.samefile(path)):
        raise LiboqsUnavailable(f"liboqs-python runs on {loaded}, not on our {path}")
    return module


def _check_library(path: Path) -> None:
    if not path.is_file():
        raise LiboqsUnavailable(f"this installation has no liboqs at {path}")
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise LiboqsUnavailable(f"{path} does not load: {error}") from error
    missing = [name for name in _NEEDED_SYMBOLS if not hasattr(library, name)]
    if missing:
        raise LiboqsUnavailable(f"{path} lacks {', '.join(missing)}")


@contextmanager
def _guarded_import(path: Path) -> Iterator[None]:
    def find_nothing(name: str) -> None:
        del name

    # liboqs-python looks in $OQS_INSTALL_PATH/lib, after what find_library found.
    changed = {"OQS_INSTALL_PATH": str(path.parent.parent), "PYOQS_ENABLE_FAULTHANDLER": "0"}
    saved = {name: os.environ.get(name) for name in changed}
    find_library = ctypes.util.find_library
    logger = logging.getLogger("oqs.oqs")
    was_disabled = logger.disabled
    try:
        os.environ.update(changed)
        ctypes.util.find_library = find_nothing
        # Its level is set by the module itself, so only this silences the greeting on stdout.
        logger.disabled = True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "liboqs version differs from liboqs-python version"
            yield
    finally:
        ctypes.util.find_library = find_library
        for name, value in saved.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        logger.handlers.clear()  # a StreamHandler on stdout
        logger.disabled = was_disabled


class LiboqsKem(Kem):
    """ML-KEM; a decapsulation key is expanded from its seed at each use (20 microseconds)."""

    def __init__(self, oqs: ModuleType, parameters: suites.KemParameters) -> None:
        super().__init__(parameters)
        self._oqs = oqs
        # Encapsulation reads this object and writes only to buffers of the call: threads may share.
        self._encapsulator = oqs.KeyEncapsulation(parameters.name)
        _check_lengths(
            self._encapsulator,
            length_public_key=parameters.encapsulation_key_bytes,
            length_ciphertext=parameters.ciphertext_bytes,
            length_shared_secret=suites.SHARED_SECRET_BYTES,
            length_keypair_seed=suites.ML_KEM_SEED_BYTES,
        )

    def _expand(self, seed: bytes) -> bytes:
        with self._oqs.KeyEncapsulation(self.parameters.name) as pair:
            key: bytes = pair.generate_keypair_seed(seed)
        return key

    def _encapsulate(self, encapsulation_key: bytes) -> tuple[bytes, bytes]:
        try:
            ciphertext, shared = self._encapsulator.encap_secret(encapsulation_key)
        except RuntimeError as error:
            raise RemoteProtocolError(
                f"the peer's {self.parameters.name} key is not one"
            ) from error
        return ciphertext, shared

    def _decapsulate(self, seed: bytes, ciphertext: bytes) -> bytes:
        with self._oqs.KeyEncapsulation(self.parameters.name) as pair:
            pair.generate_keypair_seed(seed)
            shared: bytes = pair.decap_secret(ciphertext)
        return shared


class LiboqsSignatures(Signatures[Any]):
    """ML-DSA; a signing key is expanded from its seed once and kept in a C buffer."""

    def __init__(self, oqs: ModuleType, parameters: suites.SignatureParameters) -> None:
        super().__init__(parameters)
        self._oqs = oqs
        self._verifier = oqs.Signature(parameters.name)
        _check_lengths(
            self._verifier,
            length_public_key=parameters.public_key_bytes,
            length_secret_key=parameters.expanded_key_bytes,
            length_signature=parameters.signature_bytes,
        )
        if not self._verifier.sig_with_ctx_support:
            raise LiboqsUnavailable(f"this liboqs signs {parameters.name} without a context")

    def _expand(self, seed: bytes) -> tuple[bytes, Any]:
        signer = self._oqs.Signature(self.parameters.name)
        public_key = ctypes.create_string_buffer(self.parameters.public_key_bytes)
        signer.secret_key = ctypes.create_string_buffer(self.parameters.expanded_key_bytes)
        status = self._oqs.native().VEILNET_SIG_keypair_seed(
            signer._sig,  # noqa: SLF001 - the OQS_SIG; liboqs-python has no seeded key generation
            ctypes.create_string_buffer(seed, len(seed)),
            public_key,
            signer.secret_key,
        )
        if status != self._oqs.OQS_SUCCESS:
            raise InternalError(f"liboqs could not expand a {self.parameters.name} seed")
        return public_key.raw, signer

    def _sign(self, key: Any, message: bytes, context: bytes) -> bytes:  # noqa: ANN401 - oqs is untyped
        signature: bytes = key.sign_with_ctx_str(message, context)
        return signature

    def _verify(self, public_key: bytes, message: bytes, signature: bytes, context: bytes) -> bool:
        return bool(self._verifier.verify_with_ctx_str(message, signature, context, public_key))


def _check_lengths(algorithm: Any, **wanted: int) -> None:  # noqa: ANN401 - oqs is untyped
    """Refuse a liboqs whose structures are not laid out as liboqs-python believes."""
    for name, length in wanted.items():
        found = getattr(algorithm, name)
        if found != length:
            raise LiboqsUnavailable(f"liboqs says {name} is {found} where FIPS says {length}")


@lru_cache
def kem(parameters: suites.KemParameters) -> LiboqsKem:
    """Return the one object for these parameters.   Raises: LiboqsUnavailable."""
    return LiboqsKem(load(), parameters)


@lru_cache
def signatures(parameters: suites.SignatureParameters) -> LiboqsSignatures:
    """Return the one object for these parameters.   Raises: LiboqsUnavailable."""
    return LiboqsSignatures(load(), parameters)


def version() -> str:
    """Return the version of the loaded liboqs.   Raises: LiboqsUnavailable."""
    found: str = load().oqs_version()
    return found
