"""What is known of the ways to one peer, and how a decision becomes what the engine is told.

```
open ways + candidates --arms()--> policy --Decision--> steer() --> shares, standby, what to open
```
Invariant: a way that was never proven gets no share, and while none of the wanted ways is usable
the engine keeps the shares it has.
"""

from __future__ import annotations

import ipaddress
import math
from typing import TYPE_CHECKING, Final

import trio
from attrs import define, field, frozen

from veilnet.daemon.paths.ways import ALIVE, TOLL_S, PathIds, Way, best_of
from veilnet.paths import DIRECT, Arm, Decision

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from veilnet.daemon.relays.relaying import Circuit
    from veilnet.daemon.sessions import Session
    from veilnet.paths import ArmId
    from veilnet.protocol.fields import Endpoint
    from veilnet.units import NetworkId, PeerId

FIRST_SHUN_S: Final = 5.0
MAX_SHUN_S: Final = 300.0
SHUNNED_MAX: Final = 64
HINT_S: Final = 120.0
"""So long a far leg's hint counts as fresh."""
_MOSTLY: Final = 0.5
"""This part of the shares has to fare well, or nothing that was left stays left."""
HINTS_MAX: Final = 64
OPENINGS_BURST: Final = 4.0
OPENINGS_PER_S: Final = 0.2
"""Circuits and paths that may be opened for one peer, whatever the policy wants."""
TRIES_BURST: Final = 12.0
TRIES_PER_S: Final = 0.2
"""Direct paths that one peer may have us try with it: each costs datagrams to where it may be."""
SHARE_STEP: Final = 0.005
"""A smaller change of a share is not told to the engine."""
FIRST_DIRECT_S: Final = 5.0
MAX_DIRECT_S: Final = 60.0


@frozen
class Hint:
    """How far a relay is from the peer, as the peer says."""

    rtt_s: float
    at_s: float


@frozen
class Leg:
    """This node's link to a relay."""

    rtt_s: float | None
    endpoint: Endpoint


@frozen
class Steering:
    """What a decision means now: for the engine, and what has to be opened first."""

    shares: tuple[tuple[int, float], ...]
    """Empty: leave them as they are."""
    standby: int | None
    missing: tuple[ArmId, ...]
    """Wanted by the decision and not open, what carries first."""


@define
class _Shun:
    since_s: float
    pause_s: float
    until_s: float


@define
class _Budget:
    """Something that may be done *burst* times at once, and *per_s* times a second."""

    burst: float
    per_s: float
    _left: float = field(init=False)
    _at_s: float = field(init=False, default=-math.inf)

    def __attrs_post_init__(self) -> None:
        self._left = self.burst

    def take(self, now_s: float) -> bool:
        passed_s = min(max(now_s - self._at_s, 0.0), 3_600.0)
        self._left, self._at_s = min(self.burst, self._left + passed_s * self.per_s), now_s
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


