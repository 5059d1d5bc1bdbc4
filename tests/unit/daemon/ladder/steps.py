"""What the tests of the ladder's steps share."""

from __future__ import annotations

import random

import trio

from veilnet.daemon.ladder import Ladder, Scope


def scope(network, secret, *, public=False):
    """Return a scope of these letters, in which this node is p."""
    return Scope(network * 32, b"p" * 32, secret * 32, public=public)


def drained(ladder):
    """Return what waits to be dialled."""
    got = []
    try:
        while True:
            got.append(ladder.contacts.receive_nowait())
    except trio.WouldBlock:
        return got


async def started(nursery, *steps):
    """Return a ladder of *steps* that runs."""
    ladder = Ladder(steps, rng=random.Random(1))
    await nursery.start(ladder.run)
    return ladder


def line(ladder, name):
    """Return what the report says of a step."""
    (found,) = [item for item in ladder.report() if item["name"] == name]
    return found


async def until(condition):
    """Wait until *condition* holds, which other tasks and threads bring about."""
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110 - a socket or a thread has no event for it
            await trio.sleep(0.002)


async def at_once(call, limiter):
    """Run a step's blocking call here: virtual time must not pass while a thread works."""
    del limiter
    await trio.lowlevel.checkpoint()
    return call()
