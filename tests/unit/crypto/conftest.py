"""The two backends; a test that names neither runs on both."""

import pytest

from veilnet import crypto


@pytest.fixture(scope="session", params=crypto.BACKENDS)
def backend(request):
    """Each backend in turn; never the fallback."""
    loaded = crypto.load(request.param)
    assert loaded.name == request.param, loaded.why
    return loaded


@pytest.fixture(params=sorted(crypto.SUITES))
def suite(request):
    """Each suite in turn."""
    return request.param
