"""Confidence limits and k̂."""

import sys

import numpy as np
import pytest
from scipy import stats

from bayesft.diagnostics.interval import Interval, mean_interval, proportion_interval
from bayesft.diagnostics.pareto import pareto_k
from bayesft.testing import assert_coverage

RANDOM = np.random.default_rng


def test_mean_interval_has_its_level_on_normal_values():
    values = RANDOM(0).normal(3.0, 2.0, (20_000, 8))
    interval = mean_interval(values, np.ones_like(values, bool), 0.05, 0.02)
    for missed, error in ((interval.lower > 3.0, 0.05), (interval.upper < 3.0, 0.02)):
        assert_coverage(~missed, 1 - error)
        assert_coverage(missed, error * 0.8)  # and no wider than it has to be


def test_only_counted_values_count():
    values = np.array([[1.0, 2.0, 3.0, np.nan], [1.0, 0.0, 0.0, 0.0]])
    counted = np.array([[1, 1, 1, 0], [1, 0, 0, 0]], bool)
    interval = mean_interval(values, counted, 0.05, 0.05)
    half = stats.t.isf(0.05, 2) / np.sqrt(3)
    np.testing.assert_allclose([interval.lower[0], interval.upper[0]], [2 - half, 2 + half])
    assert (interval.lower[1], interval.upper[1]) == (-np.inf, np.inf)


@pytest.mark.parametrize("p", [0.0, 0.01, 0.3, 1.0])
def test_proportion_interval_covers(p):
    hits = RANDOM(1).binomial(50, p, 5000)
    interval = proportion_interval(hits, 50, 0.05, 0.05)
    assert_coverage(interval.lower <= p, 0.95)
    assert_coverage(interval.upper >= p, 0.95)


def test_arithmetic():
    one = Interval(np.array([0.0]), np.array([1.0]))
    total = one + -Interval(np.array([2.0]), np.array([5.0]))
    assert (total.lower[0], total.upper[0]) == (-5.0, -1.0)
    assert total.at_least(-3.0).lower[0] == -3.0
    assert one.contains(1.0).all()
    assert not one.contains(1.1).any()
    assert one.widened(np.array([0.2])).contains(1.1).all()


def test_pareto_k_tells_tails_apart():
    """Log-weights of exponential law with mean m have weights of Pareto shape k = m."""
    pytest.importorskip("arviz_stats")
    light, heavy = RANDOM(2).exponential(0.3, 4000), RANDOM(3).exponential(1.2, 4000)
    k = pareto_k(np.stack([light, heavy]))
    assert k is not None
    np.testing.assert_allclose(k, [0.3, 1.2], atol=0.3)
    atom = np.where(RANDOM(4).random((1, 4000)) < 0.9, 0.0, heavy) + 1e-5 * heavy
    np.testing.assert_allclose(pareto_k(atom), 1.2, atol=0.3)
    dead = np.where(np.arange(4000) < 4, 0.0, -np.inf)
    assert np.isnan(pareto_k(np.stack([dead, np.zeros(4000)]))).all()


def test_without_arviz_there_is_no_k(monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz_stats.base.array", None)
    assert pareto_k(np.zeros((1, 100))) is None
