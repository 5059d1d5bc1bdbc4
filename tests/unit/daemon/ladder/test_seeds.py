"""DNS seeds against a small authoritative server on loopback."""

from __future__ import annotations

from functools import partial

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
import trio

from tests.unit.daemon.ladder.steps import drained, line, started, until
from veilnet.daemon.ladder import seeds
from veilnet.daemon.ladder.seeds import Seeds, owner, parse
from veilnet.networks.endpoint import Endpoint

COMMONS = b"c" * 32
ONE, TWO, THREE = (Endpoint(f"192.0.2.{n}", 41_000) for n in (1, 2, 3))


class Server:
    """Answers for the names it has, with NXDOMAIN for others, and not at all for `silent`."""

    def __init__(self, records):
        self.records = records
        self.asked = []
        self.held = trio.Event()
        self.socket = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM)

    async def run(self, task_status):
        """Answer until cancelled."""
        await self.socket.bind(("127.0.0.1", 0))
        task_status.started()
        with self.socket:
            await self._serve()

    async def _serve(self):
        async with trio.open_nursery() as nursery:
            while True:
                data, source = await self.socket.recvfrom(4_096)
                nursery.start_soon(self._answer, data, source)

    async def _answer(self, data, source):
        query = dns.message.from_wire(data)
        (question,) = query.question
        name = question.name.to_text(omit_final_dot=True)
        kind = dns.rdatatype.to_text(question.rdtype)
        self.asked.append((name, kind))
        if name.startswith("silent"):
            return
        if name.startswith("slow"):
            await self.held.wait()
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.AA
        texts = self.records.get((name, kind))
        if texts is None:
            if not any(known == name for known, _ in self.records):
                answer.set_rcode(dns.rcode.NXDOMAIN)
        else:
            answer.answer.append(dns.rrset.from_text(question.name, 60, "IN", kind, *texts))
        await self.socket.sendto(answer.to_wire(), source)


@pytest.fixture
def zone(nursery):
    """Start a server with these records and return it with a ladder that asks these seeds."""

    async def start(records, *names):
        server = Server(records)
        await nursery.start(server.run)
        host, port = server.socket.getsockname()
        step = Seeds(names, COMMONS, resolver=partial(seeds.resolver, [f"{host}:{port}"]))
        return server, await started(nursery, step)

    return start


def txt(*places):
    """Return a seed's record of *places*, in strings that are not too long."""
    text = " ".join(map(str, ("veilnet=v1", *places)))
    return [" ".join(f'"{text[at : at + 250]}"' for at in range(0, len(text), 250))]


async def test_what_two_owners_name_comes_first_and_is_counted(zone):
    """An endpoint that several seeds agree on is more than a hint; the rest follows as hints."""
    _, ladder = await zone(
        {("seed.one.example", "TXT"): txt(ONE, TWO), ("seed.two.example", "TXT"): txt(TWO, THREE)},
        "seed.one.example",
        "seed.two.example",
    )
    with trio.fail_after(5):
        got = [await ladder.contacts.receive() for _ in range(3)]
    assert (got[0].endpoint, got[0].sources) == (TWO, 2)
    assert {(item.endpoint, item.sources) for item in got[1:]} == {(ONE, 1), (THREE, 1)}
    assert {item.network_id for item in got} == {COMMONS}


async def test_one_owner_with_many_names_agrees_with_nobody(zone):
    """Two names of one domain are one word."""
    _, ladder = await zone(
        {("a.one.example", "TXT"): txt(ONE), ("b.one.example", "TXT"): txt(ONE)},
        "a.one.example",
        "b.one.example",
    )
    with trio.fail_after(5):
        assert (await ladder.contacts.receive()).sources == 1
    await until(lambda: line(ladder, "seeds")["state"] != "running")
    assert drained(ladder) == []


