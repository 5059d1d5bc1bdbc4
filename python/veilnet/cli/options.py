"""The global options, accepted before or after the command, each with its VEILNET_* twin."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from veilnet.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_FLAGS = {"--json": "json", "--log-json": "log_json", "--debug": "debug"}
_VALUES = {"--state": "state", "--socket": "socket", "--log-level": "log_level"}
_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"", "0", "false", "no", "off"}


@attrs.frozen
class Globals:
    """What holds for any command."""

    state: Path | None = None
    socket: Path | None = None
    json: bool = False
    log_level: str | None = None
    log_json: bool = False
    debug: bool = False

    def as_arguments(self) -> list[str]:
        """Return the options that a next command must repeat to meet the same node."""
        arguments: list[str] = []
        if self.state is not None:
            arguments += ["--state", str(self.state)]
        if self.socket is not None:
            arguments += ["--socket", str(self.socket)]
        return arguments


def split(
    arguments: Sequence[str], environ: Mapping[str, str] | None = None
) -> tuple[Globals, list[str]]:
    """Return the global options in *arguments* (else of the environment) and what is left.

    Nothing after ``--`` is ours.
    Raises: UsageError: an option without its value or with one that is none, or a twin that is
    neither true nor false.
    """
    found: dict[str, str | bool] = dict(
        _from_environment(os.environ if environ is None else environ)
    )
    rest: list[str] = []
    queue = list(arguments)
    while queue:
        word = queue.pop(0)
        if word == "--":
            return _made(found), [*rest, word, *queue]
        flag, equals, value = word.partition("=")
        if word in _FLAGS:
            found[_FLAGS[word]] = True
        elif flag in _VALUES:
            if not equals:
                if not queue:
                    raise UsageError(f"option {flag} needs a value")
                value = queue.pop(0)
            if not value:
                raise UsageError(f"option {flag} needs a value")
            found[_VALUES[flag]] = _checked(flag, _VALUES[flag], value)
        else:
            rest.append(word)
    return _made(found), rest


def _from_environment(environ: Mapping[str, str]) -> dict[str, str | bool]:
    found: dict[str, str | bool] = {}
    for name in _VALUES.values():
        if value := environ.get(variable := f"VEILNET_{name.upper()}"):
            found[name] = _checked(variable, name, value)
    for name in _FLAGS.values():
        variable = f"VEILNET_{name.upper()}"
        value = environ.get(variable, "").lower()
        if value not in _TRUE | _FALSE:
            raise UsageError(f"{variable}={value!r} is neither true nor false")
        found[name] = value in _TRUE
    return found


def _checked(flag: str, name: str, value: str) -> str:
    """Return *value*.   Raises: UsageError: *flag* cannot have it."""
    if name == "log_level":
        check_key(flag, name, value)
    return value


def check_key(flag: str, key: str, value: object) -> None:
    """Judge what *flag* wants to put in the place of a key of the configuration file.

    Raises: UsageError: naming the flag, for the file is not at fault.
    """
    from veilnet import config

    if why := config.fault(key, value):
        raise UsageError(f"{flag}: {why}")


def _made(found: Mapping[str, str | bool]) -> Globals:
    state, socket = found.get("state"), found.get("socket")
    level = found.get("log_level")
    return Globals(
        # The daemon leaves this folder, so paths are made absolute while we know what they mean.
        state=Path(str(state)).absolute() if state else None,
        socket=Path(str(socket)).absolute() if socket else None,
        json=bool(found.get("json")),
        log_level=str(level) if level else None,
        log_json=bool(found.get("log_json")),
        debug=bool(found.get("debug")),
    )
