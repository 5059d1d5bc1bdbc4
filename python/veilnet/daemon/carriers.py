"""Connections over TCP that carry datagrams to a relay, for a host whose UDP leads nowhere.

```
connect  one connection per relay, shared by whoever asks; its stand-in goes where an endpoint goes
accept   a relay takes them on the TCP port of its UDP port's number, and believes nothing of them
idle     without a path over it a connection is closed, ours and others' alike
```
Invariant: a connection is held by exactly one of the thread that dials, the engine, or nobody; its
stand-in means something inside this node alone and is told to nobody.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING, Final

import attrs
import structlog
import trio

from veilnet.errors import BrokenEngineError, ClosedError, PeerUnreachable, VeilError
from veilnet.networks.endpoint import Endpoint

if TYPE_CHECKING:
    from veilnet import _engine

CONNECT_S: Final = 5.0
IDLE_S: Final = 15.0
"""A connection without a session's path for so long is closed: long enough for a handshake."""
LOOK_S: Final = 5.0
OWN_MAX: Final = 16
"""Connections of ours at once: there is seldom use for more than one."""
ACCEPTED_MAX: Final = 192

log = structlog.get_logger("veilnet.carriers")


@attrs.define
class _Held:
    """One connection that the engine has."""

    remote: Endpoint
    ours: bool
    used_s: float


@attrs.define
class _Attempt:
    """A connection being made, and who waits for it."""

    done: trio.Event = attrs.field(factory=trio.Event)
    stand_in: Endpoint | None = None
    error: VeilError | None = None


