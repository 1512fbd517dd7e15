"""The bootstrap holds its level on skewed values, where Student's t does not."""

import numpy as np
import pytest

from bayesft.diagnostics.bootstrap import robust_mean_interval
from bayesft.diagnostics.interval import mean_interval
from bayesft.testing import assert_coverage

RANDOM = np.random.default_rng
ERROR = 0.0125
VALUES = RANDOM(1).exponential(size=(2000, 64))
ALL = np.ones_like(VALUES, bool)


def test_skewed_values_are_covered():
    interval, widened = robust_mean_interval(VALUES, ALL, ERROR, ERROR)
    assert_coverage(interval.upper >= 1, 1 - ERROR, family=2)
    assert_coverage(interval.lower <= 1, 1 - ERROR, family=2)
    assert widened.mean() > 0.9


def test_students_t_alone_is_caught():
    usual = mean_interval(VALUES, ALL, ERROR, ERROR)
    with pytest.raises(AssertionError, match="intervals cover"):
        assert_coverage(usual.upper >= 1, 1 - ERROR, family=2)


def test_symmetric_values_keep_students_limits():
    values = RANDOM(0).normal(size=(20, 400))
    counted = np.ones_like(values, bool)
    interval, widened = robust_mean_interval(values, counted, ERROR, ERROR)
    usual = mean_interval(values, counted, ERROR, ERROR)
    assert not widened[:18].all()
    np.testing.assert_array_equal(interval.upper[~widened], usual.upper[~widened])


def test_limits_are_never_narrower_and_do_not_depend_on_other_rows():
    heavy = np.ones(5, bool)
    values = RANDOM(2).normal(size=(5, 20))
    counted = RANDOM(3).random((5, 20)) < 0.8
    interval, widened = robust_mean_interval(values, counted, ERROR, 0.5, heavy)
    usual = mean_interval(values, counted, ERROR, 0.5)
    assert widened.all()
    assert (interval.lower <= usual.lower).all()
    alone, _ = robust_mean_interval(values[2:3], counted[2:3], ERROR, 0.5, heavy[:1])
    np.testing.assert_allclose(alone.lower, interval.lower[2:3], rtol=1e-12)


def test_one_value_that_differs_leaves_limits_finite():
    values = np.zeros((1, 16))
    values[0, 3] = 1.0
    interval, widened = robust_mean_interval(values, np.ones((1, 16), bool), ERROR, ERROR)
    assert widened[0]
    assert np.isfinite([interval.lower[0], interval.upper[0]]).all()
    constant, widened = robust_mean_interval(np.ones((1, 4)), np.ones((1, 4), bool), 0.1, 0.1)
    assert not widened[0]
    assert constant.lower[0] == constant.upper[0] == 1
    few, _ = robust_mean_interval(values, np.zeros((1, 16), bool), 0.1, 0.1, np.ones(1, bool))
    assert few.lower[0] == -np.inf
