"""What a backend's ML-DSA can do.  Every length is checked here, before any library sees it."""

from __future__ import annotations

import abc
from typing import Generic, TypeVar

import attrs

from veilnet.crypto.suites import CONTEXT_MAX_BYTES, ML_DSA_SEED_BYTES, SignatureParameters
from veilnet.errors import InternalError, LocalProtocolError, RemoteProtocolError

Native = TypeVar("Native")


@attrs.frozen(eq=False)
class SigningKey(Generic[Native]):
    """A key pair, expanded once for the backend that made it.  It never shows its secrets."""

    algorithm: str
    public_key: bytes = attrs.field(repr=lambda key: f"<{len(key)} bytes>")
    native: Native = attrs.field(repr=False)
    """The backend's own form."""


class Signatures(abc.ABC, Generic[Native]):
    """ML-DSA (pure, hedged) of one parameter set.  Every method may be called from any thread."""

    def __init__(self, parameters: SignatureParameters) -> None:
        self.parameters = parameters

    def __repr__(self) -> str:
        return f"<{type(self).__module__}.{type(self).__name__} {self.parameters.name}>"

    def key(self, seed: bytes) -> SigningKey[Native]:
        """Return the key pair of a 32-byte *seed*, the same in every backend.

        Raises: LocalProtocolError: another length.
        Source: FIPS 204 algorithm 6 (ML-DSA.KeyGen_internal).
        """
        if len(seed) != ML_DSA_SEED_BYTES:
            raise LocalProtocolError(
                f"a {self.parameters.name} seed has {ML_DSA_SEED_BYTES} bytes, not {len(seed)}"
            )
        public_key, native = self._expand(seed)
        self._made(public_key, self.parameters.public_key_bytes)
        return SigningKey(self.parameters.name, public_key, native)

    def sign(self, key: SigningKey[Native], message: bytes, context: bytes) -> bytes:
        """Return a signature of *message* that holds in *context* alone.

        Raises: LocalProtocolError: the context is longer than 255 bytes, or the key is another
        algorithm's.
        """
        self._check_context(context)
        if key.algorithm != self.parameters.name:
            raise LocalProtocolError(f"a {key.algorithm} key cannot sign {self.parameters.name}")
        return self._made(self._sign(key.native, message, context), self.parameters.signature_bytes)

    def verify(self, public_key: bytes, message: bytes, signature: bytes, context: bytes) -> bool:
        """Return whether *signature* is *public_key*'s over *message* in *context*.

        Raises: RemoteProtocolError: a key or a signature of another length.
        """
        self._check_context(context)
        for what, value, wanted in (
            ("public key", public_key, self.parameters.public_key_bytes),
            ("signature", signature, self.parameters.signature_bytes),
        ):
            if len(value) != wanted:
                raise RemoteProtocolError(
                    f"the peer's {self.parameters.name} {what} has {len(value)} bytes, not {wanted}"
                )
        return self._verify(public_key, message, signature, context)

    def _check_context(self, context: bytes) -> None:
        if len(context) > CONTEXT_MAX_BYTES:
            raise LocalProtocolError(
                f"a signature context has at most {CONTEXT_MAX_BYTES} bytes, not {len(context)}"
            )

    def _made(self, value: bytes, wanted: int) -> bytes:
        if len(value) != wanted:
            raise InternalError(
                f"{self.parameters.name} made {len(value)} bytes where {wanted} belong"
            )
        return value

    @abc.abstractmethod
    def _expand(self, seed: bytes) -> tuple[bytes, Native]: ...

    @abc.abstractmethod
    def _sign(self, key: Native, message: bytes, context: bytes) -> bytes: ...

    @abc.abstractmethod
    def _verify(
        self, public_key: bytes, message: bytes, signature: bytes, context: bytes
    ) -> bool: ...
