from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from veilnet import crypto
from veilnet.errors import PeerMisbehaved, RemoteProtocolError
from veilnet.protocol import work
from veilnet.protocol.identity import AUTH_CONTEXT, RESPONSE_CONTEXT, Identity
from veilnet.protocol.work import Primitives, VerifyPeer, perform

BACKEND = crypto.load("cryptography")
INITIATOR, RESPONDER, OTHER = (crypto.Identity.create(BACKEND) for _ in range(3))
TRANSCRIPT = b"t" * 48


def primitives(signer: crypto.Identity, shown: crypto.Identity | None = None) -> Primitives:
    """Primitives of a node whose network knows a credential of *shown*."""

    def check(credential: bytes) -> Any:
        if shown is None or credential != b"credential":
            raise RemoteProtocolError("not a credential of this network")
        return SimpleNamespace(peer_id=shown.peer_id)

    return Primitives(
        kem=BACKEND.kem(1), signatures=BACKEND.signatures(1), signer=signer, check_credential=check
    )


def response(signer: crypto.Identity, *, names: crypto.Identity = RESPONDER) -> VerifyPeer:
    """RESP of *signer*, which signs that it is *names*."""
    signature = signer.sign(TRANSCRIPT + names.peer_id, RESPONSE_CONTEXT)
    identity = Identity(public_key=signer.public_key, credential=b"credential", signature=signature)
    return VerifyPeer(
        identity=Identity.of_response(identity.response()),
        transcript=TRANSCRIPT,
        context=RESPONSE_CONTEXT,
        expected=RESPONDER.peer_id,
        responder=RESPONDER.peer_id,
        member=True,
    )


def auth(signer: crypto.Identity, *, credential: bytes, member: bool) -> VerifyPeer:
    """AUTH of *signer*."""
    signed = TRANSCRIPT + signer.peer_id + RESPONDER.peer_id
    identity = Identity(
        public_key=signer.public_key,
        credential=credential,
        signature=signer.sign(signed, AUTH_CONTEXT),
    )
    return VerifyPeer(
        identity=Identity.of_auth(identity.auth()),
        transcript=TRANSCRIPT,
        context=AUTH_CONTEXT,
        expected=None,
        responder=RESPONDER.peer_id,
        member=member,
    )


def test_true_peers_verify():
    """RESP of the expected responder, AUTH of a member and of a joiner."""
    result = perform(response(RESPONDER), primitives(INITIATOR, RESPONDER))
    assert isinstance(result, work.PeerVerified)
    assert result.peer.peer_id == RESPONDER.peer_id
    member = auth(INITIATOR, credential=b"credential", member=True)
    result = perform(member, primitives(RESPONDER, INITIATOR))
    assert isinstance(result, work.PeerVerified)
    assert result.peer.peer_id == INITIATOR.peer_id
    joiner = auth(INITIATOR, credential=b"", member=False)
    result = perform(joiner, primitives(RESPONDER))
    assert isinstance(result, work.PeerVerified)
    assert result.peer.membership is None


@pytest.mark.parametrize(
    ("action", "shown"),
    [
        pytest.param(response(OTHER), OTHER, id="another responder"),
        pytest.param(response(RESPONDER, names=OTHER), RESPONDER, id="another id signed"),
        pytest.param(response(RESPONDER), OTHER, id="somebody else's credential"),
        pytest.param(response(RESPONDER), None, id="no member"),
        pytest.param(
            attrs.evolve(response(RESPONDER), transcript=b"T" + TRANSCRIPT[1:]),
            RESPONDER,
            id="another handshake",
        ),
        pytest.param(
            attrs.evolve(response(RESPONDER), context=AUTH_CONTEXT), RESPONDER, id="other context"
        ),
        pytest.param(
            attrs.evolve(
                auth(INITIATOR, credential=b"credential", member=True), responder=OTHER.peer_id
            ),
            INITIATOR,
            id="meant for another responder",
        ),
        pytest.param(
            auth(INITIATOR, credential=b"credential", member=False),
            INITIATOR,
            id="joiner shows one",
        ),
        pytest.param(
            auth(INITIATOR, credential=b"", member=True), INITIATOR, id="member shows none"
        ),
    ],
)
def test_anything_else_is_the_peers_fault(action, shown):
    """Each way in which an identity can be wrong ends in an error of the peer."""
    result = perform(action, primitives(RESPONDER, shown))
    assert isinstance(result, work.WorkFailed)
    assert isinstance(result.error, PeerMisbehaved | RemoteProtocolError)


def test_kem_work_agrees():
    """What one side encapsulates the other decapsulates."""
    tools = primitives(INITIATOR)
    generated = perform(work.GenerateKem(), tools)
    assert isinstance(generated, work.KemGenerated)
    sent = perform(work.Encapsulate(generated.ek), tools)
    assert isinstance(sent, work.Encapsulated)
    got = perform(work.Decapsulate(3, generated.dk, sent.ct), tools)
    assert got == work.Decapsulated(3, sent.ss)


def test_bad_kem_input_is_an_event():
    """A key or a ciphertext of another length never raises out of the worker."""
    tools = primitives(INITIATOR)
    assert isinstance(perform(work.Encapsulate(b"short"), tools), work.WorkFailed)
    generated = perform(work.GenerateKem(), tools)
    assert isinstance(generated, work.KemGenerated)
    assert perform(work.Decapsulate(0, generated.dk, b"short"), tools) == work.Decapsulated(0, None)


def test_signing():
    """`Sign` gives what `VerifyPeer` wants."""
    signed = perform(work.Sign(b"message", b"context"), primitives(INITIATOR))
    assert isinstance(signed, work.Signed)
    assert BACKEND.signatures(1).verify(
        INITIATOR.public_key, b"message", signed.signature, b"context"
    )
