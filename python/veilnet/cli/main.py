"""The entry point: one place where errors become an exit code and two lines (or JSON) on stderr.

```
0 ok   2 usage   3 daemon not running   4 not permitted   5 timeout   6 peer refused or unknown
7 bad input file or invite   70 bug   130 interrupted
```
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import TYPE_CHECKING

from veilnet.control.unwrap import unwrap
from veilnet.errors import InternalError, UsageError, VeilError

if TYPE_CHECKING:
    from collections.abc import Sequence

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; never raises."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    # Known before the words are parsed, because they may be what is wrong.
    debug, as_json = _wants(words, "debug"), _wants(words, "json")
    try:
        return _run(words)
    except BaseException as caught:  # noqa: BLE001 - the last frame of the program
        return _report(caught, debug=debug, as_json=as_json)


def _wants(words: Sequence[str], name: str) -> bool:
    ours = words[: words.index("--")] if "--" in words else words
    twin = os.environ.get(f"VEILNET_{name.upper()}", "").lower()
    return f"--{name}" in ours or twin not in {"", "0", "false", "no", "off"}


def _run(words: list[str]) -> int:
    from veilnet.cli.options import split

    found, rest = split(words)
    import typer

    from veilnet.cli.app import app

    command = typer.main.get_command(app)
    # Typer carries click inside under a private name; its base class is reached by what is public.
    click_exception: type[Exception] = next(
        c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException"
    )
    try:
        code = command.main(args=rest, prog_name="veilnet", standalone_mode=False, obj=found)
    except click_exception as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            sys.stderr.write(f"{error}\n")
            return UsageError.code
        raise _usage(error) from error
    sys.stdout.flush()
    return code if isinstance(code, int) else 0


def _usage(error: Exception) -> UsageError:
    context = getattr(error, "ctx", None)
    path = getattr(context, "command_path", "veilnet")
    message = getattr(error, "format_message", error.__str__)()
    return UsageError(" ".join(message.split()), hint=f"See: {path} --help")


def _report(caught: BaseException, *, debug: bool, as_json: bool) -> int:
    error = unwrap(caught)
    if debug and not isinstance(error, (SystemExit, KeyboardInterrupt)):
        traceback.print_exception(caught)
    match error:
        case VeilError():
            code, known = error.code, error
        case SystemExit(code=int() as status):
            return status
        case KeyboardInterrupt():
            return INTERRUPTED
        case _ if type(error).__name__ == "ReaderGone":
            return 0
        case _ if type(error).__name__ == "Abort":
            return INTERRUPTED
        case _:
            code = InternalError.code
            known = InternalError(
                f"veilnet failed by a bug of its own: {type(error).__name__}: {error}",
                hint="Run it again with --debug and report what it prints.",
            )
    _print_error(known, as_json=as_json)
    return code


def _print_error(error: VeilError, *, as_json: bool) -> None:
    from veilnet.cli.program import exact

    # One line each, whatever a peer or a file put into the text.
    message, hint = (" ".join(exact(text).split()) for text in (error.message, error.hint))
    if as_json:
        value = error.to_json() | {"message": message, "hint": hint}
        sys.stderr.write(json.dumps(value) + "\n")
        return
    sys.stderr.write(f"veilnet: {message}\n{hint}\n")