@define(eq=False, kw_only=True)
class Course:
    """The ways to one peer, from its first session to the last in a row."""

    session: Session
    ids: PathIds
    ways: dict[int, Way] = field(factory=dict)
    circuits: dict[ArmId, Circuit] = field(factory=dict)
    """Those that this node asked for, used by a way or about to be."""
    hints: dict[PeerId, Hint] = field(factory=dict)
    asking: set[PeerId] = field(factory=set)
    """Relays whose far leg the peer is being asked for."""
    opening: set[ArmId] = field(factory=set)
    decision: Decision | None = None
    arms_told: tuple[tuple[ArmId, float, float, frozenset[str]], ...] | None = None
    driving: bool = False
    wake: trio.Event = field(factory=trio.Event)
    direct_due_s: float = 0.0
    direct_pause_s: float = FIRST_DIRECT_S
    direct_turn: int = 0
    active_s: float = -math.inf
    """When it last carried data."""
    _shunned: dict[ArmId, _Shun] = field(factory=dict)
    _openings: _Budget = field(factory=lambda: _Budget(OPENINGS_BURST, OPENINGS_PER_S))
    _tries: _Budget = field(factory=lambda: _Budget(TRIES_BURST, TRIES_PER_S))

    @property
    def key(self) -> tuple[NetworkId, PeerId]:
        """Whose ways they are."""
        return self.session.key

    @property
    def name(self) -> bytes:
        """How the policy knows the peer."""
        return destination(self.session.network_id, self.session.peer_id)

    def best(self) -> dict[ArmId, Way]:
        """Return the best open way of each arm."""
        return best_of(self.ways.values())

    def usable_direct(self) -> bool:
        """Whether a direct way is proven and not dead."""
        return any(way.is_direct and way.usable for way in self.ways.values())

    def tryable(self, known: Iterable[Endpoint]) -> list[Endpoint]:
        """Return where of *known* a direct way may be tried: where none is proven already.

        One under trial may be tried for another path too: behind a NAT the peer's own choice of
        an address of ours decides which of its paths gets through.
        """
        proven = {way.endpoint for way in self.ways.values() if way.usable}
        return [endpoint for endpoint in known if endpoint not in proven]

    # --- bounds ----------------------------------------------------------------------------------

    def may_open(self, now_s: float) -> bool:
        """Take one opening out of the budget, if there is one."""
        return self._openings.take(now_s)

    def may_be_tried(self, now_s: float) -> bool:
        """Take one direct path that the peer wants tried out of its budget, if there is one."""
        return self._tries.take(now_s)

    def shun(self, arm: ArmId, now_s: float) -> None:
        """Leave *arm* alone for a while that doubles: it could not be opened, here or there."""
        before = self._shunned.pop(arm, None)
        pause_s = FIRST_SHUN_S
        if before is not None and now_s <= before.until_s + MAX_SHUN_S:
            pause_s = min(2 * before.pause_s, MAX_SHUN_S)
        self._shunned[arm] = _Shun(now_s, pause_s, now_s + pause_s)
        if len(self._shunned) > SHUNNED_MAX:
            del self._shunned[next(iter(self._shunned))]

    def welcome(self, arm: ArmId) -> None:
        """Forget that *arm* ever failed."""
        self._shunned.pop(arm, None)

    def returned(self, relay: PeerId) -> None:
        """Try a shunned *relay* again soon: it is there anew.

        The next pause doubles all the same, so that it gains no more than a try by coming again.
        """
        shun = self._shunned.get((relay,))
        if shun is not None:
            shun.until_s = min(shun.until_s, shun.since_s + FIRST_SHUN_S)

    def shuns(self, arm: ArmId, now_s: float) -> bool:
        """Whether *arm* is left alone now."""
        shun = self._shunned.get(arm)
        return shun is not None and now_s < shun.until_s

    def hinted(self, relay: PeerId, rtt_s: float, now_s: float) -> None:
        """Keep how far the peer says that *relay* is from it."""
        self.hints.pop(relay, None)
        self.hints[relay] = Hint(rtt_s, now_s)
        if len(self.hints) > HINTS_MAX:
            del self.hints[next(iter(self.hints))]

    def unreached(self, relay: PeerId, now_s: float) -> None:
        """Leave *relay* alone for a while: the peer has no link to it."""
        self.hints.pop(relay, None)
        self.shun((relay,), now_s)

    # --- arms ------------------------------------------------------------------------------------

    def arms(
        self,
        candidates: Iterable[PeerId],
        leg: Callable[[PeerId], Leg | None],
        now_s: float,
    ) -> list[Arm]:
        """Return what the policy may choose from: what is open, and relays that could be.

        Always in the same order: another one would be news to the policy.
        """
        found: dict[ArmId, Arm] = {}
        for arm, way in self.best().items():
            if arm == DIRECT and not any(w.was_alive or w.path == 0 for w in self._of(DIRECT)):
                continue  # an attempt, and no way yet
            rtt_s = None if way.stats is None else way.stats.rtt_min_s
            found[arm] = self._arm(arm, leg, direct_rtt_s=rtt_s)
        for relay in candidates:
            if (relay,) not in found and not self.shuns((relay,), now_s):
                found[(relay,)] = self._arm((relay,), leg)
        return [found[arm] for arm in sorted(found)]

    def _of(self, arm: ArmId) -> list[Way]:
        return [way for way in self.ways.values() if way.arm == arm]

    def _arm(
        self,
        arm: ArmId,
        leg: Callable[[PeerId], Leg | None],
        *,
        direct_rtt_s: float | None = None,
    ) -> Arm:
        if arm == DIRECT:
            return Arm(DIRECT, math.nan if direct_rtt_s is None else direct_rtt_s, 0.0)
        own, hint = leg(arm[0]), self.hints.get(arm[-1])
        return Arm(
            arm,
            math.nan if own is None or own.rtt_s is None else own.rtt_s + TOLL_S * len(arm),
            math.nan if hint is None else hint.rtt_s,
            prefixes_of(own.endpoint) if own is not None else frozenset(),
        )

    # --- decisions -------------------------------------------------------------------------------

    def steer(self, decision: Decision) -> Steering:
        """Return what *decision* means with the ways that are open now.

        What the engine has just left as bad is not taken up again before it has mended, whatever
        the policy forecasts of the others: one of them carries meanwhile, and is well.
        """
        best = self.best()
        left = self._left()
        wanted = [(best.get(arm), share) for arm, share in decision.shares]
        usable = [(way, share) for way, share in wanted if way is not None and way.usable]
        carried = [(way.path, share) for way, share in usable if way.arm not in left]
        if usable and not carried:
            carried = [(w.path, w.stats.share) for w in self.ways.values() if w.stats and w.carries]
        missing = [arm for arm, _ in decision.shares if arm not in best]
        total = sum(share for _, share in carried)
        shares = tuple((path, share / total) for path, share in carried) if total > 0 else ()
        carrying = dict(shares)
        standby: int | None = None
        if decision.standby is not None:
            spare = best.get(decision.standby)
            if spare is None:
                missing.append(decision.standby)
            elif spare.usable and spare.path not in carrying:
                standby = spare.path
        if standby is None and left:
            # What was to stand by carries now: somebody else has to be warm.
            spares = [
                way
                for way in best.values()
                if way.state == ALIVE and way.arm not in left and way.path not in carrying
            ]
            if shares and spares:
                standby = min(spares, key=lambda way: way.rank).path
        return Steering(shares, standby, tuple(arm for arm in missing if arm != DIRECT))

    def _left(self) -> set[ArmId]:
        """Return the arms that the engine found bad and left, while most goes over others, well."""
        well = sum(way.stats.share for way in self.ways.values() if way.stats and way.is_well)
        if well < _MOSTLY:
            return set()
        return {way.arm for way in self.ways.values() if way.is_left}

    def news(self, steering: Steering) -> bool:
        """Whether the engine has other shares, or another standby, than *steering* says."""
        if not steering.shares:
            return False
        wanted = dict(steering.shares)
        for path, way in self.ways.items():
            if way.stats is None:
                continue
            if abs(way.stats.share - wanted.get(path, 0.0)) > SHARE_STEP:
                return True
            if way.stats.standby != (path == steering.standby):
                return True
        return False

    def to_give_up(self, now_s: float, *, idle_s: float, trial_s: float) -> list[Way]:
        """Return the ways that nobody needs.

        Our own unused ones, sooner where an older one has the same ends; and whoever
        opened them, direct tries that came to nothing in *trial_s* and ways that no longer live.
        """
        unused = []
        for way in self.ways.values():
            if way.path == 0 or way.held or way.on_duty:
                continue
            patience_s = trial_s if way.is_direct and not way.was_alive else idle_s
            lost = not way.usable and now_s > way.lived_s + patience_s
            unused_s = trial_s if self._has_elder(way) else idle_s
            if lost or (way.ours and now_s > way.used_s + unused_s):
                unused.append(way)
        return unused

    def _has_elder(self, way: Way) -> bool:
        """Whether a way with the same ends came back: this one was tried while it was away.

        It is no way out when the other one dies, and probed all the same.
        """
        return any(
            other.usable and other.is_elder_of(way) and other.is_as_well_as(way)
            for other in self.ways.values()
        )

    def least_used(self) -> Way | None:
        """Return the way of ours to close first when there is no room for another."""
        spare = [
            way
            for way in self.ways.values()
            if way.ours and way.path != 0 and not way.held and not way.on_duty
        ]
        return min(spare, key=lambda way: (way.usable, way.used_s), default=None)


def destination(network_id: NetworkId, peer_id: PeerId) -> bytes:
    """Return how the policy knows a peer."""
    return network_id + peer_id


def told(arms: Sequence[Arm]) -> tuple[tuple[ArmId, float, float, frozenset[str]], ...]:
    """Return *arms* as far as a policy should be bothered with a change of them."""

    def coarse(leg_s: float) -> float:
        # A tenth up or down is no other relay; NaN would differ from itself.
        return -1.0 if math.isnan(leg_s) else float(round(math.log(max(leg_s, 1e-4)) * 10))

    return tuple((a.id, coarse(a.own_leg_s), coarse(a.far_leg_s), a.prefixes) for a in arms)


def prefixes_of(endpoint: Endpoint) -> frozenset[str]:
    """Return the place that *endpoint* shares with others: its /24, or /48 in IPv6.

    An address of a private network says nothing of what fails together with it.
    """
    address = ipaddress.ip_address(endpoint[0].partition("%")[0])
    if not address.is_global:
        return frozenset()
    length = 24 if address.version == 4 else 48
    return frozenset({str(ipaddress.ip_network((address, length), strict=False))})
