"""The demo where it cannot run, and what it says of what it saw."""

from __future__ import annotations

import json
import subprocess

import attrs
import pytest

from veilnet.demo.result import Direct, Look, Relayed, Result
from veilnet.demo.run import _table, run
from veilnet.errors import PrivilegeError


@pytest.mark.parametrize(
    "why",
    [PermissionError(13, "Permission denied"), subprocess.CalledProcessError(2, ["python"])],
    ids=["execute", "read"],
)
def test_an_interpreter_that_this_user_may_not_run(monkeypatch, why):
    """Exit 4 with the cause and the program's path, not a bug."""

    def check():
        raise why

    monkeypatch.setitem(run.__globals__, "check", check)
    with pytest.raises(PrivilegeError, match="python") as caught:
        run()
    assert str(why) in caught.value.message
    assert caught.value.__cause__ is why


GOOD = Result(
    nodes=3,
    direct=Direct(
        handshake_ms=8.0,
        suite="S1",
        ping_ms=0.3,
        pings_answered=20,
        pings_sent=20,
        mbps=5000.0,
        look=Look(on_wire=0, inside=30, frames=90),
    ),
    relayed=Relayed(
        failover_ms=412.0,
        mbps=600.0,
        look=Look(on_wire=0, inside=30, frames=900),
        back_s=2.5,
        stream_bytes=20_000_000,
        stream_intact=True,
    ),
)


def test_a_result_survives_the_pipe():
    """What the inner process writes as JSON is the same result at the other end."""
    assert Result.from_dict(json.loads(json.dumps(attrs.asdict(GOOD)))) == GOOD


def test_the_table_shows_both_speeds_and_the_failover():
    """A person reads the direct speed, the relayed one, the failover time and the verdict."""
    shown = _table(GOOD)
    for words in ("5.00 Gbit/s", "600 Mbit/s", "412 ms", "whole", "0 packets", "ok"):
        assert words in shown


@pytest.mark.parametrize(
    ("act", "change"),
    [
        ("direct", {"pings_answered": 0}),
        ("direct", {"mbps": 0.0}),
        ("direct", {"look": Look(on_wire=1, inside=30, frames=90)}),
        ("direct", {"look": Look(on_wire=0, inside=0, frames=90)}),
        ("relayed", {"failover_ms": 0.0}),
        ("relayed", {"mbps": 0.0}),
        ("relayed", {"stream_intact": False}),
        ("relayed", {"look": Look(on_wire=1, inside=30, frames=90)}),
        ("relayed", {"look": Look(on_wire=0, inside=30, frames=0)}),
    ],
)
def test_one_thing_that_is_wrong_makes_it_not_ok(act, change):
    """Whichever act it is in: nothing arrived, the stream was spoilt, or clear text was seen."""
    assert GOOD.ok
    bad = attrs.evolve(GOOD, **{act: attrs.evolve(getattr(GOOD, act), **change)})
    assert not bad.ok
    assert bad.to_json()["ok"] is False
    assert "FAILED" in _table(bad)
