"""Circuits over one relay and over two, in virtual time: who agrees to what, and how it ends."""

from __future__ import annotations

import pytest

from tests.unit.protocol.relays import NET, World, opened, refusal
from veilnet.errors import PeerUnreachable
from veilnet.protocol import (
    relay,
    relay_quota,
    relay_service,
    relay_steps,
)
from veilnet.protocol import relay_messages as said
from veilnet.protocol.relay import Closing, Refusal

KB64 = 65_536


# --- how it opens -----------------------------------------------------------------------------


def test_one_relay_carries_both_ways(world):
    """The origin asks, the target accepts, and the relay joins their labels."""
    circuit = world.origin.open(world.relay, world.target)
    world.run()
    assert world.carries(world.origin, world.target, circuit)
    end = world.target.joined[circuit]
    assert (end.peer, end.incoming) == (world.origin.id, True)


def test_two_relays_carry_both_ways(chain):
    """The first relay asks the second with a hop less; the target hears who asked first."""
    circuit = chain.origin.open(chain.near, chain.target, chain.far)
    chain.run()
    assert chain.carries(chain.origin, chain.target, circuit)
    assert chain.target.joined[circuit].peer == chain.origin.id
    onward = next(
        m for a, b, m in chain.said if (a, b) == ("near", "far") and m != said.RelayReserve()
    )
    assert (onward.hops, onward.through) == (1, ())


def test_the_commitment_goes_up_and_the_cookie_comes_back(world, chain):
    """Over one relay and over two; where there is no handshake to come there is neither."""
    com = bytes(range(32))
    circuit = world.origin.open(world.relay, world.target, com=com)
    without = world.origin.open(world.relay, world.target)
    world.run()
    assert world.origin.joined[circuit].cookie == com[:16]
    assert world.origin.joined[without].cookie is None
    assert world.carries(world.origin, world.target, circuit)
    circuit = chain.origin.open(chain.near, chain.target, chain.far, com=com)
    chain.run()
    assert chain.origin.joined[circuit].cookie == com[:16]


def test_64_kb_until_both_ends_confirm(world):
    """One end's word lifts nothing."""
    circuit = world.origin.open(world.relay, world.target)
    world.run()
    assert world.relay.forwards[circuit].limit_bytes == KB64
    world.origin.confirm(circuit)
    world.origin.confirm(circuit)
    world.run()
    assert world.relay.forwards[circuit].limit_bytes == KB64
    world.target.confirm(circuit)
    world.run()
    assert world.relay.forwards[circuit].limit_bytes == relay_quota.FREE_BYTES


def test_both_relays_of_a_chain_hear_both_ends(chain):
    """Each has a limit of its own to lift."""
    circuit = chain.origin.open(chain.near, chain.target, chain.far)
    chain.run()
    chain.target.confirm(circuit)
    chain.run()
    assert {p.forwards[circuit].limit_bytes for p in (chain.near, chain.far)} == {KB64}
    chain.origin.confirm(circuit)
    chain.run()
    assert {p.forwards[circuit].limit_bytes for p in (chain.near, chain.far)} == {
        relay_quota.FREE_BYTES
    }


def test_reservation_and_question_go_out_together(world):
    """A relay that was never asked costs one round trip, and a second circuit one message."""
    circuit = world.origin.open(world.relay, world.target)
    assert len(world.queue) == 2
    world.run()
    assert circuit in world.origin.joined
    world.origin.open(world.relay, world.peer("nobody"))
    assert len(world.queue) == 1


def test_both_ends_may_relay_on_one_link(world):
    """Labels that the initiator of a link gives have the high bit, those of the other have not."""
    circuit = opened(world)
    forward = world.relay.forwards[circuit]
    (_, to_origin), (_, to_target) = forward.a, forward.b
    assert (to_origin >> 31, to_target >> 31) == (0, 1)


# --- who may not ------------------------------------------------------------------------------


def test_off_means_nobody(world):
    """A relay that is off refuses and says so."""
    world.relay.set(for_own=False)
    assert refusal(world) is Refusal.OFF
    assert world.relay.offers[-1] == said.RelayOffer()


