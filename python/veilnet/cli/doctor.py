"""`doctor`: what a node needs here, whether it is there, and what to do if it is not."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from veilnet import config
from veilnet.cli import output
from veilnet.cli.options import Globals
from veilnet.cli.program import exact
from veilnet.cli.start import state_of
from veilnet.control import client
from veilnet.errors import DaemonNotRunning, PrivilegeError, VeilError


@attrs.frozen
class Check:
    """One finding.

    *ok* is false only for what keeps a node from running, None where nothing can be said.
    """

    name: str
    ok: bool | None
    detail: str
    hint: str = ""
    code: int = 70
    """Exit code of `doctor` if this is the first check that fails."""

    def to_json(self) -> dict[str, Any]:
        """Return the members that have something to say."""
        state = {True: "ok", False: "bad", None: "unknown"}[self.ok]
        # `ok` stays a truth value for scripts that ask for what is bad.
        value = {"name": self.name, "ok": self.ok is not False, "detail": self.detail}
        value["state"] = state
        return value | ({"hint": self.hint} if self.hint else {})


def examine(found: Globals) -> list[Check]:
    """Run every check."""
    node, status = _node(found)
    state = state_of(found) if status is None else Path(str(status["state_folder"]))
    checks = [_crypto(state, status), _engine(), _tun(), _namespaces(), _config(state), *node]
    return [*checks, _firewall(_port_to_be(state) if status is None else status["port"])]


def report(checks: list[Check]) -> None:
    """Print *checks* for people."""
    for check in checks:
        mark = {True: "ok ", False: "BAD", None: "-- "}[check.ok]
        output.line(f"{mark}  {check.name}: {check.detail}")
        if check.hint:
            output.line(f"       {exact(check.hint)}")


def _crypto(state: Path, status: Mapping[str, Any] | None) -> Check:
    from veilnet import crypto

    wanted = "auto"
    with contextlib.suppress(VeilError):  # which is `_config`'s to say
        wanted = config.read(state)[0].kem_backend
    try:
        backend = crypto.load("cryptography" if wanted == "cryptography" else "liboqs")
    except VeilError as error:
        return Check("crypto", False, error.message, error.hint, error.code)
    words = [f"{backend.name} {backend.version}", backend.why]
    if backend.library is not None:
        words.append(str(backend.library))
    words.append(f"checked by {backend.other.name}" if backend.other else "checked by nothing")
    used = (status or {}).get("crypto")
    if used is None:
        return Check("crypto", True, f"a node started now would use {', '.join(words)}")
    if (used["backend"], used["version"]) == (backend.name, backend.version):
        return Check("crypto", True, f"the running node uses {', '.join(words)}")
    return Check(
        "crypto",
        True,
        f"the running node uses {used['backend']} {used['version']} (so it was told)",
    )


def _engine() -> Check:
    try:
        from veilnet import _engine
    except ImportError as error:
        return Check("engine", False, str(error), "Install VeilNet again: pip install veilnet")
    if _engine.CLEARTEXT:
        return Check(
            "engine", False, "this is the test build WITHOUT encryption", "Install a release."
        )
    return Check("engine", True, str(_engine.__file__))


def _tun() -> Check:
    device = Path("/dev/net/tun")
    try:
        if not stat.S_ISCHR(device.stat().st_mode):
            return Check("tun", False, f"{device} is no device", "mknod(1): c 10 200", 4)
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return Check(
            "tun",
            False,
            f"{device} is not there",
            "Load the module (sudo modprobe tun); a container needs --device /dev/net/tun. "
            "Without it: veilnet up --no-tun",
            PrivilegeError.code,
        )
    except OSError as error:
        return Check("tun", False, f"{device}: {error.strerror}", "Use sudo veilnet up", 4)
    if _may_configure():
        return Check("tun", True, f"{device} opens and this user may configure devices")
    return Check(
        "tun", True, f"{device} opens, but devices need root", "Start with: sudo veilnet up"
    )


def _may_configure() -> bool:
    for line in Path("/proc/self/status").read_text("ascii", "replace").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> 12 & 1)  # CAP_NET_ADMIN
    return False


def _namespaces() -> Check:
    name = "user namespaces"
    for setting, bad in (
        ("kernel.unprivileged_userns_clone", "0"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1"),
        ("user.max_user_namespaces", "0"),
    ):
        try:
            value = Path("/proc/sys", *setting.split(".")).read_text("ascii").strip()
        except OSError:
            continue
        if value == bad and os.geteuid() != 0:
            return Check(
                name,
                True,
                f"{setting} = {value} forbids them, so `veilnet demo` needs root here",
                "Run: sudo veilnet demo",
            )
    return Check(name, True, "no setting forbids them (`veilnet demo` uses them)")


def _config(state: Path) -> Check:
    path = state / config.FILE_NAME
    try:
        _, faults, there = config.read(state)
        if faults:
            raise config.bad_file(state, faults)
    except PrivilegeError as error:
        return Check("config", None, error.message, error.hint)
    except VeilError as error:
        return Check("config", False, error.message, error.hint, error.code)
    return Check("config", True, str(path) if there else f"{path} is not there: defaults")


def _node(found: Globals) -> tuple[list[Check], Mapping[str, Any] | None]:
    """Return what is known of the node, and its status if it gives it to us."""
    try:
        value = client.ask(
            client.find(found.socket, found.state), "status", {"peers": False}, timeout_s=5.0
        )
    except (DaemonNotRunning, PrivilegeError) as error:
        # Neither is wrong: but nothing was seen of a node, so nothing of it is "ok".
        return [Check("node", None, error.message, error.hint), _port()], None
    except VeilError as error:
        return [Check("node", False, error.message, error.hint, error.code), _port()], None
    checks = [Check("node", True, f"up, listens on UDP port {value['port']}")]
    for network in value["networks"]:
        checks += [
            Check(f"network {network['name']}", True, warning)
            for warning in network.get("warnings", ())
        ]
    if "discovery" in value:
        checks += translators(value["discovery"], value["port"])
        from veilnet.cli import ladder

        checks += ladder.checks(value["discovery"]["bootstrap"])
    return checks, value


def translators(found: Mapping[str, Any], port: int) -> list[Check]:
    """Return what stands between the node and others: cause and remedy.

    None of it is bad: a node runs behind all of them.
    """
    families = ", ".join(found["reachable"]) or "nothing yet"
    checks = [Check("reachable", True if found["reachable"] else None, f"over {families}")]
    seen = ", ".join(found["public"]) or "nobody outside"
    count = f"{found['observers']} place{'' if found['observers'] == 1 else 's'}"
    said = f"seen at {seen} from {count}" + ("" if found["nat_sure"] else ", which is not sure")
    words, hint = _TRANSLATORS[found["nat"]]
    if found["nat"] == "unknown" and found["public"]:
        words, hint = _TOO_FEW
    known = None if found["nat"] == "unknown" else True
    if found["mapped"]:
        said, hint = f"{said}; the router forwards {', '.join(found['mapped'])}", ""
    detail = f"{found['nat']}: {words}" + (f" ({said})" if found["public"] else "")
    checks.append(Check("nat", known, detail, hint.format(port=port)))
    return checks


_FORWARD = (
    "For direct ways: switch UPnP or NAT-PMP on in the router, or forward a UDP port to port "
    "{port} of this host and start with --endpoint YOUR-PUBLIC-ADDRESS:PORT"
)
_TOO_FEW = (
    "too few have said where this node is seen to tell whether its port is the same for all",
    "Nodes in other networks settle it: those of the commons, or another member elsewhere",
)
_TRANSLATORS = {
    "open": ("nothing translates this node's address", ""),
    "independent": ("the router keeps one port for this node, so direct ways can be opened", ""),
    "sequential": ("the router counts up ports, so some direct ways take many probes", _FORWARD),
    "random": (
        "the router draws a new port for every peer: of two such nodes a relay carries the traffic",
        _FORWARD,
    ),
    "blocked": (
        "UDP does not get out, so everything goes over TCP to a relay",
        "Let UDP out in the firewall; any one port helps",
    ),
    "unknown": (
        "nobody outside has said yet where this node is seen",
        "Ask again once it is connected with somebody: veilnet status",
    ),
}


def _port_to_be(state: Path) -> int | None:
    """Return the port that the node will listen on, None if it has yet to choose one."""
    with contextlib.suppress(OSError, ValueError, VeilError, AttributeError):
        configured = config.read(state)[0].listen_port
        remembered = json.loads((state / "node.json").read_text("ascii"))
        return configured or int(remembered.get("listen_port", 0)) or None
    return None


def _port() -> Check:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("::", 0))
        except OSError as error:
            return Check("udp", True, f"no IPv6 socket ({error.strerror}): IPv4 only")
    return Check("udp", True, "UDP sockets for IPv4 and IPv6 can be opened")


def _firewall(port: int | None) -> Check:
    if not _may_configure():
        return Check(
            "firewall",
            None,
            "not looked at: only root may read its rules",
            "Look with: sudo veilnet doctor",
        )
    texts = [(judge, text) for argv, judge in _RULES if (text := _output(argv)) is not None]
    if not texts:
        return Check("firewall", None, "not looked at: neither nft nor iptables can be read here")
    found = next((chains for judge, text in texts if (chains := judge(text))), [])
    if not found:
        return Check("firewall", True, "no chain for incoming packets drops what no rule accepts")
    shown = "PORT" if port is None else str(port)
    hint = next(
        (advice for tool, advice in _ADVICE.items() if shutil.which(tool)),
        "accept UDP to port {port} of this host",
    ).format(port=shown)
    return Check(
        "firewall",
        True,
        f"{', '.join(found)} drops what no rule accepts",
        f"Unless a rule lets it in already: {hint}",
    )


_ADVICE = {
    "ufw": "sudo ufw allow {port}/udp",
    "firewall-cmd": "sudo firewall-cmd --add-port={port}/udp",
}


def _output(argv: Sequence[str]) -> str | None:
    """Return what a tool prints, None if it cannot tell."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def dropping_chains(ruleset: str) -> list[str]:
    """Return the chains for incoming packets that drop what no rule of theirs accepts.

    Source: libnftables-json(5); by policy, or by a last rule that only drops or rejects.
    """
    try:
        items = [item for item in json.loads(ruleset)["nftables"] if isinstance(item, dict)]
    except (ValueError, KeyError, TypeError):
        return []
    found = []
    for chain in (item["chain"] for item in items if "chain" in item):
        if chain.get("hook") != "input":
            continue
        here = [
            rule["expr"]
            for rule in (item["rule"] for item in items if "rule" in item)
            if all(rule[key] == chain[of] for key, of in _SAME.items())
        ]
        verdicts = {name for each in here[-1:] for part in each for name in part} - {"counter"}
        if chain.get("policy") == "drop" or verdicts in ({"drop"}, {"reject"}):
            found.append(f"nft chain {chain['family']} {chain['table']} {chain['name']}")
    return found


_SAME = {"family": "family", "table": "table", "chain": "name"}


def dropping_policy(rules: str) -> list[str]:
    """Return iptables' INPUT chain if its policy is to drop."""
    policies = {"-P INPUT DROP", "-P INPUT REJECT"}
    return ["iptables chain INPUT"] if policies & set(rules.splitlines()) else []


_RULES = (
    (("nft", "-j", "list", "ruleset"), dropping_chains),
    (("iptables", "-S", "INPUT"), dropping_policy),
    (("ip6tables", "-S", "INPUT"), dropping_policy),
)
