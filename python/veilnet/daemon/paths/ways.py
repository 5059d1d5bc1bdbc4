"""The open paths of one session as the daemon keeps them, and what a second of them showed.

```
engine counters before, after --samples_of--> Sample (data, of what has a share) + Sample (probe)
```
No clock and no engine in here: `PathStats` and the time are arguments.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from attrs import define, field

from veilnet.paths import DIRECT, Sample
from veilnet.protocol.circuit import is_circuit

if TYPE_CHECKING:
    from collections.abc import Iterable

    from veilnet._engine import PathStats
    from veilnet.daemon.relays.relaying import Circuit
    from veilnet.paths import ArmId
    from veilnet.protocol.fields import Endpoint

ALIVE: Final = "alive"
BROWNED: Final = "browned"
DEAD: Final = "dead"
PROBING: Final = "probing"
OPEN_MAX: Final = 8
"""Paths of one session, as the engine has it."""
LAST_ID: Final = 254
SLOW_S: Final = 60.0
"""So long what a slow way was asked to carry is held against it, unless it carries that ..."""
MOST: Final = 0.8
"""... or so much of it; and while it has this share, or sends this part of all: what others carry
is not its fault."""
SENT_FADES: Final = 0.8
WELL: Final = 0.1
"""Who loses less carries well: at this the engine leaves."""
TOLL_S: Final = 0.010
"""Counts as round trip for each relay of a way: a relay is somebody else's, and has to be clearly
better than going straight, by more than a busy host's clocks are off (ADR 25)."""
PROBE_PATIENCE_S: Final = 1.0
"""A probe without an answer after this, or four round trips, found nothing."""
UNJUDGED_S: Final = 1.0
"""Data that no report covers after this and a round trip more counts as lost."""
SETTLING: Final = 4
"""Probes of a direct way that was just found, before anybody judges it: it was found while many
were sent at once, and what a policy hears first it takes long to forget."""
SETTLED: Final = 2
"""Of which so many have to come back: a way that loses most says nothing for itself."""
SETTLE_S: Final = 0.1
"""Between two of them ..."""
SETTLE_MOST_S: Final = 1.0
"""... and so long at most it takes."""
FIRST_DOUBT_S: Final = 2.0
MAX_DOUBT_S: Final = 60.0
"""Between two questions whether a way lives that says nothing."""


