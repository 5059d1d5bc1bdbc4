"""Every command and its options; what a command does is in the module it imports."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from veilnet.cli import judge, output
from veilnet.cli.asking import ask as _ask
from veilnet.cli.options import Globals, check_key
from veilnet.cli.relay import relay_app
from veilnet.control import client
from veilnet.errors import (
    DaemonNotRunning,
    PeerUnreachable,
    PrivilegeError,
    VeilError,
)

app = typer.Typer(
    name="veilnet",
    help="A post-quantum, decentralised overlay network: two devices, two commands, one LAN.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
peer_app = typer.Typer(help="The peers this node knows.", no_args_is_help=True)
member_app = typer.Typer(help="The members of its networks.", no_args_is_help=True)
network_app = typer.Typer(help="The networks this node is in.", no_args_is_help=True)
path_app = typer.Typer(help="Which way traffic takes, and why.", no_args_is_help=True)
key_app = typer.Typer(help="Suites, epochs and rekeys.", no_args_is_help=True)
config_app = typer.Typer(help="The file config.toml in the state folder.", no_args_is_help=True)
for name, sub in {
    "peer": peer_app,
    "member": member_app,
    "network": network_app,
    "path": path_app,
    "relay": relay_app,
    "key": key_app,
    "config": config_app,
}.items():
    app.add_typer(sub, name=name)

SLACK_S = 10.0
"""What the client waits beyond the daemon's own deadline before it calls it stuck."""

Peer = Annotated[
    str,
    typer.Argument(
        help="Name, peer id (or unique prefix) or overlay address.", callback=judge.named
    ),
]


def _version(value: bool) -> None:  # noqa: FBT001 - typer's shape
    if value:
        from veilnet import __version__

        output.line(f"veilnet {__version__}")
        raise typer.Exit


