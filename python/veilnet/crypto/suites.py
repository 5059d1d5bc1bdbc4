"""The cipher suites: pinned in a network's genesis, never negotiated.

Source: FIPS 203 table 3 (ML-KEM sizes), FIPS 204 table 2 (ML-DSA sizes).
"""

from __future__ import annotations

from typing import Final

import attrs

from veilnet.errors import LocalProtocolError

ML_KEM_SEED_BYTES: Final = 64
"""``d || z``, from which a decapsulation key is expanded."""

ML_DSA_SEED_BYTES: Final = 32
"""``xi``, from which a signing key is expanded."""

SHARED_SECRET_BYTES: Final = 32
CONTEXT_MAX_BYTES: Final = 255


@attrs.frozen
class KemParameters:
    """One parameter set of ML-KEM."""

    name: str
    encapsulation_key_bytes: int
    ciphertext_bytes: int


@attrs.frozen
class SignatureParameters:
    """One parameter set of ML-DSA."""

    name: str
    public_key_bytes: int
    signature_bytes: int
    expanded_key_bytes: int
    """The private key of FIPS 204 algorithm 24, which only liboqs wants to see."""


@attrs.frozen
class Suite:
    """What the number of a suite stands for."""

    number: int
    name: str
    kem: KemParameters
    signature: SignatureParameters


ML_KEM_768: Final = KemParameters("ML-KEM-768", 1184, 1088)
ML_KEM_1024: Final = KemParameters("ML-KEM-1024", 1568, 1568)
ML_DSA_65: Final = SignatureParameters("ML-DSA-65", 1952, 3309, 4032)
ML_DSA_87: Final = SignatureParameters("ML-DSA-87", 2592, 4627, 4896)

S1: Final = Suite(1, "X25519+ML-KEM-768/ML-DSA-65/AES-256-GCM", ML_KEM_768, ML_DSA_65)
S2: Final = Suite(2, "X25519+ML-KEM-1024/ML-DSA-87/AES-256-GCM", ML_KEM_1024, ML_DSA_87)
SUITES: Final = {suite.number: suite for suite in (S1, S2)}


def suite(number: int) -> Suite:
    """Return the suite of that *number*.

    Raises: LocalProtocolError: there is none; numbers off the wire are checked before this.
    """
    found = SUITES.get(number)
    if found is None:
        raise LocalProtocolError(f"there is no cipher suite {number}")
    return found
