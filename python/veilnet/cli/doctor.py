"""`doctor`: what a node needs here, whether it is there, and what to do if it is not."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import stat
from pathlib import Path
from typing import Any

import attrs

from veilnet import config
from veilnet.cli import output
from veilnet.cli.options import Globals
from veilnet.cli.program import exact
from veilnet.cli.start import state_of
from veilnet.control import client
from veilnet.control.location import socket_to_ask
from veilnet.errors import PrivilegeError, VeilError


@attrs.frozen
class Check:
    """One finding; *ok* is false only for what keeps a node from running."""

    name: str
    ok: bool
    detail: str
    hint: str = ""
    code: int = 70
    """Exit code of `doctor` if this is the first check that fails."""

    def to_json(self) -> dict[str, Any]:
        """Return the members that have something to say."""
        value = {"name": self.name, "ok": self.ok, "detail": self.detail}
        return value | ({"hint": self.hint} if self.hint else {})


def examine(found: Globals) -> list[Check]:
    """Run every check."""
    checks = [_crypto(found), _engine(), _tun(), _namespaces(), _config(found)]
    node, port = _node(found)
    return [*checks, *node, _firewall(port)]


def report(checks: list[Check]) -> None:
    """Print *checks* for people."""
    for check in checks:
        output.line(f"{'ok ' if check.ok else 'BAD'}  {check.name}: {check.detail}")
        if check.hint:
            output.line(f"       {exact(check.hint)}")


def _crypto(found: Globals) -> Check:
    from veilnet import crypto

    try:
        wanted = config.load(state_of(found)).kem_backend
        backend = crypto.load("cryptography" if wanted == "cryptography" else "liboqs")
    except VeilError as error:
        return Check("crypto", False, error.message, error.hint)
    words = [f"{backend.name} {backend.version}", backend.why]
    if backend.library is not None:
        words.append(str(backend.library))
    words.append(f"checked by {backend.other.name}" if backend.other else "checked by nothing")
    return Check("crypto", True, ", ".join(words))


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


def _config(found: Globals) -> Check:
    path = state_of(found) / config.FILE_NAME
    try:
        there = path.exists()
        config.load(path.parent)
    except PermissionError:
        return Check("config", True, f"{path} is not ours to read")
    except VeilError as error:
        return Check("config", False, error.message, error.hint, error.code)
    return Check("config", True, str(path) if there else f"{path} is not there: defaults")


def _node(found: Globals) -> tuple[list[Check], int | None]:
    """Return what the node says, and its UDP port if it has one already."""
    path = socket_to_ask(found.socket)
    try:
        value = client.ask(path, "status", timeout_s=5.0)
    except VeilError as error:
        return [Check("node", True, error.message, error.hint), _port()], _port_to_be(found)
    checks = [Check("node", True, f"up, listens on UDP port {value['port']}")]
    for network in value["networks"]:
        checks += [
            Check(f"network {network['name']}", True, warning)
            for warning in network.get("warnings", ())
        ]
    return checks, value["port"]


def _port_to_be(found: Globals) -> int | None:
    """Return the port that the node will listen on, None if it has yet to choose one."""
    with contextlib.suppress(OSError, ValueError, VeilError, AttributeError):
        configured = config.load(state_of(found)).listen_port
        remembered = json.loads((state_of(found) / "node.json").read_text("ascii"))
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
    tools = [name for name in ("ufw", "firewall-cmd", "nft", "iptables") if shutil.which(name)]
    if not tools:
        return Check("firewall", True, "no firewall tool is installed")
    shown = "PORT" if port is None else str(port)
    advice = {
        "ufw": f"If peers cannot reach this node: sudo ufw allow {shown}/udp",
        "firewall-cmd": "If peers cannot reach this node: "
        f"sudo firewall-cmd --add-port={shown}/udp",
    }
    hint = next((advice[name] for name in tools if name in advice), "")
    return Check(
        "firewall",
        True,
        f"{', '.join(tools)} may filter; let UDP to the node's port in",
        hint or f"If peers cannot reach this node, accept UDP to port {shown} of this host.",
    )
