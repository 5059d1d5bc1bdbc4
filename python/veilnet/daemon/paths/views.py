"""Paths as `status`, `connect` and `path explain` show them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import trio

from veilnet.config import format_endpoint
from veilnet.daemon.paths.course import destination
from veilnet.daemon.paths.ways import DEAD, PROBING, Way
from veilnet.paths import DIRECT
from veilnet.protocol.circuit import is_circuit

if TYPE_CHECKING:
    from veilnet._engine import SessionStats
    from veilnet.daemon.node import Node
    from veilnet.daemon.paths.course import Course
    from veilnet.daemon.sessions import Session
    from veilnet.networks.member import Member
    from veilnet.networks.network import Network
    from veilnet.paths import ArmId, ArmView, Decision
    from veilnet.protocol.fields import Endpoint

Json = dict[str, Any]


class PathViews:
    """What the paths of one node look like to people and programs."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def of(self, session: Session, counters: SessionStats) -> list[Json]:
        """Return the paths of *session*, what carries most first; tries are left out."""
        course = self._node.paths.look_at(session)
        if course is None or not any(way.stats for way in course.ways.values()):
            return [self._alone(session, counters)]
        shown = [way for way in course.ways.values() if way.path == 0 or way.was_alive]
        shown.sort(key=lambda way: (-_share(way), way.rank))
        name = destination(session.network_id, session.peer_id)
        views = {
            view.id: view for view in self._node.paths.policy.explain(name, trio.current_time())
        }
        return [
            self._way(session, way, counters)
            | (_expected(course, way, views[way.arm]) if way.arm in views else {})
            for way in shown
        ]

    def best(self, session: Session, counters: SessionStats) -> Json:
        """Return the path of *session* that carries most."""
        return self.of(session, counters)[0]

    def _way(self, session: Session, way: Way, counters: SessionStats) -> Json:
        stats, rtt_s = way.stats, None
        if stats is not None:
            rtt_s = stats.rtt_s
        if rtt_s is None and way.path == 0:
            rtt_s = counters.rtt_s if counters.rtt_s is not None else session.rtt_s
        state = "active" if _share(way) > 0 else "standby"
        if way.state == DEAD or (way.path == 0 and way.state == PROBING and session.recovering):
            state = "dead"
        return self._place(session, way.arm, way.endpoint) | {
            "veil": "mist",
            "share": min(round(_share(way), 3), 1.0),
            "rtt_ms": None if rtt_s is None else round(rtt_s * 1000, 3),
            "loss": 0.0 if stats is None else round(stats.loss, 4),
            "state": state,
            "mtu_bytes": counters.mtu_bytes if stats is None else stats.mtu_bytes,
        }

    def _alone(self, session: Session, counters: SessionStats) -> Json:
        """Return the one path of a session of which nothing was counted yet."""
        rtt_s = counters.rtt_s if counters.rtt_s is not None else session.rtt_s
        circuit = self._node.relaying.circuits.at(session.endpoint)
        arm = DIRECT if circuit is None else circuit.relays
        return self._place(session, arm, session.endpoint) | {
            "veil": "mist",
            "share": 1.0,
            "rtt_ms": None if rtt_s is None else round(rtt_s * 1000, 3),
            "loss": 0.0,
            "state": "dead" if session.recovering else "active",
            "mtu_bytes": counters.mtu_bytes,
        }

    def _place(self, session: Session, arm: ArmId, endpoint: Endpoint) -> Json:
        """Return kind, relays and the address that datagrams really go to."""
        network = self._node.networks.get(session.network_id)
        if is_circuit(endpoint):
            link = None if network is None else self._node.homes.link(network, arm[0])
            where = "-" if link is None else format_endpoint(link.endpoint)
        else:
            where = format_endpoint(endpoint)
        return {
            "kind": "relayed" if arm else "direct",
            "via": [peer.hex() for peer in arm],
            "via_names": self._names(network, arm),
            "endpoint": where,
        }

    @staticmethod
    def _names(network: Network | None, arm: ArmId) -> list[str]:
        return ["" if network is None else network.members.name_of(peer) for peer in arm]

    # --- path explain ----------------------------------------------------------------------------

    def explain(self, network: Network, member: Member) -> Json:
        """Return every way to *member* as the policy sees it, and what it last decided."""
        session = self._node.sessions.carrier(network.id, member.peer_id)
        course = None if session is None else self._node.paths.look_at(session)
        now_s = trio.current_time()
        name = destination(network.id, member.peer_id)
        decision = None if course is None else course.decision
        active = course is not None and self._node.paths.is_active(course, now_s)
        views = self._node.paths.policy.explain(name, now_s)
        arms = [self._arm(network, course, view) for view in views]
        known = {view.id for view in views}
        for arm, way in {} if course is None else course.best().items():
            if arm not in known and (way.was_alive or way.path == 0):
                arms.append(self._open_arm(network, way))
        value: Json = {
            "peer_id": member.peer_id.hex(),
            "name": network.members.name_of(member.peer_id),
            "network": network.name,
            "state": "idle" if session is None else "connected",
            "policy": self._node.paths.policy.name,
            "active": active,
            "reason": self._absence(session, network, member) or _reason(course, decision),
            "arms": arms,
        }
        return value

    def _absence(self, session: Session | None, network: Network, member: Member) -> str:
        """Return why there is no channel, if one was tried."""
        missed = self._node.channels.missed((network.id, member.peer_id))
        if session is not None or missed is None:
            return ""
        return f"there is no channel: {missed.reason}"

    def _arm(self, network: Network, course: Course | None, view: ArmView) -> Json:
        way = None if course is None else course.best().get(view.id)
        leg = self._node.paths.leg(network, view.id[0]) if view.id else None
        hint = None if course is None or not view.id else course.hints.get(view.id[-1])
        return self._common(network, view.id, way) | {
            **_expected(course, way, view),
            "bias_ms": _number(view.bias_ms) or 0.0,
            "age_s": _number(view.age_s),
            "own_leg_ms": None if leg is None or leg.rtt_s is None else round(leg.rtt_s * 1e3, 3),
            "far_leg_ms": None if hint is None else round(hint.rtt_s * 1e3, 3),
        }

    def _open_arm(self, network: Network, way: Way) -> Json:
        """Return a way that the policy was not asked about yet."""
        return self._common(network, way.arm, way) | {
            "forecast_ms": None,
            "confidence": 0.0,
            "bias_ms": 0.0,
            "age_s": None,
            "own_leg_ms": None,
            "far_leg_ms": None,
            "reason": "no data has flowed yet, so there was nothing to decide",
        }

    def _common(self, network: Network, arm: ArmId, way: Way | None) -> Json:
        rtt_s = None if way is None or way.stats is None else way.stats.rtt_s
        return {
            "kind": "relayed" if arm else "direct",
            "via": [peer.hex() for peer in arm],
            "via_names": self._names(network, arm),
            "share": 0.0 if way is None else min(round(_share(way), 3), 1.0),
            "standby": way is not None and way.stats is not None and way.stats.standby,
            "state": "closed" if way is None else way.state,
            "rtt_ms": None if rtt_s is None else round(rtt_s * 1e3, 3),
        }


def _expected(course: Course | None, way: Way | None, view: ArmView) -> Json:
    """Return what the policy expects of an arm, and why it carries what it does."""
    return {
        "forecast_ms": _number(view.forecast_ms),
        "confidence": _number(view.confidence) or 0.0,
        "reason": _why(course, way, view),
    }


def _reason(course: Course | None, decision: Decision | None) -> str:
    if course is None:
        return "there is no channel: connect first"
    if decision is None:
        return "no data has flowed yet, so there was nothing to decide"
    return decision.reason


def _why(course: Course | None, way: Way | None, view: ArmView) -> str:
    """Return what to say of an arm: what the policy says, unless there is no way to go by."""
    if course is None:
        return "closed: remembered from the last channel"
    if way is None and view.share > 0.0:
        return "chosen, and about to be opened"
    return view.reason


def _share(way: Way) -> float:
    if way.stats is None:
        return 1.0 if way.path == 0 else 0.0
    return max(0.0, float(way.stats.share))


def _number(value: float) -> float | None:
    """Return *value* as JSON can say it."""
    return round(float(value), 3) if math.isfinite(value) else None
