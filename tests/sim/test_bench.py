import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from veilnet.sim.traces import generated

ROOT = Path(__file__).parents[2]


def _bench(*argv, environ=None):
    done = subprocess.run(
        [sys.executable, "bench/paths.py", *map(str, argv)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
        env=environ,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def small(tmp_path):
    """A trace of 25 slots and 9 nodes, with gaps."""
    rtt = np.nan_to_num(generated("seattle", seed=3).rtt_ms[:25, :9, :9])
    path = tmp_path / "small.npz"
    np.savez(path, rtt_ms=rtt.astype(np.uint16))
    return path


def test_any_trace_can_be_evaluated(small):
    """``--trace FILE --policy A,B --json`` prints one document with an excess for each policy."""
    code, out, err = _bench("--trace", small, "--policy", "veil,greedy,oracle", "--json", "-")
    assert code == 0, err
    document = json.loads(out)
    excess = next(row for row in document["rows"] if row["metric"] == "excess_percent")
    assert set(excess["systems"]) == {"veil", "greedy", "oracle"}
    assert excess["systems"]["oracle"]["mean"] == 0
    assert 0 <= excess["systems"]["veil"]["min"] <= excess["systems"]["veil"]["max"]
    assert document["seeds"] == {"A": list(range(2_401, 2_411))}
    assert {"commit", "machine", "command", "rows", "goals"} <= set(document)


def test_the_other_array_and_a_file_of_results(small, tmp_path):
    """Eighths of milliseconds evaluate to the same excess; a file can take the document."""
    rtt = np.load(small)["rtt_ms"]
    eighth = tmp_path / "eighth.npz"
    np.savez(eighth, rtt_eighth_ms=rtt * 8)
    rows = []
    for path in (small, eighth):
        out = tmp_path / f"{path.stem}.json"
        argv = ("--trace", path, "--policy", "greedy", "--seeds", "7,", "--json", out)
        code, _, err = _bench(*argv)
        assert code == 0, err
        found = json.loads(out.read_text())
        rows.append([row["systems"] for row in found["rows"]])
    assert rows[0] == rows[1]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("--trace", "no-such.npz"), "there is no trace"),
        (("--trace", "README.md"), "cannot be read as .npz"),
        (("--trace", "README.md", "--policy", "best"), "no policy called 'best'"),
        (("--seeds", "many"), "no number and no list"),
        (("--experiments", "A,Z"), "no experiment is called 'Z'"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(argv, said):
    """A bad file or option ends with one line on stderr, a code, and nothing on stdout."""
    code, out, err = _bench(*argv)
    assert code in (2, 7)
    assert out == ""
    assert said in err
    assert err.count("\n") == 1
