"""Nodes of one commons, on loopback: asking, publishing, being found."""

from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from tests.unit.daemon.nodes import ask, join, running, until

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
