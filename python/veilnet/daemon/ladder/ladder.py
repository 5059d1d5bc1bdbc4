"""The ladder: all ways to a first contact at once, and the first that works calls the rest off.

```
climb     saved ---+
          known ---+--> Rung.found --> contacts --> whoever dials --> worked()  the climb ends
          seeds ---+     once each     (bounded)                      lost()    ... and begins anew
standing  lan, beacon ---+     go on when the climb is over: others climb towards us
          portmap              finds nobody, but fails in the same way and is told of here
```
Invariant: whatever a step does, it ends in a line of `report`; it never reaches another step, the
node or the node's start.

What is found is hearsay: an address where somebody may answer and then has to prove a key.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, Protocol

import structlog
import trio
from attrs import define, field, frozen

from veilnet.errors import VeilError
from veilnet.networks.names import printable

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable

    from veilnet.networks.endpoint import Endpoint
    from veilnet.units import NetworkId, PeerId

FIRST_PAUSE_S: Final = 2.0
MAX_PAUSE_S: Final = 300.0
CONTACTS_MAX: Final = 64
"""Endpoints that wait to be dialled; a step that climbs waits, a standing one forgets its own."""
SEEN_MAX: Final = 1_024
WHY_CHARACTERS: Final = 240

log = structlog.get_logger("veilnet.ladder")


@frozen
class Found:
    """An endpoint that a step came upon."""

    endpoint: Endpoint
    step: str
    network_id: NetworkId | None = None
    """Of which network (or the commons) somebody is said to be there; None: it was not said."""
    peer: PeerId | None = None
    """Who is said to be there."""
    sources: int = 1
    """How many independent sources name it; one alone is a hint."""


class Step(Protocol):
    """One way to first contacts."""

    @property
    def name(self) -> str:
        """One word."""

    @property
    def standing(self) -> bool:
        """Whether it goes on after the climb, because it serves others too."""

    @property
    def limit_s(self) -> float:
        """So long one try may take; a standing step has all the time there is."""

    @property
    def remedy(self) -> str:
        """What the operator can do if it finds nothing."""

    async def climb(self, rung: Rung) -> None:
        """Look, and tell *rung* of what is found.

        Cancellation: closes what it opened.
        Raises: VeilError: what failed and what can be done; anything else is a bug, and contained.
        """
        ...


@frozen
class Off:
    """A step that the operator, or the host, switched off."""

    name: str
    why: str
    remedy: str = ""


@define
class Rung:
    """What became of one step; the step's own way to say so."""

    _ladder: Ladder = field(repr=False)
    name: str
    remedy: str = ""
    why_off: str = ""
    tried: int = 0
    found_count: int = 0
    worked: int = 0
    """How many of those that it found answered and proved themselves."""
    failed: str = ""
    hint: str = ""
    note: str = ""
    """What there is to say beside: the mapped port, the links it listens on."""
    took_s: float | None = None
    """Seconds of the last try, to its first endpoint or else to its end."""
    running: bool = False
    _began_s: float = 0.0
    _found_now: int = 0
    _nudges: int = 0

    async def found(
        self,
        endpoint: Endpoint,
        *,
        network_id: NetworkId | None = None,
        peer: PeerId | None = None,
        sources: int = 1,
    ) -> None:
        """Pass an endpoint on, and wait for room if many are waiting to be dialled."""
        if (item := self._admit(endpoint, network_id, peer, sources)) is not None:
            await self._ladder.put(item)

    def offer(
        self,
        endpoint: Endpoint,
        *,
        network_id: NetworkId | None = None,
        peer: PeerId | None = None,
        sources: int = 1,
    ) -> bool:
        """Pass an endpoint on unless too many are waiting; return whether it was passed on."""
        item = self._admit(endpoint, network_id, peer, sources)
        return item is not None and self._ladder.put_nowait(item)

    def fail(self, why: str, hint: str = "") -> None:
        """Note what went wrong; the step may go on."""
        self.failed = _harmless(why)
        self.hint = hint or self.remedy

    def well(self, note: str = "") -> None:
        """Note that what was wrong is not any more."""
        self.failed = self.hint = ""
        self.note = _harmless(note) or self.note

    async def rest(self, seconds: float) -> bool:
        """Wait so long, or until the world changes; return whether it did.

        A change since the last rest counts: none is missed while the step was busy.
        """
        with trio.move_on_after(seconds):
            while self._nudges == self._ladder.nudges:
                await self._ladder.resting.park()
        changed = self._nudges != self._ladder.nudges
        self._nudges = self._ladder.nudges
        return changed

    def nudge(self) -> None:
        """Tell the ladder that the world changed."""
        self._ladder.nudge()

    @property
    def wanted(self) -> bool:
        """Whether first contacts are still needed."""
        return not self._ladder.has_won

    def _admit(
        self,
        endpoint: Endpoint,
        network_id: NetworkId | None,
        peer: PeerId | None,
        sources: int,
    ) -> Found | None:
        item = Found(endpoint, self.name, network_id, peer, sources)
        if not self._ladder.is_new(item):
            return None
        if not self._found_now:
            self.took_s = self._ladder.clock() - self._began_s
        self._found_now += 1
        self.found_count += 1
        return item

    def begin(self) -> None:
        """Note that a try begins."""
        self.tried += 1
        self.running = True
        self._began_s = self._ladder.clock()
        self._found_now = 0
        self.failed = self.hint = ""

    def end(self) -> None:
        """Note that a try is over, of itself or because it was called off."""
        self.running = False
        if not self._found_now:
            self.took_s = self._ladder.clock() - self._began_s

    @property
    def state(self) -> str:
        """One word: off, working, running, failed, found, idle."""
        if self.why_off:
            return "off"
        if self.worked:
            return "worked"
        if self.failed:
            return "failed"
        if self.found_count:
            return "found"
        return "running" if self.running else "idle"

    def to_json(self) -> dict[str, Any]:
        """Return what `status` and `doctor` show."""
        value: dict[str, Any] = {
            "name": self.name,
            "state": self.state,
            "tried": self.tried,
            "found": self.found_count,
            "worked": self.worked,
            "failed": self.failed or self.why_off,
            "remedy": self.hint if self.failed else self.remedy if self.why_off else "",
            "note": self.note,
            "took_s": None if self.took_s is None else round(self.took_s, 3),
        }
        return {key: item for key, item in value.items() if item not in ("", None)}


