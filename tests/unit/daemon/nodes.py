"""Whole nodes in one process: the real engine on loopback, no TUN."""

from __future__ import annotations

import threading
from contextlib import asynccontextmanager

import attrs
import trio

from veilnet import crypto
from veilnet.config import Config
from veilnet.daemon import commands, handshakes
from veilnet.daemon.node import Node
from veilnet.daemon.remembered import Remembered
from veilnet.store import Store

DAY = 86_400


QUIET = {"tun": False, "commons": "", "lan": "off", "port_mapping": False}
"""A node that speaks to those it is told of, and not to this machine's own network."""


@asynccontextmanager
async def running(folder, name, *, found=True, **keys):
    """A node, up inside the block."""
    backend = crypto.load()
    with Store.open(folder / name) as store:
        made = await Node.open(
            config=Config(**{**QUIET, "name": name, **keys}),
            store=store,
            remembered=Remembered.load(store),
            backend=backend,
            identity=crypto.Identity.load_or_create(store.path / "identity", backend),
            found_network=found,
        )
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(made.run)
                yield made
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await made.close()


async def ask(made, command, **args):
    """Give a node a command as the control socket would."""

    async def tell(event):
        del event

    with trio.fail_after(20):
        return await commands.commands(made)[command](args, tell)


async def join(inviter, joiner, name):
    """Let *joiner* in and connect it."""
    invite = (await ask(inviter, "invite"))["invite"]
    return await ask(joiner, "connect", peer=invite, name=name)


async def until(condition):
    """Wait until *condition* holds, which other tasks bring about."""
    with trio.fail_after(15):
        # The engine's threads and other tasks have no event for this.
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.01)


@asynccontextmanager
async def pair(folder):
    """Alice, the founder, and bob, connected."""
    async with running(folder, "alice") as alice, running(folder, "bob", found=False) as bob:
        await join(alice, bob, "bob")
        yield alice, bob


@asynccontextmanager
async def three(folder, **keys):
    """Bob and carol, both linked with alice and with nobody else."""
    async with (
        running(folder, "alice", **keys) as alice,
        running(folder, "bob", found=False, home_relays=0) as bob,
        running(folder, "carol", found=False, home_relays=0) as carol,
    ):
        await join(alice, bob, "bob")
        await join(alice, carol, "carol")
        await until(lambda: carol.identity.peer_id in only(bob).members)
        await until(lambda: bob.identity.peer_id in only(carol).members)
        yield alice, bob, carol


def only(made):
    """Return the one network of a node."""
    (network,) = made.networks
    return network


def session_of(made, other):
    """Return the session that carries from one node to another."""
    return made.sessions.carrier(only(made).id, other.identity.peer_id)


def held(node, monkeypatch, *, first=False):
    """Keep *node* from judging whom it meets until the event that is returned is set.

    *first*: only the first of them.
    """
    judged, primitives = threading.Event(), node.primitives
    places = threading.Semaphore(1 if first else 1_000)

    def slow(*args):
        made = primitives(*args)

        def check(data):
            if places.acquire(blocking=False):
                judged.wait(10)
            return made.check_credential(data)

        return attrs.evolve(made, check_credential=check)

    monkeypatch.setattr(node, "primitives", slow)
    monkeypatch.setattr(handshakes, "AT_ONCE_MAX", 0)  # else everybody in this process would wait
    return judged
