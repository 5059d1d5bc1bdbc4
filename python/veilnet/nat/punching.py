"""One end of the calls with one peer: when to call, what to say, when to begin.

```
caller                               callee
want -> Gather
Gathered -> Call            --->     heard -> Gather, Range
         <---  CallAnswer            Gathered, Ranged -> Open, CallAnswer
heard -> Open, Range
Ranged -> CallGo            --->     heard -> attempt begins now
attempt begins half a round trip later
the way lives: met         |         nothing at its end: Shut
```
| number | what differs | when |
|---|---|---|
| 1 | the caller is first | at once |
| 2 | the callee is first | at once |
| 3, 4 | many ports, if just one end's translator draws them | at once |
| 3 | as 1, after a silence in which translators forget what came too early | after 35 s |
| 1 | all again | after 60 s, doubling to an hour |

The round trip is measured anew by every call: from Call to CallAnswer, less what the callee took.

Invariant: one call at a time; what a peer says of itself only chooses between addresses that
`Gather`'s shell has checked, and nothing is sent to many ports but where a relay sees the peer: a
stranger's relay only if the peer says itself that it is at that host.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

from attrs import define, frozen

from veilnet.nat.attempt import TTL, Attempt, Side, Step, is_hopeless, wants_many
from veilnet.nat.classify import Mapping
from veilnet.protocol.nat_messages import Call, CallAnswer, CallGo, CallRefused, NatMessage

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from veilnet.nat.budget import ProbeBudget
    from veilnet.protocol.fields import Endpoint

ANSWER_S: Final = 4.0
GO_S: Final = 4.0
GATHER_S: Final = 3.0
RANGE_S: Final = 1.2
"""So long the hops may be counted, or the relay may take to say where it sees the peer."""
SOON_S: Final = 0.1
QUIET_S: Final = 35.0
"""Longer than Linux keeps an entry that only one side has used."""
FIRST_PAUSE_S: Final = 60.0
MAX_PAUSE_S: Final = 3_600.0
FIRST_MUTE_S: Final = 5.0
MAX_MUTE_S: Final = 60.0
"""After a call that nobody answered."""
YIELD_S: Final = 90.0
"""Who was called leaves it to the caller to call again for so long."""
MANY: Final = 3
LAST: Final = 4


class Refusal(enum.IntEnum):
    """Why there is no answer to a call."""

    NO = 0
    BUSY = 1
    TOO_OFTEN = 2


class State(enum.Enum):
    """What this end waits for."""

    REST = enum.auto()
    GATHERING = enum.auto()
    CALLING = enum.auto()
    RANGING = enum.auto()
    ANSWERING = enum.auto()
    READY = enum.auto()
    TRYING = enum.auto()


# --- actions ----------------------------------------------------------------------------------


@frozen
class Gather:
    """Find our own addresses, and an id for the path if *path*; `gathered` follows."""

    path: bool


@frozen
class Range:
    """Count the hops to *endpoint* as far as an opener's go; `ranged` follows."""

    endpoint: Endpoint


@frozen
class Vouch:
    """Have the relay tell the peer where it sees us; the peer's relay does so for us."""


@frozen
class Open:
    """`engine.open_path`, silent until it is told to send."""

    path: int
    endpoint: Endpoint
    ours: bool


@frozen
class Say:
    """Send a message to the peer."""

    message: NatMessage


@frozen
class Shut:
    """The path came to nothing."""

    path: int


Action = Gather | Range | Vouch | Open | Say | Shut | Step


@define
class _Now:
    """The call under way."""

    caller: bool
    number: int
    path: int = 0
    since_s: float = 0.0
    until_s: float = 0.0
    own: Side | None = None
    peer: Side | None = None
    ttl: int | None = None
    rtt_s: float = 0.0