class Ladder:
    """Runs the steps; `run` in a nursery, and dial what comes out of `contacts`."""

    def __init__(
        self,
        steps: Iterable[Step | Off],
        *,
        rng: random.Random,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self.clock = clock
        self._rng = rng
        self._rungs: list[Rung] = []
        self._steps: list[tuple[Step, Rung]] = []
        for step in steps:
            if isinstance(step, Off):
                rung = Rung(self, step.name, remedy=step.remedy, why_off=step.why)
            else:
                rung = Rung(self, step.name, remedy=step.remedy)
                self._steps.append((step, rung))
            self._rungs.append(rung)
        self._send, self.contacts = trio.open_memory_channel[Found](CONTACTS_MAX)
        self._seen: dict[tuple[Endpoint, NetworkId | None], int] = {}
        self._scope: trio.CancelScope | None = None
        self._woken = trio.Event()
        self.nudges = 0
        self.resting = trio.lowlevel.ParkingLot()
        """Standing steps that wait for their time or a nudge."""
        self.first: Found | None = None
        """What worked first in the last climb that led anywhere; None while contacts are sought."""
        self.first_after_s: float | None = None
        self._began_s = 0.0

    def __repr__(self) -> str:
        return f"<Ladder {' '.join(f'{rung.name}:{rung.state}' for rung in self._rungs)}>"

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Climb, rest, and climb again whenever the contacts are lost; runs until cancelled.

        Cancellation: every step closes what it opened.
        """
        async with trio.open_nursery() as nursery:
            for step, rung in self._steps:
                if step.standing:
                    nursery.start_soon(self._stand, step, rung)
            task_status.started()
            await self._climb_again()

    # --- what whoever dials says -----------------------------------------------------------------

    @property
    def has_won(self) -> bool:
        """Whether a contact answered since they were last lost."""
        return self.first is not None

    def worked(self, found: Found) -> None:
        """Note that somebody answered at *found* and proved a key: the climb is over."""
        for rung in self._rungs:
            if rung.name == found.step:
                rung.worked += 1
        if self.first is None:
            self.first = found
            self.first_after_s = self.clock() - self._began_s
            log.info("first contact", step=found.step, after_s=round(self.first_after_s, 3))
        if self._scope is not None:
            self._scope.cancel()
        self._woken.set()

    def lost(self) -> None:
        """Note that no contact is left: climb again, at once."""
        self.first = None
        self.nudge()

    def forget(self, found: Found) -> None:
        """Pass *found* on again when it is found again: nothing came of it."""
        self._seen.pop((found.endpoint, found.network_id), None)

    def nudge(self) -> None:
        """Note that the world changed (an interface, a new network): no step need wait its turn."""
        self.nudges += 1
        self._seen.clear()
        self._woken.set()
        self.resting.unpark_all()

    def report(self) -> list[dict[str, Any]]:
        """Return a line for every step, in the order in which they were given."""
        return [rung.to_json() for rung in self._rungs]

    def to_json(self) -> dict[str, Any]:
        """Return what `status` and `doctor` show."""
        return {
            "first": None if self.first is None else self.first.step,
            "after_s": None if self.first_after_s is None else round(self.first_after_s, 3),
            "steps": self.report(),
        }

    # --- what the rungs ask ----------------------------------------------------------------------

    def is_new(self, item: Found) -> bool:
        """Return whether *item* says more than what was passed on already in this climb."""
        key = (item.endpoint, item.network_id)
        if self._seen.get(key, 0) >= item.sources:
            return False
        self._seen.pop(key, None)
        self._seen[key] = item.sources
        if len(self._seen) > SEEN_MAX:
            del self._seen[next(iter(self._seen))]
        return True

    async def put(self, item: Found) -> None:
        """Queue *item*, waiting for room."""
        await self._send.send(item)

    def put_nowait(self, item: Found) -> bool:
        """Queue *item* if there is room."""
        try:
            self._send.send_nowait(item)
        except trio.WouldBlock:
            self.forget(item)
            return False
        return True

    # --- the climb -------------------------------------------------------------------------------

    async def _climb_again(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            self._woken = trio.Event()
            if self.has_won:
                pause_s = FIRST_PAUSE_S
                await self._woken.wait()
                continue
            await self._climb()
            if self.has_won:
                continue
            # Not in step with others whom the same power cut started.
            with trio.move_on_after(pause_s * self._rng.uniform(0.75, 1.25)) as slept:
                await self._woken.wait()
            pause_s = min(2 * pause_s, MAX_PAUSE_S) if slept.cancelled_caught else FIRST_PAUSE_S

    async def _climb(self) -> None:
        self._seen.clear()
        self._began_s = self.clock()
        with trio.CancelScope() as self._scope:
            async with trio.open_nursery() as nursery:
                for step, rung in self._steps:
                    if not step.standing:
                        nursery.start_soon(self._try, step, rung, step.limit_s)
        self._scope = None

    async def _stand(self, step: Step, rung: Rung) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            before = self.clock()
            await self._try(step, rung, math.inf)
            if self.clock() - before > MAX_PAUSE_S:
                pause_s = FIRST_PAUSE_S
            nudged = await rung.rest(pause_s * self._rng.uniform(0.75, 1.25))
            pause_s = FIRST_PAUSE_S if nudged else min(2 * pause_s, MAX_PAUSE_S)

    async def _try(self, step: Step, rung: Rung, limit_s: float) -> None:
        rung.begin()
        try:
            with trio.move_on_after(limit_s) as limit:
                await step.climb(rung)
            if limit.cancelled_caught and not rung.found_count:
                rung.fail(f"nothing within {limit_s:g} s")
        except Exception as error:  # noqa: BLE001 - the invariant
            self._failed(rung, error)
        finally:
            rung.end()

    @staticmethod
    def _failed(rung: Rung, error: Exception) -> None:
        first: BaseException = error
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        if isinstance(first, VeilError):
            rung.fail(first.message, first.hint)
        elif isinstance(first, OSError):
            rung.fail(str(first))
        else:
            rung.fail(f"a bug of ours: {first!r}", "Report it, with what `veilnet doctor` prints.")
            log.error("step failed by a bug", step=rung.name, exc_info=error)
        log.info("step failed", step=rung.name, reason=rung.failed)


def _harmless(text: str) -> str:
    """Return *text*, of which a peer or a server may have made a part, fit to be shown."""
    return printable(text, max_characters=WHY_CHARACTERS)[1:-1]
