import itertools
import math
from ipaddress import ip_network

import pytest

from tests.unit.discovery.crowd import TIMEOUT_S, Crowd, address
from tests.unit.discovery.liars import Double, Endless, Liar, Nameless, Silent, corrupt
from veilnet.discovery import kademlia
from veilnet.discovery.candidates import Candidates, Step
from veilnet.discovery.contact import STORES, Contact, Horizon
from veilnet.discovery.events import Answered, Ask, Asked, Failed, Find, Found
from veilnet.discovery.lookup import MAX_ASKS, MAX_BLOBS_KEPT, STORES_PER_WANTED, PutLookup
from veilnet.protocol.dht_messages import FindNodes, Nodes, Store, StoreRefused, Values

TRUE = b"true"


def is_true(blob):
    """Tell whether a blob is the one looked for."""
    return blob == TRUE


@pytest.fixture
def crowd():
    """A small crowd of this test's own."""
    made = Crowd(9)
    made.grown(90)
    return made


def nearest(nodes, locator, count):
    """Return the nodes whose ids are nearest."""
    aim = int.from_bytes(locator, "big")
    ranked = sorted(nodes, key=lambda node: int.from_bytes(node.machine.own_id, "big") ^ aim)
    return ranked[:count]


def rate(crowd, honest, trials):
    """Return how many of so many blobs were found again."""
    found = 0
    for _ in range(trials):
        locator = crowd.rng.randbytes(32)
        crowd.put(crowd.rng.choice(honest), locator, TRUE)
        result = crowd.get(crowd.rng.choice(honest), locator, is_true)
        assert result.asked <= MAX_ASKS
        found += isinstance(result, Found) and result.blobs == (TRUE,)
    return found


@pytest.mark.parametrize("kind", [Liar, Endless])
def test_a_fifth_of_all_nodes_may_lie(crowd, kind):
    """20 % that tell of each other, or of ever nearer contacts, give junk and drop what comes."""
    nodes = list(crowd.nodes.values())
    liars = corrupt(crowd, nodes, 0.2, kind)
    for liar in liars:
        liar.junk = (b"junk",) * 4
    assert rate(crowd, [node for node in nodes if node not in liars], 8) == 8


def test_who_does_not_prove_its_id_is_replaced_as_a_storer(crowd):
    """Half of all cannot be reached under their ids: others are searched until enough have it."""
    nodes = list(crowd.nodes.values())
    nameless = corrupt(crowd, nodes, 0.5, Nameless)
    honest = [node for node in nodes if node not in nameless]
    places = {node.endpoint for node in nameless}
    puts = [crowd.put(crowd.rng.choice(honest), crowd.rng.randbytes(32), TRUE) for _ in range(8)]
    # Near some locators not so many of the ninety are honest, or known.
    assert sum(stored.count == 20 for stored in puts) >= 6
    assert not {one.endpoint for stored in puts for one in stored.storers} & places


def test_one_node_at_many_addresses_is_one_storer(crowd):
    """Who has an honest one's id for its own adds nothing: storers are counted by id."""
    honest, *others = crowd.nodes.values()
    doubles = corrupt(crowd, others, 0.5, Double)
    for double in doubles:
        double.friends = [honest]
    asker = next(node for node in others if node not in doubles)
    locator = honest.machine.own_id[:4] + crowd.rng.randbytes(28)
    stored = crowd.put(asker, locator, TRUE)
    ids = [contact.id for contact in stored.storers]
    assert honest.machine.own_id in ids
    assert len(set(ids)) == len(ids) == stored.count
    again = crowd.put(asker, locator, TRUE, known=stored.storers)
    assert len({contact.id for contact in again.storers}) == again.count


def test_two_that_claim_one_id_are_tried_one_after_the_other(crowd, monkeypatch):
    """A handshake with the true one would wait for that with a silent one, and fail with it."""
    honest, *others = crowd.nodes.values()
    silent = corrupt(crowd, others, 0.3, Silent)
    for one in silent:
        one.friends = [honest]
    asker = next(node for node in others if node not in silent)
    sent = []
    deliver = crowd._deliver

    def noted(node, ask):
        if ask.full and ask.contact.id == honest.machine.own_id:
            sent.append((crowd.now, ask.contact.endpoint))
        deliver(node, ask)

    monkeypatch.setattr(crowd, "_deliver", noted)
    locator = honest.machine.own_id[:4] + crowd.rng.randbytes(28)
    stored = crowd.put(asker, locator, TRUE)
    assert honest.endpoint in {contact.endpoint for contact in stored.storers}
    assert len(sent) > 1
    assert all(now >= before + TIMEOUT_S for (before, _), (now, _) in itertools.pairwise(sent))


