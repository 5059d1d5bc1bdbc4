import math

import pytest

from tests.unit.discovery.crowd import Crowd
from veilnet.discovery.contact import STORES, UNKNOWN_ID, Contact
from veilnet.discovery.events import (
    Answered,
    Ask,
    Asked,
    Enough,
    Failed,
    Find,
    Found,
    Get,
    Learned,
    Put,
    Reason,
    Reply,
    Sighted,
    Stored,
    Unanswered,
)
from veilnet.discovery.kademlia import (
    ALPHA,
    CROWDED,
    LOOKUPS_QUERIES,
    MAX_LOOKUPS,
    VERIFY_BURST,
)
from veilnet.discovery.lookup import AWAITED, AWAITED_STALL_S, MAX_ASKS
from veilnet.discovery.routing import shared_bits
from veilnet.discovery.storage import CANDIDATES, Refusal
from veilnet.errors import LocalProtocolError
from veilnet.protocol import messages
from veilnet.protocol.dht_messages import (
    MAX_BLOB_BYTES,
    FindNodes,
    FindValue,
    HaveValue,
    Nodes,
    Store,
    StoreRefused,
    StoreTaken,
)


def number(node_id):
    """Return an id as a number."""
    return int.from_bytes(node_id, "big")


def test_a_search_finds_the_nodes_nearest_to_a_target(town, folk):
    """The nearest of all that there are, within the hops of the goal."""
    for _ in range(10):
        target = town.rng.randbytes(32)
        found = town.find(town.rng.choice(folk), target)
        ids = sorted(
            (node.machine.own_id for node in folk), key=lambda one: number(one) ^ number(target)
        )
        assert [contact.id for contact in found.contacts[:3]] == ids[:3]
        assert found.hops <= math.log2(len(folk)) / 2 + 1


def test_what_was_put_is_found(town, folk):
    """Twenty storers, none of them told twice; a search of few questions and hops."""
    for at in range(10):
        locator, blob = town.rng.randbytes(32), b"blob %d" % at
        stored = town.put(town.rng.choice(folk), locator, blob)
        assert isinstance(stored, Stored)
        assert stored.count == len(set(stored.storers)) == stored.sent == 20
        found = town.get(town.rng.choice(folk), locator)
        assert found.blobs == (blob,)
        assert found.hops <= math.log2(len(folk)) / 2 + 1
        assert found.asked <= 20


def test_storers_are_taken_by_rank_not_by_id(town, folk):
    """Whoever has the ids nearest to a locator has no better chance to keep what lies there."""
    nearest = storing = 0
    for _ in range(10):
        locator = town.rng.randbytes(32)
        stored = town.put(town.rng.choice(folk), locator, b"blob")
        ids = sorted(folk, key=lambda node: number(node.machine.own_id) ^ number(locator))
        storers = {contact.id for contact in stored.storers}
        nearest += sum(node.machine.own_id in storers for node in ids[:10])
        storing += 10
    assert 0.3 < nearest / storing < 0.9


def test_a_put_of_what_is_there_sends_nothing(town, folk):
    """The refresh asks those that had it by digest, and that is all."""
    locator = town.rng.randbytes(32)
    publisher = folk[0]
    first = town.put(publisher, locator, b"blob")
    again = town.put(publisher, locator, b"blob", known=first.storers)
    assert (again.count, again.sent, again.asked) == (20, 0, 20)


def test_who_was_never_sent_a_blob_and_says_that_it_has_it_is_not_believed(town, folk):
    """Only those that took it count: liars would be all the storers there are."""
    locator = town.rng.randbytes(32)
    town.put(folk[0], locator, b"blob")
    again = town.put(folk[0], locator, b"blob")
    assert (again.count, again.sent) == (20, 20)


def test_who_knows_nobody_yet_stores_where_it_will_be_looked_for(town, folk):
    """A node that has just come learns from the first answers how large a region is."""
    for _ in range(5):
        young = town.node()
        for other in town.rng.sample(folk, 4):
            young.machine.table.heard_of(other.contact.packed)
        locator = town.rng.randbytes(32)
        stored = town.put(young, locator, b"blob")
        bits = folk[0].machine.bits(town.now)
        assert stored.count == 20
        assert all(
            shared_bits(number(contact.id), number(locator)) > bits - 2
            for contact in stored.storers
        )
        del town.nodes[young.endpoint]


