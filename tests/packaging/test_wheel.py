import subprocess
import zipfile

import pytest

from tests.packaging.conftest import ROOT

pytestmark = pytest.mark.slow

NATIVE = {"veilnet/_engine.abi3.so", "veilnet/_native/lib/liboqs.so"}


@pytest.fixture
def names(wheel):
    """The names of the files in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_the_wheel_has_the_package_and_nothing_else(names):
    """Every source file of the package, the two libraries, and no leftovers of the tree."""
    package = ROOT / "python"
    sources = {
        str(path.relative_to(package))
        for path in (package / "veilnet").rglob("*")
        if path.is_file() and path.suffix not in {".pyc", ".so"} and "__pycache__" not in path.parts
    }
    assert len(names) == len(set(names))
    shipped = {name for name in names if ".dist-info/" not in name}
    assert shipped == sources | NATIVE


def test_liboqs_needs_only_the_c_library(wheel, tmp_path):
    """The library loads on a machine that has no OpenSSL of any version."""
    with zipfile.ZipFile(wheel) as archive:
        library = archive.extract("veilnet/_native/lib/liboqs.so", tmp_path)
    dynamic = subprocess.run(
        ["readelf", "--dynamic", library], capture_output=True, text=True, check=True
    ).stdout
    needed = [line.split("[")[1].rstrip("]") for line in dynamic.splitlines() if "(NEEDED)" in line]
    # The dynamic linker itself is named for thread-local storage; it is part of the C library.
    assert [name for name in needed if not name.startswith("ld-linux")] == ["libc.so.6"]


def test_the_wheel_is_for_every_python_from_3_11(wheel):
    """One stable-ABI wheel, not one for each Python."""
    assert "-cp311-abi3-linux_" in wheel.name
