"""Which of the places that a handshake calls are whose."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import trio

from veilnet.daemon.searching import DIRECT_MAX, ENDPOINTS_MAX, Search
from veilnet.networks.endpoint import Endpoint

CARRIER = Endpoint("100:1::1", 1)


def search(*, members, held=None):
    """A search for who has eight addresses, in a network of so many; *held*: a carrier's remote."""
    known = tuple(Endpoint("192.0.2.1", port) for port in range(1, ENDPOINTS_MAX + 1))
    carriers = SimpleNamespace(held=lambda each: CARRIER if each == held else None)
    node = SimpleNamespace(blocked=SimpleNamespace(carriers=carriers))
    network = SimpleNamespace(members=range(members))
    return Search(node, network, None, known, may_detour=trio.Event(), timeout_s=1)


def offered(made):
    """What the handshake gets to hear."""
    found = []
    while True:
        try:
            found.append(made.take.receive_nowait().endpoint)
        except trio.WouldBlock:
            return found


@pytest.mark.parametrize(("members", "known"), [(2, ENDPOINTS_MAX - 1), (3, DIRECT_MAX)])
async def test_a_place_is_left_for_a_carrier(members, known):
    """However much is found meanwhile; what is held already is called at once."""
    made = search(members=members, held=Endpoint("192.0.2.1", 1))
    assert len(made.known) == known
    for endpoint in made.known:
        made.offer(endpoint)  # takes no place: it has one
    for port in range(20):
        made.offer(Endpoint("198.51.100.1", port + 1))
    await made._search_carriers()
    found = offered(made)
    assert found[-1] == CARRIER
    assert len(made.known) + len(found) == ENDPOINTS_MAX
