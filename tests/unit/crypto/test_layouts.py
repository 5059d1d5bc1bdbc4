import ctypes

import pytest

from veilnet.crypto import SUITES, liboqs


class DlInfo(ctypes.Structure):
    """Dl_info of dladdr(3)."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def symbol_at(pointer):
    """Return the file and the name of the function that *pointer* is the first byte of."""
    info = DlInfo()
    assert ctypes.CDLL(None).dladdr(ctypes.c_void_p(pointer), ctypes.byref(info))
    assert info.address == pointer
    return info.file.decode(), info.symbol.decode()


@pytest.mark.parametrize("suite", sorted(SUITES))
def test_oqs_kem_is_laid_out_as_ctypes_believes(suite):
    """Every function pointer of OQS_KEM is the function its field names, in our library."""
    parameters = SUITES[suite].kem
    kem = liboqs.load().KeyEncapsulation(parameters.name)._kem.contents
    prefix = "OQS_KEM_" + parameters.name.lower().replace("-", "_")
    for field, function in (
        ("keypair_derand_cb", "keypair_derand"),
        ("keypair_cb", "keypair"),
        ("encaps_cb", "encaps"),
        ("decaps_cb", "decaps"),
    ):
        file, symbol = symbol_at(getattr(kem, field))
        assert symbol == f"{prefix}_{function}"
        assert file == str(liboqs.shipped_library())
    assert kem.ind_cca
    assert kem.method_name.decode() == parameters.name


@pytest.mark.parametrize("suite", sorted(SUITES))
def test_oqs_sig_is_laid_out_as_ctypes_believes(suite):
    """Every function pointer of OQS_SIG is the function its field names, in our library."""
    parameters = SUITES[suite].signature
    sig = liboqs.load().Signature(parameters.name)._sig.contents
    prefix = "OQS_SIG_" + parameters.name.lower().replace("-", "_")
    for field, function in (
        ("keypair_cb", "keypair"),
        ("sign_cb", "sign"),
        ("sign_with_ctx_cb", "sign_with_ctx_str"),
        ("verify_cb", "verify"),
        ("verify_with_ctx_cb", "verify_with_ctx_str"),
    ):
        file, symbol = symbol_at(getattr(sig, field))
        assert symbol == f"{prefix}_{function}"
        assert file == str(liboqs.shipped_library())
    assert sig.euf_cma
    assert sig.sig_with_ctx_support
    assert sig.method_name.decode() == parameters.name
