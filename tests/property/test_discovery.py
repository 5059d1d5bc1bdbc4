"""Discovery holds its bounds whatever is said to it, and in whatever order."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.discovery.crowd import address
from veilnet.discovery.contact import (
    ADDRESS,
    PACKED_BYTES,
    STORES,
    Contact,
    Horizon,
    is_global,
    prefix_of,
)
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
    Stored,
    Unanswered,
)
from veilnet.discovery.kademlia import MAX_QUERIES, MAX_SEEDS, VOTES, Kademlia
from veilnet.discovery.lookup import MAX_ASKS
from veilnet.discovery.routing import PER_BUCKET, PER_TABLE, Table, shared_bits
from veilnet.discovery.storage import CANDIDATES, OVERHEAD_BYTES, Storage
from veilnet.protocol.dht_messages import (
    FindNodes,
    FindValue,
    Have,
    HaveValue,
    Nodes,
    Store,
    StoreRefused,
    StoreTaken,
    Values,
)

OWN = bytes(32)

# Few ids, addresses and blobs, so that they often meet.
ids = st.integers(0, 40).map(lambda at: bytes([at * 6, at]) + bytes(30)) | st.binary(
    min_size=32, max_size=32
)
hosts = st.sampled_from(
    [
        *(address(at)[0] for at in range(12)),
        *(f"8.8.8.{at}" for at in range(1, 12)),
        *(f"2600:1:2::{at}" for at in range(1, 9)),
        "10.0.0.1",
        "127.0.0.1",
        "fd00::1",
        "100::9",
    ]
)
contacts = st.builds(
    Contact, ids, st.tuples(hosts, st.integers(1, 3)), st.sampled_from([0, STORES, 255])
)
packed_lists = st.lists(contacts.map(lambda one: one.packed), max_size=22).map(b"".join)


@given(
    st.lists(
        st.tuples(st.sampled_from(["answered", "unanswered", "heard_of"]), contacts, ids),
        max_size=80,
    )
)
def test_the_table_keeps_its_bounds_and_its_order(deeds):
    """In any order: caps, one entry per address, and per id and prefix, nearest is nearest."""
    table = Table(OWN, now=0.0, horizon=Horizon())
    for now, (deed, contact, target) in enumerate(deeds):
        if deed == "heard_of":
            table.heard_of(contact.packed)
        else:
            getattr(table, deed)(contact.packed, float(now))
        entries = table.nearest(target, 10_000)
        assert len(entries) == len(table)
        assert len({one[ADDRESS] for one in entries}) == len(entries)
        assert len({(one[:32], prefix_of(one)) for one in entries}) == len(entries)
        assert OWN not in {one[:32] for one in entries}
        groups: dict[Any, int] = {}
        for one in entries:
            bucket = min(63, shared_bits(int.from_bytes(one[:32], "big"), 0))
            for key in (prefix_of(one), (prefix_of(one), bucket), bucket):
                groups[key] = groups.get(key, 0) + 1
        for key, count in groups.items():
            most = (
                20 if isinstance(key, int) else PER_BUCKET if isinstance(key, tuple) else PER_TABLE
            )
            assert count <= most
        told = table.nearest(target, 10_000, told=True)
        aim = int.from_bytes(target, "big")
        wanted = sorted((int.from_bytes(one[:32], "big") ^ aim, one) for one in table)
        assert told == [one for _, one in wanted]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 5),
            st.integers(0, 6),
            st.integers(0, 3),
            st.integers(0, 900),
            st.floats(0.0, 4_000.0),
        ),
        max_size=60,
    )
)
def test_the_store_counts_right_and_keeps_its_bounds(puts):
    """Bytes, candidates and locators stay within, whoever stores what when."""
    storage = Storage(max_bytes=8 * OVERHEAD_BYTES, max_locators=3)
    now = 0.0
    for where, owner, prefix, size, pause in puts:
        now += pause
        locator = bytes([where]) * 32
        storage.put(
            locator,
            bytes([owner]) * (size + 1),
            owner=bytes([owner]) * 16,
            prefix=bytes([prefix]),
            now=now,
        )
        assert len(storage) <= 3
        assert storage.size_bytes <= 8 * OVERHEAD_BYTES
        assert len(storage.get(locator, now)) <= CANDIDATES
        kept = [one for at in storage for one in storage._kept[at]]
        assert storage.size_bytes == sum(one.size for one in kept)
        assert sum(storage._prefixes.values()) == storage.size_bytes
        assert all(storage._prefixes.values())


bits = st.integers(0, 64)
answers = st.one_of(
    st.builds(Nodes, id=ids, flags=st.integers(0, 255), bits=bits, contacts=packed_lists),
    st.builds(
        Values,
        id=ids,
        bits=bits,
        contacts=packed_lists,
        blobs=st.lists(st.sampled_from([b"a", b"b", b"c"]), max_size=4).map(tuple),
    ),
    st.builds(Have, id=ids, flags=st.just(1), bits=bits, contacts=packed_lists, have=st.booleans()),
    st.just(StoreTaken(life_s=7_200)),
    st.just(StoreRefused(code=2)),
    st.binary(max_size=60).map(lambda junk: Nodes(id=bytes([9]) * 32, contacts=junk)),
    st.none(),
)
questions = st.one_of(
    st.builds(FindNodes, target=ids, announce=st.binary(max_size=33)),
    st.builds(FindValue, locator=ids, bits=bits),
    st.builds(HaveValue, locator=ids, digest=ids, bits=bits),
    st.builds(Store, locator=ids, owner=st.binary(min_size=16, max_size=16), blob=st.just(b"x")),
    answers,
)
senders = st.tuples(hosts, st.integers(1, 3))
begun = st.sampled_from(["find", "get", "put", "enough"])
events = st.one_of(
    st.tuples(st.just("begin"), begun, ids),
    st.tuples(st.just("answer"), st.integers(0, 5), answers),
    st.tuples(st.just("silence"), st.integers(0, 5), st.none()),
    st.tuples(st.just("asked"), senders, questions),
    st.tuples(st.just("learned"), st.booleans(), st.lists(contacts, max_size=8)),
    st.tuples(st.just("wait"), st.floats(0.0, 100.0), st.none()),
)


class Watch:
    """A machine, and what must hold of all that it does."""

    def __init__(self) -> None:
        self.machine = Kademlia(
            b"\7" * 32, rng=random.Random(1), now=0.0, flags=STORES, announce=True
        )
        self.now = 0.0
        self.out: list[Ask] = []
        self.open: set[int] = set()
        self.serial = 0

    def do(self, actions: list[Any]) -> None:
        """Check what the machine wants done."""
        for action in actions:
            if isinstance(action, Ask):
                # Never to where no host of the Internet is, whoever told of it.
                assert is_global(action.contact.packed[32:48])
                assert action.full == isinstance(action.message, Store)
                self.out.append(action)
            elif isinstance(action, Found | Failed | Stored):
                self.open.remove(action.id)
                assert action.asked <= MAX_ASKS

    def event(self, kind: str, first: Any, second: Any) -> None:
        """Let one thing happen."""
        machine = self.machine
        match kind:
            case "begin" if first == "enough":
                for lookup in sorted(self.open)[:1]:
                    self.do(machine.handle(Enough(lookup), self.now))
            case "begin":
                self.serial += 1
                self.open.add(self.serial)
                made: Any = {
                    "find": Find(self.serial, second),
                    "get": Get(self.serial, second, lambda blob: blob != b"c"),
                    "put": Put(self.serial, second, b"x", 4),
                }[first]
                self.do(machine.handle(made, self.now))
            case "answer" | "silence" if self.out:
                ask = self.out.pop(first % len(self.out))
                said = Unanswered(ask.query) if kind == "silence" else Answered(ask.query, second)
                self.do(machine.handle(said, self.now))
            case "asked":
                asked = Asked(None, first, first, first[1] == 1, second)
                self.do(machine.handle(asked, self.now))
            case "learned":
                self.do(machine.handle(Learned(tuple(second), proven=first), self.now))
            case "wait":
                self.now += first
                self.do(machine.tick(self.now))
                # Or the shell would turn round and round.
                deadline = machine.deadline()
                assert deadline is None or deadline > self.now

    def check(self) -> None:
        """Check the bounds."""
        machine = self.machine
        assert set(machine._queries) == {ask.query for ask in self.out}
        assert len(machine._queries) <= MAX_QUERIES
        assert len(machine._seeds) <= MAX_SEEDS
        assert len(machine._votes) <= VOTES
        assert {at for at in machine.lookups if at > 0} == self.open
        assert all(len(one) == PACKED_BYTES for one in machine.table)
        for lookup in machine.lookups.values():
            assert lookup.asked <= MAX_ASKS


@settings(max_examples=80)
@given(st.lists(events, max_size=60))
def test_the_machine_holds_whatever_it_hears(heard):
    """No event raises, no bound is passed, no inner address is asked, and every search ends."""
    watch = Watch()
    for kind, first, second in heard:
        watch.event(kind, first, second)
        watch.check()
    # Once nobody answers any more, everything that was begun comes to its end.
    for _ in range(2_000):
        if not watch.out:
            break
        watch.event("silence", 0, None)
    for lookup in list(watch.machine.lookups.values()):
        assert lookup.internal or lookup.wake is not None or lookup.flying
    assert not watch.open
