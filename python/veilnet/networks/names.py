"""Names of members: DNS labels, so that `ssh NAME` can work, and safe to print.

Source: RFC 1123 section 2.1, RFC 1035 section 2.3.4 (63 octets).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from veilnet.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Container

MAX_NAME_CHARACTERS: Final = 63

RESERVED: Final = frozenset(
    {
        "localhost",
        "localhost4",
        "localhost6",
        "localdomain",
        "local",
        "broadcasthost",
        "gateway",
        "loopback",
        "wpad",
        "isatap",
        "host-gateway",
        "any",
        "all",
    }
)
"""Names that hosts, browsers and resolvers give a meaning of their own."""

_RESERVED_FORMS = re.compile(r"ip6-.*|xn--.*|[0-9]+|0x[0-9a-f]*|.*-localhost|localhost-.*")
"""... and forms of them; a resolver takes a bare number for an IPv4 address."""

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


def is_name(text: str) -> bool:
    """Tell whether *text* is a name as it stands: a lower-case DNS label."""
    return _LABEL.fullmatch(text) is not None


def parse_name(text: str) -> str:
    """Return *text* as a name, in lower case.

    Raises: UsageError: it is no DNS label.
    """
    name = text.strip().lower()
    if not is_name(name):
        raise UsageError(
            f"{printable(text)} cannot be a node's name",
            hint="Use 1 to 63 letters, digits and hyphens, with no hyphen at either end.",
        )
    return name


def is_reserved(name: str) -> bool:
    """Tell whether a name must not be a member's, because it means something else on a host."""
    return name in RESERVED or _RESERVED_FORMS.fullmatch(name) is not None


def parse_node_name(text: str) -> str:
    """Return *text* as a name that a member may have.

    Raises: UsageError: it is no DNS label, or one that means something else.
    """
    name = parse_name(text)
    if is_reserved(name):
        raise UsageError(
            f"{name} cannot be a node's name: hosts give it a meaning of their own",
            hint="Choose another: --name NAME",
        )
    return name


def name_from_host(host_name: str) -> str:
    """Return the nearest name to the host's own, `node` if nothing of it can be used."""
    label = host_name.strip().lower().split(".")[0]
    label = re.sub(r"[^a-z0-9]+", "-", label)[:MAX_NAME_CHARACTERS].strip("-")
    return "node" if not label or is_reserved(label) else label


def free_name(wanted: str, taken: Container[str]) -> str:
    """Return *wanted*, or the first of *wanted*-2, *wanted*-3, ... that is not taken."""
    name, number = wanted, 1
    while name in taken:
        number += 1
        suffix = f"-{number}"
        name = wanted[: MAX_NAME_CHARACTERS - len(suffix)].rstrip("-") + suffix
    return name


def printable(text: str, *, max_characters: int = 80) -> str:
    """Return *text* quoted for a message: ASCII only, no control characters, not too long."""
    if len(text) > max_characters:
        text = text[: max_characters - 3] + "..."
    return ascii(text)
