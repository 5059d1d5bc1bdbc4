"""The relay's side of circuits: consent, caps, quota, and who may talk to whom.

The picture and the words are in `protocol.relay`.

Rules:
1. A circuit joins two links that are there already.  No address is ever dialled, and no link is
   opened, for somebody else.
2. The origin asked (CircuitOpen under a reservation), the target said yes (CircuitAccepted):
   without both nothing is forwarded.
3. A circuit passes at most two relays: what is asked for comes with a hop budget, and goes on to
   another relay with one less.
4. The caps of `Terms` count confirmed circuits, and no peer has more than half of them.  Of those
   that are not confirmed each peer has a few, and what it asks for beyond takes the place of one
   of its own: nobody fills a relay with circuits that lead nowhere.
5. Strangers together have half of everything; where all is taken a member takes a stranger's place.
6. `busy` is told to repel newcomers; it never closes and never refuses.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from veilnet.protocol.relay import (
    ASK_S,
    CONFIRM_S,
    RESERVATION_S,
    UNCONFIRMED_BYTES,
    Closing,
    Heard,
    LinkDown,
    LinkUp,
    Refusal,
    Reservations,
    Send,
    Terms,
    displaced,
)
from veilnet.protocol.relay_messages import (
    HOPS_MAX,
    CircuitAccepted,
    CircuitClosed,
    CircuitConfirm,
    CircuitOpen,
    CircuitOpened,
    CircuitVouch,
    RelayOffer,
    RelayRefused,
    RelayReserve,
    RelayReserved,
)
from veilnet.protocol.relay_quota import Pace, Quota, burst, part, rate, share
from veilnet.protocol.relay_steps import (
    PENDING,
    Action,
    Announce,
    CapRate,
    Counted,
    Event,
    Forward,
    Phase,
    Relayed,
    Remove,
    SetTerms,
    Side,
    Unforwarded,
    Vouch,
    closed,
    incoming,
    opened,
    refused,
)
from veilnet.protocol.relay_table import Link, Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from random import Random

    from veilnet.protocol.relay import Key

RESERVATIONS_MAX: Final = 1_024
"""Of them at most half are strangers' ..."""
RESERVATIONS_OF_PLACE_MAX: Final = 16
"""... and so many of those from one /24 or /48."""
VOUCH_S: Final = 1.0
"""An end of a circuit is told where the other one is at most this often."""
BUSY_S: Final = 5.0
"""So long after the last drop a relay still says that it is busy."""


