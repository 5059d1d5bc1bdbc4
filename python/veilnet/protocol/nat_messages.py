"""Control messages by which two ends of a session find a direct way through their translators.

```
channel, end - end      Call -> CallAnswer | CallRefused;  CallGo      (`nat.punching`)
link, end - end         SilenceTest                                    (`nat.keepalive`)
```
`protocol.messages` enters them in the one registry.  Messages of a call name the path that is to
become the direct way: its id belongs to the caller, as with PathOpen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from attrs import frozen

from veilnet.protocol.fields import U16, U32, EndpointPair, Integer, ListOf
from veilnet.protocol.relay_messages import FIRST_PATH, LAST_PATH

if TYPE_CHECKING:
    from veilnet.protocol.fields import Codec, Endpoint

CANDIDATES_MAX: Final = 8
ATTEMPTS_MAX: Final = 4
MAPPING_MAX: Final = 5
SILENCE_MAX_MS: Final = 120_000


@frozen(kw_only=True)
class Call:
    """Let us try for a direct way; where the sender may be, and what is in front of it.

    *mapping*: `nat.classify.Mapping`; *stride* modulo 2^16.
    """

    path: int
    attempt: int
    local: tuple[Endpoint, ...] = ()
    public: tuple[Endpoint, ...] = ()
    mapping: int = 0
    stride: int = 0


@frozen(kw_only=True)
class CallAnswer:
    """The same of the other end, ready at once; *held_us* passed there since the call came."""

    path: int
    local: tuple[Endpoint, ...] = ()
    public: tuple[Endpoint, ...] = ()
    mapping: int = 0
    stride: int = 0
    held_us: int = 0


@frozen(kw_only=True)
class CallGo:
    """Begin now; the sender begins half of that round trip after it sent this."""

    path: int
    rtt_us: int


@frozen(kw_only=True)
class CallRefused:
    """Not now, and why (`nat.punching.Refusal`)."""

    path: int
    code: int = 0


@frozen(kw_only=True)
class SilenceTest:
    """Send a probe after so long, in which the asker is silent: does it still get through?"""

    after_ms: int


NatMessage = Call | CallAnswer | CallGo | CallRefused | SilenceTest

_PATH: Final = Integer(LAST_PATH, FIRST_PATH)
_ENDPOINTS: Final = ListOf(EndpointPair(), CANDIDATES_MAX)
_MAPPING: Final = Integer(MAPPING_MAX)

TABLE: Final[dict[int, tuple[type[Any], dict[int, tuple[str, Codec[Any]]]]]] = {
    96: (
        Call,
        {
            1: ("path", _PATH),
            2: ("attempt", Integer(ATTEMPTS_MAX, 1)),
            3: ("local", _ENDPOINTS),
            4: ("public", _ENDPOINTS),
            5: ("mapping", _MAPPING),
            6: ("stride", U16),
        },
    ),
    97: (
        CallAnswer,
        {
            1: ("path", _PATH),
            3: ("local", _ENDPOINTS),
            4: ("public", _ENDPOINTS),
            5: ("mapping", _MAPPING),
            6: ("stride", U16),
            7: ("held_us", U32),
        },
    ),
    98: (CallGo, {1: ("path", _PATH), 2: ("rtt_us", U32)}),
    99: (CallRefused, {1: ("path", _PATH), 2: ("code", U16)}),
    100: (SilenceTest, {1: ("after_ms", Integer(SILENCE_MAX_MS, 1))}),
}
"""Type number -> class and layout, as in `protocol.messages`."""
