"""Work for another thread: KEM and signatures, as actions of a machine and events for it.

```
machine -> action with run(primitives)    event loop: await to_thread.run_sync(perform, action, ...)
        <- the event that perform returns
```
An action holds everything it needs and touches nothing of the machine, so it may run anywhere,
late, or never.  `perform` never raises a `VeilError`: what went wrong is an event as well.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Any, Protocol

from attrs import field, frozen

from veilnet.crypto.identity import peer_id as peer_id_of
from veilnet.errors import PeerMisbehaved, RemoteProtocolError, VeilError
from veilnet.protocol.identity import Identity, Peer

if TYPE_CHECKING:
    from collections.abc import Callable

    from veilnet.crypto.kem import Kem
    from veilnet.crypto.sign import Signatures
    from veilnet.networks.credential import Credential
    from veilnet.units import PeerId


class Signer(Protocol):
    """What signs as this node: `veilnet.crypto.Identity`."""

    def sign(self, message: bytes, context: bytes) -> bytes:
        """Return the signature of *message* in *context*."""
        ...


@frozen(kw_only=True)
class Primitives:
    """What the actions work with: one suite's algorithms, our key and one network's rules."""

    kem: Kem
    signatures: Signatures[Any]
    signer: Signer
    check_credential: Callable[[bytes], Credential | None]
    """Returns the credential if it is one of the network's, expired or not; else a VeilError.

    None: the network has no credentials, and none was shown.

    In full mode `networks.credential.verify`; a joiner, who has no genesis yet, only decodes.
    """


# --- results ----------------------------------------------------------------------------------


@frozen
class KemGenerated:
    """A fresh key pair."""

    ek: bytes = field(repr=False)
    dk: bytes = field(repr=False)


@frozen
class Encapsulated:
    """A ciphertext for the peer and the secret in it."""

    ct: bytes = field(repr=False)
    ss: bytes = field(repr=False)


@frozen
class Decapsulated:
    """The secret in the peer's ciphertext; None if that cannot be one."""

    candidate: int
    ss: bytes | None = field(repr=False)


@frozen
class Signed:
    """Our signature."""

    signature: bytes = field(repr=False)


@frozen
class PeerVerified:
    """The peer is who the handshake expected, and a member."""

    peer: Peer


@frozen
class WorkFailed:
    """The peer is not who it says, or an algorithm refused; the handshake ends."""

    error: VeilError


Result = KemGenerated | Encapsulated | Decapsulated | Signed | PeerVerified | WorkFailed


# --- actions ----------------------------------------------------------------------------------


@frozen
class GenerateKem:
    """Make a fresh KEM key pair."""

    def run(self, primitives: Primitives) -> Result:
        """Return `KemGenerated`."""
        return KemGenerated(*primitives.kem.generate())


@frozen
class Encapsulate:
    """Encapsulate to the peer's key."""

    ek: bytes = field(repr=False)

    def run(self, primitives: Primitives) -> Result:
        """Return `Encapsulated`.   Raises: RemoteProtocolError: *ek* is no key."""
        return Encapsulated(*primitives.kem.encapsulate(self.ek))


@frozen
class Decapsulate:
    """Decapsulate the ciphertext of one candidate."""

    candidate: int
    dk: bytes = field(repr=False)
    ct: bytes = field(repr=False)

    def run(self, primitives: Primitives) -> Result:
        """Return `Decapsulated`."""
        try:
            return Decapsulated(self.candidate, primitives.kem.decapsulate(self.dk, self.ct))
        except RemoteProtocolError:
            # Not the peer's fault: anybody may have sent this candidate.
            return Decapsulated(self.candidate, None)


@frozen
class Sign:
    """Sign with our identity's key."""

    message: bytes = field(repr=False)
    context: bytes

    def run(self, primitives: Primitives) -> Result:
        """Return `Signed`."""
        signature = primitives.signer.sign(self.message, self.context)
        return Signed(signature)


@frozen(kw_only=True)
class VerifyPeer:
    """Check that the peer signed this very handshake, and that it may be here."""

    identity: Identity
    transcript: bytes = field(repr=False)
    """th2 or th3; the peer ids that stand behind it are added by `run`."""
    context: bytes
    expected: PeerId | None
    """Who must have signed; None at the responder, who learns it here."""
    responder: PeerId
    member: bool
    """Whether the peer needs a credential; a joiner has none yet."""

    def run(self, primitives: Primitives) -> Result:
        """Return `PeerVerified`.

        Raises: PeerMisbehaved: another identity, or not its signature; or what the credential
        check raises.
        """
        identity = self.identity
        algorithm = primitives.signatures.parameters.name
        peer_id = peer_id_of(identity.public_key, algorithm)
        if self.expected is not None and not hmac.compare_digest(peer_id, self.expected):
            raise PeerMisbehaved(
                f"the node that answered is {peer_id.hex()[:12]}, not {self.expected.hex()[:12]}"
            )
        # The responder signs its own id, the initiator its own and then the responder's.
        ids = self.responder if self.expected is not None else peer_id + self.responder
        if not primitives.signatures.verify(
            identity.public_key, self.transcript + ids, identity.signature, self.context
        ):
            raise PeerMisbehaved(f"node {peer_id.hex()[:12]} did not sign this handshake")
        membership = None
        if self.member:
            membership = primitives.check_credential(identity.credential)
            if membership is not None and membership.peer_id != peer_id:
                raise PeerMisbehaved(f"node {peer_id.hex()[:12]} shows the credential of another")
        elif identity.credential:
            raise PeerMisbehaved("a node that joins has no credential to show")
        peer = Peer(
            peer_id=peer_id,
            public_key=identity.public_key,
            credential=identity.credential,
            membership=membership,
            psk_name=identity.psk_name,
        )
        return PeerVerified(peer)


Work = GenerateKem | Encapsulate | Decapsulate | Sign | VerifyPeer


def perform(action: Work, primitives: Primitives) -> Result:
    """Do the work of *action*, in any thread, and return the event for its machine."""
    try:
        return action.run(primitives)
    except VeilError as error:
        return WorkFailed(error)
