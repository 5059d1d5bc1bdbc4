"""Blocking calls of libraries, beside trio: an argument, so that tests can do without."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class InThread(Protocol):
    """Runs a blocking call and waits for what it returns."""

    async def __call__(self, call: Callable[[], T], limiter: trio.CapacityLimiter | None) -> T:
        """Return what *call* returns."""
        ...


async def in_thread(call: Callable[[], T], limiter: trio.CapacityLimiter | None) -> T:
    """Run *call* in a worker thread.

    Cancellation: nobody waits for the call any more; it goes on to its own time-out.
    Raises: what *call* raises.
    """
    return await trio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=limiter)
