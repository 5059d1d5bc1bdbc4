"""Runs the Kademlia machine over the sessions of the commons.

```
Kademlia.Ask       a lookup session to the contact's address; a full one for a Store
Asked              a question that came in such a session here
get, put           one search each, and its end
```
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final

import attrs
import structlog
import trio

from veilnet.daemon.commons.asking import Asking
from veilnet.daemon.rounds import Alarm, rounds
from veilnet.discovery import events
from veilnet.discovery.contact import UNKNOWN_ID, Contact
from veilnet.discovery.kademlia import Kademlia
from veilnet.errors import BrokenEngineError, LocalProtocolError, PeerUnreachable, VeilError
from veilnet.protocol import dht_messages
from veilnet.protocol import handshake as vnh1
from veilnet.units import PeerId

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

    from veilnet.daemon.node import Node
    from veilnet.daemon.sessions import Session
    from veilnet.networks.commons import Commons
    from veilnet.networks.endpoint import Endpoint
    from veilnet.protocol.messages import Envelope

STORE_S: Final = 5.0
TROUBLE_S: Final = 1.0
QUESTIONS: Final = (
    dht_messages.FindNodes,
    dht_messages.FindValue,
    dht_messages.HaveValue,
    dht_messages.Store,
)

log = structlog.get_logger("veilnet.discovery")


End = events.Found | events.Stored | events.Failed


@attrs.define(eq=False)
class _Search:
    """One lookup under way, and who waits for its end."""

    done: trio.Event = attrs.field(factory=trio.Event)
    end: End | None = None


class Dht:
    """The Kademlia machine of this node, and the sessions that it asks over.

    Cancellation: a cancelled search ends with what it has.
    """

    def __init__(self, node: Node, commons: Commons) -> None:
        self._node = node
        self.asking = Asking(node, commons)
        self.machine = Kademlia(commons.peer_id, rng=node.rng, now=trio.current_time())
        self._searches: dict[int, _Search] = {}
        self._numbers = itertools.count(1)
        self._alarm = Alarm(self.machine.deadline)

    def __repr__(self) -> str:
        return f"<Dht {self.machine!r}>"

    def next_id(self) -> int:
        """Return an id that no other search has."""
        return next(self._numbers)

    @property
    def has_contacts(self) -> bool:
        """Whether there is anybody to ask."""
        return len(self.machine.table) > 0

    # --- searches --------------------------------------------------------------------------------

    async def get(self, locator: bytes, check: events.Check | None = None) -> events.Found:
        """Return what is under *locator*, the first that passes *check* if there is one.

        Raises: PeerUnreachable.
        """
        ended = await self._search(events.Get(self.next_id(), locator, check))
        return _found(ended)

    async def run_put(self, put: events.Put) -> events.Stored | events.Failed:
        """Have a blob kept, under an id of `next_id`; return how that ended."""
        ended = await self._search(put)
        return ended if isinstance(ended, events.Stored) else _failed(put.id, ended)

    async def _search(self, event: events.Get | events.Put) -> End:
        search = self._searches[event.id] = _Search()
        try:
            self._handle(event)
            await search.done.wait()
        finally:
            del self._searches[event.id]
            if search.end is None:
                self._handle(events.Enough(event.id))
        return search.end or events.Failed(event.id, events.Reason.NO_ANSWER)

    # --- what comes in ---------------------------------------------------------------------------

    def learned(self, endpoints: Iterable[Endpoint]) -> None:
        """Take in addresses at which somebody of the commons may answer."""
        contacts = tuple(Contact(UNKNOWN_ID, endpoint) for endpoint in endpoints)
        self._handle(events.Learned(contacts))

    async def knock(self, endpoint: Endpoint) -> None:
        """Ask whoever is at *endpoint* for the way to ourselves, and take it in as a contact.

        Raises: PeerUnreachable, TimedOut, LocalProtocolError: nobody answers there.
        """
        question = dht_messages.FindNodes(target=self.machine.own_id)
        answer = await self.asking.ask(endpoint, question)
        if not isinstance(answer, dht_messages.Nodes) or answer.id == self.machine.own_id:
            raise PeerUnreachable(f"nobody of the commons, or this node itself, is at {endpoint}")
        self.learned((endpoint,))

    def asked(self, session: Session, envelope: Envelope) -> None:
        """Answer a question that came in a session of the commons.

        Who is asked anonymously learns nothing by asking back: our answers say our id.
        """
        full = session.mode is vnh1.Mode.FULL
        if session.initiator and not full:
            return
        token = (session, envelope.id)
        who: Hashable = session.peer_id if full else session.sid
        place = self._node.blocked.place(session.endpoint)
        # It proved itself by asking: UDP leads here, so it leads there.
        self._node.blocked.answered(session.endpoint)
        asked = events.Asked(token, session.endpoint, who, full, envelope.message, place)
        self._handle(asked)

    # --- running ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Do what is due, until cancelled.

        Raises: BrokenEngineError.
        """
        await rounds(self._alarm.wait, self._tick, trouble_s=TROUBLE_S)

    async def _tick(self) -> None:
        self._act(self.machine.tick(trio.current_time()))

    def _handle(self, event: events.Event) -> None:
        self._act(self.machine.handle(event, trio.current_time()))
        self._alarm.changed()

    def _act(self, actions: list[events.Action]) -> None:
        for action in actions:
            match action:
                case events.Ask():
                    self._node.spawn(self._ask, action)
                case events.Reply((session, question), message):
                    try:
                        session.link.send(message, answers=question)
                    except LocalProtocolError as error:
                        log.debug("not answered", reason=error.message)
                case events.Sighted(number):
                    # It holds: whoever looks again may find a newer one.
                    self._handle(events.Enough(number))
                case events.Found() | events.Stored() | events.Failed():
                    if (search := self._searches.get(action.id)) is not None:
                        search.end = action
                        search.done.set()

    async def _ask(self, ask: events.Ask) -> None:
        event: events.Event = events.Unanswered(ask.query)
        try:
            answer = await self._answer(ask)
            event = events.Answered(ask.query, answer)
        except BrokenEngineError:
            raise
        except VeilError as error:
            event = events.Unanswered(ask.query, unproven=isinstance(error, _UnprovenError))
            log.debug("not answered", at=str(ask.contact.endpoint), reason=error.message)
        finally:
            self._handle(event)

    async def _answer(self, ask: events.Ask) -> object:
        endpoint, strangers = ask.contact.endpoint, self._node.strangers
        if not ask.full or strangers is None:
            return await self.asking.ask(endpoint, ask.message)
        try:
            session = await strangers.open(PeerId(ask.contact.id), (endpoint,))
        except PeerUnreachable as error:
            raise _UnprovenError(error.message) from error
        if self._node.blocked.place(session.endpoint) != endpoint:
            # Whoever answers at this place goes by the id of another.
            raise PeerUnreachable("the node of that id is elsewhere")
        return await session.link.ask(ask.message, timeout_s=STORE_S)


class _UnprovenError(PeerUnreachable):
    """No full session came to be under the id that a contact gave."""


def _found(ended: End) -> events.Found:
    if isinstance(ended, events.Found):
        return ended
    reason = ended.reason if isinstance(ended, events.Failed) else events.Reason.NOT_FOUND
    raise PeerUnreachable(f"the search in the commons came to nothing: {reason}")


def _failed(number: int, ended: End) -> events.Failed:
    if isinstance(ended, events.Failed):
        return ended
    return events.Failed(number, events.Reason.NOT_STORED)
