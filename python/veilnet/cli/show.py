"""The answers of the daemon as plain text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from veilnet.cli.output import ago, columns, line, milliseconds, short_id, size, table


def path_words(path: Mapping[str, Any]) -> str:
    """Return *path* in a few words: kind, endpoint, round trip."""
    return f"{path['kind']} {path['endpoint']}, rtt {milliseconds(path.get('rtt_ms'))}"


def status(value: Mapping[str, Any]) -> None:
    """Print `status`."""
    device = value.get("tun") or "no TUN device"
    line(
        f"node     {short_id(value['peer_id'])}  {value['state']}  "
        f"port {value['port']}  {device}  veilnet {value['version']}"
    )
    for network in value["networks"]:
        own = f"this node is {network['own_name']}  " if "own_name" in network else ""
        line(
            f"network  {network['name']}  {own}{network['prefix']}  "
            f"members {network['members']}  {', '.join(network['addresses'])}"
        )
        for warning in network.get("warnings", ()):
            line(f"         warning: {warning}")
    for words in columns([peer_words(peer) for peer in by_name(value["peers"])]):
        line(f"peer     {words}")
    if not value["peers"]:
        line("peer     none yet")


def by_name(peers: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return *peers* in the order in which people look for them."""
    return sorted(peers, key=lambda peer: (peer["name"], peer["network"], peer["id"]))


def peer_words(peer: Mapping[str, Any]) -> tuple[str, ...]:
    """Return one peer in the columns of `status`."""
    heard_s = peer.get("heard_s")
    seen = "" if heard_s is None else f"seen {ago(heard_s)}"
    return (
        f"{peer['name']}.{peer['network']}",
        address(peer["addresses"]),
        peer["state"],
        f"tx {size(peer['tx_bytes'])} rx {size(peer['rx_bytes'])}" if peer["paths"] else seen,
        ", ".join(map(path_words, peer["paths"])),
    )


def address(addresses: Sequence[str]) -> str:
    """Return the address to type: IPv4 if there is one."""
    return next((item for item in addresses if ":" not in item), *addresses[:1] or ["-"])


def peers(value: Sequence[Mapping[str, Any]]) -> None:
    """Print `peer list`."""
    table(
        ("NAME", "NETWORK", "STATE", "ADDRESS", "PATH", "PEER ID"),
        [
            (
                peer["name"],
                peer["network"],
                peer["state"],
                address(peer["addresses"]),
                path_words(peer["paths"][0]) if peer["paths"] else "-",
                short_id(peer["id"]),
            )
            for peer in by_name(value)
        ],
    )


def fields(value: Mapping[str, Any], indent: str = "") -> None:
    """Print a record, one field a line."""
    width = max((len(key) for key in value), default=0)
    for key, item in value.items():
        if isinstance(item, Mapping):
            line(f"{indent}{key}")
            fields(item, indent + "  ")
        elif isinstance(item, list) and item and isinstance(item[0], Mapping):
            for number, inner in enumerate(item, 1):
                line(f"{indent}{key} {number}")
                fields(inner, indent + "  ")
        else:
            words = ", ".join(map(str, item)) if isinstance(item, list) else item
            line(f"{indent}{key.ljust(width)}  {'-' if words is None else words}")


def connected(value: Mapping[str, Any], name: str) -> None:
    """Print `connect`."""
    who = ", ".join(filter(None, (short_id(value["peer_id"]), value.get("address"))))
    line(f"connected to {name} ({who}): {path_words(value['path'])}")


def pinged(value: Mapping[str, Any], name: str) -> None:
    """Print the summary of `ping`."""
    line(f"{value['sent']} sent, {value['received']} answered by {name}")
    if value["received"]:
        line(
            f"rtt min/avg/max  {milliseconds(value['min_ms'])} / "
            f"{milliseconds(value['avg_ms'])} / {milliseconds(value['max_ms'])}"
        )
