"""The two backends, and a reader of NIST's .rsp files."""

from collections.abc import Callable, Iterator

import cryptography_vectors
import pytest

from veilnet import crypto

Record = dict[str, str]


@pytest.fixture(scope="session", params=crypto.BACKENDS)
def backend(request):
    """Each backend in turn; never the fallback."""
    loaded = crypto.load(request.param)
    assert loaded.name == request.param, loaded.why
    return loaded


@pytest.fixture(scope="session")
def read_rsp() -> Callable[[str], Iterator[Record]]:
    """Return a function that yields the records of one file of cryptography_vectors."""

    def read(name: str) -> Iterator[Record]:
        record: Record = {}
        with cryptography_vectors.open_vector_file(f"asymmetric/{name}", "r") as file:
            for line in file:
                key, equals, value = line.partition(" =")
                if not equals:
                    continue
                if key == "count" and record:
                    yield record
                    record = {}
                record[key] = value.strip()
        yield record

    return read