class RelayService:
    """All circuits of one relay.

    Units: *now* seconds, monotonic.
    """

    def __init__(self, *, own_id: bytes, terms: Terms, rng: Random, now: float) -> None:
        self.terms = terms
        self.quota = Quota(now)
        self._strangers = Quota(now)
        """What of it was carried for strangers."""
        self._sharers = 0
        """How many strangers share what strangers have of the rate."""
        self._own_id = own_id
        self._table = Table(rng)
        self._pace = Pace()
        self._reserved: dict[Key, float] = {}
        self._held = Reservations()
        self._busy_until_s = -math.inf
        self._offered = self.offer(now)

    # --- looking ---------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._table)

    @property
    def circuits(self) -> list[Relayed]:
        """All circuits, pending ones included."""
        return self._table.circuits

    def get(self, circuit: bytes) -> Relayed | None:
        """Return the circuit of that id."""
        return self._table.get(circuit)

    def owns(self, key: Key, circuit: bytes) -> bool:
        """Whether a circuit of that id goes over that link."""
        link = self._table.links.get(key)
        return link is not None and circuit in link.circuits

    def held(self, key: Key) -> list[bytes]:
        """Return the circuits over a link."""
        return self._table.held(key)

    def needs(self, key: Key) -> bool:
        """Whether a link is in use: circuits go over it, or its peer has a reservation."""
        return key in self._reserved or self.carries(key)

    def carries(self, key: Key) -> bool:
        """Whether circuits go over a link."""
        return bool(self.held(key))

    def is_own(self, key: Key) -> bool | None:
        """Whether the peer of a link is one of our own; None: there is no such link."""
        link = self._table.links.get(key)
        return None if link is None else link.own

    @property
    def reservations(self) -> int:
        """How many peers have one."""
        return len(self._reserved)

    def offer(self, now: float) -> RelayOffer:
        """Return what links are told."""
        consents = self.terms.for_own or self.terms.for_strangers
        return RelayOffer(
            for_own=self.terms.for_own,
            for_strangers=self.terms.for_strangers,
            busy=consents and now < self._busy_until_s,
        )

    def start(self) -> list[Action]:
        """Return what the engine must know first."""
        return [CapRate(self.terms.rate_bps or None)]

    # --- driving ---------------------------------------------------------------------------------

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take one event.   Raises: nothing: what a peer asks amiss is refused."""
        actions: list[Action] = []
        _EVENTS[type(event)](self, event, now, actions)
        self._announce(now, actions)
        return actions

    def tick(self, now: float) -> list[Action]:
        """Do what is due; call at `deadline()`."""
        actions: list[Action] = []
        for key, until_s in list(self._reserved.items()):
            if until_s <= now:
                self._end_reservation(key, Closing.EXPIRED, now, actions)
        for circuit in self.circuits:
            if circuit.deadline_s <= now and circuit.id in self._table:
                if circuit.phase in PENDING:
                    self._refuse(circuit, Refusal.TIMEOUT, actions)
                    actions.append(closed(circuit.far, circuit.id, Closing.DONE))
                else:
                    self._close(circuit, Closing.UNCONFIRMED, now, actions)
        onward = (circuit.far for circuit in self.circuits if self._is_onward(circuit))
        actions += [Send(key, RelayReserve()) for key in self._held.due(onward, now)]
        self._announce(now, actions)
        return actions

    def deadline(self) -> float | None:
        """Return when `tick` must run; None: not before the next event."""
        soonest = min(
            min(self._reserved.values(), default=math.inf),
            min((circuit.deadline_s for circuit in self.circuits), default=math.inf),
            self._held.deadline(),
            self._busy_until_s if self._offered.busy else math.inf,
        )
        return None if math.isinf(soonest) else soonest

    # --- links -----------------------------------------------------------------------------------

    def _up(self, event: LinkUp, now: float, actions: list[Action]) -> None:
        link = self._table.links.get(event.key)
        if link is None:
            self._table.links[event.key] = Link(event.initiator, event.own, event.place)
            return
        link.initiator, link.own, link.place = event.initiator, event.own, event.place
        if not self.terms.serves(own=link.own):
            self._end_reservation(event.key, Closing.OFF, now, actions)
        for circuit in self._table.over(event.key):
            # What was said on the session before may have been lost with it.
            if circuit.phase is Phase.ASKING and circuit.far == event.key:
                actions.append(Send(circuit.far, incoming(circuit)))
            elif circuit.phase is Phase.EXTENDING and circuit.far == event.key:
                self._extend(circuit, now, actions)

    def _down(self, event: LinkDown, now: float, actions: list[Action]) -> None:
        if event.key not in self._table.links:
            return
        for circuit in self._table.over(event.key):
            if circuit.phase in PENDING and circuit.far == event.key:
                self._refuse(circuit, Refusal.NO_LINK, actions)
            else:
                self._close(circuit, Closing.LINK_LOST, now, actions, but=event.key)
        self._reserved.pop(event.key, None)
        self._held.forget(event.key)
        del self._table.links[event.key]

    # --- reservations ----------------------------------------------------------------------------

    def _heard(self, event: Heard, now: float, actions: list[Action]) -> None:
        key, message = event.key, event.message
        if key not in self._table.links:
            return
        match message:
            case RelayReserve():
                actions.append(Send(key, self._reserve(key, now, actions)))
                return
            case RelayReserved(expires_s=expires_s):
                self._held.granted(key, expires_s, now)
                return
            case RelayRefused(circuit=None):
                self._held.lost(key)
                return
            case CircuitOpen() if message.circuit not in self._table:
                self._ask(key, message, now, actions)
                return
        circuit = self._table.get(getattr(message, "circuit", b""))
        side = None if circuit is None else circuit.side(key)
        if circuit is None or side is None:
            if isinstance(message, CircuitOpen):
                actions.append(refused(key, message.circuit, Refusal.TAKEN))
            return
        act = _MESSAGES.get((type(message), circuit.phase, side))
        # What is not in the table comes late, by a race that both sides are allowed to lose.
        if act is not None:
            act(self, circuit, message, now, actions)

    def _reserve(self, key: Key, now: float, actions: list[Action]) -> RelayReserved | RelayRefused:
        if not self.terms.serves(own=self._table.links[key].own):
            return RelayRefused(code=Refusal.OFF)
        if self._left(key, now) == 0:
            return RelayRefused(code=Refusal.VOLUME)
        if key not in self._reserved and not self._has_place(key, now, actions):
            return RelayRefused(code=Refusal.FULL)
        self._reserved[key] = now + RESERVATION_S
        terms = self._terms_of(key)
        return RelayReserved(
            rate_bps=terms.peer_rate_bps,
            limit_bytes=terms.peer_volume_bytes,
            expires_s=RESERVATION_S,
            hops=HOPS_MAX,
        )

    def _has_place(self, key: Key, now: float, actions: list[Action]) -> bool:
        """Whether one more peer may reserve; makes room for it where that is fair.

        A member takes a stranger's place, and a stranger that of one whose prefix has two more.
        """
        own, full = self._owns(key), len(self._reserved) >= RESERVATIONS_MAX
        strangers = [each for each in self._reserved if not self._owns(each)]
        place = self._place(key)
        near = sum(self._place(each) == place for each in strangers)
        if not own and place and near >= RESERVATIONS_OF_PLACE_MAX:
            return False
        if not full and (own or len(strangers) < RESERVATIONS_MAX // 2):
            return True
        oldest = displaced(strangers, self._place, place, in_all=1)
        if oldest is None:
            return False
        theirs = sum(self._place(each) == self._place(oldest) for each in strangers)
        if not own and theirs < near + 2:
            return False
        self._end_reservation(oldest, Closing.FULL, now, actions)
        return True

    def _end_reservation(self, key: Key, why: Closing, now: float, actions: list[Action]) -> None:
        self._reserved.pop(key, None)
        for circuit in self._table.of(key):
            self._close(circuit, why, now, actions)

    # --- asking ----------------------------------------------------------------------------------

    def _ask(self, key: Key, asked: CircuitOpen, now: float, actions: list[Action]) -> None:
        far = (key[0], asked.through[0] if asked.through else asked.target)
        refusal = self._judge(key, far, asked, now)
        if refusal is None and not self._pace.take(key, now):
            refusal = Refusal.TOO_OFTEN
        if refusal is not None:
            actions.append(refused(key, asked.circuit, refusal))
            return
        # Only a relay asks for somebody else, and it has spent a hop.
        origin = asked.origin if asked.origin and asked.hops < HOPS_MAX else key[1]
        oldest = self._table.displaced(key, origin=origin, target=asked.target)
        if oldest is not None:
            self._displace(oldest, now, actions)
        circuit = Relayed(
            id=asked.circuit,
            near=key,
            near_label=self._table.new_label(key),
            far=far,
            far_label=None if asked.through else self._table.new_label(far),
            target=asked.target,
            origin=origin,
            phase=Phase.EXTENDING if asked.through else Phase.ASKING,
            deadline_s=now + ASK_S,
            com=asked.com,
        )
        self._table.add(circuit)
        if circuit.phase is Phase.EXTENDING:
            self._extend(circuit, now, actions)
        else:
            actions.append(Send(far, incoming(circuit)))

    def _extend(self, circuit: Relayed, now: float, actions: list[Action]) -> None:
        """Ask the next relay as an end would, with one hop less."""
        if self._held.need(circuit.far, now):
            actions.append(Send(circuit.far, RelayReserve()))
        onward = CircuitOpen(
            circuit=circuit.id,
            target=circuit.target,
            hops=HOPS_MAX - 1,
            origin=circuit.origin,
            com=circuit.com,
        )
        actions.append(Send(circuit.far, onward))

    def _displace(self, circuit: Relayed, now: float, actions: list[Action]) -> None:
        """Part with an unconfirmed circuit for a newer one of the same peer."""
        if circuit.phase in PENDING:
            self._refuse(circuit, Refusal.PEER_FULL, actions)
            actions.append(closed(circuit.far, circuit.id, Closing.UNCONFIRMED))
        else:
            self._close(circuit, Closing.UNCONFIRMED, now, actions)

    def _judge(self, key: Key, far: Key, asked: CircuitOpen, now: float) -> Refusal | None:
        """Return why not, None if nothing speaks against it."""
        links = self._table.links
        peers = [self._own_id, key[1], *asked.through, asked.target]
        # In this order: what is told first is what the asker can do least about.
        reasons: tuple[tuple[Refusal, Callable[[], bool]], ...] = (
            (Refusal.OFF, lambda: not self.terms.serves(own=links[key].own)),
            (Refusal.VOLUME, lambda: self._left(key, now) == 0),
            (Refusal.NO_RESERVATION, lambda: self._reserved.get(key, -math.inf) <= now),
            (Refusal.NO_SENSE, lambda: len(set(peers)) < len(peers)),
            (Refusal.HOPS, lambda: asked.hops < 1 + len(asked.through)),
            (Refusal.NO_LINK, lambda: far not in links or links[far].own != links[key].own),
            (Refusal.FULL, lambda: self._is_full_for(key)),
            (Refusal.PEER_FULL, lambda: self._is_full_of(key)),
        )
        return next((refusal for refusal, holds in reasons if holds()), None)

    def _is_full(self) -> bool:
        return len(self._table.confirmed()) >= self.terms.circuits

    def _is_full_for(self, key: Key) -> bool:
        """Whether there is no room for a circuit of that peer's kind; members displace others."""
        strangers = len(self._strange_circuits())
        if self._owns(key):
            return len(self._table.confirmed()) - strangers >= self.terms.circuits
        return self._is_full() or strangers >= self._terms_of(key).circuits

    def _is_full_of(self, key: Key) -> bool:
        return len(self._table.confirmed(key)) >= self._terms_of(key).peer_circuits

    def _strange_circuits(self) -> list[Relayed]:
        """Return the confirmed circuits of strangers, the oldest first."""
        return [each for each in self._table.confirmed() if not self._owns(each.near)]

    # --- one circuit -----------------------------------------------------------------------------

    def _again(
        self, circuit: Relayed, message: CircuitOpen, now: float, actions: list[Action]
    ) -> None:
        """Answer a question that was repeated because a session was replaced."""
        del message, now
        actions.append(Send(circuit.near, opened(circuit)))

    def _accepted(
        self, circuit: Relayed, message: CircuitAccepted, now: float, actions: list[Action]
    ) -> None:
        circuit.cookie = message.cookie
        self._join(circuit, now, actions)

    def _extended(
        self, circuit: Relayed, message: CircuitOpened, now: float, actions: list[Action]
    ) -> None:
        if not self._table.take_label(circuit.far, message.label):
            # The next relay gave one label twice, or one that is ours to give.
            self._refuse(circuit, Refusal.OTHER, actions)
            actions.append(closed(circuit.far, circuit.id, Closing.FAILED))
            return
        circuit.far_label, circuit.cookie = message.label, message.cookie
        self._join(circuit, now, actions)

    def _join(self, circuit: Relayed, now: float, actions: list[Action]) -> None:
        circuit.phase = Phase.LIMITED
        circuit.deadline_s = now + CONFIRM_S
        terms, peers = self._terms_of(circuit.near), self._peers_of(circuit.near)
        circuit.rate_bps = rate(self._open_of(circuit.near), terms, peers)
        left = self._left(circuit.near, now)
        circuit.limit_bytes = UNCONFIRMED_BYTES if left is None else min(UNCONFIRMED_BYTES, left)
        actions.append(
            Forward(
                circuit.id,
                (circuit.near, circuit.near_label),
                (circuit.far, circuit.far_label or 0),
                rate_bps=circuit.rate_bps,
                burst_bytes=burst(circuit.rate_bps),
                limit_bytes=circuit.limit_bytes,
            )
        )
        actions.append(Send(circuit.near, opened(circuit)))
        self._relimit(circuit.near, now, actions)

    def _declined(
        self, circuit: Relayed, message: RelayRefused, now: float, actions: list[Action]
    ) -> None:
        del now
        if circuit.phase is Phase.EXTENDING:
            self._held.lost(circuit.far)
            code = message.code
        else:
            code = Refusal.DECLINED
        self._refuse(circuit, code, actions)

    def _confirm(
        self, circuit: Relayed, message: CircuitConfirm, now: float, actions: list[Action]
    ) -> None:
        self._confirmed(circuit, Side.NEAR, message, now, actions)

    def _confirm_far(
        self, circuit: Relayed, message: CircuitConfirm, now: float, actions: list[Action]
    ) -> None:
        self._confirmed(circuit, Side.FAR, message, now, actions)

    def _confirmed(
        self,
        circuit: Relayed,
        side: Side,
        message: CircuitConfirm,
        now: float,
        actions: list[Action],
    ) -> None:
        if side in circuit.confirmed:
            return
        circuit.confirmed.add(side)
        if len(circuit.confirmed) == len(Side) and (
            self._is_full_for(circuit.near) or self._is_full_of(circuit.near)
        ):
            # There was room when it was asked for.
            self._close(circuit, Closing.FULL, now, actions)
            return
        # The next relay of a chain has a limit of its own to lift.
        actions.append(Send(circuit.other(side), message))
        if len(circuit.confirmed) == len(Side):
            if self._is_full():
                # A member's: the newest of strangers' has least to lose.
                self._close(self._strange_circuits()[-1], Closing.FULL, now, actions)
            circuit.phase = Phase.CONFIRMED
            circuit.deadline_s = math.inf
            self._relimit(circuit.near, now, actions)

    def _vouch(
        self, circuit: Relayed, message: CircuitVouch, now: float, actions: list[Action]
    ) -> None:
        self._vouched(circuit, Side.NEAR, message, now, actions)

    def _vouch_far(
        self, circuit: Relayed, message: CircuitVouch, now: float, actions: list[Action]
    ) -> None:
        self._vouched(circuit, Side.FAR, message, now, actions)

    def _vouched(
        self,
        circuit: Relayed,
        side: Side,
        message: CircuitVouch,
        now: float,
        actions: list[Action],
    ) -> None:
        """An end wants the other one to know where it is; of a chain nobody sees both ends."""
        del message
        chain = self._is_onward(circuit) or circuit.origin != circuit.near[1]
        if chain or now < circuit.vouched_s.get(side, -math.inf) + VOUCH_S:
            return
        circuit.vouched_s[side] = now
        of, to = circuit.other(_OTHER[side]), circuit.other(side)
        actions.append(Vouch(circuit.id, of, to))

    def _given_up(
        self, circuit: Relayed, message: CircuitClosed, now: float, actions: list[Action]
    ) -> None:
        self._close(circuit, message.code, now, actions, but=circuit.near)

    def _given_up_far(
        self, circuit: Relayed, message: CircuitClosed, now: float, actions: list[Action]
    ) -> None:
        if circuit.phase in PENDING:
            self._refuse(circuit, Refusal.DECLINED, actions)
        else:
            self._close(circuit, message.code, now, actions, but=circuit.far)

    def _refuse(self, circuit: Relayed, code: int, actions: list[Action]) -> None:
        """End a pending circuit with a no to its origin."""
        self._drop(circuit, actions)
        actions.append(refused(circuit.near, circuit.id, code))

    def _close(
        self,
        circuit: Relayed,
        code: int,
        now: float,
        actions: list[Action],
        *,
        but: Key | None = None,
    ) -> None:
        """End a circuit and tell both sides, *but* the one that knows."""
        self._drop(circuit, actions)
        actions += [
            closed(key, circuit.id, code) for key in (circuit.near, circuit.far) if key != but
        ]
        self._relimit(circuit.near, now, actions)

    def _drop(self, circuit: Relayed, actions: list[Action]) -> None:
        self._table.remove(circuit)
        if circuit.open:
            actions.append(Remove(circuit.id, (circuit.near, circuit.near_label)))

    def _is_onward(self, circuit: Relayed) -> bool:
        return circuit.far[1] != circuit.target

    # --- limits ----------------------------------------------------------------------------------

    def _open_of(self, key: Key) -> list[Relayed]:
        return [circuit for circuit in self._table.of(key) if circuit.open]

    def _relimit(self, key: Key, now: float, actions: list[Action]) -> None:
        """Share a peer's rate and what is left of its volume among its circuits."""
        keys = {key}
        sharing = {circuit.near for circuit in self._strange_circuits()}
        if len(sharing) != self._sharers:
            self._sharers = len(sharing)
            keys |= sharing
        for each in keys:
            terms, peers = self._terms_of(each), self._peers_of(each)
            actions += share(self._open_of(each), terms, self._left(each, now), peers)

    def _owns(self, key: Key) -> bool:
        link = self._table.links.get(key)
        return link is not None and link.own

    def _place(self, key: Key) -> bytes:
        return self._table.links[key].place

    def _terms_of(self, key: Key) -> Terms:
        return part(self.terms, own=self._owns(key))

    def _peers_of(self, key: Key) -> int:
        return 2 if self._owns(key) else self._sharers

    def _left(self, key: Key, now: float) -> int | None:
        """Return the bytes that a peer may still have today; None if there is no limit."""
        left = self.quota.left(key, self.terms, now)
        if left is None or self._owns(key):
            return left
        strangers = self._strangers.left(key, self._terms_of(key), now)
        return left if strangers is None else min(left, strangers)

    def _spend(self, key: Key, count: int, now: float) -> None:
        self.quota.spend(key, count, now)
        if not self._owns(key):
            self._strangers.spend(key, count, now)

    def _counted(self, event: Counted, now: float, actions: list[Action]) -> None:
        touched: dict[Key, None] = {}
        for circuit_id, count in event.counts.items():
            circuit = self._table.get(circuit_id)
            if circuit is None:
                continue
            if count.busy:
                self._busy_until_s = now + BUSY_S
            self._spend(circuit.near, max(0, count.bytes - circuit.bytes), now)
            circuit.bytes = max(count.bytes, circuit.bytes)
            touched[circuit.near] = None
        if not self.terms.volume_bytes:
            return
        spent = self.quota.spent(self.terms, now)
        spent |= self._strangers.spent(part(self.terms, own=False), now)
        for key in {circuit.near for circuit in self.circuits} if spent else touched:
            if self._left(key, now) == 0:
                self._end_reservation(key, Closing.VOLUME, now, actions)
            else:
                self._relimit(key, now, actions)

    def _unforwarded(self, event: Unforwarded, now: float, actions: list[Action]) -> None:
        circuit = self._table.get(event.circuit)
        if circuit is not None:
            self._close(circuit, Closing.FAILED, now, actions)

    def _set_terms(self, event: SetTerms, now: float, actions: list[Action]) -> None:
        self.terms = event.terms
        actions.append(CapRate(self.terms.rate_bps or None))
        for key, link in self._table.links.items():
            if not self.terms.serves(own=link.own):
                self._end_reservation(key, Closing.OFF, now, actions)
        # The newest go first: those that are older have more to lose.
        for circuit in self._strange_circuits()[part(self.terms, own=False).circuits :]:
            self._close(circuit, Closing.OFF, now, actions)
        for circuit in self._table.confirmed()[self.terms.circuits :]:
            self._close(circuit, Closing.OFF, now, actions)
        for key in {circuit.near for circuit in self.circuits}:
            for circuit in self._table.confirmed(key)[self._terms_of(key).peer_circuits :]:
                self._close(circuit, Closing.OFF, now, actions)
            if self._left(key, now) == 0:
                self._end_reservation(key, Closing.VOLUME, now, actions)
            self._relimit(key, now, actions)

    def _announce(self, now: float, actions: list[Action]) -> None:
        if self._is_full() or self.quota.spent(self.terms, now):
            # For a while: who opens and closes the last one must not make us tell all links.
            self._busy_until_s = max(self._busy_until_s, now + BUSY_S)
        offer = self.offer(now)
        if offer != self._offered:
            self._offered = offer
            actions.append(Announce(offer))