@pytest.mark.parametrize(("strangers", "expected"), [(False, Refusal.OFF), (True, None)])
def test_strangers_only_where_the_operator_said_so(strangers, expected):
    """Own networks are the default; strangers need a word."""
    world = World()
    world.origin, world.target = world.peer("origin"), world.peer("target")
    world.relay = world.peer("relay", for_strangers=strangers)
    for end in (world.origin, world.target):
        world.link(end, world.relay, own=False)
    circuit = world.origin.open(world.relay, world.target)
    world.run()
    assert world.origin.failed.get(circuit) is expected
    assert world.carries(world.origin, world.target, circuit) is strangers


def test_a_stranger_does_not_reach_into_a_private_network(world):
    """Between one of ours and a stranger nothing is joined, whatever is allowed."""
    world.relay.set(for_strangers=True)
    stranger = world.peer("stranger")
    world.link(stranger, world.relay, own=False)
    assert refusal(world, stranger) is Refusal.NO_LINK


def test_the_target_must_have_a_link_already(world):
    """A relay opens no link for anybody and dials nobody."""
    absent = world.peer("absent")
    assert refusal(world, target=absent) is Refusal.NO_LINK


def test_the_target_may_decline(world):
    """Without its yes nothing is joined."""
    world.target.welcomes = False
    assert refusal(world) is Refusal.DECLINED
    assert not world.target.joined


def test_a_target_that_says_nothing_costs_three_seconds(world):
    """Then the origin hears no, the place is free again, and a late yes joins nothing."""
    world.deaf.add(world.target)
    circuit = world.origin.open(world.relay, world.target)
    world.run()
    assert len(world.relay.service) == 1
    world.wait(relay.ASK_S)
    assert world.origin.failed[circuit] is Refusal.TIMEOUT
    assert len(world.relay.service) == 0
    world.deaf.clear()
    late = said.CircuitAccepted(circuit=circuit)
    world.send(world.target, world.target.key_of(world.relay), late)
    world.run()
    assert not world.relay.forwards
    assert world.said[-1][2] == said.CircuitClosed(circuit=circuit, code=Closing.UNKNOWN)


def test_without_a_reservation_there_is_no_circuit(world):
    """The relay refuses; a client asks once more with one, and no third time."""
    bare = said.CircuitOpen(circuit=b"c" * 16, target=world.target.id)
    world.send(world.origin, world.origin.key_of(world.relay), bare)
    world.run()
    assert world.said[-1][2].code == Refusal.NO_RESERVATION
    # A client that believes in a reservation which the relay has not.
    world.origin.reserve(world.relay)
    world.run()
    world.relay.service._reserved.clear()
    circuit = world.origin.open(world.relay, world.target)
    world.run()
    assert world.carries(world.origin, world.target, circuit)


def test_a_third_relay_is_one_too_many(chain):
    """A hop budget of one buys the target, not another relay."""
    chain.origin.reserve(chain.near)
    chain.run()
    asked = said.CircuitOpen(
        circuit=b"c" * 16, target=chain.target.id, hops=1, through=(chain.far.id,)
    )
    chain.send(chain.origin, chain.origin.key_of(chain.near), asked)
    chain.run()
    assert chain.said[-1][2].code == Refusal.HOPS
    assert not chain.far.service.circuits


def test_circles_make_no_sense(world):
    """Nobody is twice in a circuit."""
    for target in (world.origin, world.relay):
        asked = said.CircuitOpen(circuit=b"c" * 16, target=target.id)
        world.origin.reserve(world.relay)
        world.send(world.origin, world.origin.key_of(world.relay), asked)
        world.run()
        assert world.said[-1][2].code == Refusal.NO_SENSE
    assert refusal(world, target=world.relay) is Refusal.NO_SENSE


def test_an_id_in_use_is_refused(world):
    """Another peer cannot take a circuit over by its id."""
    circuit = opened(world)
    thief = world.peer("thief")
    world.link(thief, world.relay)
    thief.reserve(world.relay)
    for message in (
        said.CircuitOpen(circuit=circuit, target=world.target.id),
        said.CircuitClosed(circuit=circuit),
        said.CircuitConfirm(circuit=circuit),
    ):
        world.send(thief, thief.key_of(world.relay), message)
    world.run()
    answers = [m for _, to, m in world.said if to == "thief" and hasattr(m, "code")]
    assert [m.code for m in answers] == [Refusal.TAKEN, Closing.UNKNOWN]
    assert world.carries(world.origin, world.target, circuit)


