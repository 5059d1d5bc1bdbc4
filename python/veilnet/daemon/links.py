"""One session's control messages: questions with their answers, and what comes unasked.

Invariant: what the ARQ wants to send goes out at once after every send and receive, and at its
own deadline; nothing else in the node calls `engine.send_control`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import structlog
import trio

from veilnet.errors import LocalProtocolError, TimedOut
from veilnet.protocol import dht_messages, messages, relay_messages
from veilnet.protocol.arq import ControlStream

if TYPE_CHECKING:
    from collections.abc import Callable

    from veilnet._engine import Engine
    from veilnet.protocol.messages import Envelope, Message

QUESTIONS_MAX: Final = 64

log = structlog.get_logger("veilnet.links")


class Link:
    """The control side of a session.

    Cancellation: a cancelled `ask` forgets its question; a late answer is then unasked for.
    """

    def __init__(self, engine: Engine, sid: int) -> None:
        self._engine = engine
        self._sid = sid
        self._stream = ControlStream()
        self._next_id = 1
        self._answers: dict[int, trio.MemorySendChannel[Message]] = {}
        self._wake = trio.Event()
        self.closed = trio.Event()

    def __repr__(self) -> str:
        return f"<Link {self._sid:08x} {self._stream!r}>"

    def send(self, message: Message, *, answers: int | None = None) -> int:
        """Send *message*, as the answer to the message of that id if *answers* is given.

        Raises: LocalProtocolError: the stream is lost or full, or the link is closed.
        """
        if self.closed.is_set():
            raise LocalProtocolError("the session is closed")
        message_id = answers
        if message_id is None:
            message_id = self._next_id
            self._next_id = self._next_id % (2**32 - 1) + 1
        reserved = isinstance(message, _RESERVED)
        self._stream.send(messages.encode(message, message_id), reserved=reserved)
        self._transmit()
        return message_id

    async def ask(self, message: Message, *, timeout_s: float) -> Message:
        """Send *message* and return the answer.

        Units: *timeout_s* seconds.
        Raises: TimedOut; LocalProtocolError: as `send`, or closed while waiting.
        """
        if len(self._answers) >= QUESTIONS_MAX:
            raise LocalProtocolError("too many questions to this peer are open")
        put, take = trio.open_memory_channel[messages.Message](1)
        message_id = self.send(message)
        self._answers[message_id] = put
        try:
            with trio.fail_after(timeout_s):
                return await take.receive()
        except trio.TooSlowError as error:
            name = type(message).__name__
            raise TimedOut(f"the peer did not answer {name} within {timeout_s:g} s") from error
        except trio.EndOfChannel as error:
            raise LocalProtocolError("the session closed before the answer came") from error
        finally:
            self._answers.pop(message_id, None)
            put.close()

    def receive(self, data: bytes, now: float) -> list[Envelope]:
        """Take one control datagram; return the messages that answer no open question.

        Raises: RemoteProtocolError: what no honest peer sends.
        """
        unasked: list[Envelope] = []
        for raw in self._stream.receive(data, now):
            envelope = messages.decode(raw)
            message = envelope.message
            if isinstance(message, _ANSWERS) and envelope.id in self._answers:
                self._answers.pop(envelope.id).send_nowait(message)
            else:
                unasked.append(envelope)
        self._transmit()
        return unasked

    def close(self) -> None:
        """End the link: every open question fails, nothing more is sent."""
        self.closed.set()
        for question in self._answers.values():
            question.close()
        self._answers.clear()
        self._wake.set()

    async def flush(self, *, timeout_s: float) -> None:
        """Wait until the peer has acknowledged everything, at most *timeout_s* seconds."""
        with trio.move_on_after(timeout_s):
            while not self._stream.idle and not self.closed.is_set():
                await self._wake.wait()

    async def run(self, lost: Callable[[], None]) -> None:
        """Send what is due until the link is closed; call *lost* when the peer has gone silent."""
        while not self.closed.is_set():
            self._wake = trio.Event()
            deadline = self._stream.deadline()
            pause_s = math.inf if deadline is None else deadline - trio.current_time()
            with trio.move_on_after(max(pause_s, 0.0)):
                await self._wake.wait()
                continue
            self._transmit()
            if self._stream.lost:
                lost()
                return

    def keep_waiting(self) -> None:
        """Note that the peer's engine is alive, though its Python side is silent."""
        self._stream.keep_waiting(trio.current_time())

    def _transmit(self) -> None:
        if self.closed.is_set():
            return
        for chunk in self._stream.transmit(trio.current_time()):
            self._engine.send_control(self._sid, chunk)
        self._wake.set()


_RESERVED: Final = (
    messages.GenerationOffer,
    messages.GenerationAnswer,
    messages.GenerationConfirm,
    messages.Close,
)
_ANSWERS: Final = (
    messages.Pong,
    messages.JoinGrant,
    messages.JoinRefuse,
    messages.Members,
    messages.RenewGrant,
    messages.RenewRefuse,
    relay_messages.PathOpened,
    relay_messages.PathRefused,
    relay_messages.PathHint,
    dht_messages.Nodes,
    dht_messages.Values,
    dht_messages.Have,
    dht_messages.StoreTaken,
    dht_messages.StoreRefused,
)
