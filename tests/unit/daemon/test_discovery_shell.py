"""The shell of discovery, on doubles: questions, sessions, knocks."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest

from veilnet.daemon.dht import Dht
from veilnet.networks.endpoint import Endpoint
from veilnet.protocol import handshake as vnh1
from veilnet.protocol.dht_messages import FindNodes, Nodes
from veilnet.protocol.messages import Envelope

ASKED = Endpoint("9.9.9.9", 1)


class FakeLink:
    """Keeps what is sent over it."""

    def __init__(self):
        self.sent = []

    def send(self, message, *, answers=None):
        """Take a message."""
        self.sent.append((message, answers))


def session(mode, *, initiator):
    """Return a session, as far as a question that comes in it is concerned."""
    return SimpleNamespace(
        mode=mode,
        initiator=initiator,
        endpoint=ASKED,
        sid=1,
        peer_id=b"p" * 32,
        link=FakeLink(),
    )


async def made():
    """Return a Dht of a node that does nothing."""
    node = SimpleNamespace(
        rng=random.Random(1), blocked=SimpleNamespace(place=lambda endpoint: endpoint)
    )
    return Dht(node, SimpleNamespace(peer_id=b"w" * 32))


@pytest.mark.parametrize(
    ("mode", "initiator", "answered"),
    [
        (vnh1.Mode.LOOKUP, False, True),
        (vnh1.Mode.LOOKUP, True, False),
        (vnh1.Mode.FULL, True, True),
    ],
)
async def test_who_is_asked_anonymously_does_not_learn_our_id(mode, initiator, answered):
    """A question in a lookup that we opened stays without an answer: it would say our id."""
    asked = session(mode, initiator=initiator)
    (await made()).asked(asked, Envelope(id=7, message=FindNodes(target=bytes(32))))
    assert [(type(said), number) for said, number in asked.link.sent] == [(Nodes, 7)] * answered