_EVENTS: Final[Mapping[type, Callable[..., None]]] = {
    LinkUp: RelayService._up,  # noqa: SLF001
    LinkDown: RelayService._down,  # noqa: SLF001
    Heard: RelayService._heard,  # noqa: SLF001
    Counted: RelayService._counted,  # noqa: SLF001
    Unforwarded: RelayService._unforwarded,  # noqa: SLF001
    SetTerms: RelayService._set_terms,  # noqa: SLF001
}


def _rows(
    message: type, side: Side, phases: Iterable[Phase], act: Callable[..., None]
) -> dict[tuple[type, Phase, Side], Callable[..., None]]:
    return {(message, phase, side): act for phase in phases}


_OTHER: Final = {Side.NEAR: Side.FAR, Side.FAR: Side.NEAR}
_OPEN: Final = (Phase.LIMITED, Phase.CONFIRMED)
_MESSAGES: Final[Mapping[tuple[type, Phase, Side], Callable[..., None]]] = {
    # message, side, phases, what to do
    **_rows(CircuitOpen, Side.NEAR, _OPEN, RelayService._again),  # noqa: SLF001
    **_rows(CircuitAccepted, Side.FAR, [Phase.ASKING], RelayService._accepted),  # noqa: SLF001
    **_rows(CircuitOpened, Side.FAR, [Phase.EXTENDING], RelayService._extended),  # noqa: SLF001
    **_rows(RelayRefused, Side.FAR, PENDING, RelayService._declined),  # noqa: SLF001
    **_rows(CircuitConfirm, Side.NEAR, [Phase.LIMITED], RelayService._confirm),  # noqa: SLF001
    **_rows(CircuitConfirm, Side.FAR, [Phase.LIMITED], RelayService._confirm_far),  # noqa: SLF001
    **_rows(CircuitVouch, Side.NEAR, [Phase.CONFIRMED], RelayService._vouch),  # noqa: SLF001
    **_rows(CircuitVouch, Side.FAR, [Phase.CONFIRMED], RelayService._vouch_far),  # noqa: SLF001
    **_rows(CircuitClosed, Side.NEAR, Phase, RelayService._given_up),  # noqa: SLF001
    **_rows(CircuitClosed, Side.FAR, Phase, RelayService._given_up_far),  # noqa: SLF001
}
