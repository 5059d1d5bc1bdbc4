import pytest
from attrs import evolve

from tests.unit.paths.streets import over, sample
from veilnet.paths.cost import DEAD_MS, cost_ms


def test_each_term():
    """Round trip, loss, jitter and shortfall add up in milliseconds."""
    assert cost_ms(sample(over(1), 50.0)) == pytest.approx(50.0)
    assert cost_ms(sample(over(1), 50.0, probe=True, loss=0.01)) == pytest.approx(70.0)
    assert cost_ms(evolve(sample(over(1), 50.0), jitter_s=0.01)) == pytest.approx(70.0)
    assert cost_ms(sample(over(1), 50.0, goodput=5e5)) == pytest.approx(150.0)


def test_queueing_is_priced_by_kappa_alone():
    """What lies above the least round trip counts again, kappa times; never less than nothing."""
    seen = sample(over(1), 80.0, rtt_min_ms=50.0)
    assert cost_ms(seen) == pytest.approx(80.0)
    assert cost_ms(seen, kappa=1.0) == pytest.approx(110.0)
    assert cost_ms(sample(over(1), 80.0, rtt_min_ms=90.0), kappa=1.0) == pytest.approx(80.0)


def test_nothing_costs_more_than_a_dead_arm():
    """Silence, total loss and no goodput at all are clipped alike."""
    assert cost_ms(sample(over(1), None)) == DEAD_MS
    assert cost_ms(sample(over(1), 50.0, loss=1.0)) == DEAD_MS
    assert cost_ms(sample(over(1), 50.0, goodput=0.0)) == DEAD_MS
    assert cost_ms(evolve(sample(over(1), 50.0), jitter_s=float("nan"))) == DEAD_MS
