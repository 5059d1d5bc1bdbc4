"""The lines of the control protocol: bounded JSON objects, parsed into types that cannot be wrong.

```
Request   {"command": str, "args": object}            one line, <= 64 KB
Event     {"event": object}                           one line, <= 4 MB
Result    {"result": object}    Failure  {"error": object}
```
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import attrs

from veilnet.errors import RemoteProtocolError, VeilError

if TYPE_CHECKING:
    from collections.abc import Mapping

REQUEST_BYTES_MAX = 64 * 1024
REPLY_BYTES_MAX = 4 * 1024 * 1024


@attrs.frozen
class Request:
    """What a client asks for."""

    command: str
    args: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen
class Event:
    """Something that happened on the way to the answer."""

    value: Mapping[str, Any]


@attrs.frozen
class Result:
    """The answer."""

    value: Mapping[str, Any]


@attrs.frozen
class Failure:
    """The answer, when it is an error."""

    error: VeilError


Reply = Event | Result | Failure


def _encode(value: Mapping[str, Any]) -> bytes:
    # ensure_ascii (the default) keeps peer-chosen text from ever becoming a line break.
    return json.dumps(value, separators=(",", ":")).encode("ascii") + b"\n"


def encode_request(request: Request) -> bytes:
    """Return *request* as one line."""
    return _encode({"command": request.command, "args": dict(request.args)})


def encode_reply(reply: Reply) -> bytes:
    """Return *reply* as one line."""
    match reply:
        case Event(value):
            return _encode({"event": dict(value)})
        case Result(value):
            return _encode({"result": dict(value)})
        case Failure(error):
            return _encode({"error": error.to_json()})


def _decode(line: bytes, who: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError(f"the {who} sent a line that is not JSON") from error
    if not isinstance(value, dict):
        raise RemoteProtocolError(f"the {who} sent a line that is not a JSON object")
    return value


def parse_request(line: bytes) -> Request:
    """Return the request in *line*.

    Raises: RemoteProtocolError: it is not one.
    """
    value = _decode(line, "client")
    command, args = value.get("command"), value.get("args", {})
    if not isinstance(command, str) or not isinstance(args, dict):
        raise RemoteProtocolError("the client sent a request without a command")
    return Request(command, args)


def parse_reply(line: bytes) -> Reply:
    """Return the reply in *line*.

    Raises: RemoteProtocolError: it is none.
    """
    value = _decode(line, "daemon")
    for name in ("event", "result", "error"):
        inner = value.get(name)
        if isinstance(inner, dict):
            if name == "event":
                return Event(inner)
            return Result(inner) if name == "result" else Failure(VeilError.from_json(inner))
    raise RemoteProtocolError("the daemon sent a line that is no reply")