def test_storers_outside_of_what_the_region_is_now_are_replaced(town, folk):
    """The commons has grown: who would not be asked any more does not count as having it."""
    locator = town.rng.randbytes(32)
    aim = number(locator)
    far = [node for node in folk if shared_bits(number(node.machine.own_id), aim) == 0][:20]
    for node in far:
        node.machine.storage.put(locator, b"blob", owner=bytes(16), prefix=b"", now=town.now)
    known = tuple(node.contact for node in far)
    stored = town.put(folk[0], locator, b"blob", owner=bytes(16), known=known)
    assert stored.sent == stored.count == 20
    assert not {contact.id for contact in stored.storers} & {node.machine.own_id for node in far}


def test_a_refresh_with_few_storers_left_finds_new_ones(town, folk):
    """Those that went are replaced."""
    locator = town.rng.randbytes(32)
    first = town.put(folk[0], locator, b"blob")
    gone = {contact.endpoint for contact in first.storers[:10]} - {folk[0].endpoint}
    for endpoint in gone:
        town.nodes[endpoint].online = False
    again = town.put(folk[0], locator, b"blob", known=first.storers)
    assert again.count >= 20
    assert again.sent >= 9
    assert not {contact.endpoint for contact in again.storers} & gone


def test_a_new_blob_of_one_owner_replaces_the_old(town, folk):
    """What was said before is not found any more once all have the new."""
    locator, owner = town.rng.randbytes(32), b"o" * 16
    first = town.put(folk[0], locator, b"old", owner=owner)
    town.put(folk[0], locator, b"new", owner=owner, known=first.storers, changed=True)
    assert town.get(folk[2], locator).blobs == (b"new",)


def test_without_an_owner_the_machine_makes_one_up(town, folk):
    """The same for each put of one locator, another for each locator."""
    owners = []
    for locator in (bytes([3]) * 32, bytes([3]) * 32, bytes([200]) * 32):
        town.put(folk[0], locator, town.rng.randbytes(4))
        owners.append({one.owner for node in folk for one in node.asked if isinstance(one, Store)})
        for node in folk:
            node.asked.clear()
    assert owners[0] == owners[1] != owners[2]


def test_storers_are_those_who_say_that_they_store(town, folk):
    """Nobody else is sent anything."""
    machines = [node.machine for node in folk]
    for machine in machines[::2]:
        machine.flags = 0
    try:
        stored = town.put(folk[0], town.rng.randbytes(32), b"blob")
        assert stored.count == 20
        assert all(town.nodes[one.endpoint].machine.flags for one in stored.storers)
    finally:
        for machine in machines:
            machine.flags = STORES


def test_nobody_on_the_way_learns_the_locator(town, folk):
    """Outside the region only random targets in it are asked for; the publisher names nobody."""
    locator = town.rng.randbytes(32)
    for node in (folk[0], folk[1]):
        town.put(node, locator, b"blob")
        town.get(node, locator)
    bits = folk[0].machine.bits(town.now)
    assert bits >= 2
    for node in folk:
        for message in node.asked:
            if isinstance(message, FindNodes):
                assert message.target != locator
                assert message.announce == b""
            else:
                assert shared_bits(number(node.machine.own_id), number(locator)) >= bits - 2


def test_a_search_ends_at_the_first_silence_of_all(town, folk):
    """With nobody online it fails, and says why."""
    for node in folk[1:]:
        node.online = False
    failed = town.get(folk[0], town.rng.randbytes(32))
    assert failed.reason is Reason.NO_ANSWER
    assert failed.asked <= MAX_ASKS


def test_what_nobody_stored_is_not_found(town, folk):
    """An empty region is asked through, twice as much of it if need be, and no more."""
    failed = town.get(folk[3], town.rng.randbytes(32))
    assert failed.reason is Reason.NOT_FOUND
    assert failed.asked <= MAX_ASKS


def test_a_node_alone_fails_at_once():
    """No contacts, no questions."""
    crowd = Crowd()
    node = crowd.node()
    for result in (
        crowd.find(node, bytes(32)),
        crowd.get(node, bytes(32)),
        crowd.put(node, bytes(32), b"x"),
    ):
        assert result == Failed(result.id, Reason.NO_CONTACTS, 0)


