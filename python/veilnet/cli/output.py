"""What goes to stdout: JSON when asked, else plain text whose meaning needs no colour."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from veilnet.cli.options import Globals
from veilnet.cli.program import command
from veilnet.errors import UsageError


def _safe(text: str) -> str:
    """Return *text* without control characters: names come from peers."""
    return "".join(c if c.isprintable() else "?" for c in text)


class ReaderGone(Exception):
    """Nobody reads our output any more."""


def _write(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        # What is buffered must not be tried again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise ReaderGone from None
        raise UsageError(
            f"the output cannot be written: {error.strerror}",
            hint="Is there room where it is redirected to?",
        ) from error


def line(text: str = "") -> None:
    """Print one line of intended output."""
    _write(f"{_safe(text)}\n")


def note(text: str) -> None:
    """Print one line that is not the answer: progress, warnings."""
    sys.stderr.write(f"{_safe(text)}\n")
    sys.stderr.flush()


def as_json(value: Mapping[str, Any]) -> None:
    """Print *value* as one line of JSON."""
    _write(json.dumps(value) + "\n")


def next_step(found: Globals, what: str, *words: str, sudo: bool = False) -> None:
    """Print the exact next command."""
    note(f"{what}:  {command(*words, *found.as_arguments(), sudo=sudo)}")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print *rows* under *heads*, columns aligned by spaces."""
    for words in columns([heads, *rows]):
        line(words)


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return each of *rows* as one line, the columns aligned by spaces."""
    cells = [list(map(_safe, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def ago(seconds: float) -> str:
    """Return how long ago something was, for people."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def milliseconds(value: float | None) -> str:
    """Return *value* ms for people."""
    return "-" if value is None else f"{value:.2f} ms" if value < 10 else f"{value:.0f} ms"


def size(count: float) -> str:
    """Return *count* bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def short_id(peer_id: str) -> str:
    """Return enough of *peer_id* to tell it from a few hundred others."""
    return peer_id[:12]
