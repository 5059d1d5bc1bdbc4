"""A wheel of this tree, and an environment that has nothing else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def quiet(command, **options):
    """Run *command*; if it fails, fail the test with the end of what it said."""
    done = subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        **options,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}"
    return done.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The wheel that `pip wheel` makes; shares the target folder, so nothing is built twice."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    quiet([*pip, "--wheel-dir", folder, ROOT])
    (found,) = folder.iterdir()
    return found


@pytest.fixture(scope="session")
def fresh(wheel, tmp_path_factory):
    """Return a function that runs a program of a new environment with the wheel, without network.

    The environment's home is empty, and so is its network namespace.
    """
    folder = tmp_path_factory.mktemp("fresh")
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "VEILNET", "OQS", "PYOQS", "VIRTUAL_ENV"))
    } | {"HOME": str(folder / "home")}
    (folder / "home").mkdir()
    quiet([sys.executable, "-m", "venv", folder / "venv"], env=environment)
    quiet([folder / "venv/bin/pip", "install", "--no-cache-dir", wheel], env=environment)
    namespace = ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-rn"]

    def run(program, *arguments):
        return subprocess.run(
            [*namespace, str(folder / "venv/bin" / program), *arguments],
            env=environment,
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    return run