def test_a_commons_of_three_stores_at_both_others():
    """Small ones work: the region is everybody."""
    crowd = Crowd()
    nodes = crowd.grown(3)
    assert crowd.put(nodes[0], bytes(32), b"x").count == 2
    assert crowd.get(nodes[1], bytes(32)).blobs == (b"x",)


def test_a_third_of_the_storers_may_be_gone_when_it_is_looked_for(town, folk):
    """Dead contacts cost time, not the result."""
    for node in town.rng.sample(folk[2:], 80):
        node.online = False
    for _ in range(5):
        locator = town.rng.randbytes(32)
        assert town.put(folk[0], locator, b"x").count >= 15
        before = town.now
        assert town.get(folk[1], locator, lambda blob: blob == b"x").blobs == (b"x",)
        assert town.now - before < 6.0


def test_a_blob_that_passes_is_reported_before_the_end(town, folk):
    """Whoever waits may go on with it, and end the search."""
    locator = town.rng.randbytes(32)
    town.put(folk[0], locator, b"x")
    machine = next(node.machine for node in folk if locator not in node.machine.storage)
    asks = machine.handle(Get(900, locator, lambda _: True), town.now)
    seen = []
    while not seen:
        ask = asks.pop(0)
        target = town.nodes[ask.contact.endpoint]
        reply = target.answer(("1.2.3.4", 5), ask.message, full=ask.full)
        actions = machine.handle(Answered(ask.query, reply), town.now)
        seen = [one for one in actions if isinstance(one, Sighted)]
        asks += [one for one in actions if isinstance(one, Ask)]
    assert seen[0].blob == b"x"
    (found,) = machine.handle(Enough(900), town.now)
    assert isinstance(found, Found)
    assert found.blobs == (b"x",)
    assert not machine.lookups
    for ask in asks:
        assert machine.handle(Unanswered(ask.query), town.now) == []


def test_ids_of_lookups_and_sizes_are_checked():
    """Our own mistakes are told at once."""
    crowd = Crowd()
    machine = crowd.grown(4)[0].machine
    machine.handle(Find(1, bytes(32)), 0.0)
    for event in (
        Find(1, bytes(32)),
        Find(2, bytes(31)),
        Put(3, bytes(32), b""),
        Put(3, bytes(32), bytes(15_000)),
        Put(3, bytes(32), b"x", owner=b"short"),
    ):
        with pytest.raises(LocalProtocolError):
            machine.handle(event, 0.0)
    assert set(machine.lookups) == {1}


def test_lookups_at_once_are_bounded():
    """The sixty-fifth is told that we are busy."""
    crowd = Crowd()
    machine = crowd.grown(4)[0].machine
    for at in range(MAX_LOOKUPS):
        assert machine.handle(Find(at, bytes(32)), 0.0)
    assert machine.handle(Find(99, bytes(32)), 0.0) == [Failed(99, Reason.BUSY)]


def test_three_are_asked_at_once_and_more_when_they_are_slow():
    """Silence of 0.7 s gives another its turn; the slow ones may still answer."""
    crowd = Crowd()
    machine = crowd.grown(40)[0].machine
    first = machine.handle(Find(1, bytes(32)), 0.0)
    assert len(first) == 3
    deadline = machine.deadline()
    assert deadline is not None
    assert 0.5 < deadline < 1.0
    assert machine.tick(deadline / 2) == []
    assert len(machine.tick(deadline)) == 3
    assert len({ask.contact for ask in first}) == 3


def test_ten_are_asked_at_once_for_a_blob_until_much_is_asked():
    """Somebody waits for it; but many searches at once never ask more than the machine keeps."""
    crowd = Crowd()
    asker, now = crowd.grown(60)[0].machine, 0.0

    def asked(actions):
        return sum(isinstance(action, Ask) for action in actions)

    assert asked(asker.handle(Get(0, crowd.rng.randbytes(32)), now)) == AWAITED
    out = AWAITED
    for search in range(1, MAX_LOOKUPS):
        out += asked(asker.handle(Get(search, crowd.rng.randbytes(32)), now))
        assert out <= CROWDED + MAX_LOOKUPS * ALPHA
    # Nobody answers, and all of them turn to others.
    for _ in range(20):
        now += AWAITED_STALL_S + 0.01
        out += asked(asker.tick(now))
    assert out <= LOOKUPS_QUERIES
    assert out >= MAX_LOOKUPS * ALPHA


