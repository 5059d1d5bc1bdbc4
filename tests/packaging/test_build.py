import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packaging.conftest import ROOT

BACKEND = ROOT / "packaging" / "backend" / "veilnet_build.py"
NAMES = {"LIBCLANG_PATH", "BINDGEN_EXTRA_CLANG_ARGS"}


def run(command, **environment):
    """Run *command* in the tree, without bindgen's variables unless given."""
    clean = {name: value for name, value in os.environ.items() if name not in NAMES}
    return subprocess.run(
        command, env=clean | environment, cwd=ROOT, capture_output=True, text=True, check=True
    )


def test_the_backend_finds_libclang_and_the_compilers_headers():
    """A shell that evaluates what it prints has both variables, and both exist."""
    shown = run(
        ["sh", "-c", f'eval "$({sys.executable} {BACKEND})"; env'],
    ).stdout.splitlines()
    found = dict(line.split("=", 1) for line in shown if line.partition("=")[0] in NAMES)
    assert set(found) == NAMES
    assert any(Path(found["LIBCLANG_PATH"]).glob("libclang*"))
    headers = found["BINDGEN_EXTRA_CLANG_ARGS"].removeprefix("-I")
    assert (Path(headers) / "stddef.h").exists()


@pytest.mark.parametrize("name", sorted(NAMES))
def test_the_users_values_stay(name):
    """Whoever has a libclang of their own keeps it."""
    shown = run([sys.executable, BACKEND], **{name: "/mine"}).stdout
    assert name not in shown
    assert (NAMES - {name}).pop() in shown


def test_a_missing_debian_package_is_named_in_one_line(tmp_path):
    """Without root, `just test` says what is missing and goes on."""
    just = ["just", "debian_tools=no-such-tool-here:its-package true:coreutils", "_debian"]
    # Not root, whoever runs this: EUID is what bash says it is.
    shell = tmp_path / "bash"
    shell.write_text('#!/bin/sh\nexec setpriv --reuid=65534 --clear-groups /bin/bash "$@"\n')
    shell.chmod(0o755)
    command = [just[0], "--shell", str(shell), "--shell-arg", "-euo", "--shell-arg", "pipefail"]
    if os.geteuid() == 0:
        just = [*command, "--shell-arg", "-c", *just[1:]]
    done = run(just)
    assert done.stderr == "not installed, so some tests will skip: its-package\n"
