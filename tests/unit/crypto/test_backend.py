import attrs
import pytest

from veilnet import crypto
from veilnet.crypto import liboqs, pyca, selftest
from veilnet.errors import InternalError, LocalProtocolError, UsageError


def test_liboqs_is_the_default():
    """Nothing asked for means liboqs, the wheel's own library, checked by cryptography."""
    backend = crypto.load()
    assert (backend.name, backend.why) == ("liboqs", "asked for")
    assert backend.library == liboqs.shipped_library()
    assert backend.other is not None
    assert backend.other.name == "cryptography"


def test_without_liboqs_cryptography_takes_over_and_says_why(monkeypatch, tmp_path):
    """A wheel without its library still works, and status can tell the reason."""
    monkeypatch.setattr(liboqs, "shipped_library", lambda: tmp_path / "liboqs.so")
    backend = crypto.load("liboqs")
    assert backend.name == "cryptography"
    assert str(tmp_path) in backend.why
    assert backend.other is None
    identity = crypto.Identity.create(backend)
    assert backend.signatures(1).verify(identity.public_key, b"m", identity.sign(b"m", b"c"), b"c")


def test_an_unknown_backend_or_suite_is_the_callers_fault():
    """Names come from a flag, numbers from a genesis that was checked before."""
    with pytest.raises(UsageError, match="openssl"):
        crypto.load("openssl")
    with pytest.raises(LocalProtocolError, match="suite 3"):
        crypto.load().kem(3)


class WrongSecret(pyca.PycaKem):
    """A KEM whose secrets are off by one bit."""

    def _decapsulate(self, seed, ciphertext):
        secret = super()._decapsulate(seed, ciphertext)
        return secret[:-1] + bytes([secret[-1] ^ 1])


class NoImplicitRejection(pyca.PycaKem):
    """A KEM that forgets z, the secret half of the seed that answers forgeries."""

    def _decapsulate(self, seed, ciphertext):
        return super()._decapsulate(seed[:32] + bytes(32), ciphertext)


class ForgetsContext(pyca.PycaSignatures):
    """Signatures that ignore the context: consistent with themselves, wrong to others."""

    def _sign(self, key, message, context):
        return super()._sign(key, message, b"")

    def _verify(self, public_key, message, signature, context):
        return super()._verify(public_key, message, signature, b"")


class AcceptsAll(pyca.PycaSignatures):
    """Signatures that hold whatever they say."""

    def _verify(self, public_key, message, signature, context):
        return True


@pytest.mark.parametrize(
    ("field", "broken"),
    [
        ("_kem", WrongSecret),
        ("_kem", NoImplicitRejection),
        ("_signatures", ForgetsContext),
        ("_signatures", AcceptsAll),
    ],
)
def test_a_broken_backend_does_not_pass_the_self_test(field, broken):
    """Each kind of breakage is noticed against the other backend, in either role."""
    good = crypto.load("liboqs")
    bad = attrs.evolve(crypto.load("cryptography"), **{field.lstrip("_"): broken})
    for pair in ((good, bad), (bad, good)):
        with pytest.raises(InternalError, match="disagree"):
            selftest.check(*pair)