def test_a_node_joins_by_one_endpoint_and_is_known():
    """Endpoints without ids are enough to begin with; who announces itself is asked back."""
    crowd = Crowd(2)
    nodes = []
    for _ in range(12):
        node = crowd.node(announce=True, probe_interval_s=60.0)
        if nodes:
            seed = Contact(UNKNOWN_ID, nodes[0].endpoint)
            crowd._feed(node, Learned((seed,)))
        nodes.append(node)
        crowd.run(crowd.now + 1.0, nodes)
    crowd.run(crowd.now + 40.0, nodes)
    assert all(len(list(node.machine.table)) == 11 for node in nodes)
    asked = sum(len(node.asked) for node in nodes) / len(nodes)
    # At 2.9 KB a question: well below the 300 KB that joining may cost.
    assert asked < 100


def test_a_cache_of_which_one_in_twenty_is_left_leads_in():
    """Contacts of long ago are tried one after another, none again before all were."""
    crowd = Crowd(5)
    town = crowd.grown(60)
    gone = [crowd.node() for _ in range(190)]
    for node in gone:
        node.online = False
    node = crowd.node(probe_interval_s=60.0, announce=True)
    old = [one.contact for one in (*gone, *town[:10])]
    crowd.rng.shuffle(old)
    crowd._feed(node, Learned(tuple(old)))
    crowd.run(crowd.now + 120.0, [node])
    assert node.machine.table.answering >= 20
    assert crowd.find(node, town[0].machine.own_id).contacts[0] == town[0].contact


def test_a_restored_table_of_the_silent_is_not_taken_for_a_full_one():
    """Until somebody answers, the node goes on looking for itself soon."""
    crowd = Crowd(5)
    gone = [crowd.node() for _ in range(60)]
    for node in gone:
        node.online = False
    node = crowd.node(probe_interval_s=60.0)
    crowd._feed(node, Learned(tuple(one.contact for one in gone)))
    crowd.run(crowd.now + 90.0, [node])
    assert node.machine.table.is_poor
    alive = crowd.node()
    crowd._feed(node, Learned((alive.contact,)))
    crowd.run(crowd.now + 60.0, [node])
    assert list(node.machine.table) == [alive.contact.packed]


def test_all_that_is_said_fits_the_wire(monkeypatch):
    """Every question and every answer is encoded and read back as itself."""
    crowd = Crowd(6)
    nodes = crowd.grown(40, announce=True, probe_interval_s=60.0)
    answer, kinds = type(nodes[0]).answer, set()

    def over_the_wire(node, sender, message, *, full):
        assert messages.decode(messages.encode(message, 1)).message == message
        said = answer(node, sender, message, full=full)
        kinds.update({type(message), type(said)})
        return messages.decode(messages.encode(said, 1)).message

    monkeypatch.setattr(type(nodes[0]), "answer", over_the_wire)
    blob = crowd.rng.randbytes(MAX_BLOB_BYTES)
    for owner in range(5):
        stored = crowd.put(nodes[owner], bytes(32), blob[owner:], owner=bytes([owner]) * 16)
    assert stored.sent
    assert len(crowd.get(nodes[9], bytes(32)).blobs) == CANDIDATES
    crowd.find(nodes[1], bytes(32))
    crowd.run(crowd.now + 30.0, nodes[:2])
    assert kinds >= {FindNodes, Nodes, FindValue, HaveValue, Store, StoreTaken}


def test_a_node_that_is_not_reachable_tells_nobody_that_it_is_there():
    """Without `announce` no question has our id in it."""
    crowd = Crowd(2)
    other, node = crowd.node(), crowd.node(probe_interval_s=60.0)
    crowd._feed(node, Learned((other.contact,)))
    crowd.run(crowd.now + 30.0, [node])
    asked = [one for one in other.asked if isinstance(one, FindNodes)]
    assert len(asked) > 3
    assert not any(one.announce for one in asked)
    assert len(other.machine.table) == 0