@app.callback()
def _globals(
    *,
    state: Annotated[Path | None, typer.Option(help="State folder.")] = None,
    socket: Annotated[Path | None, typer.Option(help="Control socket.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    log_json: Annotated[bool, typer.Option("--log-json", help="Log JSON lines.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    # These stand here for --help only: `options.split` took them out before typer looked.
    del state, socket, json, log_level, log_json, debug, version


@app.command()
def up(
    context: typer.Context,
    *,
    foreground: Annotated[bool, typer.Option("--foreground", help="Stay; log to stderr.")] = False,
    no_tun: Annotated[
        bool, typer.Option("--no-tun", help="No TUN device; no root needed.")
    ] = False,
    listen_port: Annotated[int | None, typer.Option(min=1, max=65535, help="UDP port.")] = None,
    endpoint: Annotated[
        list[str] | None, typer.Option(help="Public HOST:PORT that cannot be seen from inside.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of this node in its networks.")] = None,
    hosts: Annotated[
        bool, typer.Option("--hosts", help="Keep members' names in /etc/hosts.")
    ] = False,
    hosts_file: Annotated[Path | None, typer.Option(help="... or in this hosts file.")] = None,
    kem_backend: Annotated[str | None, typer.Option(help="auto, liboqs or cryptography.")] = None,
) -> None:
    """Start the node; the first time, make its identity and a network of its own."""
    from veilnet.cli import show, start

    found: Globals = context.obj
    if endpoint:
        check_key("--endpoint", "endpoints", endpoint)
    if kem_backend is not None:
        check_key("--kem-backend", "kem_backend", kem_backend)
    overrides: dict[str, Any] = {
        "tun": False if no_tun else None,
        "listen_port": listen_port,
        "endpoints": endpoint or None,
        "name": judge.node_name(name),
        "hosts_file": judge.hosts_file(hosts_file or Path("/etc/hosts"))
        if hosts or hosts_file
        else None,
        "kem_backend": kem_backend,
    }
    invite = os.environ.get("VEILNET_INVITE") or None
    if invite is not None:
        from veilnet.networks.invite import Invite

        Invite.parse(invite)
    path = start.running(found)
    if path is not None:
        output.note("The node is already up; its options stay as they were.")
    elif foreground:
        start.run_here(found, overrides, invite=invite)
        return
    else:
        path = start.start(found, overrides, found_network=invite is None, invite=invite)
    value = client.ask(path, "status")
    if found.json:
        output.as_json(value)
        return
    show.status(value)
    if any(network.get("founder") for network in value["networks"]):
        output.next_step(found, "To let another device in", "invite")
    if not value["networks"]:
        output.next_step(found, "To join a network", "connect", "veil:...")
    if value.get("tun") and not value.get("hosts_file", True):
        how = "To reach members by name (ping NAME), stop it and start it with"
        output.next_step(found, how, "up", "--hosts", sudo=True)


@app.command()
def down(context: typer.Context) -> None:
    """Stop the node."""
    from veilnet.cli import start

    found: Globals = context.obj
    try:
        path = client.find(found.socket, found.state)
        value = start.stop(path)
    except DaemonNotRunning as error:
        raise DaemonNotRunning(
            f"{error.message}: nothing to stop", hint="To start one: sudo veilnet up"
        ) from error
    output.as_json(value) if found.json else output.line("down")


@app.command()
def invite(
    context: typer.Context,
    *,
    uses: Annotated[int, typer.Option(min=1, max=1000, help="How many devices may use it.")] = 1,
    expires: Annotated[str, typer.Option(help="For how long: 30m, 24h, 7d.")] = "24h",
    network: Annotated[str | None, typer.Option(help="Network, if there are several.")] = None,
) -> None:
    """Print one line that lets another device into the network."""
    found: Globals = context.obj
    value = _ask(context, "invite", uses=uses, expires_s=judge.duration(expires), network=network)
    for warning in value["warnings"]:
        output.note(f"warning: {warning}")
    if found.json:
        output.as_json(value)
        return
    output.line(value["invite"])
    output.note(
        f"Good for {uses} device{'s' * (uses > 1)}, {expires}, network {value['network']}. "
        "On the other device:"
    )
    output.note("  sudo veilnet connect veil:...")


@app.command()
def connect(
    context: typer.Context,
    peer: Annotated[
        str,
        typer.Argument(
            envvar="VEILNET_INVITE", help="Name, peer id, overlay address, or an invite veil:..."
        ),
    ],
    *,
    timeout: Annotated[
        float, typer.Option(min=0.1, max=600, help="Seconds to try before giving up.")
    ] = 15.0,
    watch: Annotated[bool, typer.Option("--watch", help="Keep a live line.")] = False,
    no_tun: Annotated[
        bool, typer.Option("--no-tun", help="If the node must be started: without TUN.")
    ] = False,
    name: Annotated[str | None, typer.Option(help="Name to ask for when joining.")] = None,
) -> None:
    """Open a channel to PEER; exit 0 only after an authenticated round trip."""
    from veilnet.cli import show, start

    found: Globals = context.obj
    peer, joining = judge.target(peer)
    name = judge.node_name(name)
    path = start.running(found, to_start=joining)
    started = path is None
    if path is None:
        if not joining:
            raise DaemonNotRunning(f"no node is running here, so {peer} cannot be reached")
        path = _start_to_join(found, no_tun=no_tun, name=name)
    args = {"peer": peer, "timeout_s": timeout, "name": name}
    try:
        value = client.ask(
            path,
            "connect",
            args,
            timeout_s=timeout + SLACK_S,
            on_event=None if found.json else lambda event: output.note(str(event["stage"])),
        )
    except (VeilError, KeyboardInterrupt) as error:
        if started and start.stop_if_useless(path) and isinstance(error, VeilError):
            error.message += "; the node that was started for it was stopped again"
        raise
    shown = value.get("name") or peer
    if found.json:
        output.as_json(value)
    else:
        show.connected(value, shown)
        output.next_step(found, "To see it", "status")
    while watch:
        time.sleep(1.0)
        try:
            ping_once = client.ask(path, "ping", {"peer": value["peer_id"], "timeout_s": 5.0})
        except PeerUnreachable as error:
            output.note(error.message)
            continue
        if found.json:
            output.as_json(ping_once)
        else:
            output.line(f"{shown}: {show.path_words(ping_once['path'])}")


def _start_to_join(found: Globals, *, no_tun: bool, name: str | None) -> Path:
    from veilnet.cli import start

    overrides = {"tun": False if no_tun else None, "name": name}
    try:
        return start.start(found, overrides, found_network=False)
    except PrivilegeError as error:
        if "--no-tun" not in error.hint:
            raise
        raise PrivilegeError(
            error.message,
            hint="Use sudo, or go without a TUN device: veilnet connect veil:... --no-tun",
        ) from error


@app.command()
def disconnect(context: typer.Context, peer: Peer) -> None:
    """Close the channel to PEER; the next packet opens it again."""
    value = _ask(context, "disconnect", peer=peer)
    output.as_json(value) if context.obj.json else output.line(f"disconnected from {peer}")


@app.command()
def status(
    context: typer.Context,
    *,
    watch: Annotated[bool, typer.Option("--watch", help="Once a second.")] = False,
) -> None:
    """Show what is up, and by which path."""
    from veilnet.cli import show

    while True:
        value = _ask(context, "status")
        output.as_json(value) if context.obj.json else show.status(value)
        if not watch:
            return
        time.sleep(1.0)
        output.line()


@app.command()
def ping(
    context: typer.Context,
    peer: Peer,
    *,
    count: Annotated[int, typer.Option("--count", "-c", min=1, max=10000)] = 4,
    timeout: Annotated[float, typer.Option(min=0.1, max=600)] = 5.0,
) -> None:
    """Measure authenticated round trips to PEER, outside the TUN."""
    from veilnet.cli import show

    found: Globals = context.obj
    times: list[float] = []
    peer_id, sent, interrupted = "", 0, False
    try:
        while sent < count:
            if sent:
                time.sleep(min(1.0, timeout))
            sent += 1
            try:
                value = _ask(context, "ping", timeout + SLACK_S, peer=peer, timeout_s=timeout)
            except PeerUnreachable:
                if not found.json:
                    output.line(f"{sent}: no answer within {timeout:g} s")
                continue
            peer_id = value["peer_id"]
            times.append(value["rtt_ms"])
            if not found.json:
                output.line(f"{sent}: {show.path_words(value['path'])}")
    except KeyboardInterrupt:
        interrupted = True
    summary: dict[str, Any] = {
        "peer_id": peer_id or _ask(context, "peer", peer=peer)["id"],
        "sent": sent,
        "received": len(times),
        "rtt_ms": times,
        "min_ms": min(times, default=None),
        "avg_ms": sum(times) / len(times) if times else None,
        "max_ms": max(times, default=None),
    }
    output.as_json(summary) if found.json else show.pinged(summary, peer)
    if interrupted:
        raise KeyboardInterrupt
    if not times:
        raise PeerUnreachable(f"{peer} answered none of {count} probes")


@app.command()
def doctor(context: typer.Context) -> None:
    """Check what a node needs here, and say what to do about what is missing."""
    from veilnet.cli.doctor import examine, report

    checks = examine(context.obj)
    bad = [check for check in checks if check.ok is False]
    if context.obj.json:
        output.as_json({"ok": not bad, "checks": [check.to_json() for check in checks]})
    else:
        report(checks)
    if bad:
        raise typer.Exit(bad[0].code)


@app.command()
def demo(
    context: typer.Context,
) -> None:
    """Build a small network in namespaces, without root, and show the real thing."""
    import veilnet.demo

    code = veilnet.demo.main(json=context.obj.json, debug=context.obj.debug)
    raise typer.Exit(code or 0)


@peer_app.command("list")
def peer_list(context: typer.Context) -> None:
    """List the peers."""
    from veilnet.cli import show

    value = _ask(context, "status")
    if context.obj.json:
        output.as_json({"peers": value["peers"]})
    else:
        show.peers(value["peers"])


@peer_app.command("show")
def peer_show(context: typer.Context, peer: Peer) -> None:
    """Show all about one peer."""
    _record(context, _ask(context, "peer", peer=peer))


@member_app.command("list")
def member_list(
    context: typer.Context,
    *,
    network: Annotated[str | None, typer.Option(help="Network, if there are several.")] = None,
) -> None:
    """List the members, this node included."""
    value = _ask(context, "members", network=network)
    if context.obj.json:
        output.as_json(value)
        return
    output.table(
        ("NAME", "NETWORK", "ADDRESSES", "UNTIL", "PEER ID"),
        [
            (
                member["name"],
                member["network"],
                " ".join(member["addresses"]),
                time.strftime("%Y-%m-%d", time.gmtime(member["not_after"])),
                output.short_id(member["id"]),
            )
            for member in value["members"]
        ],
    )


@network_app.command("list")
def network_list(context: typer.Context) -> None:
    """List the networks."""
    value = _ask(context, "status")
    if context.obj.json:
        output.as_json({"networks": value["networks"]})
        return
    output.table(
        ("NAME", "MEMBERS", "PREFIX", "ADDRESSES"),
        [
            (item["name"], str(item["members"]), item["prefix"], " ".join(item["addresses"]))
            for item in value["networks"]
        ],
    )


@network_app.command("show")
def network_show(context: typer.Context, network: str) -> None:
    """Show all about one network."""
    _record(context, _ask(context, "network", network=network))


@network_app.command("leave")
def network_leave(
    context: typer.Context,
    network: str,
    *,
    force: Annotated[
        bool, typer.Option("--force", help="Also if this node founded it and others are in it.")
    ] = False,
) -> None:
    """Leave a network: its channels close, its addresses and all that is kept of it go.

    To come back takes a new invite.
    """
    value = _ask(context, "network_leave", network=network, force=force)
    output.as_json(value) if context.obj.json else output.line(f"left {value['network']}")


@path_app.command("explain")
def path_explain(context: typer.Context, peer: Peer) -> None:
    """Show every way to PEER: what the node expects of it, what it carries, and why."""
    from veilnet.cli import show

    value = _ask(context, "path", peer=peer)
    output.as_json(value) if context.obj.json else show.explained(value)


@key_app.command("status")
def key_status(context: typer.Context) -> None:
    """Show suite, epoch and last rekey for every connected peer."""
    value = _ask(context, "keys")
    if context.obj.json:
        output.as_json(value)
        return
    output.table(
        ("PEER", "SUITE", "GENERATION", "STEPS", "LAST REKEY"),
        [
            (
                key["name"],
                key["suite"],
                str(key["epoch"]),
                f"{key['step_tx']}/{key['step_rx']}",
                f"{key['last_rekey_s']:.0f} s ago",
            )
            for key in value["keys"]
        ],
    )


@config_app.command("check")
def config_check(context: typer.Context) -> None:
    """Check config.toml."""
    from veilnet import config
    from veilnet.cli.start import state_of

    folder = state_of(context.obj)
    path = folder / config.FILE_NAME
    _, faults, there = config.read(folder)
    if faults:
        raise config.bad_file(folder, faults)
    if context.obj.json:
        output.as_json({"file": str(path), "exists": there, "ok": True})
    else:
        output.line(f"{path}: {'ok' if there else 'not there, so the defaults hold'}")


@config_app.command("show")
def config_show(context: typer.Context) -> None:
    """Print every key with its meaning, in the form of the file itself, and what is wrong in it."""
    from veilnet import config
    from veilnet.cli.start import state_of

    value, faults, _ = config.read(state_of(context.obj))
    if context.obj.json:
        output.as_json(value.to_json() | ({"faults": faults} if faults else {}))
        return
    known = config.documented()
    for key in faults.keys() - known:
        output.line(f"# BAD: the file has {key!r}: {faults[key]}; take it out")
    for key, (_, what) in known.items():
        output.line(f"# {what}")
        if key in faults:
            output.line(f"# BAD: in the file, {faults[key]}; this is the default:")
        output.line(f"{key} = {config.as_toml(getattr(value, key))}")


def _record(context: typer.Context, value: Mapping[str, Any]) -> None:
    from veilnet.cli import show

    output.as_json(value) if context.obj.json else show.fields(value)
