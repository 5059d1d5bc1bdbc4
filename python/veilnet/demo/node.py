"""One node of the demo: a host of the lab, and the commands that a person would type there."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

from veilnet.errors import InternalError, VeilError

if TYPE_CHECKING:
    from pathlib import Path

    from veilnet.testing import Host


class Node:
    """A real `veilnet` in one namespace, with a state folder and a control socket of its own."""

    def __init__(self, host: Host, folder: Path) -> None:
        self.host = host
        self._where = ["--state", str(folder / host.name), "--socket", str(folder / host.name[:1])]
        # What the user set for other nodes must not reach these two.
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith("VEILNET_")}

    def __repr__(self) -> str:
        return f"<Node on {self.host.name}>"

    def veilnet(self, *words: str, timeout_s: float = 25.0) -> dict[str, Any]:
        """Run one command with ``--json`` and return its answer.

        Raises: the VeilError that the command printed; InternalError: it printed nothing usable.
        """
        argv = [sys.executable, "-P", "-m", "veilnet", *self._where, "--json", *words]
        done = self.host.run(argv, timeout_s=timeout_s, check=False, env=self._environment)
        if done.returncode != 0:
            raise _as_error(words[0], done.returncode, done.stderr)
        answer = json.loads(done.stdout)
        if not isinstance(answer, dict):
            raise InternalError(f"veilnet {words[0]} --json printed no object")
        return answer


def _as_error(command: str, code: int, stderr: str) -> VeilError:
    # The command line above us spells out how to call the program; here its name is enough.
    plain = stderr.replace(f"{sys.executable} -m veilnet", "veilnet")
    lines = [line for line in plain.splitlines() if line.strip()] or ["it said nothing"]
    message, hint = (lines[-2], lines[-1]) if len(lines) > 1 else (lines[-1], "")
    said = message.removeprefix("veilnet: ")
    return VeilError.from_json(
        {"code": code, "message": f"`veilnet {command}` in the demo: {said}", "hint": hint}
    )
