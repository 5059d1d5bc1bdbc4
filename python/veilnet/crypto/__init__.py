"""Post-quantum primitives: ML-KEM, ML-DSA and the identity of a node.

```
load() -> Backend --+-- kem(suite) -> Kem                generate, encapsulate, decapsulate
  liboqs | pyca     +-- signatures(suite) -> Signatures  key, sign, verify
                                                Identity  the ML-DSA key pair that names a node
```
Importing this package loads no shared library; `load` does.
"""

from __future__ import annotations

from veilnet.crypto.backend import BACKENDS, Backend, BackendName, load
from veilnet.crypto.identity import Identity, peer_id
from veilnet.crypto.kem import Kem
from veilnet.crypto.sign import Signatures, SigningKey
from veilnet.crypto.suites import S1, S2, SUITES, Suite, suite

__all__ = [
    "BACKENDS",
    "S1",
    "S2",
    "SUITES",
    "Backend",
    "BackendName",
    "Identity",
    "Kem",
    "Signatures",
    "SigningKey",
    "Suite",
    "load",
    "peer_id",
    "suite",
]
