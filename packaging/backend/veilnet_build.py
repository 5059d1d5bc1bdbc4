"""PEP 517 backend: maturin's, after telling bindgen where libclang is.

oqs-sys runs bindgen, which wants libclang, and CMake.  Both come from PyPI as build requirements,
but a wheel cannot set environment variables, and the libclang wheel lacks the compiler's own
headers (stddef.h), so these two variables are set here unless the user set them.
``python packaging/backend/veilnet_build.py`` prints them for a shell: the justfile uses that.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path


def variables() -> dict[str, str]:
    """Return the variables bindgen needs and the user did not set."""
    found: dict[str, str] = {}
    if "LIBCLANG_PATH" not in os.environ:
        spec = find_spec("clang")
        for folder in (spec.submodule_search_locations or []) if spec else []:
            native = Path(folder) / "native"
            if any(native.glob("libclang*")):
                found["LIBCLANG_PATH"] = str(native)
    if "BINDGEN_EXTRA_CLANG_ARGS" not in os.environ:
        compiler = shutil.which(os.environ.get("CC", "cc"))
        if compiler:
            asked = subprocess.run(
                [compiler, "-print-file-name=include"], capture_output=True, text=True, check=False
            )
            headers = asked.stdout.strip()
            # gcc answers the bare word "include" where it has no such folder.
            if asked.returncode == 0 and Path(headers).is_absolute():
                found["BINDGEN_EXTRA_CLANG_ARGS"] = f"-I{headers}"
    return found


if __name__ == "__main__":
    for name, value in variables().items():
        print(f"export {name}={value!r}")
else:
    os.environ.update(variables())
    from maturin import (
        build_editable,
        build_sdist,
        build_wheel,
        get_requires_for_build_editable,
        get_requires_for_build_sdist,
        get_requires_for_build_wheel,
        prepare_metadata_for_build_editable,
        prepare_metadata_for_build_wheel,
    )

    __all__ = [
        "build_editable",
        "build_sdist",
        "build_wheel",
        "get_requires_for_build_editable",
        "get_requires_for_build_sdist",
        "get_requires_for_build_wheel",
        "prepare_metadata_for_build_editable",
        "prepare_metadata_for_build_wheel",
    ]
