"""ML-KEM and ML-DSA by pyca/cryptography, that is by the OpenSSL or AWS-LC inside its wheel."""

from __future__ import annotations

from functools import lru_cache
from typing import Final, TypeAlias

import cryptography
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.mldsa import (
    MLDSA65PrivateKey,
    MLDSA65PublicKey,
    MLDSA87PrivateKey,
    MLDSA87PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.mlkem import (
    MLKEM768PrivateKey,
    MLKEM768PublicKey,
    MLKEM1024PrivateKey,
    MLKEM1024PublicKey,
)

from veilnet.crypto import suites
from veilnet.crypto.kem import Kem
from veilnet.crypto.sign import Signatures
from veilnet.errors import RemoteProtocolError

VERSION: Final = cryptography.__version__

_KemPrivate: TypeAlias = MLKEM768PrivateKey | MLKEM1024PrivateKey
_KemPublic: TypeAlias = MLKEM768PublicKey | MLKEM1024PublicKey
_SignaturePrivate: TypeAlias = MLDSA65PrivateKey | MLDSA87PrivateKey
_SignaturePublic: TypeAlias = MLDSA65PublicKey | MLDSA87PublicKey

_KEM_KEYS: Final[dict[suites.KemParameters, tuple[type[_KemPrivate], type[_KemPublic]]]] = {
    suites.ML_KEM_768: (MLKEM768PrivateKey, MLKEM768PublicKey),
    suites.ML_KEM_1024: (MLKEM1024PrivateKey, MLKEM1024PublicKey),
}
_SIGNATURE_KEYS: Final[
    dict[suites.SignatureParameters, tuple[type[_SignaturePrivate], type[_SignaturePublic]]]
] = {
    suites.ML_DSA_65: (MLDSA65PrivateKey, MLDSA65PublicKey),
    suites.ML_DSA_87: (MLDSA87PrivateKey, MLDSA87PublicKey),
}


class PycaKem(Kem):
    """ML-KEM; cryptography's ``encapsulate`` answers (secret, ciphertext), ours the reverse."""

    def __init__(self, parameters: suites.KemParameters) -> None:
        super().__init__(parameters)
        self._private, self._public = _KEM_KEYS[parameters]

    def _expand(self, seed: bytes) -> bytes:
        return self._private.from_seed_bytes(seed).public_key().public_bytes_raw()

    def _encapsulate(self, encapsulation_key: bytes) -> tuple[bytes, bytes]:
        try:
            shared, ciphertext = self._public.from_public_bytes(encapsulation_key).encapsulate()
        except ValueError as error:
            raise RemoteProtocolError(
                f"the peer's {self.parameters.name} key is not one"
            ) from error
        return ciphertext, shared

    def _decapsulate(self, seed: bytes, ciphertext: bytes) -> bytes:
        return self._private.from_seed_bytes(seed).decapsulate(ciphertext)


class PycaSignatures(Signatures[_SignaturePrivate]):
    """ML-DSA."""

    def __init__(self, parameters: suites.SignatureParameters) -> None:
        super().__init__(parameters)
        self._private, self._public = _SIGNATURE_KEYS[parameters]

    def _expand(self, seed: bytes) -> tuple[bytes, _SignaturePrivate]:
        key = self._private.from_seed_bytes(seed)
        return key.public_key().public_bytes_raw(), key

    def _sign(self, key: _SignaturePrivate, message: bytes, context: bytes) -> bytes:
        return key.sign(message, context)

    def _verify(self, public_key: bytes, message: bytes, signature: bytes, context: bytes) -> bool:
        try:
            self._public.from_public_bytes(public_key).verify(signature, message, context)
        except (InvalidSignature, ValueError):
            return False
        return True


@lru_cache
def kem(parameters: suites.KemParameters) -> PycaKem:
    """Return the one object for these parameters."""
    return PycaKem(parameters)


@lru_cache
def signatures(parameters: suites.SignatureParameters) -> PycaSignatures:
    """Return the one object for these parameters."""
    return PycaSignatures(parameters)
