"""Every error that VeilNet raises on purpose: whose fault it was, and what to do next.

```
VeilError
|-- UsageError            2   the command line or the call was wrong
|-- DaemonNotRunning      3   nobody listens on the control socket
|-- PrivilegeError        4   the operating system or the daemon does not let this user do it
|-- TimedOut              5   the deadline passed before an answer came
|   `-- PeerUnreachable   5   ... and no candidate of the peer answered at all
|-- PeerError             6   the peer, or what we know of it, is the reason
|   |-- PeerRefused       6   it answered, and said no
|   |-- UnknownPeer       6   no network of ours has a peer of that name
|   |-- PeerIncompatible  6   it is honest, but speaks another suite or version
|   `-- PeerMisbehaved    6   it broke a rule that no honest node breaks
|-- ProtocolError         6
|   |-- LocalProtocolError    6   we asked for something the protocol does not allow now
|   `-- RemoteProtocolError   6   the other side sent something the protocol does not allow
|-- ConfigError           7   a file of the operator's cannot be used
|   `-- InviteError       7   ... or an invite
|-- ClosedError          70   you closed it, then used it
|-- BrokenEngineError    70   it broke under you
`-- InternalError        70   a bug of ours
```

The number is the exit code of the command that ends with the error.  An error crosses the
control socket as ``to_json()`` and comes out of ``VeilError.from_json()`` as the same class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

_REGISTRY: dict[str, type[VeilError]] = {}


class VeilError(Exception):
    """An error with a message (what happened, whose fault) and a hint (what to do next)."""

    code: ClassVar[int] = 70
    """Exit code of a command that ends with this error."""

    default_hint: ClassVar[str] = "Report what you were doing, with what `veilnet doctor` prints."
    """What to do next where the place that raises knows nothing better."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.__name__ in _REGISTRY:
            # The name is what crosses the control socket, so it must mean one class.
            msg = f"two error classes are called {cls.__name__}"
            raise TypeError(msg)
        _REGISTRY[cls.__name__] = cls

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.default_hint

    def __str__(self) -> str:
        """Two lines: what happened and whose fault; what to do next."""
        return f"{self.message}\n{self.hint}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.message!r}, hint={self.hint!r})"

    def to_json(self) -> dict[str, str | int]:
        """Return the members that `from_json` needs, all of them JSON scalars."""
        return {
            "error": type(self).__name__,
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
        }

    @staticmethod
    def from_json(value: Mapping[str, object]) -> VeilError:
        """Rebuild the error that `to_json` described; never raises.

        A class this release does not know (a newer daemon) becomes the first known class of the
        same exit code, so that scripts still see the right code.
        """
        name, code = value.get("error"), value.get("code")
        cls = _REGISTRY.get(name) if isinstance(name, str) else None
        if cls is None:
            cls = next((c for c in _REGISTRY.values() if c.code == code), InternalError)
        message, hint = value.get("message"), value.get("hint")
        return cls(
            message if isinstance(message, str) else f"error without a message: {name!r}",
            hint=hint if isinstance(hint, str) else "",
        )

    def because(self, cause: BaseException) -> Self:
        """Return self with *cause* as ``__cause__``, for errors that are returned, not raised."""
        self.__cause__ = cause
        return self


class UsageError(VeilError):
    """The command line or the call was wrong: the caller's fault."""

    code = 2
    default_hint = "See `veilnet --help`."


class DaemonNotRunning(VeilError):
    """Nobody listens on the control socket."""

    code = 3
    default_hint = "Start the node first: sudo veilnet up"


class PrivilegeError(VeilError):
    """The operating system, or the daemon, does not let this user do it."""

    code = 4
    default_hint = "Try again with sudo, or as the operator of this node."


class TimedOut(VeilError):
    """The deadline passed before an answer came; nobody is known to be at fault."""

    code = 5
    default_hint = "Try again with a longer --timeout."


class PeerUnreachable(TimedOut):
    """No candidate of the peer answered before the deadline."""

    default_hint = "Check that the peer's node is up and its UDP port open. There: veilnet doctor"


class PeerError(VeilError):
    """The peer, or what we know of it, is the reason."""

    code = 6
    default_hint = "See which peers there are: veilnet peer list"


class PeerRefused(PeerError):
    """The peer answered, and said no."""

    default_hint = "Ask the peer's operator; a revoked or expired membership needs a new invite."


class UnknownPeer(PeerError):
    """No network of ours has a peer of that name, id or address."""


class PeerIncompatible(PeerError):
    """The peer is honest, but speaks another suite or version."""

    default_hint = "Bring both nodes to the same release of VeilNet."


class PeerMisbehaved(PeerError):
    """The peer broke a rule that no honest node breaks."""

    default_hint = "If you do not trust it any more, tell the network's founder."


class ProtocolError(VeilError):
    """Something the protocol does not allow; the subclass says who did it."""

    code = 6
    default_hint = "Bring both nodes to the same release of VeilNet; if it stays, report it."


class LocalProtocolError(ProtocolError):
    """We asked for something the protocol does not allow in this state: the caller's fault."""


class RemoteProtocolError(ProtocolError):
    """The other side sent something the protocol does not allow: its fault."""


class ConfigError(VeilError):
    """A file of the operator's cannot be used."""

    code = 7
    default_hint = "Correct it; every key of config.toml is shown by: veilnet config show"


class InviteError(ConfigError):
    """An invite is malformed, used up or expired."""

    default_hint = "Ask whoever sent it for a new one; there: veilnet invite"


class ClosedError(VeilError):
    """You closed it, then used it."""


class BrokenEngineError(VeilError):
    """The engine broke under you; its node must start again."""

    default_hint = "Restart the node: veilnet down, then sudo veilnet up"


class InternalError(VeilError):
    """A bug of ours."""