# --- how it ends ------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["origin", "target"])
def test_either_end_closes(world, who):
    """Both ends and the relay forget the circuit, and why is told."""
    circuit = opened(world)
    closer = getattr(world, who)
    closer.close(circuit)
    world.run()
    assert not world.relay.forwards
    assert world.origin.left == world.target.left == {circuit: Closing.DONE}


def test_a_lost_link_closes_the_circuits_over_it(chain):
    """Both ends of a chain hear that one of its links is gone."""
    circuit = chain.origin.open(chain.near, chain.target, chain.far)
    chain.run()
    chain.cut(chain.near, chain.far)
    chain.run()
    assert chain.origin.left == chain.target.left == {circuit: Closing.LINK_LOST}
    assert not chain.near.forwards
    assert not chain.far.forwards


def test_a_target_that_goes_while_it_is_asked(world):
    """The origin hears at once, not after the timeout."""
    world.deaf.add(world.target)
    circuit = world.origin.open(world.relay, world.target)
    world.run()
    world.cut(world.relay, world.target)
    world.run()
    assert world.origin.failed[circuit] is Refusal.NO_LINK


def test_what_nobody_confirms_is_closed(world):
    """At the relay and at both ends."""
    circuit = world.origin.open(world.relay, world.target)
    world.run()
    world.origin.confirm(circuit)
    world.wait(relay.CONFIRM_S)
    assert not world.relay.forwards
    assert not world.origin.joined
    assert not world.target.joined


def test_a_circuit_in_use_outlives_its_first_reservation(world):
    """Who has circuits asks again in time; who has gone away does not, and loses them."""
    circuit = opened(world)
    world.wait(3 * relay.RESERVATION_S)
    assert world.carries(world.origin, world.target, circuit)
    world.origin.client._held._ask_s.clear()
    world.wait(relay.RESERVATION_S)
    assert world.origin.left == {circuit: Closing.EXPIRED}
    assert not world.relay.service.reservations


def test_both_relays_of_a_chain_are_asked_again(chain):
    """The first relay renews what it reserved at the second."""
    circuit = chain.origin.open(chain.near, chain.target, chain.far)
    chain.run()
    chain.origin.confirm(circuit)
    chain.target.confirm(circuit)
    chain.wait(3 * relay.RESERVATION_S)
    assert chain.carries(chain.origin, chain.target, circuit)


def test_a_reservation_that_nobody_needs_runs_out(world):
    """And with it what keeps the link up."""
    circuit = opened(world)
    key = world.relay.key_of(world.origin)
    world.origin.close(circuit)
    world.run()
    assert world.relay.service.needs(key)
    world.wait(relay.RESERVATION_S)
    assert not world.relay.service.needs(key)
    world.origin.reserve(world.relay)
    world.wait(3 * relay.RESERVATION_S)
    assert world.relay.service.needs(key)


# --- sessions that replace others -------------------------------------------------------------


def test_circuits_outlive_the_session_of_their_link(world):
    """The hourly handshake moves them, whichever end began it."""
    circuit = opened(world)
    world.link(world.relay, world.origin)
    world.link(world.relay, world.target)
    world.run()
    assert world.carries(world.origin, world.target, circuit)
    opened(world)


def test_what_was_being_asked_is_asked_again(world):
    """A question that was lost with the session before is answered on the next."""
    world.deaf.add(world.relay)
    circuit = world.origin.open(world.relay, world.target)
    world.run()
    world.deaf.clear()
    world.link(world.origin, world.relay)
    world.run()
    assert world.carries(world.origin, world.target, circuit)


def test_an_answer_that_was_lost_is_given_again(world):
    """The relay answers the same question with the same circuit, as the target does."""
    world.deaf.add(world.origin)
    circuit = world.origin.open(world.relay, world.target)
    world.run()
    world.deaf.clear()
    assert circuit not in world.origin.joined
    world.link(world.origin, world.relay)
    world.run()
    assert world.carries(world.origin, world.target, circuit)
    assert len(world.relay.forwards) == 1


