"""Which library does the post-quantum arithmetic, chosen once when the node starts.

Both are installed, so each checks the other before either is trusted (`selftest`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import attrs

from veilnet.crypto import liboqs, pyca, selftest, suites
from veilnet.crypto.kem import Kem
from veilnet.crypto.sign import Signatures
from veilnet.errors import UsageError

BackendName: TypeAlias = Literal["liboqs", "cryptography"]
BACKENDS: Final[tuple[BackendName, ...]] = ("liboqs", "cryptography")


@attrs.frozen
class Backend:
    """A library that passed the self-test.  May be used from any thread."""

    name: BackendName
    version: str
    library: Path | None
    """The shared library in use, if it is one of our own."""

    why: str
    """Why this backend: asked for, or the reason why the one asked for cannot be used."""

    other: Backend | None = attrs.field(repr=False)
    """The backend that checked this one."""

    _kem: Callable[[suites.KemParameters], Kem] = attrs.field(repr=False)
    _signatures: Callable[[suites.SignatureParameters], Signatures[Any]] = attrs.field(repr=False)

    def kem(self, suite: int) -> Kem:
        """Return the key encapsulation of *suite*.   Raises: LocalProtocolError: no such suite."""
        return self._kem(suites.suite(suite).kem)

    def signatures(self, suite: int) -> Signatures[Any]:
        """Return the signatures of *suite*.   Raises: LocalProtocolError: no such suite."""
        return self._signatures(suites.suite(suite).signature)


def load(preferred: BackendName = "liboqs") -> Backend:
    """Return the *preferred* backend, or the other one with the reason in ``why``.

    Blocks for about 10 ms: loads the libraries and runs the self-test.  Never prints.
    Raises: UsageError: no backend has that name.  InternalError: the backends disagree.
    """
    if preferred not in BACKENDS:
        raise UsageError(
            f"there is no crypto backend {preferred!r}",
            hint=f"Choose one of {', '.join(BACKENDS)}.",
        )
    by_pyca = Backend(
        "cryptography", pyca.VERSION, None, "asked for", None, pyca.kem, pyca.signatures
    )
    try:
        by_liboqs = Backend(
            "liboqs",
            liboqs.version(),
            liboqs.shipped_library(),
            "asked for",
            by_pyca,
            liboqs.kem,
            liboqs.signatures,
        )
        selftest.check(by_liboqs, by_pyca)
    except liboqs.LiboqsUnavailable as error:
        why = f"{error.message}; nothing checks this backend"
        return attrs.evolve(by_pyca, why=why)
    if preferred == "liboqs":
        return by_liboqs
    return attrs.evolve(by_pyca, other=by_liboqs)
