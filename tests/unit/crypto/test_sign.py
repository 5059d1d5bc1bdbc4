import secrets
from concurrent.futures import ThreadPoolExecutor

import pytest

from veilnet.crypto import SUITES, liboqs
from veilnet.errors import LocalProtocolError, RemoteProtocolError

CONTEXT = b"veilnet/test/1"


@pytest.mark.parametrize("message", [b"", b"\0", b"a" * 32, bytes(range(256)) * 300])
@pytest.mark.parametrize("context", [b"", CONTEXT, b"c" * 255])
def test_what_one_backend_signs_the_other_verifies(backend, suite, message, context):
    """A signature crosses the backends with its context, for empty and long messages."""
    ours, theirs = backend.signatures(suite), backend.other.signatures(suite)
    key = ours.key(secrets.token_bytes(32))
    signature = ours.sign(key, message, context)
    assert theirs.verify(key.public_key, message, signature, context)
    assert not theirs.verify(key.public_key, message + b"x", signature, context)
    assert not theirs.verify(key.public_key, message, signature, context[1:] or b"other")


def test_a_seed_gives_one_public_key(backend, suite):
    """The key on disk is a seed, so a change of backend must not change who the node is."""
    seed = secrets.token_bytes(32)
    key = backend.signatures(suite).key(seed)
    assert key.public_key == backend.other.signatures(suite).key(seed).public_key
    assert key.public_key != backend.signatures(suite).key(seed[::-1]).public_key


def test_another_key_or_a_flipped_bit_fails(backend, suite):
    """Verification answers False, and does not raise, for what is merely wrong."""
    signatures = backend.signatures(suite)
    key, other = (signatures.key(secrets.token_bytes(32)) for _ in range(2))
    signature = signatures.sign(key, b"m", CONTEXT)
    assert signatures.verify(key.public_key, b"m", signature, CONTEXT)
    assert not signatures.verify(other.public_key, b"m", signature, CONTEXT)
    for position in (0, len(signature) // 2, len(signature) - 1):
        broken = bytearray(signature)
        broken[position] ^= 0x80
        assert not signatures.verify(key.public_key, b"m", bytes(broken), CONTEXT)
    assert not signatures.verify(key.public_key, b"m", bytes(len(signature)), CONTEXT)


def test_signing_is_hedged(backend, suite):
    """Two signatures of one message differ: fresh randomness guards against fault attacks."""
    signatures = backend.signatures(suite)
    key = signatures.key(bytes(32))
    assert signatures.sign(key, b"m", CONTEXT) != signatures.sign(key, b"m", CONTEXT)


@pytest.mark.parametrize("change", [-1952, -1, 1])
@pytest.mark.parametrize("what", ["key", "signature"])
def test_another_length_is_the_peers_fault(backend, suite, change, what):
    """liboqs would pad a short public key with zeros; we refuse it."""
    signatures = backend.signatures(suite)
    key = signatures.key(bytes(32))
    values = {"key": key.public_key, "signature": signatures.sign(key, b"m", CONTEXT)}
    value = values[what]
    values[what] = value[:change] if change < 0 else value + bytes(change)
    with pytest.raises(RemoteProtocolError, match="bytes, not"):
        signatures.verify(values["key"], b"m", values["signature"], CONTEXT)


def test_our_own_mistakes_are_named(backend, suite):
    """A long context, a seed of another length and a key of another suite are our fault."""
    signatures = backend.signatures(suite)
    key = signatures.key(bytes(32))
    with pytest.raises(LocalProtocolError, match="context"):
        signatures.sign(key, b"m", b"c" * 256)
    with pytest.raises(LocalProtocolError, match="seed"):
        signatures.key(bytes(33))
    with pytest.raises(LocalProtocolError, match="cannot sign"):
        backend.signatures(3 - suite).sign(key, b"m", CONTEXT)


def test_a_key_shows_no_secret(backend, suite):
    """Neither the repr nor str of a signing key carries its seed or its expanded form."""
    seed = b"\x5a" * 32
    shown = repr(backend.signatures(suite).key(seed))
    assert "5a5a" not in shown
    assert "ZZZZ" not in shown
    assert len(shown) < 120


def test_threads_share_one_object(backend, suite):
    """Eight threads sign and verify with one key at once and every signature holds."""
    signatures = backend.signatures(suite)
    key = signatures.key(bytes(32))

    def round_trip(number):
        message = number.to_bytes(4)
        signature = signatures.sign(key, message, CONTEXT)
        return signatures.verify(key.public_key, message, signature, CONTEXT)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(round_trip, range(100)))


def test_a_seed_never_leaks_into_another_threads_key(suite):
    """Seeded key generation lends its seed to the calling thread alone (rust/oqs/src/shim.c)."""
    signatures = liboqs.signatures(SUITES[suite].signature)
    oqs = liboqs.load()
    seeds = [number.to_bytes(32) for number in range(8)]
    expected = [signatures.key(seed).public_key for seed in seeds]

    def random_key(_):
        with oqs.Signature(signatures.parameters.name) as pair:
            return pair.generate_keypair()

    with ThreadPoolExecutor(8) as pool:
        seeded = [pool.submit(signatures.key, seed) for seed in seeds * 20]
        random = [pool.submit(random_key, None) for _ in range(160)]
        assert [job.result().public_key for job in seeded] == expected * 20
        drawn = {job.result() for job in random}
    assert len(drawn) == len(random)
    assert drawn.isdisjoint(expected)
