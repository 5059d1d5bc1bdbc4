from pathlib import Path

import numpy as np
import pytest

from veilnet.errors import ConfigError
from veilnet.sim.replay import replay_scenario
from veilnet.sim.traces import SLOT_S, Trace, find_trace, generated, load_trace


def _saved(path: Path, **arrays) -> Path:
    np.savez(path, **arrays)
    return path


def test_eighths_of_a_millisecond_and_milliseconds_read_alike(tmp_path):
    """Both arrays of the format give the same round trips, and zeros are missing."""
    raw = np.random.default_rng(1).integers(1, 900, (4, 5, 5)).astype(np.uint16)
    raw[1, 2, 3] = 0
    plain = load_trace(_saved(tmp_path / "a.npz", rtt_ms=raw, slot_s=2.0))
    eighth = load_trace(_saved(tmp_path / "b.npz", rtt_eighth_ms=raw * 8))
    assert np.array_equal(plain.rtt_ms, eighth.rtt_ms, equal_nan=True)
    assert (plain.slot_s, eighth.slot_s) == (2.0, SLOT_S)
    assert np.isnan(plain.rtt_ms[1, 2, 3])
    assert np.isnan(plain.rtt_ms[:, np.arange(5), np.arange(5)]).all()


def test_what_is_missing_is_held_over():
    """A gap takes the slot before it, a gap at the beginning the first measurement."""
    rtt = np.full((4, 3, 3), np.nan)
    rtt[1, 0, 1], rtt[3, 0, 1] = 10.0, 30.0
    held = Trace("x", rtt, 1.0).held()
    assert held[:, 0, 1].tolist() == [10.0, 10.0, 10.0, 30.0]
    assert np.isnan(held[:, 1, 0]).all()


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"other": np.ones((2, 3, 3))}, "must hold one of"),
        ({"rtt_ms": np.ones((2, 3, 3)), "rtt_eighth_ms": np.ones((2, 3, 3))}, "has 2 of them"),
        ({"rtt_ms": np.ones((2, 3, 4))}, "the shape"),
        ({"rtt_ms": np.ones((3, 3))}, "the shape"),
        ({"rtt_ms": np.ones((1, 3, 3))}, "at least 2"),
        ({"rtt_ms": np.array([["a"]])}, "not numbers"),
        ({"rtt_ms": -np.ones((2, 3, 3))}, "negative"),
        ({"rtt_ms": np.ones((2, 3, 3)), "slot_s": -1.0}, "slot_s"),
        ({"rtt_ms": np.array([{}], dtype=object)}, "cannot be read"),
    ],
)
def test_a_file_that_is_no_trace_is_refused_in_one_line(tmp_path, arrays, said):
    """Whatever is wrong, the error names the file's flaw and never unpickles anything."""
    path = _saved(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ConfigError, match=said) as caught:
        load_trace(path)
    assert "\n" not in caught.value.message


def test_files_that_are_no_archive(tmp_path):
    """Absent, empty, text, a cut archive and a bare array are refused likewise."""
    whole = _saved(tmp_path / "whole.npz", rtt_ms=np.ones((9, 9, 9))).read_bytes()
    for name, data in {"empty": b"", "text": b"hello", "cut": whole[:-400]}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ConfigError, match="cannot be read"):
            load_trace(tmp_path / name)
    np.save(tmp_path / "bare.npy", np.ones((2, 3, 3)))
    with pytest.raises(ConfigError, match="one bare array"):
        load_trace(tmp_path / "bare.npy")
    with pytest.raises(ConfigError, match="there is no trace"):
        load_trace(tmp_path / "none.npz")


def test_a_generator_stands_in_and_says_why(tmp_path):
    """Without data everything runs on a generated trace, the same for the same seed."""
    trace = find_trace("seattle", folder=tmp_path)
    assert "is not there" in trace.why
    assert np.array_equal(trace.rtt_ms, generated("seattle", seed=0).rtt_ms, equal_nan=True)
    assert not np.array_equal(trace.rtt_ms, generated("seattle", seed=1).rtt_ms, equal_nan=True)
    assert replay_scenario(trace, seed=0).present.all()


def test_a_pair_that_was_hardly_measured_is_no_leg():
    """Arms whose legs are mostly missing are not offered, and a trace of gaps is refused."""
    rtt = np.random.default_rng(0).uniform(10, 90, (20, 8, 8))
    rtt[1:, 3] = np.nan
    scenario = replay_scenario(Trace("holes", rtt, 1.0), seed=0, pairs=10, relays=6)
    over = scenario.relays == 3
    assert over.any()
    assert not scenario.present[over].any()
    with pytest.raises(ConfigError, match="no pair"):
        replay_scenario(Trace("gaps", np.full((20, 8, 8), np.nan), 1.0), seed=0)
