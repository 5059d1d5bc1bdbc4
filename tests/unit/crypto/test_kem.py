from concurrent.futures import ThreadPoolExecutor

import pytest

from veilnet.errors import LocalProtocolError, RemoteProtocolError


def test_the_two_backends_speak_to_each_other(backend, suite):
    """What one backend encapsulates, the other decapsulates from the same 64-byte key."""
    ours, theirs = backend.kem(suite), backend.other.kem(suite)
    ek, dk = ours.generate()
    assert theirs.encapsulation_key(dk) == ek
    ct, secret = theirs.encapsulate(ek)
    assert ours.decapsulate(dk, ct) == secret


def test_encapsulation_is_random(backend, suite):
    """Two encapsulations to one key share neither ciphertext nor secret, and keys differ."""
    kem = backend.kem(suite)
    ek, dk = kem.generate()
    made = [kem.encapsulate(ek) for _ in range(8)]
    assert len({ct for ct, _ in made}) == len({ss for _, ss in made}) == len(made)
    assert kem.generate()[1] != dk


@pytest.mark.parametrize("change", [-1184, -1, 1, 32])
def test_a_key_of_another_length_is_the_peers_fault(backend, suite, change):
    """liboqs would pad a short encapsulation key with zeros; we refuse it."""
    kem = backend.kem(suite)
    ek, _ = kem.generate()
    wrong = ek[:change] if change < 0 else ek + bytes(change)
    with pytest.raises(RemoteProtocolError, match="bytes, not"):
        kem.encapsulate(wrong)


@pytest.mark.parametrize("change", [-1088, -1, 1, 32])
def test_a_ciphertext_of_another_length_is_the_peers_fault(backend, suite, change):
    """liboqs would pad a short ciphertext with zeros; we refuse it."""
    kem = backend.kem(suite)
    ek, dk = kem.generate()
    ct, _ = kem.encapsulate(ek)
    wrong = ct[:change] if change < 0 else ct + bytes(change)
    with pytest.raises(RemoteProtocolError, match="bytes, not"):
        kem.decapsulate(dk, wrong)


@pytest.mark.parametrize("length", [0, 32, 63, 65, 2400])
def test_a_decapsulation_key_of_another_length_is_our_fault(backend, suite, length):
    """A decapsulation key is its seed and nothing else."""
    kem = backend.kem(suite)
    with pytest.raises(LocalProtocolError, match="bytes, not"):
        kem.decapsulate(bytes(length), bytes(kem.parameters.ciphertext_bytes))
    with pytest.raises(LocalProtocolError, match="bytes, not"):
        kem.encapsulation_key(bytes(length))


def test_a_key_above_the_modulus_is_refused(backend, suite):
    """FIPS 203 section 7.2: coefficients of the key are below 3329."""
    kem = backend.kem(suite)
    ek, _ = kem.generate()
    with pytest.raises(RemoteProtocolError, match="is not one"):
        kem.encapsulate(b"\xff\xff\xff" + ek[3:])


def test_a_forged_ciphertext_gives_another_secret_and_no_error(backend, suite):
    """Implicit rejection: deterministic, equal in both backends, and not the true secret."""
    kem = backend.kem(suite)
    ek, dk = kem.generate()
    ct, secret = kem.encapsulate(ek)
    forged = ct[:-1] + bytes([ct[-1] ^ 1])
    rejected = kem.decapsulate(dk, forged)
    assert rejected != secret
    assert (
        rejected == kem.decapsulate(dk, forged) == backend.other.kem(suite).decapsulate(dk, forged)
    )


def test_threads_share_one_object(backend, suite):
    """Eight threads use one Kem at once and every secret comes out right."""
    kem = backend.kem(suite)

    def round_trip(_):
        ek, dk = kem.generate()
        ct, secret = kem.encapsulate(ek)
        return kem.decapsulate(dk, ct) == secret

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(round_trip, range(200)))
