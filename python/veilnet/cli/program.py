"""The words that a user has to type to run this very program again."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from pathlib import Path

# What sudo searches (Debian's secure_path): a venv or ~/.local/bin is not there.
_SUDO_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MENTION = re.compile(
    r"(?P<there>\b[Tt]here: )?(?P<sudo>sudo )?(?<![\w/.-])veilnet "
    r"(?=(?:-|(?:up|down|invite|connect|disconnect|status|ping|doctor|demo|peer|member|network|key|config)\b))"
)


def _same_file(found: str | None, program: Path) -> bool:
    try:
        return found is not None and program.samefile(found)
    except OSError:
        return False


def invocation(*, sudo: bool = False) -> str:
    """Return how to run this program: its bare name where that finds it, else its full path."""
    program = Path(sys.argv[0])
    if program.name == "veilnet" and program.parent.name != "python":
        found = shutil.which(program)
        absolute = Path(found or program).absolute()
        path = _SUDO_PATH if sudo else None
        if _same_file(shutil.which("veilnet", path=path), absolute):
            return "veilnet"
        return shlex.quote(str(absolute))
    return f"{shlex.quote(sys.executable)} -m veilnet"


def command(*words: str, sudo: bool = False) -> str:
    """Return the shell line that runs *words* with this program (`sudo` only if not root)."""
    sudo = sudo and os.geteuid() != 0
    line = " ".join([invocation(sudo=sudo), *map(shlex.quote, words)])
    return f"sudo {line}" if sudo else line


def exact(text: str) -> str:
    """Return *text* with every mention of a veilnet command made one that works here.

    What is to be typed on another machine ("there: ...") stays as it is.
    """

    def replace(match: re.Match[str]) -> str:
        if match["there"]:
            return match[0]
        sudo = bool(match["sudo"]) and os.geteuid() != 0
        return f"{'sudo ' if sudo else ''}{invocation(sudo=sudo)} "

    return _MENTION.sub(replace, text)
