import numpy as np
import pytest
from structlog.testing import capture_logs

from tests.unit.paths.streets import HOME, arm, over, street
from veilnet.paths import DIRECT, make_policy, persistence


def trained():
    """Return a street after two minutes."""
    scene = street(direct_ms=200.0, true_ms={over(2): 90.0})
    scene.seconds(120)
    return scene


def fresh(data):
    """Return a new policy that was given *data*, and what it logged."""
    policy = make_policy("veil", rng=np.random.default_rng(9))
    with capture_logs() as logs:
        policy.load_state(data)
    return policy, logs


def test_what_was_learned_survives_a_restart():
    """Levels and model come back; confidence halves, ages are unknown."""
    scene = trained()
    policy, logs = fresh(scene.policy.state())
    assert not logs
    policy.set_arms(HOME, scene.arms, 5_000.0)
    np.testing.assert_allclose(policy._model.theta, scene.policy._model.theta, rtol=1e-5)
    old, new = scene.policy._ledgers[HOME], policy._ledgers[HOME]
    measured = old.table[3] > 0
    assert measured.sum() >= 4
    np.testing.assert_allclose(new.table[0, measured], old.table[0, measured], rtol=1e-5)
    np.testing.assert_allclose(new.table[3, measured], old.table[3, measured] / 2, rtol=1e-5)


def test_data_goes_where_it_went_before_the_restart():
    """The first decision after a restart is on an arm that was measured, not on any."""
    scene = trained()
    policy, _ = fresh(scene.policy.state())
    policy.set_arms(HOME, scene.arms, 0.0)
    first = policy.decide(HOME, 0.0).shares[0][0]
    assert scene.true_ms[first] < 70.0


def test_one_state_has_one_encoding():
    """Loaded before any destination is asked for, the state is written back, confidence aside."""
    data = trained().policy.state()
    once, _ = fresh(data)
    twice, _ = fresh(once.state())
    assert once._model.theta.tolist() == pytest.approx(twice._model.theta.tolist())
    assert len(once.state()) == len(data)


def test_every_truncation_is_a_fresh_start():
    """However much of the file is missing, the policy starts afresh and says so once."""
    data = trained().policy.state()
    for length in range(0, len(data), 7):
        policy, logs = fresh(data[:length])
        assert len(logs) == 1
        assert "reason" in logs[0]
        assert policy._restored == {}


def test_every_flipped_byte_is_a_fresh_start():
    """A single damaged byte anywhere is noticed."""
    data = trained().policy.state()
    for at in range(0, len(data), 5):
        damaged = bytearray(data)
        damaged[at] ^= 0x10
        _, logs = fresh(bytes(damaged))
        assert len(logs) == 1


def test_impossible_numbers_with_a_right_checksum_are_refused():
    """What a stranger wrote with care is refused for its numbers."""
    scene = trained()
    scene.policy._model.theta[2] = float("nan")
    _, logs = fresh(scene.policy.state())
    assert "impossible" in logs[0]["reason"]


def test_the_file_is_bounded(monkeypatch):
    """Of more destinations than fit only the latest used are kept."""
    monkeypatch.setattr(persistence, "MAX_KEPT_DESTINATIONS", 4)
    policy = make_policy("veil", rng=np.random.default_rng(1))
    for number in range(6):
        key = bytes([number]) * 32
        policy.set_arms(key, [arm(DIRECT)], 0.0)
        scene = street(policy)
        policy._ledgers[key].table[3] = 1.0
        assert scene
    again, logs = fresh(policy.state())
    assert not logs
    assert bytes([5]) * 32 in again._restored
    assert bytes([0]) * 32 not in again._restored


def test_many_arms_each_still_fit():
    """Destinations with 64 arms each are cut down to what the file may hold."""
    policy = make_policy("veil", rng=np.random.default_rng(1))
    arms = [arm(over(n)) for n in range(1, 65)]
    for number in range(persistence.MAX_KEPT_DESTINATIONS):
        policy.set_arms(bytes([number]) * 32, arms, 0.0)
        policy._ledgers[bytes([number]) * 32].table[3] = 1.0
    data = policy.state()
    again, logs = fresh(data)
    assert not logs
    assert len(data) <= persistence.MAX_STATE_BYTES
    assert len(again._restored) >= 32


def test_names_that_are_no_bytes_are_not_kept():
    """Only destinations named by bytes outlive a restart; others do no harm."""
    policy = make_policy("veil", rng=np.random.default_rng(1))
    policy.set_arms(("a", 1), [arm(DIRECT)], 0.0)
    policy._ledgers["a", 1].table[3] = 1.0
    _, logs = fresh(policy.state())
    assert not logs


@pytest.mark.parametrize("name", ["greedy", "exp3"])
def test_baselines_keep_nothing_and_say_so(name):
    """A baseline's state is empty; another's is refused with one line."""
    policy = make_policy(name, rng=np.random.default_rng(1))
    assert policy.state() == b""
    with capture_logs() as logs:
        policy.load_state(b"")
        policy.load_state(b"something")
    assert len(logs) == 1
