"""Joining: what the issuer hands over in join mode, and what the joiner believes of it.

```
joiner                                          issuer
JoinRequest(name, endpoints)  -------------->   Issuer.admit (off the loop: disk, signature)
                              <--------------   grant(...) -> JoinGrant, or refuse(...)
accept(...) -> Network, or Refused.heard(code, reason)

member                                          issuer
Renew(serial)                 -------------->   Issuer.renew (off the loop), Network.welcome
Network.adopt                 <--------------   RenewGrant(credential), or refuse_renewal(...)
```
The joiner trusts the network id and the inviter's peer id of its invite, and nothing else: the
genesis must hash to the first, and all else must be signed by an owner that the genesis names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from veilnet.errors import RemoteProtocolError
from veilnet.networks import credential as credentials
from veilnet.networks.genesis import Genesis
from veilnet.networks.member import Member, check_key
from veilnet.networks.members import MemberTable
from veilnet.networks.names import is_name
from veilnet.networks.network import DEFAULT_NAME, Network, check_suite
from veilnet.networks.refusal import Refusal, Refused
from veilnet.protocol.messages import MAX_MEMBERS, JoinGrant, JoinRefuse, RenewRefuse

if TYPE_CHECKING:
    from collections.abc import Iterable

    from veilnet.errors import VeilError
    from veilnet.networks.credential import Signer
    from veilnet.networks.invite import Invite
    from veilnet.networks.issuer import Admission
    from veilnet.networks.network import SignatureBackend

_MAX_REASON_CHARACTERS = 256


def grant(
    network: Network,
    admission: Admission,
    *,
    public_key: bytes,
    endpoints: Iterable[tuple[str, int]],
    now: int,
) -> JoinGrant:
    """Enter the new member in our table and return what it needs to begin.

    *endpoints*: where the joiner was observed, then where it says that it listens.  The message
    carries ourselves and the most recent other members; the rest comes by `MembersKnown`.
    """
    joiner = network.welcome(admission, public_key, endpoints, now)
    others = network.members.latest(MAX_MEMBERS - 1, network.peer_id, joiner.peer_id)
    own = network.members.get(network.peer_id) or network.own
    return JoinGrant(
        genesis=network.genesis.encoding,
        network_name=network.name,
        k_net=network.k_net,
        credential=admission.encoding,
        members=tuple(item.entry() for item in (own, *others)),
    )


def refuse(error: VeilError) -> JoinRefuse:
    """Return the message that says why nobody was admitted."""
    code, reason = _reason(error)
    return JoinRefuse(code=code, reason=reason)


def refuse_renewal(error: VeilError) -> RenewRefuse:
    """Return the message that says why a credential was not renewed."""
    code, reason = _reason(error)
    return RenewRefuse(code=code, reason=reason)


def _reason(error: VeilError) -> tuple[int, str]:
    if isinstance(error, Refused):
        return int(error.refusal), error.message[:_MAX_REASON_CHARACTERS]
    # Our disk and our bugs are none of a stranger's business.
    return int(Refusal.OTHER), "the issuer cannot sign at present"


def accept(
    message: JoinGrant,
    invite: Invite,
    signer: Signer,
    backend: SignatureBackend,
    *,
    now: int,
) -> Network:
    """Return the network that *message* lets us into, everything in it verified; not yet saved.

    Verifies up to nine signatures: half a millisecond.
    Raises: RemoteProtocolError: the inviter sent something false; PeerIncompatible: the network
    needs another release or another kind of identity.
    """
    genesis = Genesis.decode(message.genesis)
    if genesis.network_id != invite.network_id:
        raise RemoteProtocolError("the inviter let us into another network than it invited to")
    check_suite(genesis, signer)
    signatures = backend.signatures(genesis.suite)
    credential = credentials.verify(message.credential, genesis, signatures)
    check_key(signer.public_key, credential, genesis)
    own = Member(signer.public_key, credential, message.credential)
    table = MemberTable((own,), pinned=(own.peer_id, *genesis.owner_ids))
    entries = table.verify(message.members, genesis, signatures)
    merged = table.merge(entries, now, teller=invite.inviter)
    if merged.refused:
        raise RemoteProtocolError("the inviter's member table contradicts itself")
    if invite.inviter not in table:
        raise RemoteProtocolError("the inviter is no member of the network it invited to")
    # The invite's endpoints are as good as an observation: the inviter named them itself.
    inviter = table.get(invite.inviter)
    if inviter is not None and not inviter.endpoints:
        table.observe(invite.inviter, invite.endpoints, now)
    name = message.network_name if is_name(message.network_name) else DEFAULT_NAME
    network = Network(genesis, name=name, k_net=message.k_net, own=own, since=now, members=table)
    if not network.is_valid(credential, now):
        raise RemoteProtocolError("the inviter gave us a credential that has expired already")
    return network


__all__ = ["Refusal", "Refused", "accept", "grant", "refuse", "refuse_renewal"]