@define(eq=False, kw_only=True)
class Way:
    """One open path: which arm it is, and what was counted of it when it was last looked at."""

    path: int
    arm: ArmId
    endpoint: Endpoint
    ours: bool
    """Whether this node opened it; the handshake's own is nobody's to close."""
    opened_s: float
    circuit: Circuit | None = None
    stats: PathStats | None = None
    """The newest counters."""
    used_s: float = field(default=0.0)
    """When it last had a share, carried for the peer, was the standby or was opened."""
    was_alive: bool = False
    told_rtts: list[float] = field(factory=list)
    """Round trips of answered probes that no sample told yet."""
    held: bool = False
    """Whether a call is under way on it: nobody else sends, and nobody else gives it up."""
    asked_s: float | None = None
    """Since when a probe of ours waits for its answer."""
    revive_due_s: float = -math.inf
    """When it is next asked if there is a doubt."""
    revive_pause_s: float = FIRST_DOUBT_S
    lived_s: float = field(init=False)
    """When it was last alive, or else opened."""
    settling: int = 0
    """So many probes are to be sent before it is judged."""
    settled_by_s: float = math.inf
    """When it is judged all the same."""
    unanswered: int = 0
    """Probes of ours in a row that were not answered in time."""
    _counted: PathStats | None = None
    _counted_s: float = 0.0
    _unjudged_s: float | None = None
    """Since when data goes out and no report covers any of it."""
    _sent_bps: float = 0.0
    """The most that was sent lately."""
    _wanted_bps: float = 0.0
    """What was to go over it when the engine found it slow."""
    _slow_until_s: float = -math.inf

    def __attrs_post_init__(self) -> None:
        self.lived_s = self.opened_s

    def slowed(self, now_s: float) -> None:
        """Remember what it was asked to carry when the engine found it slow.

        TCP soon asks for no more than comes through, and then nothing is amiss to be seen.
        """
        self._wanted_bps = max(self._sent_bps, self._wanted_bps)
        self._slow_until_s = now_s + SLOW_S

    @property
    def is_direct(self) -> bool:
        """Whether no relay is in between."""
        return not is_circuit(self.endpoint)

    @property
    def state(self) -> str:
        """What the engine last said of it."""
        return PROBING if self.stats is None else self.stats.state

    @property
    def usable(self) -> bool:
        """Whether something may be sent over it: it was proven, now or by the handshake."""
        return self.state in (ALIVE, BROWNED) or (self.path == 0 and self.state == PROBING)

    @property
    def carries(self) -> bool:
        """Whether it has a share."""
        return self.stats is not None and self.stats.share > 0

    @property
    def on_duty(self) -> bool:
        """Whether it has a share, or stands by."""
        return self.carries or (self.stats is not None and self.stats.standby)

    @property
    def is_well(self) -> bool:
        """Whether it lives and loses next to nothing."""
        return self.state == ALIVE and self.stats is not None and self.stats.loss < WELL

    @property
    def is_left(self) -> bool:
        """Whether the engine found it bad, and has taken its share elsewhere."""
        return self.state == BROWNED and not self.carries

    def is_twin(self, other: Way) -> bool:
        """Whether what ails *other* ails this one too: straight to one host, or over one relay."""
        return (
            self is not other
            and self.arm == other.arm
            and (not self.is_direct or self.endpoint[0] == other.endpoint[0])
        )

    def is_elder_of(self, other: Way) -> bool:
        """Whether it goes straight from the same address to the same one, and has the lower id."""
        return self.is_direct and self.path < other.path and self._ends == other._ends

    @property
    def _ends(self) -> tuple[object, ...]:
        # Another address or port of ours is another way: from another link, through another hole.
        return (self.endpoint, None if self.stats is None else self.stats.leaves)

    def is_as_well_as(self, other: Way) -> bool:
        """Whether it is not worse off, however far it is."""
        return self.rank[:2] <= other.rank[:2]

    def forget_told(self) -> None:
        """Let nothing that it told until now count: what it tells from here on does."""
        self._counted = None
        self.told_rtts.clear()

    @property
    def rank(self) -> tuple[bool, bool, float, int]:
        """Order of several ways of one arm, best first."""
        rtt_s = None if self.stats is None else self.stats.rtt_s
        return (
            not self.usable,
            self.state == BROWNED,
            math.inf if rtt_s is None else rtt_s,
            self.path,
        )

    def look(self, stats: PathStats, now_s: float) -> None:
        """Take the newest counters."""
        self.stats = stats
        self.endpoint = stats.endpoint
        if stats.state in (ALIVE, BROWNED):
            self.was_alive, self.lived_s = True, now_s
            if stats.state == ALIVE and not self.unanswered:
                self.revive_pause_s = FIRST_DOUBT_S
        if self.on_duty:
            self.used_s = now_s
        elif stats.carried_s is not None:
            self.used_s = max(self.used_s, now_s - stats.carried_s)
        if self.carries or now_s >= self.settled_by_s:
            self.settling = 0

    def doubted(self, now_s: float, *, hurry: bool) -> bool:
        """Whether to ask now if it lives: dead, never proven, left as bad, or without an answer.

        Ever more seldom, but for one that was there and is missed: *hurry*.
        """
        if self.stats is None or self.held:
            return False
        # One that carries tells of itself.
        doubtful = self.state in (DEAD, PROBING) or self.is_left or self.unanswered > 0
        if not doubtful or now_s < self.revive_due_s:
            return False
        if hurry and self.was_alive:
            self.revive_pause_s = FIRST_DOUBT_S
        self.revive_due_s = now_s + self.revive_pause_s
        self.revive_pause_s = min(2 * self.revive_pause_s, MAX_DOUBT_S)
        return True

    def settle(self, now_s: float) -> None:
        """Have it probed a few times before it is judged."""
        self.settling, self.settled_by_s = SETTLING, now_s + SETTLE_MOST_S

    def to_settle(self) -> bool:
        """Whether to probe it now, so that its first round trip is not all that is known of it."""
        if not self.settling or self.held or self.asked_s is not None:
            return False
        self.settling -= 1
        return True

    def probe_sent(self, now_s: float) -> None:
        """Note that a probe was asked for."""
        if self.asked_s is None:
            self.asked_s = now_s

    def probe_answered(self, rtt_s: float) -> None:
        """Note the answer."""
        self.asked_s, self.unanswered = None, 0
        self.told_rtts.append(rtt_s)
        del self.told_rtts[:-16]

    def sent_bytes(self) -> int:
        """Return what was sent since the last call of `samples`."""
        if self.stats is None or self._counted is None:
            return 0
        return self.stats.tx_bytes - self._counted.tx_bytes

    def samples(self, now_s: float, *, busy: bool = False, most: bool = False) -> list[Sample]:
        """Return what was seen since the last call: of data, of probes, of both or nothing.

        *most*: of all that the peer was sent it carried nearly everything, whatever its share.
        """
        stats, before = self.stats, self._counted
        if stats is None or self.settling:
            return []
        since_s = max(now_s - self._counted_s, 1e-3)
        self._counted, self._counted_s = stats, now_s
        if before is None:
            # The counters may be old; what happens from here on counts.
            return []
        found: list[Sample] = []
        judged = stats.judged_datagrams - before.judged_datagrams
        lost = stats.lost_datagrams - before.lost_datagrams
        loss = min(max(lost / judged, 0.0), 1.0) if judged > 0 else min(max(stats.loss, 0.0), 1.0)
        toll_s = TOLL_S * len(self.arm)
        rtt_s = None if stats.state == DEAD or stats.rtt_s is None else stats.rtt_s + toll_s
        dead = stats.state == DEAD
        unjudged = self._is_unjudged(stats, before, now_s)
        seen = [v + toll_s for v in (stats.rtt_min_s, stats.rtt_s) if v is not None]
        minimum_s = min(seen, default=0.0)
        # What it carried counts even if the engine has just taken the share away.
        if (stats.share > 0 or before.share > 0) and (rtt_s is not None or dead or unjudged):
            sent_bps = (stats.tx_bytes - before.tx_bytes) * 8 / since_s
            came_bps = (stats.delivered_bytes - before.delivered_bytes) * 8 / since_s
            self._sent_bps = max(sent_bps, SENT_FADES * self._sent_bps)
            if came_bps >= MOST * self._wanted_bps or now_s >= self._slow_until_s:
                self._wanted_bps = 0.0
            # The engine may just have taken all of it away.
            carries = most or stats.share >= MOST or (stats.share <= 0 and before.share >= MOST)
            wanted_bps = self._wanted_bps if carries else 0.0
            if sent_bps > 0 or dead:
                found.append(
                    Sample(
                        arm=self.arm,
                        rtt_s=rtt_s,
                        loss=1.0 if dead or unjudged else loss,
                        jitter_s=stats.jitter_s,
                        rtt_min_s=minimum_s,
                        demand_bps=max(sent_bps, wanted_bps, 0.0),
                        # Reports lag behind: what is not judged yet is not lost, for a while.
                        goodput_bps=0.0 if unjudged else max(came_bps, sent_bps * (1 - loss), 0.0),
                        probe=False,
                        busy=busy,
                    )
                )
        found += [
            Sample(
                arm=self.arm,
                rtt_s=None if probed_s is None else probed_s + toll_s,
                loss=0.0 if probed_s is not None else 1.0,
                jitter_s=stats.jitter_s,
                rtt_min_s=minimum_s,
                demand_bps=0.0,
                goodput_bps=0.0,
                probe=True,
                busy=busy,
            )
            for probed_s in self._probes(stats, before, now_s, dead=dead)
        ]
        return found

    def _is_unjudged(self, stats: PathStats, before: PathStats, now_s: float) -> bool:
        """Whether data goes out and, for longer than reports take, not a word of it came back.

        Probes and our own reports are no data: nobody owes a report for them.
        """
        owes = stats.owed_datagrams > 0 and stats.tx_bytes > before.tx_bytes
        sends = owes and (stats.share > 0 or before.share > 0)
        heard = (
            stats.judged_datagrams > before.judged_datagrams
            or stats.delivered_bytes > before.delivered_bytes
        )
        if heard or not sends:
            self._unjudged_s = None
            return False
        if self._unjudged_s is None:
            # Some of it may have gone out just now.
            self._unjudged_s = now_s
        return now_s - self._unjudged_s > UNJUDGED_S + (stats.rtt_s or 0.0)

    def _probes(
        self, stats: PathStats, before: PathStats, now_s: float, *, dead: bool
    ) -> list[float | None]:
        """Return the mean round trip of the probes since *before*, or that one was lost, if any."""
        if self.told_rtts:
            told, self.told_rtts = self.told_rtts, []
            if math.isfinite(self.settled_by_s):
                # The first word on a new way: what it can do, not what was in its way.
                self.settled_by_s = math.inf
                return [min(told)] if len(told) >= SETTLED else []
            return [sum(told) / len(told)]
        if stats.probes_answered > before.probes_answered and stats.rtt_s is not None and not dead:
            self.unanswered = 0
            return [stats.rtt_s]
        if self.asked_s is not None:
            patience_s = max(PROBE_PATIENCE_S, 4 * (stats.rtt_s or 0.0))
            if now_s - self.asked_s > patience_s:
                self.asked_s = None
                self.unanswered += 1
                # One may be lost anywhere; whoever probes again finds out.
                return [None] if self.unanswered > 1 or dead else []
        return []


