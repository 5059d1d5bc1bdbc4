import pytest

CASES = 100


@pytest.mark.parametrize("suite", [1, 2])
def test_every_known_answer_holds(backend, read_rsp, suite):
    """Keys are the FIPS 204 reference's; its signatures hold in their context alone."""
    signatures = backend.signatures(suite)
    cases = 0
    size = signatures.parameters.signature_bytes
    for case in read_rsp(
        f"MLDSA/kat_{signatures.parameters.name.replace('-DSA-', 'DSA_')}_det_pure.rsp"
    ):
        public_key, message, context = (bytes.fromhex(case[name]) for name in ("pk", "msg", "ctx"))
        signed = bytes.fromhex(case["sm"])
        signature = signed[:size]
        assert signed[size:] == message
        assert signatures.key(bytes.fromhex(case["xi"])).public_key == public_key
        assert signatures.verify(public_key, message, signature, context)
        assert not signatures.verify(public_key, message, signature, b"")
        assert not signatures.verify(public_key, message + b"\0", signature, context)
        broken = signature[:100] + bytes([signature[100] ^ 1]) + signature[101:]
        assert not signatures.verify(public_key, message, broken, context)
        cases += 1
    assert cases == CASES
