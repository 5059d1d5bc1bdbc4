"""Get this program, or a command, into namespaces where it may build a lab."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Literal, NoReturn

from veilnet.errors import PrivilegeError
from veilnet.testing import _launch

Privilege = Literal["any", "user", "root"]

_SETTINGS = {
    "kernel.unprivileged_userns_clone": "1",
    "user.max_user_namespaces": "15000",
    "kernel.apparmor_restrict_unprivileged_userns": "0",
}
"""The settings that forbid unprivileged namespaces, and the value that allows them."""


def inside() -> bool:
    """Say whether this program already runs in namespaces made by `enter` or `command`."""
    return _launch.ENVIRONMENT in os.environ


def command(argv: list[str], *, privilege: Privilege = "any", tied: bool = False) -> list[str]:
    """Return the command line that runs *argv* in new namespaces, for `subprocess`.

    With *tied* it dies with the thread that starts it, whatever kills that.
    """
    options = [] if privilege == "any" else ["--privilege", privilege]
    options += ["--tied"] if tied else []
    return [sys.executable, "-I", "-S", _launch.__file__, *options, "--", *argv]


def check(*, privilege: Privilege = "any") -> str:
    """Return how namespaces can be had here, ``user`` or ``root``.

    Raises: PrivilegeError: not at all; it names the setting and the way as root.
    """
    line = command([], privilege=privilege)
    line.insert(line.index("--"), "--probe")
    done = subprocess.run(line, capture_output=True, text=True, check=True, timeout=30)
    answer = json.loads(done.stdout)
    if isinstance(answer["privilege"], str):
        return answer["privilege"]
    raise _refusal(answer["refusals"])


def enter(*, privilege: Privilege = "any") -> None:
    """Start this program again, with the same arguments, in new namespaces; return if inside.

    Call it before anything else: what the program did so far is done again.
    Raises: PrivilegeError: this system allows no namespaces.
    """
    if not inside():
        check(privilege=privilege)
        become(command([sys.executable, *sys.orig_argv[1:]], privilege=privilege))


def become(argv: list[str]) -> NoReturn:
    """Be *argv* from now on, in this process."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(argv[0], argv)  # noqa: S606 - no shell is the point


def forbidding_settings(root: Path = Path("/proc/sys")) -> list[str]:
    """Return ``name=value`` for every setting here that forbids unprivileged namespaces."""
    found = []
    for name, allows in _SETTINGS.items():
        try:
            now = root.joinpath(*name.split(".")).read_text().strip()
        except OSError:
            continue
        forbidden = now == "1" if name.startswith("kernel.apparmor") else now == "0"
        if forbidden:
            found.append(f"{name}={allows}")
    return found


def _refusal(refusals: dict[str, str]) -> PrivilegeError:
    found = forbidding_settings()
    said = "; ".join(f"{who}: {why}" for who, why in refusals.items())
    if found:
        names = ", ".join(text.partition("=")[0] for text in found)
        message = f"This system's setting {names} forbids unprivileged namespaces ({said})."
        hint = f"Run it as root with sudo, or allow it: sudo sysctl -w {' '.join(found)}"
    else:
        message = f"This system (a container's policy, seccomp?) allows no namespaces ({said})."
        hint = (
            "Run it as root on the machine itself, or look at "
            f"{', '.join(_SETTINGS)}; in a container add --privileged."
        )
    return PrivilegeError(message, hint=hint)