def test_one_id_at_many_places_while_a_store_is_slow_ends(monkeypatch):
    """Too few have it, the last one is slow, and its id was given elsewhere as well."""
    crowd = Crowd(4)
    asker, *others = crowd.grown(24)
    (slow, *doubles) = corrupt(crowd, others, 0.2, Silent)
    slow.__class__ = Nameless
    for double in doubles:
        double.friends = [slow]
    turns = []
    turn = PutLookup.turn

    def counted(self, now):
        turns.append(now)
        return turn(self, now)

    monkeypatch.setattr(PutLookup, "turn", counted)
    monkeypatch.setattr(kademlia, "TURNS_MAX", 10_000)
    stored = crowd.put(asker, bytes(32), TRUE)
    assert stored.count == len(others) - len(doubles) - 1
    assert stored.lost == 1
    assert len(turns) < 200


def test_where_liars_said_to_be_nobody_has_arrived():
    """Twenty that answered from the region end the way; once disbelieved they do so no more."""
    target = bytes(31) + b"\x01"
    candidates = Candidates(target, horizon=Horizon(), paths=1, k=20, bits=8, regional=True)
    liars = []
    for number in range(20):
        packed = Contact(bytes(30) + number.to_bytes(2, "big"), address(number), STORES).packed
        liar = candidates.add(packed, 0, candidates.root)
        candidates.charge(liar, Step.REGION)
        candidates.answered(liar, packed)
        liars.append(liar)
    far = candidates.add(Contact(b"\xff" * 32, address(99), STORES).packed, 0, candidates.root)
    told = candidates.add(Contact(b"\xfe" * 32, address(98), STORES).packed, 0, liars[0])
    assert candidates.next(approach_first=True) is None
    for liar in liars:
        candidates.disbelieve(liar)
    # What a liar told comes last, though it is nearer.
    assert candidates.next(approach_first=True) == (far, Step.APPROACH)
    assert candidates.next(approach_first=True) == (told, Step.APPROACH)


def test_where_nobody_proves_an_id_a_store_ends(crowd):
    """Each of them costs a handshake: there are at most so many."""
    nodes = list(crowd.nodes.values())
    corrupt(crowd, nodes[1:], 1.0, Nameless)
    assert isinstance(crowd.put(nodes[0], bytes(32), TRUE), Failed)
    tried = sum(isinstance(message, Store) for node in nodes for message in node.asked)
    assert 20 < tried <= 20 * STORES_PER_WANTED


def test_twenty_liars_around_a_locator_do_not_hide_it(crowd):
    """Everybody near knows them, nobody is nearer, and still the region has others."""
    nodes = list(crowd.nodes.values())
    found = 0
    for trial in range(4):
        locator = crowd.rng.randbytes(32)
        liars = []
        for at in range(20):
            near = locator[:10] + crowd.rng.randbytes(22)
            liars.append(Liar(crowd, address(90_000 + 20 * trial + at), near))
        for liar in liars:
            liar.friends = liars
            crowd.nodes[liar.endpoint] = liar
            for node in nearest(nodes, locator, 30):
                node.machine.table.answered(liar.contact.packed, crowd.now)
        crowd.put(crowd.rng.choice(nodes), locator, TRUE)
        result = crowd.get(crowd.rng.choice(nodes), locator, is_true)
        found += isinstance(result, Found)
    assert found == 4


def test_a_whole_prefix_of_nodes_is_two(crowd):
    """60 ids in one /24 right at the locator are asked twice, whoever tells of them."""
    locator = crowd.rng.randbytes(32)
    nodes = list(crowd.nodes.values())
    liars = []
    for at in range(60):
        near = locator[:10] + crowd.rng.randbytes(22)
        liars.append(Liar(crowd, ("77.7.7.7", 1_000 + at), near))
    for liar in liars:
        liar.friends = liars
        crowd.nodes[liar.endpoint] = liar
    for node in nearest(nodes, locator, 30):
        for liar in liars:
            node.machine.table.heard_of(liar.contact.packed)
            node.machine.table.answered(liar.contact.packed, crowd.now)
    assert crowd.put(nodes[0], locator, TRUE).count >= 18
    assert crowd.get(nodes[1], locator, is_true).blobs == (TRUE,)
    assert sum(len(liar.asked) > 0 for liar in liars) <= 4


