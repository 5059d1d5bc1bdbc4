"""The demo's inner process, in namespaces: ``python -m veilnet.demo FOLDER``, JSON lines out."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import attrs

from veilnet.demo.result import Step
from veilnet.demo.scene import play
from veilnet.errors import InternalError, PrivilegeError, VeilError


def _say(kind: str, value: object) -> None:
    sys.stdout.write(json.dumps({kind: value}) + "\n")
    sys.stdout.flush()


def main() -> int:
    """Play the demo; every line of stdout is a step, an error or the result."""

    def tell(step: Step) -> None:
        _say("step", attrs.asdict(step))

    try:
        _say("result", attrs.asdict(play(Path(sys.argv[1]), tell)))
    except VeilError as error:
        _say("error", error.to_json())
    except PermissionError as error:
        _say("error", PrivilegeError(f"the demo may not do this here: {error}").to_json())
    except Exception as error:  # noqa: BLE001 - it must cross the pipe, whatever it is
        notes = " ".join(getattr(error, "__notes__", ()))
        text = f"the demo failed: {type(error).__name__}: {error} {notes}".strip()
        _say("error", InternalError(text).to_json())
    return 0


if __name__ == "__main__":
    sys.exit(main())
