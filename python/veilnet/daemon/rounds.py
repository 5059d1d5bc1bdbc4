"""What a node does again and again for as long as it runs, whatever becomes of one time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import structlog
import trio

from veilnet.errors import BrokenEngineError, VeilError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

log = structlog.get_logger("veilnet.rounds")


async def rounds(
    wait: Callable[[], Awaitable[None]],
    act: Callable[[], Awaitable[object]],
    *,
    trouble_s: float = 0.0,
) -> None:
    """*wait* and *act* in turn, until cancelled.

    A disk that is full or a name that does not resolve is trouble for now, never for good.
    *trouble_s*: how much later it goes on then; what failed may be due still, and must not be tried
    in a closed circle.
    Raises: BrokenEngineError.
    """
    while True:
        await wait()
        try:
            await act()
        except BrokenEngineError:
            raise
        except VeilError as error:
            log.warning("tried again later", task=act.__qualname__, reason=error.message)
            await trio.sleep(trouble_s)
        except Exception:
            log.exception("failed by a bug", task=act.__qualname__)
            await trio.sleep(trouble_s)


class Alarm:
    """Goes off at a machine's *deadline*, which may become another one while somebody waits."""

    def __init__(self, deadline: Callable[[], float | None]) -> None:
        self._deadline = deadline
        self._changed = trio.Event()

    def changed(self) -> None:
        """Look at the deadline again: something happened to the machine."""
        self._changed.set()

    async def wait(self) -> None:
        """Return when it is time; at once, but not without a checkpoint, if it is past."""
        while True:
            self._changed = trio.Event()
            deadline = self._deadline()
            with trio.move_on_at(math.inf if deadline is None else deadline):
                await self._changed.wait()
                continue
            await trio.lowlevel.checkpoint()
            return