class PathIds:
    """Which ids this end may give to paths: even ones if it began the session, else odd ones.

    Invariant: no id is given twice in one generation of keys.
    """

    def __init__(self, *, initiator: bool) -> None:
        self._ids = tuple(range(2 if initiator else 1, LAST_ID + 1, 2))
        self._next = 0
        self._left = len(self._ids)
        self._generation = -1

    def next(self, generation: int, taken: Iterable[int]) -> int | None:
        """Return an id for a new path; None: this generation has no more."""
        if generation != self._generation:
            self._generation, self._left = generation, len(self._ids)
        in_use = set(taken)
        while self._left:
            found = self._ids[self._next]
            # Round robin, so that one end may be a little behind the other's generation.
            self._next = (self._next + 1) % len(self._ids)
            self._left -= 1
            if found not in in_use:
                return found
        return None

    @property
    def left(self) -> int:
        """How many this generation still has, at most."""
        return self._left


def best_of(ways: Iterable[Way]) -> dict[ArmId, Way]:
    """Return the best way of each arm; of two with the same ends that are as well, the elder.

    Both ends choose alike then, and the other one falls out of use (`Course.to_give_up`).
    """
    best: dict[ArmId, Way] = {}
    for way in sorted(ways, key=lambda way: way.rank):
        first = best.setdefault(way.arm, way)
        if way.is_elder_of(first) and way.is_as_well_as(first):
            best[way.arm] = way
    return best


def arm_words(arm: ArmId) -> str:
    """Return *arm* for a log line."""
    return " ".join(peer.hex()[:12] for peer in arm) if arm != DIRECT else "direct"
