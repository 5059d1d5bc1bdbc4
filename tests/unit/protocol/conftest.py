"""Relays in virtual time, with everybody linked."""

from __future__ import annotations

import pytest

from tests.unit.protocol.relays import World


@pytest.fixture
def world():
    """origin ---- relay ---- target"""
    made = World()
    made.origin, made.relay, made.target = map(made.peer, ("origin", "relay", "target"))
    made.link(made.origin, made.relay)
    made.link(made.relay, made.target)
    return made.run()


@pytest.fixture
def chain():
    """origin ---- near ---- far ---- target"""
    made = World()
    made.origin, made.near, made.far, made.target = (
        made.peer(name) for name in ("origin", "near", "far", "target")
    )
    made.link(made.origin, made.near)
    made.link(made.far, made.near)
    made.link(made.far, made.target)
    return made.run()
