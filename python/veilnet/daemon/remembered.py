"""What a node remembers of itself beside its identity and its networks."""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING, Any, Final

import attrs

from veilnet.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from veilnet.store import Store

FILE_NAME: Final = "node.json"
RECENT_MAX: Final = 64


def _pairs(value: object) -> list[tuple[str, str]]:
    if not isinstance(value, list):
        raise TypeError("recent is no list")
    return [(str(network), str(peer)) for network, peer in value][:RECENT_MAX]


def _uid(value: object) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise TypeError(f"{value!r} is no user id")
    return value


def _scalars(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("relay is no object")
    if not all(isinstance(item, int | str) for item in value.values()):
        raise TypeError("relay has a value that is none")
    return dict(value)


@attrs.define
class Remembered:
    """The file ``node.json``."""

    listen_port: int = attrs.field(default=0, converter=int)
    operator_uid: int | None = attrs.field(default=None, converter=_uid)
    operator_gid: int | None = attrs.field(default=None, converter=_uid)
    recent: list[tuple[str, str]] = attrs.field(factory=list, converter=_pairs)
    """(network id, peer id) in hex of the sessions that were up: called after a restart."""

    relay: dict[str, Any] = attrs.field(factory=dict, converter=_scalars)
    """What commands decided about relaying: keys of `config.toml` with their values."""

    @classmethod
    def load(cls, store: Store) -> Remembered:
        """Read it from the state folder.

        Raises: ConfigError: it is there, and is not what `save` wrote.
        """
        data = store.read(FILE_NAME, max_bytes=1 << 20)
        if data is None:
            return cls()
        try:
            return cls(**json.loads(data))
        except (ValueError, TypeError) as error:
            raise ConfigError(
                f"{store.path / FILE_NAME} is damaged: {error}",
                hint="Remove it: the identity is elsewhere, and port and operator are learnt anew. "
                "But what `veilnet relay on|off|limit` said is in it, and has to be said again.",
            ) from error

    def save(self, store: Store) -> None:
        """Write it if it has changed; the old one stays if that fails."""
        data = json.dumps(attrs.asdict(self) | {"recent": self.recent[:RECENT_MAX]}).encode()
        # A restart with a full disk must not fail over a file that is right already.
        if store.read(FILE_NAME, max_bytes=1 << 20) != data:
            store.write(FILE_NAME, data)

    def note_operator(self, environ: Mapping[str, str]) -> None:
        """Record who stands behind sudo at the first start; a later start changes nothing."""
        if self.operator_uid is not None or os.geteuid() != 0:
            return
        with contextlib.suppress(KeyError, ValueError):
            self.operator_uid, self.operator_gid = (
                int(environ["SUDO_UID"]),
                int(environ["SUDO_GID"]),
            )