class Carriers:
    """Every TCP connection that carries for this node.

    Cancellation: a cancelled `connect` leaves nothing behind; `run` ends by closing everything.
    """

    def __init__(self, engine: _engine.Engine, lines: _engine.Carriers) -> None:
        self._engine = engine
        self._lines = lines
        self._held: dict[Endpoint, _Held] = {}
        self._attempts: dict[Endpoint, _Attempt] = {}
        self._closed = False
        self._dialling = trio.CapacityLimiter(2 * OWN_MAX)
        """Threads of its own: those whom nobody waits for any more go on for a while."""

    def __repr__(self) -> str:
        ours = sum(held.ours for held in self._held.values())
        return f"<Carriers ours={ours} accepted={len(self._held) - ours}>"

    def __len__(self) -> int:
        return len(self._held)

    def remote(self, stand_in: Endpoint) -> Endpoint | None:
        """Return the real address at the other end of a carrier, None if it has ended."""
        held = self._held.get(stand_in)
        return None if held is None else held.remote

    def listen(self, port: int) -> int:
        """Take connections on TCP *port* of every address of the host; return the port.

        Raises: ConfigError: it is in use; PrivilegeError.
        """
        return self._lines.listen(port)

    async def connect(self, endpoint: Endpoint) -> Endpoint:
        """Return the stand-in of a connection to *endpoint*: the one that is there, or a new one.

        Raises: PeerUnreachable: nobody there takes carriers, or we have too many.
        """
        while (stand_in := self.held(endpoint)) is None:
            attempt = self._attempts.get(endpoint)
            if attempt is None:
                return await self._connect(endpoint)
            await attempt.done.wait()
            # Whoever dialled may have been cancelled: that says nothing of who is called.
            if attempt.error is not None:
                raise PeerUnreachable(
                    f"no carrier to {endpoint}: the attempt of another ended"
                ) from attempt.error
        return stand_in

    def held(self, endpoint: Endpoint) -> Endpoint | None:
        """Return the stand-in of the connection that we have to *endpoint*, if there is one."""
        for stand_in, held in self._held.items():
            if held.ours and held.remote == endpoint:
                held.used_s = trio.current_time()
                return stand_in
        return None

    async def _connect(self, endpoint: Endpoint) -> Endpoint:
        ours = sum(held.ours for held in self._held.values())
        if self._closed or ours + len(self._attempts) >= OWN_MAX:
            raise PeerUnreachable(f"no carrier to {endpoint}: {OWN_MAX} are in use already")
        attempt = self._attempts[endpoint] = _Attempt()
        try:
            fd = await _Dial(self._lines, endpoint).run(self._dialling)
            attempt.stand_in = self._attach(fd, endpoint, ours=True)
        except VeilError as error:
            attempt.error = error
            raise
        finally:
            del self._attempts[endpoint]
            attempt.done.set()
        log.info("carrier up", to=str(endpoint))
        return attempt.stand_in

    def _attach(self, fd: int, remote: Endpoint, *, ours: bool) -> Endpoint:
        if self._closed:
            os.close(fd)
            raise ClosedError("the node is closing")
        # The engine owns it from here, whatever it says.
        stand_in = Endpoint(*self._engine.attach(fd, remote=remote.host))
        self._held[stand_in] = _Held(remote, ours, trio.current_time())
        return stand_in

    def closed(self, stand_in: Endpoint) -> None:
        """Take in the engine's word that a carrier has ended."""
        held = self._held.pop(stand_in, None)
        if held is not None:
            log.info("carrier down", remote=str(held.remote))

    async def run(self) -> None:
        """Take calls and close what is idle, until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._accept)
                nursery.start_soon(self._close_idle)
        finally:
            self.close()

    def close(self) -> None:
        """End every connection; again is harmless."""
        self._closed = True
        for stand_in in list(self._held):
            self._detach(stand_in)
        self._lines.close()

    async def _accept(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._lines.fileno())
            for fd, remote in self._lines.drain():
                accepted = sum(not held.ours for held in self._held.values())
                if accepted >= ACCEPTED_MAX:
                    os.close(fd)
                    continue
                try:
                    self._attach(fd, Endpoint(*remote), ours=False)
                except BrokenEngineError:
                    raise
                except VeilError as error:
                    log.warning("a carrier was not taken", reason=error.message)

    async def _close_idle(self) -> None:
        while True:
            await trio.sleep(LOOK_S)
            self.look()

    def look(self) -> None:
        """Close what no session has had a path over for `IDLE_S`."""
        if not self._held:
            return
        now_s = trio.current_time()
        in_use = {path.endpoint for path in self._engine.paths()}
        for stand_in, held in list(self._held.items()):
            if tuple(stand_in) in in_use:
                held.used_s = now_s
            elif now_s - held.used_s > IDLE_S:
                self._detach(stand_in)

    def moved(self) -> None:
        """Close our own: they are tied to the address that this host called from before."""
        for stand_in, held in list(self._held.items()):
            if held.ours:
                self._detach(stand_in)

    def _detach(self, stand_in: Endpoint) -> None:
        self._held.pop(stand_in, None)
        # The engine may have ended before us, and everything with it.
        with contextlib.suppress(ClosedError, BrokenEngineError):
            self._engine.detach(stand_in)


class _Dial:
    """One blocking connect in a thread; nothing leaks if nobody waits for it any more."""

    def __init__(self, lines: _engine.Carriers, endpoint: Endpoint) -> None:
        self._lines = lines
        self._endpoint = endpoint
        self._lock = threading.Lock()
        self._abandoned = False
        self._fd: int | None = None

    async def run(self, limiter: trio.CapacityLimiter) -> int:
        """Return the descriptor for the engine.

        Raises: PeerUnreachable.
        """
        try:
            await trio.to_thread.run_sync(self._dial, abandon_on_cancel=True, limiter=limiter)
        except trio.Cancelled:
            with self._lock:
                self._abandoned = True
                self._drop()
            raise
        if self._fd is None:
            raise PeerUnreachable(f"no carrier to {self._endpoint}")
        return self._fd

    def _dial(self) -> None:
        fd = self._lines.connect(self._endpoint.host, self._endpoint.port, CONNECT_S)
        with self._lock:
            self._fd = fd
            if self._abandoned:
                self._drop()

    def _drop(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
