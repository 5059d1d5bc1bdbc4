"""Importing liboqs-python is dangerous, so every case runs in a process of its own."""

import os
import shutil
import subprocess
import sys
import textwrap

import pytest

from veilnet.crypto import liboqs


@pytest.fixture
def run(tmp_path):
    """Return a function that runs Python code where no git may start and no home exists."""
    (tmp_path / "bin").mkdir()
    for name in ("git", "cmake"):
        tool = tmp_path / "bin" / name
        tool.write_text(f"#!/bin/sh\ntouch {tmp_path}/{name}-was-started\nexit 1\n")
        tool.chmod(0o755)

    def run(code, **environment):
        before = set(tmp_path.iterdir())
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            env={
                **os.environ,
                "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
                "HOME": str(tmp_path / "home"),
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert set(tmp_path.iterdir()) == before, "liboqs-python tried to install itself"
        return done

    return run


def test_loading_prints_nothing(run):
    """Neither the greeting on stdout nor the warning about versions reaches anybody."""
    done = run("from veilnet import crypto; assert crypto.load().name == 'liboqs'")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_loading_leaves_no_trace(run):
    """Environment, logging and ctypes are as before; warnings still work."""
    done = run(
        """
        import ctypes.util, logging, os, warnings
        before = dict(os.environ), ctypes.util.find_library, list(warnings.filters)
        from veilnet.crypto import liboqs
        between = list(warnings.filters)
        liboqs.load()
        assert before[:2] == (dict(os.environ), ctypes.util.find_library)
        assert between == warnings.filters
        assert not logging.getLogger("oqs.oqs").handlers
        assert not logging.getLogger("oqs.oqs").disabled
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_importing_the_package_loads_no_library(run):
    """`import veilnet.crypto` is cheap and cannot fail for want of a library."""
    done = run("import sys, veilnet.crypto; sys.exit('oqs' in sys.modules)")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("content", [None, b"", b"not a library"])
def test_a_missing_or_broken_library_is_an_error_at_once(run, tmp_path, content):
    """No countdown, no clone, no SystemExit, and liboqs-python is not even imported."""
    library = tmp_path / "lib" / "liboqs.so"
    library.parent.mkdir()
    if content is not None:
        library.write_bytes(content)
    done = run(
        f"""
        import pathlib, sys
        from veilnet.crypto import liboqs
        try:
            liboqs.load(pathlib.Path({str(library)!r}))
        except liboqs.LiboqsUnavailable as error:
            print(error.message)
        sys.exit('oqs' in sys.modules)
        """
    )
    assert done.returncode == 0, done.stderr
    assert str(library) in done.stdout
    assert done.stderr == ""


def test_a_library_without_our_symbols_is_refused(run):
    """A liboqs that is not ours lacks seeded key generation, and says so."""
    done = run(
        """
        import ctypes.util, pathlib, _ctypes
        from veilnet.crypto import liboqs
        try:
            liboqs.load(pathlib.Path(_ctypes.__file__))
        except liboqs.LiboqsUnavailable as error:
            print(error.message)
        """
    )
    assert "lacks OQS_KEM_keypair_derand" in done.stdout


def test_decoys_of_the_system_are_not_loaded(run, tmp_path):
    """Neither OQS_INSTALL_PATH, LD_LIBRARY_PATH nor ~/_oqs chooses our library."""
    decoy = tmp_path / "decoy"
    for folder in (decoy / "lib", tmp_path / "home" / "_oqs" / "lib"):
        folder.mkdir(parents=True)
        shutil.copy(liboqs.shipped_library(), folder / "liboqs.so")
    done = run(
        """
        from veilnet.crypto import liboqs
        liboqs.load()
        print(*{line.split()[-1] for line in open("/proc/self/maps") if "liboqs" in line})
        """,
        OQS_INSTALL_PATH=str(decoy),
        LD_LIBRARY_PATH=str(decoy / "lib"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [str(liboqs.shipped_library())]


def test_a_foreign_import_of_oqs_is_noticed(run, tmp_path):
    """If somebody imported oqs on another library first, cryptography takes over and says why."""
    (tmp_path / "lib").mkdir()
    shutil.copy(liboqs.shipped_library(), tmp_path / "lib" / "liboqs.so")
    done = run(
        """
        import oqs
        from veilnet import crypto
        backend = crypto.load()
        print(backend.name, backend.why)
        """,
        OQS_INSTALL_PATH=str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    assert f"cryptography liboqs-python runs on {tmp_path}/lib/liboqs.so" in done.stdout
