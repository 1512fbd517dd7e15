"""pass@k against every outcome of the binomial."""

import math

import numpy as np
import pytest
from scipy import stats

from bayesft.diagnostics import pass_at_k
from bayesft.errors import DiagnosticError

N = 12


def expectation(estimates, p):
    """Over the number of correct samples, exactly."""
    return stats.binom.pmf(np.arange(N + 1), N, p) @ estimates


@pytest.mark.parametrize("k", [1, 3, N])
@pytest.mark.parametrize("p", [0.0, 0.05, 0.5, 1.0])
def test_it_is_unbiased(k, p):
    found = pass_at_k(np.arange(N + 1), N, k).per_problem
    np.testing.assert_allclose(expectation(found, p), 1 - (1 - p) ** k, rtol=1e-12, atol=1e-14)


def test_the_share_plugged_in_is_biased_and_caught():
    plugged = 1 - (1 - np.arange(N + 1) / N) ** 3
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(expectation(plugged, 0.05), 1 - 0.95**3, rtol=1e-12)


def test_it_is_the_formula_and_keeps_its_digits():
    n, c, k = 200, 7, 20
    exact = 1 - math.comb(n - c, k) / math.comb(n, k)
    np.testing.assert_allclose(pass_at_k(c, n, k).mean, exact, rtol=1e-12)
    np.testing.assert_allclose(pass_at_k(1, 10**6, 1).mean, 1e-6, rtol=1e-9)
    assert pass_at_k([3], [5], 3).mean == 1.0
    assert pass_at_k([0], [5], 3).mean == 0.0


def test_mean_and_standard_error_over_problems():
    found = pass_at_k([0, 1, 2], [2, 2, 4], 1)
    np.testing.assert_allclose(found.per_problem, [0, 0.5, 0.5])
    assert found.mean == pytest.approx(1 / 3)
    assert found.standard_error == pytest.approx(np.std([0, 0.5, 0.5], ddof=1) / np.sqrt(3))
    assert str(found).startswith("pass@1 = 0.3333 ± 0.1667")
    assert "2 to 4 samples" in str(found)
    assert "±" not in str(pass_at_k(1, 2, 1))


@pytest.mark.parametrize(
    "arguments",
    [
        ([3], [2], 1),
        ([1], [2], 3),
        ([1], [2], 0),
        ([0.5], [2], 1),
        ([-1], [2], 1),
        ([], 2, 1),
        ([True, False], 2, 1),
        ([[1, 0]], 2, 1),
        ([1, 2], [3, 3, 3], 1),
        ([1], [2], 1.5),
    ],
)
def test_what_cannot_be_counts_is_refused(arguments):
    with pytest.raises(DiagnosticError):
        pass_at_k(*arguments)
