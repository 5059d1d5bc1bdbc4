"""A node in the background, as `veilnet up` starts it: ``python -P -m veilnet.daemon FD STATE``.

FD is a pipe on which it says once how the start went: ``{}`` or an error as JSON.  The settings
come as JSON by stdin; STATE is there for whoever reads a list of processes.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from veilnet.control.unwrap import unwrap
from veilnet.errors import InternalError, VeilError


def main() -> int:
    """Run the node; return its exit code."""
    descriptor, given = int(sys.argv[1]), json.load(sys.stdin)
    # A node must not keep the folder busy in which somebody typed `up`.
    os.chdir("/")
    os.set_inheritable(descriptor, False)
    with os.fdopen(descriptor, "w", encoding="ascii") as starter:

        def tell(line: str) -> None:
            try:
                starter.write(f"{line}\n")
                starter.close()
            except (OSError, ValueError):
                pass  # whoever started us is gone, or was already told; the node lives on

        try:
            from veilnet.daemon.run import Settings, run

            settings = Settings(
                state=Path(given["state"]),
                socket=Path(given["socket"]),
                overrides=given["overrides"],
                found_network=given["found_network"],
                invite=given["invite"],
            )
            run(settings, started=lambda: tell("{}"))
        except BaseException as caught:  # noqa: BLE001 - the last frame of the program
            error = unwrap(caught)
            known = (
                error
                if isinstance(error, VeilError)
                else InternalError(f"the node failed: {type(error).__name__}: {error}")
            )
            tell(json.dumps(known.to_json()))
            return known.code
    return 0


if __name__ == "__main__":
    sys.exit(main())
