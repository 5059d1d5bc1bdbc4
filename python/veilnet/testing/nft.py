"""Rule sets for `Host.nft`, for tests and benches on machines that have the program nft."""

from __future__ import annotations

import shutil


def available() -> bool:
    """Say whether the program nft is installed."""
    return shutil.which("nft") is not None


def masquerade(link: str) -> str:
    """Return rules that hide what leaves by *link* behind its address, as home routers do.

    Nobody outside opens a connection inwards: NAT of the port-restricted kind.
    """
    return f"""
table ip lab_nat {{
    chain post {{ type nat hook postrouting priority srcnat; oifname "{link}" masquerade
    }}
    chain pass {{ type filter hook forward priority filter; iifname "{link}" ct state new drop
    }}
    chain self {{ type filter hook input priority filter; iifname "{link}" ct state new drop
    }}
}}
"""


def loss(fraction: float, *, family: str = "inet") -> str:
    """Return rules by which a router loses *fraction* of what it forwards, both ways.

    It loses what it sees as one packet: switch segmentation offload off on the links that feed it,
    or it loses whole super-packets.
    """
    share = round(fraction * 100_000)
    return f"""
table {family} lab_loss {{
    chain pass {{ type filter hook forward priority filter; numgen random mod 100000 < {share} drop
    }}
}}
"""


def clear(table: str = "lab_loss", *, family: str = "inet") -> str:
    """Return rules that take a table of this module away again, present or not."""
    return f"table {family} {table} {{\n}}\ndelete table {family} {table}\n"
