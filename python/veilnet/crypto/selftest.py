"""Each backend checks the other, on fresh keys, before the node uses either.

A library that is broken, miscompiled or swapped would have to be broken in the same way as one by
other people in another language to pass.
"""

from __future__ import annotations

import secrets
from itertools import permutations
from typing import Any, Protocol

from veilnet.crypto.kem import Kem
from veilnet.crypto.sign import Signatures
from veilnet.crypto.suites import ML_DSA_SEED_BYTES, ML_KEM_SEED_BYTES, SUITES
from veilnet.errors import InternalError

CONTEXT = b"veilnet/selftest/1"


class Provider(Protocol):
    """What a self-test needs of a backend."""

    @property
    def name(self) -> str: ...  # noqa: D102 - Backend.name
    def kem(self, suite: int) -> Kem: ...  # noqa: D102 - Backend.kem
    def signatures(self, suite: int) -> Signatures[Any]: ...  # noqa: D102 - Backend.signatures


def check(one: Provider, other: Provider) -> None:
    """Return if the two agree on every suite, in both directions.

    Raises: InternalError: they do not; neither may be used.
    """
    for suite in SUITES:
        for left, right in permutations((one, other)):
            _check_kem(suite, left, right)
            _check_signatures(suite, left, right)


def _check_kem(suite: int, left: Provider, right: Provider) -> None:
    seed = secrets.token_bytes(ML_KEM_SEED_BYTES)
    key = left.kem(suite).encapsulation_key(seed)
    ciphertext, sent = right.kem(suite).encapsulate(key)
    received = left.kem(suite).decapsulate(seed, ciphertext)
    # A broken KEM that always agrees on zeros would pass the comparison.
    if received != sent or not any(sent):
        raise _disagree(left, right, left.kem(suite).parameters.name)
    forged = bytes([ciphertext[0] ^ 1]) + ciphertext[1:]
    rejected = {backend.kem(suite).decapsulate(seed, forged) for backend in (left, right)}
    if len(rejected) != 1 or sent in rejected:
        raise _disagree(left, right, left.kem(suite).parameters.name + " implicit rejection")


def _check_signatures(suite: int, left: Provider, right: Provider) -> None:
    seed = secrets.token_bytes(ML_DSA_SEED_BYTES)
    signer, verifier = left.signatures(suite), right.signatures(suite)
    key = signer.key(seed)
    message = secrets.token_bytes(48)
    signature = signer.sign(key, message, CONTEXT)
    public_key = verifier.key(seed).public_key
    good = public_key == key.public_key and verifier.verify(public_key, message, signature, CONTEXT)
    bad = (
        verifier.verify(public_key, message, signature, CONTEXT + b"x")
        or verifier.verify(public_key, message + b"x", signature, CONTEXT)
        or verifier.verify(public_key, message, signature[:-1] + b"\xff", CONTEXT)
    )
    if bad or not good:
        raise _disagree(left, right, signer.parameters.name)


def _disagree(left: Provider, right: Provider, about: str) -> InternalError:
    return InternalError(
        f"{left.name} and {right.name} disagree about {about}: one of them is broken",
        hint="Install VeilNet again; until then no key of this machine can be trusted.",
    )
