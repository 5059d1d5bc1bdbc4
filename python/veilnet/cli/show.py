"""The answers of the daemon as plain text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from veilnet.cli.output import ago, columns, line, milliseconds, short_id, size, table


def path_words(path: Mapping[str, Any]) -> str:
    """Return *path* in a few words: kind, relays, endpoint, round trip."""
    place = "" if path["endpoint"] == "-" else f" {path['endpoint']}"
    words = f"{way_words(path)}{place}, rtt {milliseconds(path.get('rtt_ms'))}"
    share = path.get("share", 1.0)
    if 0 < share < 1:
        words += f", {share:.0%} of the traffic"
    state = path.get("state", "active")
    return words if state == "active" else f"{words}, {state}"


def way_words(path: Mapping[str, Any]) -> str:
    """Return whether *path* is direct, or over whom it goes."""
    if path["kind"] == "direct":
        return "direct"
    names = path.get("via_names") or [""] * len(path["via"])
    # Strangers have an id in the commons that is no member's, even if the machine is.
    shown = (
        name or f"stranger {short_id(peer)}" for name, peer in zip(names, path["via"], strict=True)
    )
    return f"relayed by {' and '.join(shown)}"


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
    found = value.get("discovery", {})
    if "commons" in found:
        line(
            f"commons  {found['commons']}  contacts {found['contacts']}  "
            f"havens {len(found['havens'])}  nat {found['nat']}"
        )
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
        "; ".join(map(path_words, peer["paths"])) or peer.get("reason", ""),
    )


def address(addresses: Sequence[str]) -> str:
    """Return the address to type: IPv4 if there is one."""
    return next((item for item in addresses if ":" not in item), *addresses[:1] or ["-"])


def explained(value: Mapping[str, Any]) -> None:
    """Print `path explain`."""
    line(f"{value['name']}.{value['network']}  {value['state']}  policy {value['policy']}")
    line(value["reason"])
    if value["arms"]:
        line()
        table(
            ("WAY", "SHARE", "STATE", "RTT", "FORECAST", "CONFIDENCE", "LEGS", "WHY"),
            [_arm_words(arm) for arm in value["arms"]],
        )


def _arm_words(arm: Mapping[str, Any]) -> tuple[str, ...]:
    share = f"{arm['share']:.0%}" if arm["share"] else "standby" if arm["standby"] else "-"
    legs = (arm["own_leg_ms"], arm["far_leg_ms"])
    return (
        way_words(arm),
        share,
        arm["state"],
        milliseconds(arm["rtt_ms"]),
        milliseconds(arm["forecast_ms"]),
        f"{arm['confidence']:.0%}",
        "-" if arm["kind"] == "direct" else " + ".join(map(milliseconds, legs)),
        arm["reason"],
    )


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
                path_words(peer["paths"][0]) if peer["paths"] else peer.get("reason", "-"),
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