def test_ever_nearer_contacts_end_the_search_after_bounded_steps():
    """With nobody but liars who always know somebody nearer, it is over after 96 questions."""
    crowd = Crowd(3)
    node = crowd.node()
    liars = [Endless(crowd, address(500 + at), crowd.rng.randbytes(32)) for at in range(8)]
    for liar in liars:
        liar.friends = liars
        crowd.nodes[liar.endpoint] = liar
        node.machine.table.answered(liar.contact.packed, 0.0)
    for search in (crowd.find, crowd.get):
        asked = search(node, crowd.rng.randbytes(32)).asked
        assert asked <= MAX_ASKS
    assert len(node.machine.table) < 400
    assert not node.machine.lookups


def test_answers_that_go_round_in_circles_end():
    """Nobody is asked twice, though everybody tells of everybody."""
    crowd = Crowd(3)
    node = crowd.node()
    ring = [Liar(crowd, address(500 + at), crowd.rng.randbytes(32)) for at in range(12)]
    for at, liar in enumerate(ring):
        liar.friends = [ring[(at + 1) % 12], ring[at - 1], liar]
        liar.bits = 0
        crowd.nodes[liar.endpoint] = liar
    node.machine.table.answered(ring[0].contact.packed, 0.0)
    found = crowd.find(node, crowd.rng.randbytes(32))
    assert len(found.contacts) == found.asked == 12
    assert max(len(liar.asked) for liar in ring) == 1


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "10.0.0.1", "192.168.1.1", "100.64.1.1", "fd00::1", "ff02::1", "100::5"]
)
def test_no_answer_makes_us_ask_inside(host):
    """Strangers tell of private and overlay addresses in vain."""
    crowd = Crowd(3)
    node, other = crowd.grown(2)
    (ask,) = node.machine.handle(Find(1, bytes(32)), 0.0)
    trap = Contact(b"\1" * 32, (host, 22), STORES).packed
    answer = Nodes(id=other.machine.own_id, flags=STORES, contacts=trap)
    actions = node.machine.handle(Answered(ask.query, answer), 0.1)
    assert not [one for one in actions if isinstance(one, Ask)]
    assert len(node.machine.table) == 1


def test_our_neighbours_are_not_told_to_the_internet():
    """Who asks from afar hears of global contacts only, a neighbour hears of all."""
    crowd = Crowd(3)
    horizon = Horizon(near=(ip_network("192.168.7.0/24"),))
    machine = crowd.node(horizon=horizon).machine
    inside = Contact(b"\1" * 32, ("192.168.7.9", 5), STORES)
    outside = Contact(b"\2" * 32, ("8.8.8.8", 5), STORES)
    for contact in (inside, outside):
        assert machine.table.answered(contact.packed, 0.0)

    def told(host):
        question = FindNodes(target=b"\1" * 32)
        (reply,) = machine.handle(Asked(1, (host, 9), host, False, question), 0.0)
        return reply.message.contacts

    assert told("9.9.9.9") == outside.packed
    assert told("192.168.7.50") == inside.packed + outside.packed


@pytest.mark.parametrize(
    "answer",
    [
        Nodes(id=b"\5" * 32, contacts=bytes(50)),
        Nodes(id=b"\5" * 32, contacts=bytes(51 * 21)),
        Nodes(id=bytes(32)),
        Values(id=b"\5" * 32),
        StoreRefused(code=1),
        "nonsense",
        None,
    ],
)
def test_an_answer_out_of_form_is_no_answer(answer):
    """Too many items, half a contact, another answer than was asked for: it does not count."""
    crowd = Crowd(3)
    node, _ = crowd.grown(2)
    (ask,) = node.machine.handle(Find(1, b"\7" * 32), 0.0)
    (failed,) = node.machine.handle(Answered(ask.query, answer), 0.1)
    assert isinstance(failed, Failed)
    assert node.machine.handle(Answered(ask.query, Nodes(id=b"\5" * 32)), 0.2) == []


def test_a_flood_of_questions_from_one_prefix_is_not_answered(crowd):
    """A session for each does not help; who comes over TCP is counted by its own address."""
    machine = next(iter(crowd.nodes.values())).machine
    question = FindNodes(target=bytes(32))

    def answered(count, sender, place=None):
        asks = (Asked(1, sender, at, False, question, place) for at in range(count))
        return sum(len(machine.handle(ask, crowd.now)) for ask in asks)

    assert answered(1_000, ("66.6.6.6", 1)) == 128
    assert answered(1_000, ("100:1::1", 1), ("66.6.6.7", 1)) == 0
    assert answered(9, ("100:1::2", 1), ("66.6.7.7", 1)) == 9


