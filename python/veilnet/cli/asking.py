"""How a command asks the node that it means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from veilnet.control import client

if TYPE_CHECKING:
    import typer

    from veilnet.cli.options import Globals


def ask(
    context: typer.Context, command: str, patience_s: float | None = 30.0, **args: object
) -> Mapping[str, Any]:
    """Return the node's answer.   Raises: as `client.ask`."""
    found: Globals = context.obj
    path = client.find(found.socket, found.state)
    return client.ask(path, command, args, timeout_s=patience_s)
