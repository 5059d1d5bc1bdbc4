"""A trace of a policy's calls replays to the same decisions, and says so when it does not."""

from __future__ import annotations

import json
import math
import os

import numpy as np
import pytest

from veilnet.errors import ConfigError
from veilnet.paths import Arm, Sample, make_policy, policy_names
from veilnet.paths.guard import Guard
from veilnet.paths.record import Recorder, open_trace, replay
from veilnet.units import PeerId

TO = b"n" * 32 + b"p" * 32
RELAYS = [PeerId(bytes([number]) * 32) for number in range(1, 6)]
ARMS = [
    Arm((), math.nan, 0.0),
    *(
        Arm((relay,), 0.01 * n, math.nan, frozenset({f"8.8.{n}.0/24"}))
        for n, relay in enumerate(RELAYS)
    ),
]


def guarded(name, seed):
    """Build a policy as the daemon does."""
    return Guard(make_policy(name, rng=np.random.default_rng(seed)))


def lived(policy, rounds=120):
    """Let a policy live through two minutes of changing weather."""
    weather = np.random.default_rng(5)
    policy.set_arms(TO, ARMS, 0.0)
    decisions = []
    for second in range(1, rounds + 1):
        samples = []
        if decisions:
            for arm, share in decisions[-1].shares:
                rtt_s = float(0.02 + 0.05 * weather.random()) if weather.random() > 0.1 else None
                samples.append(
                    Sample(arm, rtt_s, 0.01, 0.001, 0.02, 1e6 * share, 1e6 * share, False)
                )
            if (probe := decisions[-1].probe) is not None:
                samples.append(Sample(probe, 0.03, 0.0, 0.001, 0.02, 0.0, 0.0, True, busy=True))
        policy.update(TO, samples, second + 0.1)
        decisions.append(policy.decide(TO, second + 0.1, quiet=second % 10 == 0))
    policy.forget(TO)
    return decisions


@pytest.mark.parametrize("name", policy_names())
def test_a_recorded_life_replays_exactly(name):
    """Same seed, same calls, same decisions, of every policy there is."""
    lines = []
    said = lived(Recorder(guarded(name, 42), lines.append, seed=42))
    replayed = list(replay(lines, guarded))
    assert [step.recorded for step in replayed] == said
    assert [step.said for step in replayed] == said


def test_another_seed_is_another_life():
    """The comparison can fail: what draws lots draws others."""
    lines = []
    lived(Recorder(guarded("veil", 1), lines.append, seed=1))
    replayed = list(replay(lines, lambda name, seed: guarded(name, seed + 1)))
    assert any(step.said != step.recorded for step in replayed)


def test_recording_changes_nothing():
    """A policy says the same with and without a recorder around it."""
    assert lived(Recorder(guarded("veil", 3), lambda _: None, seed=3)) == lived(guarded("veil", 3))


def test_what_was_known_at_the_beginning_is_in_the_trace():
    """A replay begins with the same memory."""
    before = guarded("veil", 8)
    before.set_arms(TO, ARMS, 0.0)
    before.update(TO, [Sample((), 0.05, 0, 0, 0.05, 1e6, 1e6, False)], 1.0)
    lines = []
    recorder = Recorder(guarded("veil", 9), lines.append, seed=9, state=before.state())
    said = lived(recorder)
    assert json.loads(lines[0])["state"] == before.state().hex()
    assert [step.said for step in replay(lines, guarded)] == said
    with pytest.raises(ConfigError):
        recorder.load_state(before.state())


def test_a_trace_does_not_grow_for_ever():
    """At its limit writing stops; the policy goes on."""
    lines = []
    said = lived(Recorder(guarded("veil", 1), lines.append, seed=1, max_bytes=5_000))
    assert len(said) == 120
    assert sum(map(len, lines)) <= 5_000
    assert len(list(replay(lines, guarded))) >= 2


@pytest.mark.parametrize(
    "lines",
    [
        ["{}"],
        ["no json"],
        ['{"call": "decide", "to": "00", "now": 1, "quiet": false}'],
        ['{"call": "begin", "version": 2, "policy": "veil", "seed": 1, "state": null}'],
        [
            '{"call": "begin", "version": 1, "policy": "veil", "seed": 1, "state": null}',
            '{"call": "dance", "to": "00"}',
        ],
    ],
)
def test_what_is_no_trace_is_refused(lines):
    """With the line that is wrong, not with a traceback."""
    with pytest.raises(ConfigError):
        list(replay(lines, guarded))


def test_only_destinations_that_are_bytes_can_be_recorded():
    """Others have no form that outlives the process."""
    with pytest.raises(ConfigError):
        Recorder(guarded("veil", 1), lambda _: None, seed=1).forget(("a", 1))


# --- the file ------------------------------------------------------------------------------------


def test_a_trace_is_for_one_users_eyes(tmp_path):
    """It says whom a node talks to: 0600, also if the file was there before and open to all."""
    where = tmp_path / "trace"
    before = os.umask(0)
    try:
        for text in ("", "an older and longer trace"):
            if text:
                where.write_text(text)
                where.chmod(0o666)
            with open_trace(str(where)) as trace:
                trace.write("{}\n")
                assert where.read_text() == "{}\n"
            assert where.stat().st_mode & 0o777 == 0o600
            where.unlink()
    finally:
        os.umask(before)


@pytest.mark.parametrize("kind", ["symlink", "second name", "pipe", "folder", "nowhere"])
def test_a_trace_goes_to_no_other_file(tmp_path, kind):
    """What somebody put in its place stays as it was, and the error names the file."""
    other, where = tmp_path / "other", tmp_path / "trace"
    other.write_text("precious")
    other.chmod(0o644)
    if kind == "symlink":
        where.symlink_to(other)
    elif kind == "second name":
        where.hardlink_to(other)
    elif kind == "pipe":
        os.mkfifo(where)
    elif kind == "folder":
        where.mkdir()
    else:
        where = tmp_path / "no" / "trace"
    with pytest.raises(ConfigError, match="the trace of paths cannot be written") as caught:
        open_trace(str(where))
    assert str(where) in str(caught.value)
    assert other.read_text() == "precious"
    assert other.stat().st_mode & 0o777 == 0o644


def test_a_trace_of_somebody_elses_is_not_written(tmp_path, monkeypatch):
    """It would be read by them."""
    where = tmp_path / "trace"
    where.write_text("theirs")
    monkeypatch.setattr(os, "geteuid", lambda: 12_345)
    with pytest.raises(ConfigError, match="not this user's alone"):
        open_trace(str(where))
    assert where.read_text() == "theirs"
