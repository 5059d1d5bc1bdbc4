"""`veilnet relay`: lending this node as a relay, and taking it back."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from veilnet.cli import judge, output
from veilnet.cli.asking import ask
from veilnet.errors import UsageError

relay_app = typer.Typer(
    help="Lending this node as a relay: for its own networks unless told otherwise.",
    no_args_is_help=True,
)


@relay_app.command("status")
def relay_status(
    context: typer.Context,
    *,
    watch: Annotated[bool, typer.Option("--watch", help="Once a second.")] = False,
) -> None:
    """Show for whom this node relays, how much it may, and what it carries now."""
    while True:
        _show(context, ask(context, "relay"))
        if not watch:
            return
        time.sleep(1.0)
        if not context.obj.json:
            output.line()


@relay_app.command("on")
def relay_on(
    context: typer.Context,
    *,
    own: Annotated[bool, typer.Option("--own", help="For own networks only.")] = False,
) -> None:
    """Relay for own networks, and for strangers too."""
    _show(context, ask(context, "relay_set", relay="own" if own else "all"))


@relay_app.command("off")
def relay_off(context: typer.Context) -> None:
    """Relay for nobody; what is carried now is closed at once."""
    _show(context, ask(context, "relay_set", relay="off"))


@relay_app.command("limit")
def relay_limit(
    context: typer.Context,
    *,
    rate: Annotated[
        str | None, typer.Option(help="Bits per second over all circuits: 100M, 1G, none.")
    ] = None,
    volume: Annotated[str | None, typer.Option(help="Bytes in 24 hours: 50G, 1T, none.")] = None,
    circuits: Annotated[int | None, typer.Option(min=1, max=4096, help="At once.")] = None,
) -> None:
    """Say how much this node may relay; one peer has at most half of each."""
    changes: dict[str, int | None] = {
        "relay_rate_bps": judge.amount("--rate", rate),
        "relay_volume_bytes": judge.amount("--volume", volume),
        "relay_circuits": circuits,
    }
    if not any(value is not None for value in changes.values()):
        raise UsageError("no limit is named", hint="Name one: --rate 100M, --volume 50G, ...")
    _show(context, ask(context, "relay_set", 30.0, **changes))


def _show(context: typer.Context, value: Mapping[str, Any]) -> None:
    if context.obj.json:
        output.as_json(value)
        return
    kinds = {"own": "own networks", "strangers": "strangers"}
    serves = " and ".join(kinds.get(kind, kind) for kind in value["for"]) or "nobody"
    limits = value["limits"]
    volume = output.size(limits["volume_bytes"]) if limits["volume_bytes"] else "none"
    output.line(f"relays    for {serves}{', busy' if value['busy'] else ''}")
    output.line(
        f"limits    rate {_rate(limits['rate_bps'])}, volume {volume} a day, "
        f"{limits['circuits']} circuits; one peer: half of each"
    )
    output.line(
        f"carries   {value['circuits']} circuits, {_rate(value['rate_bps'], 'nothing')} now, "
        f"{output.size(value['bytes_today'])} today, "
        f"{output.size(value['bytes_total'])} since the start"
    )
    if value["carries"]:
        output.table(("FROM", "TO", "NETWORK", "BYTES", ""), map(_row, value["carries"]))


def _row(carried: Mapping[str, Any]) -> tuple[str, ...]:
    through = carried["through"]
    return (
        _name(carried["from"]),
        _name(carried["to"]) + (f" through {_name(through)}" if through else ""),
        carried["network"],
        output.size(carried["bytes"]),
        "" if carried["confirmed"] else "not confirmed yet",
    )


def _name(peer: Mapping[str, str]) -> str:
    return peer["name"] or output.short_id(peer["id"])


def _rate(rate_bps: float, nothing: str = "none") -> str:
    """Return a rate for people."""
    for unit, size in (("Gb/s", 1e9), ("Mb/s", 1e6), ("kb/s", 1e3)):
        if rate_bps >= size:
            return f"{rate_bps / size:.3g} {unit}"
    return f"{rate_bps:.0f} b/s" if rate_bps else nothing