class Punching:
    """Calls with one peer.

    Units: *now* seconds, monotonic.   *prior*: whether this end goes on when both call at once.
    """

    def __init__(
        self, *, prior: bool, rng: Random, budget: ProbeBudget, now: float, wait_s: float = 0.0
    ) -> None:
        self._prior = prior
        self._rng, self._budget = rng, budget
        self.state = State.REST
        self.due_s = now + wait_s
        self.number = 1
        self.tried = 0
        """Attempts that came to nothing since the last that did not."""
        self.peer: Side | None = None
        """What the peer last said of itself."""
        self._told: Endpoint | None = None
        self._told_by_member = False
        self._pause_s, self._mute_s = FIRST_PAUSE_S, FIRST_MUTE_S
        self._call = _Now(caller=True, number=1)
        self._attempt: Attempt | None = None

    @property
    def path(self) -> int:
        """The path of the call under way, 0 if it has none."""
        return 0 if self.state is State.REST else self._call.path

    @property
    def vouched(self) -> Endpoint | None:
        """Where a relay sees the peer, if that is to be believed."""
        if self._told is None or self._told_by_member:
            return self._told
        named = () if self.peer is None else (*self.peer.local, *self.peer.public)
        return self._told if any(host == self._told[0] for host, _ in named) else None

    # --- what the shell says ---------------------------------------------------------------------

    def inherit(self, other: Punching) -> None:
        """Know what *other*, of an older session with the same peer, knew of it."""
        self.peer = other.peer
        self._told, self._told_by_member = other._told, other._told_by_member

    def want(self, now: float) -> list[Action]:
        """There is no direct way: call if it is time."""
        if self.state is not State.REST or now < self.due_s:
            return []
        self._call = _Now(caller=True, number=self.number)
        self._enter(State.GATHERING, now, GATHER_S)
        return [Gather(path=True)]

    def moved(self, now: float) -> None:
        """One of the ends has other addresses than before: all may be tried again."""
        self.number, self._pause_s = 1, FIRST_PAUSE_S
        self.due_s = min(self.due_s, now + SOON_S)

    def met(self, now: float) -> None:
        """The direct way lives."""
        self.state, self._attempt = State.REST, None
        self.number, self.tried = 1, 0
        self._pause_s, self._mute_s = FIRST_PAUSE_S, FIRST_MUTE_S
        self.due_s = now + SOON_S

    def told(self, endpoint: Endpoint, now: float, *, member: bool = True) -> list[Action]:
        """A relay, which is a *member* or a stranger, says where it sees the peer."""
        if member or not self._told_by_member:
            self._told, self._told_by_member = endpoint, member
        if self.state is State.RANGING and self._is_many() and self.vouched is not None:
            return self._go(now)
        return []

    def gathered(self, own: Side, path: int | None, now: float) -> list[Action]:
        """Our own addresses are known; *path* only if it was asked for."""
        call = self._call
        if self.state is State.GATHERING and path is not None:
            call.own, call.path = own, path
            self._enter(State.CALLING, now, ANSWER_S)
            call.since_s = now
            said = Call(
                path=path,
                attempt=call.number,
                local=own.local,
                public=own.public,
                mapping=own.mapping,
                stride=own.stride % 2**16,
            )
            return [*self._vouch(), Say(said)]
        if self.state is State.ANSWERING:
            call.own = own
            return self._answer(now)
        return []

    def ranged(self, hops: int | None, now: float) -> list[Action]:
        """The hops to the peer's translator were counted, or could not be."""
        call = self._call
        call.ttl = TTL if hops is None else max(2, min(TTL, hops - 1))
        if self.state is State.ANSWERING:
            return self._answer(now)
        if self.state is State.RANGING and (not self._is_many() or self.vouched is not None):
            return self._go(now)
        return []

    def gone(self, now: float) -> list[Action]:
        """The path was closed by the peer, or with its session."""
        if self.state is State.REST:
            return []
        return [action for action in self._end(now) if not isinstance(action, Shut)]

    def unopened(self, now: float) -> list[Action]:
        """The engine took no such path."""
        if self.state in (State.ANSWERING, State.READY):
            return self._refuse(Refusal.NO)
        return self._fail(now)

    def unsent(self, endpoints: Sequence[Endpoint]) -> None:
        """The engine had no budget for the last of the probes that it was given."""
        if self._attempt is not None:
            self._attempt.unsent(endpoints)

    # --- what the peer says ----------------------------------------------------------------------

    def heard(self, message: NatMessage, now: float) -> list[Action]:
        """Take one message of the peer; what does not fit is late, and nothing."""
        match message:
            case Call():
                return self._called(message, now)
            case CallAnswer(path=path) if self.state is State.CALLING and path == self._call.path:
                return self._answered(message, now)
            case CallRefused(path=path) if self.state is State.CALLING and path == self._call.path:
                self._call.path = 0
                return self._fail(now)
            case CallGo(path=path) if self.state is State.READY and path == self._call.path:
                self._call.rtt_s = message.rtt_us / 1e6
                return self._begin(now, now)
        return []

    def _called(self, call: Call, now: float) -> list[Action]:
        ours = self.state in (State.GATHERING, State.CALLING, State.RANGING)
        if self.state is not State.REST and (not ours or self._prior):
            return [Say(CallRefused(path=call.path, code=Refusal.BUSY))]
        actions: list[Action] = []
        if self.state is State.RANGING:
            actions.append(Shut(self._call.path))
        peer = _side(call)
        self.peer = peer
        self.due_s = max(self.due_s, now + YIELD_S)
        self._call = _Now(caller=False, number=call.attempt, path=call.path, peer=peer)
        self._enter(State.ANSWERING, now, GATHER_S)
        self._call.since_s = now
        return [*actions, Gather(path=False), *self._range(peer)]

    def _range(self, peer: Side) -> list[Action]:
        target = next((each for each in peer.public if ":" not in each[0]), None)
        if target is None:
            self._call.ttl = TTL
            return []
        return [Range(target)]

    def _answer(self, now: float) -> list[Action]:
        call = self._call
        if call.own is None or call.ttl is None or call.peer is None:
            return []
        first = next(iter(call.peer.candidates), None)
        if first is None:
            return self._refuse(Refusal.NO)
        held_us = min(round((now - call.since_s) * 1e6), 2**32 - 1)
        said = CallAnswer(
            path=call.path,
            local=call.own.local,
            public=call.own.public,
            mapping=call.own.mapping,
            stride=call.own.stride % 2**16,
            held_us=held_us,
        )
        self._enter(State.READY, now, GO_S)
        return [Open(call.path, first, ours=False), *self._vouch(), Say(said)]

    def _answered(self, answer: CallAnswer, now: float) -> list[Action]:
        call = self._call
        call.peer = self.peer = _side(answer)
        first = next(iter(call.peer.candidates), None)
        if first is None:
            return self._fail(now)
        call.rtt_s = max(now - call.since_s - answer.held_us / 1e6, 0.0)
        self._mute_s = FIRST_MUTE_S
        self._enter(State.RANGING, now, RANGE_S)
        actions: list[Action] = [Open(call.path, first, ours=True), *self._range(call.peer)]
        if call.ttl is not None or (self._is_many() and self.vouched is not None):
            actions += self._go(now)
        return actions

    def _refuse(self, code: Refusal) -> list[Action]:
        path = self._call.path
        self._rest()
        return [Say(CallRefused(path=path, code=code))]

    # --- time ------------------------------------------------------------------------------------

    def deadline(self) -> float | None:
        """Return when `tick` must run; None: not before the next event."""
        if self.state is State.REST:
            return None
        return self._call.until_s if self._attempt is None else self._attempt.deadline()

    def tick(self, now: float) -> list[Action]:
        """Do what is due."""
        if self._attempt is not None:
            if self._attempt.over(now):
                return self._end(now)
            return list(self._attempt.tick(now))
        if self.state is State.REST or now < self._call.until_s:
            return []
        return self._waited(now)

    def _waited(self, now: float) -> list[Action]:
        """What was waited for did not come."""
        if self.state is State.RANGING:
            return self._go(now)
        if self.state is State.ANSWERING and self._call.own is not None:
            self._call.ttl = TTL
            return self._answer(now)
        if self._call.caller:
            return self._fail(now)
        path, opened = self._call.path, self.state is State.READY
        self._rest()
        return [Shut(path)] if opened else []

    def _go(self, now: float) -> list[Action]:
        call = self._call
        rtt_us = min(round(call.rtt_s * 1e6), 2**32 - 1)
        return [
            Say(CallGo(path=call.path, rtt_us=rtt_us)),
            *self._begin(now + call.rtt_s / 2, now),
        ]

    def _begin(self, at_s: float, now: float) -> list[Action]:
        call = self._call
        if call.own is None or call.peer is None:
            return []
        self.state = State.TRYING
        self._attempt = Attempt(
            number=call.number,
            caller=call.caller,
            own=call.own,
            peer=call.peer,
            vouched=self.vouched,
            ttl=TTL if call.ttl is None else call.ttl,
            rtt_s=call.rtt_s,
            rng=self._rng,
            budget=self._budget,
            at_s=at_s,
        )
        return list(self._attempt.tick(now))

    def _end(self, now: float) -> list[Action]:
        """The attempt came to nothing."""
        call = self._call
        self.tried += 1
        if call.caller:
            self._plan_next(now)
        self._rest()
        return [Shut(call.path)]

    def _plan_next(self, now: float) -> None:
        call = self._call
        many = call.own is not None and call.peer is not None and wants_many(call.own, call.peer)
        hopeless = call.own is not None and call.peer is not None
        hopeless = hopeless and is_hopeless(call.own or Side(), call.peer or Side())
        last = LAST if many else 2 if hopeless else MANY
        if call.number < last:
            self.number = call.number + 1
            self.due_s = now + (QUIET_S if self.number == MANY and not many else SOON_S)
            return
        self.number = 1
        self.due_s = now + self._pause_s
        self._pause_s = min(2 * self._pause_s, MAX_PAUSE_S)

    def _fail(self, now: float) -> list[Action]:
        """The call did not come to an attempt."""
        path = self._call.path if self.state is State.RANGING else 0
        self.due_s = now + self._mute_s
        self._mute_s = min(2 * self._mute_s, MAX_MUTE_S)
        self._rest()
        return [Shut(path)] if path else []

    # --- small things ----------------------------------------------------------------------------

    def _enter(self, state: State, now: float, patience_s: float) -> None:
        self.state = state
        self._call.until_s = now + patience_s

    def _rest(self) -> None:
        self.state, self._attempt = State.REST, None

    def _is_many(self) -> bool:
        call = self._call
        if call.own is None or call.peer is None:
            return False
        return call.number >= MANY and wants_many(call.own, call.peer)

    def _vouch(self) -> list[Action]:
        return [Vouch()] if self._call.number >= MANY else []


def _side(said: Call | CallAnswer) -> Side:
    stride = (said.stride + 2**15) % 2**16 - 2**15
    return Side(local=said.local, public=said.public, mapping=Mapping(said.mapping), stride=stride)