def test_a_flood_of_stores_by_one_session_leaves_room(crowd):
    """32 of a session, 128 of a prefix, and the true one still comes in."""
    machine = next(iter(crowd.nodes.values())).machine
    taken = 0
    for at in range(3_000):
        locator = machine.own_id[:2] + crowd.rng.randbytes(30)
        message = Store(locator=locator, owner=crowd.rng.randbytes(16), blob=bytes(9_000))
        session = at // 100
        asked = Asked(1, ("66.6.6.6", 1), session, True, message)
        crowd.now += 0.05
        (reply,) = machine.handle(asked, crowd.now)
        taken += not isinstance(reply.message, StoreRefused)
    assert taken <= 128
    assert len(machine.storage) <= 128
    message = Store(locator=machine.own_id, owner=bytes(16), blob=TRUE)
    (reply,) = machine.handle(Asked(1, ("8.8.8.8", 1), "honest", True, message), crowd.now)
    assert not isinstance(reply.message, StoreRefused)


def test_junk_under_the_locator_does_not_hide_the_true_blob(crowd):
    """Every storer was given junk first; the check finds what is true among it."""
    nodes = list(crowd.nodes.values())
    locator = crowd.rng.randbytes(32)
    for at in range(3):
        crowd.put(nodes[at], locator, b"junk %d" % at)
    assert crowd.put(nodes[3], locator, TRUE).count >= 15
    result = crowd.get(nodes[4], locator, is_true)
    assert result.blobs == (TRUE,)


def test_blobs_without_a_check_are_kept_within_bounds(crowd):
    """Liars with another junk blob each time fill sixteen places, not the memory."""
    nodes = list(crowd.nodes.values())
    liars = corrupt(crowd, nodes[1:], 1.0)
    for at, liar in enumerate(liars):
        liar.junk = tuple(b"junk %d %d" % (at, number) for number in range(4))
    found = crowd.get(nodes[0], crowd.rng.randbytes(32))
    assert isinstance(found, Found)
    assert len(found.blobs) == MAX_BLOBS_KEPT
    assert found.asked <= MAX_ASKS


def test_a_check_is_not_run_again_for_the_same_junk(crowd):
    """One junk blob at all storers costs one look."""
    nodes = list(crowd.nodes.values())
    for liar in corrupt(crowd, nodes[1:], 1.0):
        liar.junk = (b"junk",)
    looks = []

    def check(blob):
        looks.append(blob)
        return False

    assert isinstance(crowd.get(nodes[0], crowd.rng.randbytes(32), check), Failed)
    assert looks == [b"junk"]


def test_a_lie_about_the_region_moves_it_by_two_bits_at_most(crowd):
    """Whoever says that the commons is huge does not narrow where we look to itself."""
    node = next(iter(crowd.nodes.values()))
    own = node.machine.table.bits()
    for at in range(20):
        for ask in node.machine.handle(Find(1_000 + at, crowd.rng.randbytes(32)), crowd.now):
            lie = Nodes(id=ask.contact.id, bits=64)
            node.machine.handle(Answered(ask.query, lie), crowd.now)
    assert node.machine.bits(crowd.now) == own + 2
    assert own <= math.log2(len(crowd.nodes))


def test_who_serves_nobody_is_no_contact():
    """A node behind a translator is not taken in, and not asked when others tell of it."""
    crowd = Crowd(3)
    node, other = crowd.grown(2)
    (ask,) = node.machine.handle(Find(1, bytes(32)), 0.0)
    hidden = Contact(b"\1" * 32, ("9.9.9.9", 22), 0).packed
    open_ = Contact(b"\2" * 32, ("8.8.8.8", 22), STORES).packed
    answer = Nodes(id=other.machine.own_id, flags=STORES, contacts=hidden + open_)
    asked = node.machine.handle(Answered(ask.query, answer), 0.1)
    assert [one.contact.packed for one in asked if isinstance(one, Ask)] == [open_]
    # It may have lost its address for a moment: like silence, that is forgiven a few times.
    for round_ in range(4):
        (ask,) = [
            one
            for one in node.machine.handle(Find(2 + round_, other.machine.own_id), 1.0 + round_)
            if isinstance(one, Ask) and one.contact.id == other.machine.own_id
        ] or (None,)
        if ask is None:
            break
        node.machine.handle(
            Answered(ask.query, Nodes(id=other.machine.own_id, flags=0)), 1.5 + round_
        )
    assert 1 < round_ < 4
    assert other.contact.packed not in list(node.machine.table)