async def test_a_slow_seed_does_not_hold_up_the_others(zone, monkeypatch):
    """Hints of the quick come after a while; what the slow one adds to them comes at once."""
    monkeypatch.setattr(seeds, "HINTS_AFTER_S", 0.02)
    server, ladder = await zone(
        {("seed.one.example", "TXT"): txt(ONE), ("slow.two.example", "TXT"): txt(ONE, TWO)},
        "seed.one.example",
        "slow.two.example",
    )
    with trio.fail_after(5):
        first = await ladder.contacts.receive()
        assert (first.endpoint, first.sources) == (ONE, 1)
        server.held.set()
        second, third = [await ladder.contacts.receive() for _ in range(2)]
    assert (second.endpoint, second.sources) == (ONE, 2)
    assert (third.endpoint, third.sources) == (TWO, 1)


async def test_seeds_that_fail_are_told_by_name(zone):
    """A name that is not there, and one without a record of ours, each have their reason."""
    _, ladder = await zone(
        {("plain.two.example", "TXT"): ['"v=spf1 -all"']}, "gone.one.example", "plain.two.example"
    )
    await until(lambda: line(ladder, "seeds")["state"] == "failed")
    said = line(ladder, "seeds")["failed"]
    assert "gone.one.example: The DNS query name does not exist" in said
    assert "plain.two.example names no place" in said
    assert "dns_seeds" in line(ladder, "seeds")["remedy"]


async def test_a_seed_that_is_silent_costs_its_time_and_no_more(zone, monkeypatch):
    """The others are used; the silent one is noted."""
    monkeypatch.setattr(seeds, "QUERY_S", 0.05)
    _, ladder = await zone(
        {("seed.one.example", "TXT"): txt(ONE)}, "silent.example", "seed.one.example"
    )
    with trio.fail_after(5):
        assert (await ladder.contacts.receive()).endpoint == ONE
    await until(lambda: "silent.example" in line(ladder, "seeds").get("note", ""))
    assert line(ladder, "seeds")["state"] == "found"


async def test_names_in_a_record_are_looked_up_a_few(zone):
    """A place may be a name, in both families; the fifth is not looked up."""
    names = [f"node{n}.example" for n in range(8)]
    records = {("seed.example", "TXT"): txt(*(f"{name}:7" for name in names))}
    records |= {(name, "A"): [f"192.0.2.{n}"] for n, name in enumerate(names, 1)}
    records[names[0], "AAAA"] = ["2001:db8::1"]
    server, ladder = await zone(records, "seed.example")
    await until(lambda: line(ladder, "seeds")["found"] == seeds.NAMES_MAX + 1)
    assert {item.endpoint.host for item in drained(ladder)} == {
        "2001:db8::1",
        *(f"192.0.2.{n}" for n in range(1, seeds.NAMES_MAX + 1)),
    }
    assert {name for name, _ in server.asked} == {"seed.example", *names[: seeds.NAMES_MAX]}


async def test_a_greedy_seed_is_cut(zone):
    """No more than PLACES_MAX places of one seed, and none that is no node's address."""
    many = [Endpoint(f"198.51.100.{n}", 1) for n in range(1, 60)]
    long = txt(*many[:15]) + txt("127.0.0.1:0", "224.0.0.1:5", "[fe80::1]:5", "0.0.0.0:5", *many)
    _, ladder = await zone({("seed.example", "TXT"): long}, "seed.example")
    await until(lambda: line(ladder, "seeds")["found"])
    got = [item.endpoint for item in drained(ladder)]
    assert len(got) <= seeds.PLACES_MAX
    assert set(got) <= set(many)


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("veilnet=v1 192.0.2.1:5 [2001:db8::1]:6", [("192.0.2.1", 5), ("2001:db8::1", 6)]),
        ("veilnet=v1 later=word node.example:7", [("node.example", 7)]),
        ("veilnet=v1", []),
        ("veilnet=v2 192.0.2.1:5", []),
        ("192.0.2.1:5", []),
        ("", []),
        ("veilnet=v1 192.0.2.1:99999 192.0.2.1:-1 192.0.2.1 :5 ]:[", []),
    ],
)
def test_records_are_read_word_by_word(text, places):
    """What is no place is passed over; what is no record of ours says nothing."""
    assert parse(text) == places


def test_owners():
    """The last two labels, whatever the spelling."""
    assert owner("A.One.Example.") == owner("b.one.example") == "one.example"
    assert owner("one.example") != owner("two.example")
