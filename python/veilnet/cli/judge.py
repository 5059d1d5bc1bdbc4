"""What the words of a command line mean, judged before anything is asked or started."""

from __future__ import annotations

import contextlib
from pathlib import Path

from veilnet.errors import InviteError, UsageError

INVITE_DAYS_MAX = 30
INVITE_CHARACTERS_MIN = 150
"""A word so long is no name; it may be an invite whose beginning was not copied."""


def named(peer: str) -> str:
    """Return *peer* without white space around it.   Raises: UsageError: nothing is left."""
    peer = peer.strip()
    if not peer:
        raise UsageError("PEER is empty", hint="Name one: veilnet peer list")
    return peer


def target(peer: str) -> tuple[str, bool]:
    """Return whom to connect to, and whether that is an invite.

    Raises: UsageError: nobody; InviteError: it is a garbled one.
    """
    peer = named(peer)
    joining = peer.lower().startswith("veil:")
    if joining or len(peer) >= INVITE_CHARACTERS_MIN:
        from veilnet.networks.invite import Invite  # costs start-up time that names need not pay

        if joining:
            Invite.parse(peer)
            return peer, True
        with contextlib.suppress(InviteError):
            Invite.parse(f"veil:{peer}")
            raise UsageError(
                "this looks like an invite without veil:",
                hint="Put veil: before it, with no space between.",
            )
    return peer, False


def duration(text: str) -> int:
    """Return the seconds that ``24h`` means.   Raises: UsageError: none, or too many."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    number, unit = text[:-1], text[-1:]
    digits = number[:12]  # of more, int() would rather not know
    if unit not in units or not (number.isascii() and number.isdigit()) or not int(digits):
        raise UsageError(f"--expires: {text!r} is no duration", hint="Write 30m, 24h or 7d.")
    if (seconds := int(digits) * units[unit]) > INVITE_DAYS_MAX * units["d"]:
        raise UsageError(
            f"--expires {text} is too long: at most {INVITE_DAYS_MAX}d",
            hint="Write 30m, 24h or 7d.",
        )
    return seconds


def amount(flag: str, text: str | None) -> int | None:
    """Return the number that ``100M`` means, 0 for ``none``.   Raises: UsageError: it is none."""
    if text is None or text.lower() == "none":
        return None if text is None else 0
    units = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
    unit = units.get(text[-1:].lower(), 1)
    number = text[:-1] if unit > 1 else text
    whole, _, part = number.partition(".")
    digits = whole + part
    value = 0
    if digits.isascii() and digits.isdigit() and len(digits) <= 15:
        value = int(digits) * unit // 10 ** len(part)
    if not value:
        raise UsageError(
            f"{flag}: {text!r} is no amount", hint="Write 500k, 100M, 1.5G, 2T; or none."
        )
    return value


def node_name(name: str | None) -> str | None:
    """Return the name to ask for in networks.   Raises: UsageError: it is none."""
    if name is None:
        return None
    from veilnet.networks.names import parse_node_name

    try:
        return parse_node_name(name)
    except UsageError as error:
        raise UsageError(f"--name: {error.message}", hint=error.hint) from error


def hosts_file(path: Path) -> str:
    """Return the hosts file to write to.   Raises: UsageError: it cannot be one."""
    path = path.absolute()
    with contextlib.suppress(PermissionError):  # which whoever writes it will tell better
        if path.is_dir() or not path.parent.is_dir():
            why = "is a folder" if path.is_dir() else "would be in a folder that is not there"
            raise UsageError(f"--hosts-file: {path} {why}", hint="Name a file, or use --hosts.")
    return str(path)
