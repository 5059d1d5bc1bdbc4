"""What a step looks for: a network of ours or the commons, with the secret its members share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from attrs import field, frozen
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

if TYPE_CHECKING:
    from veilnet.networks.commons import Realm
    from veilnet.units import NetworkId, PeerId

DAY_S: Final = 86_400


@frozen
class Scope:
    """A network by what finding its members needs.

    The commons is one too; its secret is a hash of its name, which everybody knows.
    """

    network_id: NetworkId
    peer_id: PeerId
    """Who this node is in it."""
    secret: bytes = field(repr=False)
    public: bool = False
    """Whether anybody may be a member, so that there may be very many near us."""

    @classmethod
    def of(cls, realm: Realm) -> Scope:
        """Return the scope of a network or of the commons."""
        from veilnet.networks.commons import Commons

        return cls(realm.id, realm.peer_id, realm.k_net, public=isinstance(realm, Commons))

    def key(self, label: bytes, day: int, *, length: int = 32) -> bytes:
        """Return what members derive for *label* on one day (unix seconds // DAY_S).

        Source: RFC 5869 section 2.3, HKDF-Expand with SHA-384 as in `networks.keys`.
        """
        info = b"veilnet/" + label + day.to_bytes(8, "big")
        return HKDFExpand(algorithm=SHA384(), length=length, info=info).derive(self.secret)