@pytest.mark.parametrize(("announce", "most"), [(True, 110), (False, 40)])
def test_upkeep_is_cheap_and_cheaper_where_nobody_asks(announce, most):
    """In its second hour a node asks once a minute or less, and for its own id."""
    crowd = Crowd(2)
    node, *others = crowd.grown(40, probe_interval_s=60.0)
    node.machine.announce = announce
    crowd.run(3_600.0, [node])
    before = sum(len(other.asked) for other in others)
    crowd.run(7_200.0, [node])
    asked = sum(len(other.asked) for other in others) - before
    assert 10 < asked <= most


def test_those_who_announce_themselves_are_asked_back_within_a_budget():
    """A thousand announcements make eight questions, each to where its session really was."""
    crowd = Crowd(2)
    machine = crowd.node().machine
    asks = []
    for at in range(1_000):
        sender = (f"30.{at // 250}.{at % 250}.1", 7)
        message = FindNodes(target=bytes(32), announce=crowd.rng.randbytes(32) + bytes((STORES,)))
        actions = machine.handle(Asked(None, sender, at, False, message), 0.0)
        asks += [one for one in actions if isinstance(one, Ask)]
    assert len(asks) == VERIFY_BURST
    assert len(machine.table) == 0
    for at in range(10):
        # One host with many ports, and whatever IPv6 it has, is asked back once in a while.
        for host in ("9.9.9.9", f"2600:1:{at}::1"):
            message = FindNodes(
                target=bytes(32), announce=crowd.rng.randbytes(32) + bytes((STORES,))
            )
            actions = machine.handle(Asked(None, (host, at + 1), at, False, message), 50.0)
            assert len([one for one in actions if isinstance(one, Ask)]) == (at == 0)
    message = FindNodes(target=bytes(32), announce=crowd.rng.randbytes(32) + bytes((STORES,)))
    other = Asked(None, ("9.9.8.9", 1), "other", False, message)
    assert any(isinstance(one, Ask) for one in machine.handle(other, 50.0))
    inside = FindNodes(target=bytes(32), announce=crowd.rng.randbytes(32) + bytes((STORES,)))
    actions = machine.handle(Asked(None, ("127.0.0.1", 22), "x", False, inside), 100.0)
    assert [type(one) for one in actions] == [Reply]


def test_stores_need_a_full_session_and_a_locator_of_ours(town, folk):
    """Values for wrong locators are refused, and so is what comes anonymously."""
    machine = folk[0].machine
    ours = machine.own_id
    far = bytes([ours[0] ^ 0x80]) + ours[1:]

    def store(locator, *, full=True):
        message = Store(locator=locator, owner=bytes(16), blob=b"x")
        (reply,) = machine.handle(Asked(1, ("9.9.9.9", 1), "s", full, message), town.now)
        return reply.message

    assert isinstance(store(ours), StoreTaken)
    assert store(ours, full=False).code == Refusal.NOT_HERE
    machine._service._bits_until = town.now + 1
    machine._service._bits = 4
    assert store(far).code == Refusal.FAR
    machine.flags = 0
    try:
        assert store(ours).code == Refusal.NOT_HERE
    finally:
        machine.flags = STORES


def test_questions_of_a_session_are_bounded_and_others_are_not_answered(town, folk):
    """Silence beyond the quota, and to whatever is no question."""
    machine = folk[1].machine
    question = FindValue(locator=machine.own_id)
    answered = sum(
        bool(machine.handle(Asked(1, ("9.9.9.9", 1), "greedy", False, question), town.now))
        for _ in range(400)
    )
    assert answered == 128
    for message in (Nodes(id=bytes(32)), StoreRefused(code=1), "text", None):
        assert machine.handle(Asked(1, ("9.9.9.9", 1), "s", True, message), town.now) == []


def test_a_refresh_by_anybody_needs_the_digest(town, folk):
    """HaveValue says no more than yes or no, and only of the very blob."""
    locator = town.rng.randbytes(32)
    stored = town.put(folk[0], locator, b"x")
    storer = town.nodes[stored.storers[0].endpoint]
    question = HaveValue(locator=locator, digest=bytes(32))
    assert not storer.answer(("9.9.9.9", 1), question, full=False).have
