import pytest

CASES = 1000


@pytest.mark.parametrize("suite", [1, 2])
def test_every_known_answer_holds(backend, read_rsp, suite):
    """Keys, shared secrets and implicit rejections are those of the FIPS 203 reference."""
    kem = backend.kem(suite)
    cases = 0
    for case in read_rsp(f"MLKEM/kat_{kem.parameters.name.replace('-KEM-', 'KEM_')}.rsp"):
        dk = bytes.fromhex(case["d"] + case["z"])
        assert kem.encapsulation_key(dk).hex() == case["pk"]
        assert kem.decapsulate(dk, bytes.fromhex(case["ct"])).hex() == case["ss"]
        assert kem.decapsulate(dk, bytes.fromhex(case["ct_n"])).hex() == case["ss_n"]
        cases += 1
    assert cases == CASES