@pytest.mark.parametrize("who", ["relay", "target", "origin"])
def test_who_restarted_has_forgotten_and_says_so(world, who):
    """A circuit that one side does not have any more is closed at the others, after one round."""
    circuit = opened(world)
    lost = getattr(world, who)
    fresh = world.peer(who)
    others = [p for p in (world.origin, world.relay, world.target) if p is not lost]
    for other in others:
        if who == "relay" or other is world.relay:
            world.link(other, fresh)
    world.run()
    for other in others:
        assert circuit not in other.joined
        assert circuit not in other.forwards


# --- what cannot be done ----------------------------------------------------------------------


def test_what_the_engine_does_not_take_is_closed(world):
    """A circuit that the engine refuses is closed at both ends."""
    circuit = opened(world)
    actions = world.relay.service.handle(relay_steps.Unforwarded(circuit), world.now)
    world.relay.act(actions)
    world.run()
    assert world.origin.left == world.target.left == {circuit: Closing.FAILED}


def test_a_label_that_is_in_use_is_not_taken(chain):
    """A second relay that gives one label twice gets no second circuit."""
    first = chain.origin.open(chain.near, chain.target, chain.far)
    chain.run()
    label = chain.near.forwards[first].b[1]
    chain.deaf.add(chain.far)
    second = chain.origin.open(chain.near, chain.target, chain.far)
    chain.run()
    again = said.CircuitOpened(circuit=second, label=label)
    chain.send(chain.far, chain.far.key_of(chain.near), again)
    chain.run()
    assert second in chain.origin.failed
    assert list(chain.near.forwards) == [first]


def test_a_link_that_nobody_knows_says_nothing(world):
    """Events of a link that is not up change nothing."""
    stranger = (NET, b"s" * 32)
    for message in (
        said.RelayReserve(),
        said.CircuitIncoming(circuit=b"c" * 16, origin=b"o" * 32, label=1),
    ):
        heard = relay.Heard(stranger, message)
        assert world.relay.switch.heard(heard, world.now) == []
    assert world.relay.switch.handle(relay.LinkDown(stranger), world.now) == []


def test_every_refusal_has_words():
    """Known reasons, unknown ones, and which of them mean that nobody is there."""
    for code in (*Refusal, 999):
        error = relay.refused(code, "hub")
        assert "the relay hub " in error.message
        assert error.hint
    assert isinstance(relay.refused(Refusal.NO_LINK, "hub"), PeerUnreachable)
    assert relay.refused(Refusal.FULL, "hub").refusal is Refusal.FULL


# --- where an end is --------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["origin", "target"])
def test_a_relay_tells_where_it_sees_an_end_that_wants_it(world, who):
    """The other end hears the address that the relay has seen, and nobody else does."""
    circuit = opened(world)
    here = getattr(world, who)
    there = world.target if here is world.origin else world.origin
    here.vouch(circuit)
    world.run()
    assert there.seen == {circuit: world.places[here.id]}
    assert here.seen == {}


def test_a_relay_vouches_at_most_once_a_second(world):
    """Whoever asks without end makes it say no more than that."""
    circuit = opened(world)
    for _ in range(20):
        world.origin.vouch(circuit)
    world.run()
    told = [m for _, _, m in world.said if isinstance(m, said.CircuitSeen)]
    assert len(told) == 1
    world.wait(relay_service.VOUCH_S)
    world.origin.vouch(circuit)
    world.run()
    assert sum(isinstance(m, said.CircuitSeen) for _, _, m in world.said) == 2


def test_no_relay_vouches_before_both_ends_know_each_other(world):
    """Or anybody could have a stranger told where somebody is."""
    circuit = world.origin.open(world.relay, world.target)
    world.run()
    world.origin.vouch(circuit)
    world.run()
    assert world.target.seen == {}


def test_a_chain_vouches_for_nobody(chain):
    """Neither relay sees both ends, and neither believes the other."""
    circuit = chain.origin.open(chain.near, chain.target, chain.far)
    chain.run()
    for end in (chain.origin, chain.target):
        end.confirm(circuit)
    chain.run()
    chain.origin.vouch(circuit)
    chain.target.vouch(circuit)
    chain.run()
    assert chain.origin.seen == chain.target.seen == {}
    assert not any(isinstance(m, said.CircuitSeen) for _, _, m in chain.said)
