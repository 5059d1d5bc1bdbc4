"""What the two sealed messages of the handshake carry, and who it proves the peer to be.

```
e2 = CBOR [public key, credential, SigR(th2 || idR)]                       context veilnet/hs1/resp
e3 = CBOR [public key, credential, SigI(th3 || idI || idR), psk name/null] context veilnet/hs1/init
```
The public key travels; the peer id is its hash, so a message is bound to whoever can sign.  In
join mode the credential of the initiator is empty: it is what the initiator comes for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from attrs import field, frozen

from veilnet.errors import RemoteProtocolError
from veilnet.protocol import cbor
from veilnet.protocol.messages import MAX_CREDENTIAL_BYTES, MAX_PUBLIC_KEY_BYTES

if TYPE_CHECKING:
    from veilnet.networks.credential import Credential
    from veilnet.units import PeerId

RESPONSE_CONTEXT: Final = b"veilnet/hs1/resp"
AUTH_CONTEXT: Final = b"veilnet/hs1/init"
MAX_SIGNATURE_BYTES: Final = 4_627
"""ML-DSA-87, the longest that a suite has."""
MAX_PSK_NAME_BYTES: Final = 32
MAX_IDENTITY_BYTES: Final = 16_384


@frozen(kw_only=True)
class Identity:
    """The plaintext of RESP or AUTH; parsed, not verified."""

    public_key: bytes = field(repr=False)
    credential: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    psk_name: bytes | None = None

    def response(self) -> bytes:
        """Return e2."""
        return cbor.encode([self.public_key, self.credential, self.signature])

    def auth(self) -> bytes:
        """Return e3."""
        return cbor.encode([self.public_key, self.credential, self.signature, self.psk_name])

    @classmethod
    def of_response(cls, data: bytes) -> Identity:
        """Parse e2.   Raises: RemoteProtocolError."""
        match cbor.decode(data, max_bytes=MAX_IDENTITY_BYTES, max_depth=1):
            case [bytes(public_key), bytes(credential), bytes(signature)]:
                return cls._checked(public_key, credential, signature, None)
            case _:
                raise RemoteProtocolError("the peer's RESP is not an identity")

    @classmethod
    def of_auth(cls, data: bytes) -> Identity:
        """Parse e3.   Raises: RemoteProtocolError."""
        match cbor.decode(data, max_bytes=MAX_IDENTITY_BYTES, max_depth=1):
            case [bytes(public_key), bytes(credential), bytes(signature), None]:
                return cls._checked(public_key, credential, signature, None)
            case [bytes(public_key), bytes(credential), bytes(signature), bytes(psk_name)]:
                return cls._checked(public_key, credential, signature, psk_name)
            case _:
                raise RemoteProtocolError("the peer's AUTH is not an identity")

    @classmethod
    def _checked(
        cls, public_key: bytes, credential: bytes, signature: bytes, psk_name: bytes | None
    ) -> Identity:
        if (
            not 0 < len(public_key) <= MAX_PUBLIC_KEY_BYTES
            or len(credential) > MAX_CREDENTIAL_BYTES
            or not 0 < len(signature) <= MAX_SIGNATURE_BYTES
            or (psk_name is not None and not 0 < len(psk_name) <= MAX_PSK_NAME_BYTES)
        ):
            raise RemoteProtocolError("a member of the peer's identity has no possible size")
        return cls(
            public_key=public_key, credential=credential, signature=signature, psk_name=psk_name
        )


@frozen(kw_only=True)
class LocalIdentity:
    """Who we are in one network; *credential* is empty for a joiner."""

    peer_id: PeerId
    public_key: bytes = field(repr=False)
    credential: bytes = field(repr=False, default=b"")


@frozen(kw_only=True)
class Peer:
    """Who the peer has proven to be."""

    peer_id: PeerId
    public_key: bytes = field(repr=False)
    credential: bytes = field(repr=False)
    """As shown; empty for a joiner."""
    membership: Credential | None = field(repr=False, default=None)
    """The credential, checked but for its expiry; None for a joiner."""
    psk_name: bytes | None = None
