"""Where this node is and what is in front of it, and why a peer is reached the way it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from veilnet.config import format_endpoint
from veilnet.nat.classify import Mapping
from veilnet.nat.place import version_of
from veilnet.networks.endpoint import Endpoint
from veilnet.protocol.circuit import is_carrier, is_stand_in

if TYPE_CHECKING:
    from veilnet.daemon.node import Node
    from veilnet.daemon.paths.course import Course
    from veilnet.nat.classify import Verdict
    from veilnet.networks.member import Member
    from veilnet.networks.network import Network

Json = dict[str, Any]


def discovery(node: Node) -> Json:
    """Return what `status` says of finding and being found."""
    verdicts = {version: node.gossip.nat(version) for version in (4, 6)}
    # An IPv6 address is seldom translated: the class is that of IPv4 if there is any.
    verdict = verdicts[4] if verdicts[4].mapping is not Mapping.UNKNOWN else verdicts[6]
    found = node.discovery
    return {
        "contacts": 0 if found is None else found.contacts,
        "nat": verdict.mapping.word,
        "nat_sure": verdict.sure,
        "observers": verdict.observers,
        "public": [
            format_endpoint(each.public) for each in verdicts.values() if each.public is not None
        ],
        "mapped": [str(endpoint) for endpoint in node.gossip.mapped()],
        "reachable": _families(node, verdicts),
        **({} if found is None else found.to_json()),
        "bootstrap": node.bootstrap.to_json(),
    }


def _families(node: Node, verdicts: dict[int, Verdict]) -> list[str]:
    """Return over what others were reached, or saw us: `udp4`, `udp6`, `tcp`."""
    found = {f"udp{version}" for version, each in verdicts.items() if each.public is not None}
    for session in node.sessions:
        if is_carrier(session.endpoint):
            found.add("tcp")
        elif not is_stand_in(session.endpoint):
            found.add(f"udp{version_of(session.endpoint.host)}")
    return sorted(found)


def direct(node: Node, network: Network, member: Member) -> Json:
    """Return where a peer may be reached directly, and why it is, or is not."""
    session = node.sessions.carrier(network.id, member.peer_id)
    course = None if session is None else node.paths.look_at(session)
    calls = node.paths.direct.punching.view(course, trio.current_time())
    known = [str(Endpoint(*each)) for each in node.channels.endpoints(network, member)]
    said = calls.get("peer", {}).get("candidates", [])
    return {
        "candidates": list(dict.fromkeys([*said, *known])),
        "peer_nat": calls.get("peer", {}).get("nat", Mapping.UNKNOWN.word),
        "own_nat": node.gossip.nat(4).mapping.word,
        "state": _state(course, calls),
        "failed": calls["failed"],
        "again_s": calls.get("again_s"),
        "reason": _reason(course, calls),
    }


def _state(course: Course | None, calls: Json) -> str:
    if course is None:
        return "none"
    if course.usable_direct():
        return "direct"
    return "calling" if calls["state"] == "calling" else "relayed"


def _reason(course: Course | None, calls: Json) -> str:
    if course is None:
        return "there is no channel: connect first"
    if course.usable_direct():
        carrying = [way for way in course.ways.values() if way.carries]
        round_about = carrying and not any(way.is_direct for way in carrying)
        other = "a direct way is open, and another serves better now: veilnet path explain"
        return other if round_about else "datagrams go straight there"
    if calls["state"] == "calling":
        return f"both ends try for a direct way now, attempt {calls['attempt']}"
    if not calls["failed"]:
        if any(way.is_direct and way.was_alive for way in course.ways.values()):
            return "the direct way that there was is dead: it, and others, are tried again"
        return "a direct way has not been tried yet"
    own, peer = (calls.get(who, {}).get("nat", "unknown") for who in ("own", "peer"))
    hard = {Mapping.SEQUENTIAL.word, Mapping.RANDOM.word}
    if Mapping.BLOCKED.word in (own, peer):
        why = f"UDP does not get through {'here' if own == Mapping.BLOCKED.word else 'there'}"
    elif own in hard and peer in hard:
        why = "both ends' translators choose a new port for whoever is new: nobody can foretell it"
    else:
        why = f"{calls['failed']} attempts found none (translators: {own} here, {peer} there)"
    return f"{why}; tried again in {calls.get('again_s', 0):.0f} s"
