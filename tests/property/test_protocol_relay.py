"""A relay among peers that say anything at any time, in any order."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from veilnet.protocol import messages, relay, relay_service, relay_steps, relay_table
from veilnet.protocol import relay_messages as said

NET = b"n" * 32
OWN = b"R" * 32
PEERS = [bytes([65 + n]) * 32 for n in range(5)]
IDS = [bytes([n]) * 16 for n in range(12)]
CAP = 4
VOLUME = 400_000

peers, ids = st.sampled_from(PEERS), st.sampled_from(IDS)
labels = st.integers(0, 2**32 - 1)


class Relay(RuleBasedStateMachine):
    """What the relay commands, against a naive memory of who has agreed to what."""

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.service = relay_service.RelayService(
            own_id=OWN,
            terms=relay.Terms(circuits=CAP, volume_bytes=VOLUME),
            rng=random.Random(1),
            now=0.0,
        )
        self.up = set()
        self.reserved = {}
        self.asked = {}
        """(peer, circuit) -> the newest question of it."""
        self.agreed = set()
        """(peer, circuit) that were asked, as target or next relay, and said yes after that."""
        self.put = {}
        """(peer, circuit) -> what it was asked last: target, or next relay."""
        self.forwards = {}
        self.limits = {}
        self.spent = Counter()
        self.counts = Counter()

    # what happens

    def handle(self, event):
        """Give the relay an event, and obey it."""
        for action in self.service.handle(event, self.now):
            self.obey(action)

    def obey(self, action):
        """Remember what the relay wants; check what can be checked at once."""
        match action:
            case relay.Send((_, peer), message):
                messages.encode(message)
                if isinstance(message, said.RelayReserved):
                    self.reserved[peer] = self.now + message.expires_s
                if isinstance(message, said.CircuitIncoming | said.CircuitOpen):
                    assert peer in self.up, "a link that is not there"
                    self.put[peer, message.circuit] = message
                    self.agreed.discard((peer, message.circuit))
                if isinstance(message, said.CircuitOpen):
                    assert (message.hops, message.through) == (1, ()), "a hop too many"
            case relay_steps.Forward():
                self.forward(action)
            case relay_steps.Limit(a, _, limit_bytes):
                circuit = next(each.circuit for each in self.forwards.values() if each.a == a)
                self.limits[circuit] = limit_bytes
            case relay_steps.Vouch(circuit, of, to):
                ends = {
                    tuple(side[0]) for side in (self.forwards[circuit].a, self.forwards[circuit].b)
                }
                assert {of, to} == ends, "told to somebody else"
            case relay_steps.Remove(circuit, a):
                assert self.forwards.pop(circuit).a == a
                self.counts.pop(circuit, None)

    def forward(self, action):
        """A circuit opens: both ends must have wanted exactly this one."""
        (_, near), (_, far) = action.a[0], action.b[0]
        question = self.asked[near, action.circuit]
        assert far == (question.through[0] if question.through else question.target)
        assert (far, action.circuit) in self.agreed, "no word of the other side"
        assert self.reserved[near] > self.now, "no reservation"
        assert len({near, far, OWN, question.target}) == 3 + bool(question.through)
        assert action.limit_bytes <= relay.UNCONFIRMED_BYTES
        assert action.circuit not in self.forwards
        self.forwards[action.circuit] = action
        self.limits[action.circuit] = action.limit_bytes

    def hears(self, peer, message):
        """Say something to the relay."""
        if peer in self.up:
            self.handle(relay.Heard((NET, peer), message))

    def says(self, peer, message):
        """Say yes to the relay, which counts where it had asked."""
        question = self.put.get((peer, getattr(message, "circuit", None)))
        if (type(question), type(message)) in {
            (said.CircuitIncoming, said.CircuitAccepted),
            (said.CircuitOpen, said.CircuitOpened),
        }:
            self.agreed.add((peer, message.circuit))
        self.hears(peer, message)

    @rule(peer=peers, initiator=st.booleans(), own=st.sampled_from([True, True, False]))
    def link_up(self, peer, initiator, own):
        """A link comes up, or another session replaces its own."""
        self.up.add(peer)
        self.handle(relay.LinkUp((NET, peer), initiator, own))

    @initialize()
    def at_first(self):
        """Everybody is there."""
        self.all_up()

    @rule()
    def all_up(self):
        """Everybody is there, one of our own, and has reserved."""
        for number, peer in enumerate(PEERS):
            self.link_up(peer, bool(number % 2), True)
            self.reserve(peer)

    @rule(
        pair=st.permutations(PEERS),
        circuit=ids,
        over_two=st.booleans(),
        reserves=st.booleans(),
        honest=st.sampled_from([True, True, False]),
    )
    def opens(self, pair, circuit, over_two, reserves, honest):
        """A circuit as it should be, if there is room for it; or one whose origin says yes."""
        origin, target, through, *_ = pair
        if reserves:
            self.reserve(origin)
        self.ask(origin, circuit, target, 2, (through,) if over_two else ())
        if honest:
            self.target_agrees(circuit)
            self.both_confirm(circuit)
        else:
            self.says(origin, said.CircuitAccepted(circuit=circuit))
            self.says(origin, said.CircuitOpened(circuit=circuit, label=0))

    @rule(peer=peers)
    def link_down(self, peer):
        """A link goes."""
        self.handle(relay.LinkDown((NET, peer)))
        self.up.discard(peer)
        self.reserved.pop(peer, None)

    @rule(peer=peers)
    def reserve(self, peer):
        """A peer asks for a reservation."""
        self.hears(peer, said.RelayReserve())

    @rule(
        peer=peers,
        circuit=ids,
        wanted=st.sampled_from([*PEERS, OWN]),
        hops=st.integers(1, 2),
        through=st.just(()) | peers.map(lambda peer: (peer,)),
    )
    def ask(self, peer, circuit, wanted, hops, through):
        """A peer asks for a circuit, sensible or not."""
        question = said.CircuitOpen(circuit=circuit, target=wanted, hops=hops, through=through)
        known = self.service.get(circuit)
        if known is None:
            self.asked[peer, circuit] = question
        self.hears(peer, question)
        if through and hops < 2:
            assert known or self.service.get(circuit) is None, "the hop budget"

    @rule(circuit=ids)
    def target_agrees(self, circuit):
        """Whoever was asked says yes, as honest peers do."""
        for (peer, each), question in list(self.put.items()):
            if each == circuit and peer in self.up:
                self.agreed.add((peer, circuit))
                if isinstance(question, said.CircuitIncoming):
                    self.hears(peer, said.CircuitAccepted(circuit=circuit))
                else:
                    # Few, so that one is given twice at times.
                    self.hears(peer, said.CircuitOpened(circuit=circuit, label=circuit[0] // 2))

    @rule(peer=peers, circuit=ids, label=labels, data=st.data())
    def says_anything(self, peer, circuit, label, data):
        """A peer says what nobody asked it for."""
        message = data.draw(
            st.sampled_from(
                [
                    said.CircuitAccepted(circuit=circuit),
                    said.CircuitOpened(circuit=circuit, label=label),
                    said.CircuitConfirm(circuit=circuit),
                    said.CircuitVouch(circuit=circuit),
                    said.CircuitClosed(circuit=circuit),
                    said.RelayRefused(circuit=circuit, code=1),
                    said.RelayRefused(code=1),
                    said.RelayReserved(expires_s=5),
                ]
            )
        )
        self.says(peer, message)

    @rule(circuit=ids)
    def both_confirm(self, circuit):
        """Both sides say that they know each other."""
        known = self.service.get(circuit)
        if known is not None:
            for _, peer in (known.near, known.far):
                self.hears(peer, said.CircuitConfirm(circuit=circuit))

    @rule(part=st.sampled_from([0.1, 0.5, 1.0]), busy=st.booleans())
    def traffic(self, part, busy):
        """The engine forwards up to the limit of every circuit, and no more.

        Each peer may have what is left of the day until it is counted who had it: then nothing
        passes any more.
        """
        before = self.spent.total()
        left = max(0, VOLUME - before)
        for circuit, forward in self.forwards.items():
            room = max(0, self.limits[circuit] - self.counts[circuit])
            more = min(int(part * room), 10**6)
            self.counts[circuit] += more
            self.spent[forward.a[0]] += more
            assert left or not more, "more than a day's volume"
        assert self.spent.total() - before <= left * len(PEERS), "more than each has left"
        assert max(self.spent.values(), default=0) <= VOLUME // 2, "more than a peer's half"
        counts = {each: relay_steps.Count(self.counts[each], busy=busy) for each in self.forwards}
        self.handle(relay_steps.Counted(counts))

    @rule(seconds=st.sampled_from([0.1, 4.0, 40.0, 700.0]))
    def time_passes(self, seconds):
        """What is due is done, and is not due any more."""
        self.now += seconds
        for action in self.service.tick(self.now):
            self.obey(action)
        after = self.service.deadline()
        assert after is None or after > self.now, "what was due is due still"

    @rule(circuit=ids)
    def engine_refuses(self, circuit):
        """The engine does not take a circuit, or lost it."""
        self.handle(relay_steps.Unforwarded(circuit))

    @rule(own=st.booleans(), circuits=st.integers(1, CAP))
    def operator(self, own, circuits):
        """The operator turns the relay down or off, and up again."""
        terms = relay.Terms(for_own=own, circuits=circuits, volume_bytes=VOLUME)
        self.handle(relay_steps.SetTerms(terms))
        if not own:
            assert not self.forwards
            assert len(self.service) == 0
        self.handle(relay_steps.SetTerms(relay.Terms(circuits=CAP, volume_bytes=VOLUME)))
        self.reserved = {peer: at for peer, at in self.reserved.items() if own}

    # what must hold

    @invariant()
    def caps_hold(self):
        """In all, and for every peer; of those that nobody confirmed, each peer has few."""
        done = [c for c in self.service.circuits if c.phase is relay_steps.Phase.CONFIRMED]
        assert len(done) <= CAP
        near = Counter(circuit.near for circuit in done)
        assert all(count <= CAP // 2 for count in near.values())
        waiting = [c for c in self.service.circuits if c not in done]
        near = Counter(circuit.near for circuit in waiting)
        assert all(count <= relay_table.UNCONFIRMED_OF_PEER_MAX for count in near.values())
        pairs = Counter((circuit.near, circuit.target) for circuit in waiting)
        assert all(count <= relay_table.UNCONFIRMED_OF_PAIR_MAX for count in pairs.values())

    @invariant()
    def engine_and_machine_agree(self):
        """What is forwarded is what the machine says is open."""
        assert {c.id for c in self.service.circuits if c.open} == set(self.forwards)

    @invariant()
    def labels_are_unique_on_every_link(self):
        """And every circuit goes over two links that are up."""
        used = Counter()
        for forward in self.forwards.values():
            for (_, peer), label in (forward.a, forward.b):
                assert peer in self.up
                used[peer, label] += 1
        assert all(count == 1 for count in used.values())

    @invariant()
    def nothing_is_left_behind(self):
        """A link knows its circuits and their labels, and no others."""
        for peer in self.up:
            link = self.service._table.links[NET, peer]
            over = [c for c in self.service.circuits if c.side((NET, peer)) is not None]
            assert set(link.circuits) == {c.id for c in over}
            known = [c.near_label if c.near == (NET, peer) else c.far_label for c in over]
            assert sorted(link.labels) == sorted(label for label in known if label is not None)


Relay.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestRelay = Relay.TestCase
