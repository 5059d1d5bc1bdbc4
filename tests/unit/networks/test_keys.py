import hashlib
import hmac

from veilnet.networks import keys


def hkdf_expand(secret, info, length=32):
    """RFC 5869 section 2.3, written out, with SHA-384."""
    block = hmac.new(secret, info + b"\x01", hashlib.sha384).digest()
    return block[:length]


def test_derivations_are_hkdf_expand_with_the_labels_of_the_design():
    """Each key is Expand(secret, label [|| peer id]), checked against another implementation."""
    secret, peer_id = bytes(range(32)), bytes(range(32, 64))
    assert keys.door_key(secret, peer_id) == hkdf_expand(secret, b"veilnet/door" + peer_id)
    assert keys.join_secret(secret) == hkdf_expand(secret, b"veilnet/join/key")
    assert keys.join_door_key(secret) == hkdf_expand(secret, b"veilnet/join/door")


def test_no_two_keys_meet():
    """One secret gives different keys for each use and each peer."""
    secret = bytes(32)
    made = [
        keys.door_key(secret, bytes(32)),
        keys.door_key(secret, bytes(31) + b"\x01"),
        keys.join_secret(secret),
        keys.join_door_key(secret),
    ]
    assert len(set(made)) == 4
