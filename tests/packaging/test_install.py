import json

import pytest

pytestmark = pytest.mark.slow

# What no import may do, whether or not it would succeed.  (trio looks for libpthread with
# `ldconfig -p` when it is imported, which is why it is no part of `import veilnet`.)
WATCH = """
import sys
def watch(event, arguments):
    ldconfig = event == "subprocess.Popen" and arguments[0].endswith("ldconfig")
    if event in {"socket.connect", "socket.getaddrinfo", "os.system", "subprocess.Popen"}:
        if ldconfig and "trio" in sys.modules:
            return
        raise SystemExit(f"import did {event} {arguments}")
sys.addaudithook(watch)
"""


def test_importing_prints_nothing_and_asks_nobody(fresh):
    """`import veilnet` is silent, starts no program and opens no connection."""
    done = fresh("python", "-c", WATCH + "import veilnet, veilnet.crypto, veilnet._engine")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_module_imports_with_the_declared_dependencies(fresh):
    """No module needs a package that pyproject.toml does not name, and none prints.

    What needs an extra says which, and nothing else fails.
    """
    done = fresh(
        "python",
        "-c",
        WATCH
        + "import importlib, pkgutil, veilnet\n"
        + "for module in pkgutil.walk_packages(veilnet.__path__, 'veilnet.'):\n"
        + "    if not module.name.endswith('__main__'):\n"
        + "        try:\n"
        + "            importlib.import_module(module.name)\n"
        + "        except ModuleNotFoundError as error:\n"
        + "            print(error)\n",
    )
    extras = "veilnet.sim.gym needs Gymnasium: pip install 'veilnet[rl]'\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, extras, "")


def test_both_backends_work_and_liboqs_is_the_wheels_own(fresh):
    """The installed wheel finds its library inside itself and passes the self-test in silence."""
    done = fresh(
        "python",
        "-c",
        "import json, veilnet\n"
        "from veilnet import crypto\n"
        "backends = [crypto.load(name) for name in crypto.BACKENDS]\n"
        "print(json.dumps([[b.name, b.why, str(b.library)] for b in backends]))\n"
        "print(veilnet.__file__)",
    )
    assert (done.returncode, done.stderr) == (0, "")
    backends, package = done.stdout.splitlines()
    folder = package.removesuffix("/__init__.py")
    assert "/fresh" in folder
    assert json.loads(backends) == [
        ["liboqs", "asked for", f"{folder}/_native/lib/liboqs.so"],
        ["cryptography", "asked for", "None"],
    ]


def test_the_version_is_cargos(fresh):
    """`veilnet.__version__` and the wheel's metadata name one release."""
    done = fresh(
        "python",
        "-c",
        "import importlib.metadata as m, veilnet; print(m.version('veilnet'), veilnet.__version__)",
    )
    metadata, module = done.stdout.split()
    assert metadata == module


def test_the_command_is_installed(fresh):
    """`veilnet --help` answers on stdout, without a network."""
    done = fresh("veilnet", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "connect" in done.stdout


def test_the_dependencies_agree(fresh):
    """pip finds no conflict between what was installed."""
    done = fresh("python", "-m", "pip", "check")
    assert done.returncode == 0, done.stdout
