"""Nodes of one commons, on loopback: asking, publishing, being found."""

from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from tests.unit.daemon.nodes import running, until
from veilnet.networks.endpoint import Endpoint

pytestmark = pytest.mark.slow


@asynccontextmanager
async def commons(folder, *names, **keys):
    """Nodes that are in a commons of their own, each with a network of its own."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(running(folder, name, commons="test", **keys))
            for name in names
        ]


async def test_two_nodes_of_the_commons_meet(tmp_path):
    """Who is told of an address asks there, anonymously, and has a contact then."""
    async with commons(tmp_path, "alice", "bob") as (alice, bob):
        await bob.discovery.dht.knock(("127.0.0.1", alice.engine.port))
        await until(lambda: len(bob.discovery.dht.machine.table) == 1)


async def test_who_holds_a_haven_is_reached_over_it(tmp_path):
    """A link to a relay of the commons is a way to whoever keeps it, for whoever knows its id."""
    async with (
        commons(tmp_path, "relay", relay="all") as (relay,),
        commons(tmp_path, "alice", "bob") as (alice, bob),
    ):
        place = Endpoint("127.0.0.1", relay.engine.port)
        await bob.strangers.open(relay.commons.peer_id, (place,))
        bob.discovery.relays = lambda: [(relay.commons.peer_id, place)]
        await bob.strangers.look()
        await until(bob.strangers.havens)
        (haven,) = bob.strangers.havens()
        circuit = await alice.strangers.circuit(haven)
        assert circuit.relays == (relay.commons.peer_id,)


async def test_a_named_contact_is_met(tmp_path):
    """Who is named in the configuration is asked at the start."""
    async with commons(tmp_path, "alice") as (alice,):
        place = f"127.0.0.1:{alice.engine.port}"
        async with commons(tmp_path, "bob", contacts=[place]) as (bob,):
            await until(lambda: bob.discovery.contacts == 1)
            assert bob.bootstrap.ladder.first.step == "known"
