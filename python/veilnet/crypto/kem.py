"""What a backend's ML-KEM can do.  Every length is checked here, before any library sees it.

liboqs pads what is too short with zeros and cuts what is too long, in silence.
"""

from __future__ import annotations

import abc
import secrets

from veilnet.crypto.suites import ML_KEM_SEED_BYTES, SHARED_SECRET_BYTES, KemParameters
from veilnet.errors import InternalError, LocalProtocolError, RemoteProtocolError


class Kem(abc.ABC):
    """ML-KEM of one parameter set.  Every method may be called from any thread.

    A decapsulation key is its seed ``d || z``: 64 bytes, the same in every backend.
    """

    def __init__(self, parameters: KemParameters) -> None:
        self.parameters = parameters

    def __repr__(self) -> str:
        return f"<{type(self).__module__}.{type(self).__name__} {self.parameters.name}>"

    def generate(self) -> tuple[bytes, bytes]:
        """Return a fresh encapsulation key and its decapsulation key (a secret)."""
        seed = secrets.token_bytes(ML_KEM_SEED_BYTES)
        return self.encapsulation_key(seed), seed

    def encapsulation_key(self, seed: bytes) -> bytes:
        """Return the encapsulation key of a decapsulation key.

        Raises: LocalProtocolError: *seed* is not 64 bytes.
        """
        self._check_seed(seed)
        return self._made(self._expand(seed), self.parameters.encapsulation_key_bytes)

    def encapsulate(self, encapsulation_key: bytes) -> tuple[bytes, bytes]:
        """Return a ciphertext for the holder of the decapsulation key, and the shared secret.

        Raises: RemoteProtocolError: that is not an encapsulation key (length, or a coefficient
        that is not below the modulus).
        Source: FIPS 203 section 7.2.
        """
        wanted = self.parameters.encapsulation_key_bytes
        if len(encapsulation_key) != wanted:
            raise RemoteProtocolError(
                f"the peer's {self.parameters.name} key has {len(encapsulation_key)} bytes, "
                f"not {wanted}"
            )
        ciphertext, shared = self._encapsulate(encapsulation_key)
        self._made(shared, SHARED_SECRET_BYTES)
        return self._made(ciphertext, self.parameters.ciphertext_bytes), shared

    def decapsulate(self, decapsulation_key: bytes, ciphertext: bytes) -> bytes:
        """Return the shared secret; a forged ciphertext gives another secret, not an error.

        Raises: RemoteProtocolError: the ciphertext has another length.
        Source: FIPS 203 section 7.3 (implicit rejection).
        """
        self._check_seed(decapsulation_key)
        wanted = self.parameters.ciphertext_bytes
        if len(ciphertext) != wanted:
            raise RemoteProtocolError(
                f"the peer's {self.parameters.name} ciphertext has {len(ciphertext)} bytes, "
                f"not {wanted}"
            )
        return self._made(self._decapsulate(decapsulation_key, ciphertext), SHARED_SECRET_BYTES)

    def _check_seed(self, seed: bytes) -> None:
        if len(seed) != ML_KEM_SEED_BYTES:
            raise LocalProtocolError(
                f"a {self.parameters.name} decapsulation key has {ML_KEM_SEED_BYTES} bytes, "
                f"not {len(seed)}"
            )

    def _made(self, value: bytes, wanted: int) -> bytes:
        if len(value) != wanted:
            raise InternalError(
                f"{self.parameters.name} made {len(value)} bytes where {wanted} belong"
            )
        return value

    @abc.abstractmethod
    def _expand(self, seed: bytes) -> bytes: ...

    @abc.abstractmethod
    def _encapsulate(self, encapsulation_key: bytes) -> tuple[bytes, bytes]: ...

    @abc.abstractmethod
    def _decapsulate(self, seed: bytes, ciphertext: bytes) -> bytes: ...
