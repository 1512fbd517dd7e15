"""The enumeration oracle, and statistical assertions whose tolerances are derived.

Every assertion has a stated false-failure rate: the chance that correct code fails it. Thresholds
are quantiles at `false_failure / (family · comparisons)` (a Bonferroni bound over the scalars that
one assertion compares and over the `family` of assertions that belong together). With `resolution`
an assertion also fails where it could not have noticed an error of that size, so that a test with
too few samples does not pass for that reason. (After TFP's `internal/statistical_testing.py`.)
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import ArrayLike, Bool, Float, Int
from scipy import stats

from bayesft.priors.enumeration import Enumeration, enumerate_target
from bayesft.twists.exact import exact_twist

__all__ = [
    "Enumeration",
    "assert_at_most",
    "assert_coverage",
    "assert_frequencies",
    "assert_unbiased",
    "enumerate_target",
    "exact_twist",
    "num_samples_for",
]

ROUNDING = 2.0**-17
"""64 float32 roundings, relative: what a sum of some dozens of terms may lose."""


def assert_unbiased(
    samples: Float[ArrayLike, "R *shape"],
    expected: Float[ArrayLike, "*shape"],
    *,
    resolution: float | None = None,
    family: int = 1,
    false_failure: float = 1e-6,
    false_pass: float = 1e-6,
    rounding: float = ROUNDING,
) -> None:
    """Assert that the mean of R independent samples is `expected`, elementwise.

    Fails where |mean − expected| > z·se + rounding, with se = std/√R from the samples and z from
    Student's t at the family-wise rate, widened for skewness (see `_widened`). Samples without
    variance must be equal to `expected` up to `rounding` relative to their size.

    Assumes that the samples are independent and that their third moment exists.
    """
    expected = np.asarray(expected, np.float64)
    mean, error, margin, z = _compare(samples, expected, family, false_failure, rounding, sides=2)
    shape = np.shape(samples)
    wrong = ~(np.abs(mean - expected) <= margin)
    if wrong.any():
        worst = np.unravel_index(np.argmax(wrong), wrong.shape)
        raise AssertionError(
            f"{int(wrong.sum())} of {wrong.size} means are wrong. At {tuple(map(int, worst))}: "
            f"mean {mean[worst]:.6g} of {shape[0]} samples, expected "
            f"{np.broadcast_to(expected, mean.shape)[worst]:.6g}, standard error "
            f"{error[worst]:.3g}, threshold {z[worst]:.2f} standard errors."
        )
    if resolution is not None:
        _require_power(float(((z + stats.norm.isf(false_pass)) * error).max()), resolution)


def assert_at_most(
    samples: Float[ArrayLike, "R *shape"],
    bound: Float[ArrayLike, "*shape"],
    *,
    family: int = 1,
    false_failure: float = 1e-6,
    rounding: float = ROUNDING,
) -> None:
    """Assert that the mean of R independent samples is at most `bound`, elementwise.

    One-sided form of `assert_unbiased`, under the same assumptions.
    """
    bound = np.asarray(bound, np.float64)
    mean, error, margin, _ = _compare(samples, bound, family, false_failure, rounding, sides=1)
    wrong = ~(mean - bound <= margin)
    if wrong.any():
        worst = np.unravel_index(np.argmax(wrong), wrong.shape)
        raise AssertionError(
            f"The mean {mean[worst]:.6g} exceeds {np.broadcast_to(bound, mean.shape)[worst]:.6g} "
            f"at {tuple(map(int, worst))}, standard error {error[worst]:.3g}."
        )


def assert_frequencies(
    counts: Int[ArrayLike, " M"],
    probabilities: Float[ArrayLike, " M"],
    *,
    resolution: float | None = None,
    family: int = 1,
    false_failure: float = 1e-6,
    false_pass: float = 1e-6,
) -> None:
    """Assert that counts of M outcomes are those of independent draws with these probabilities.

    Each cell is tested by its exact two-sided binomial tail at the family-wise rate, so that rare
    cells need no merging, and an outcome of probability 0 may never occur. `resolution` is in
    probability, for the cell where it is hardest to reach.
    """
    counts, p = np.asarray(counts), np.asarray(probabilities, np.float64)
    if counts.shape != p.shape or (p < 0).any() or abs(p.sum() - 1) > 1e-4:
        raise ValueError(f"{counts.shape} counts for probabilities that sum to {p.sum()}")
    p = np.minimum(p / p.sum(), 1.0)
    num_draws = int(counts.sum())
    below = stats.binom.cdf(counts, num_draws, p)
    above = stats.binom.sf(counts - 1, num_draws, p)
    level = false_failure / (family * counts.size)
    wrong = 2 * np.minimum(below, above) < level
    if wrong.any():
        worst = int(np.argmin(np.where(wrong, np.minimum(below, above), 1)))
        raise AssertionError(
            f"{int(wrong.sum())} of {counts.size} frequencies are wrong. Outcome {worst}: "
            f"{counts[worst]} of {num_draws} draws, probability {p[worst]:.6g}."
        )
    if resolution is not None:
        error = np.sqrt(p * (1 - p) / num_draws).max()
        z = stats.norm.isf(level / 2) + stats.norm.isf(false_pass)
        _require_power(float(z * error), resolution)


def assert_coverage(
    covered: Bool[ArrayLike, " R"],
    level: float,
    *,
    family: int = 1,
    false_failure: float = 1e-6,
) -> None:
    """Assert that intervals cover the truth with probability at least `level`.

    Fails where so few of R independent intervals cover that the exact binomial tail at `level` is
    below the family-wise rate.
    """
    covered = np.asarray(covered, bool)
    hits, trials = int(covered.sum()), covered.size
    if stats.binom.cdf(hits, trials, level) < false_failure / family:
        raise AssertionError(f"{hits} of {trials} intervals cover the truth, at level {level}.")


def num_samples_for(
    resolution: float,
    std: float,
    *,
    comparisons: int = 1,
    family: int = 1,
    false_failure: float = 1e-6,
    false_pass: float = 1e-6,
) -> int:
    """Samples that `assert_unbiased` needs to notice a bias of size `resolution`:

    R = ((z + z')·std / resolution)², with z from `false_failure` and z' from `false_pass`.
    """
    z = stats.norm.isf(false_failure / (2 * comparisons * family)) + stats.norm.isf(false_pass)
    return math.ceil((z * std / resolution) ** 2)


def _compare(
    values: ArrayLike,
    expected: Float[np.ndarray, "*shape"],
    family: int,
    false_failure: float,
    rounding: float,
    *,
    sides: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean, standard error, margin and threshold of each scalar."""
    samples = np.asarray(values, np.float64)
    if samples.ndim == 0 or samples.shape[0] < 3:
        raise ValueError(f"samples of shape {samples.shape} leave no standard error to estimate")
    if np.isnan(samples).any():
        raise AssertionError(f"{int(np.isnan(samples).sum())} samples are NaN.")
    num_samples, comparisons = samples.shape[0], max(1, samples[0].size)
    mean, std = samples.mean(0), samples.std(0, ddof=1)
    size = np.abs(samples).mean(0) + np.abs(expected)
    # Variance that is only rounding noise says nothing; such samples are compared as constants.
    noisy = std > rounding * size
    std = np.where(noisy, std, 0.0)
    z0 = float(stats.t.isf(false_failure / (sides * comparisons * family), num_samples - 1))
    centred = np.where(noisy, samples - mean, 0.0)
    skewness = np.mean(centred**3, 0) / np.where(noisy, std, 1.0) ** 3
    z = _widened(z0, np.abs(skewness) / math.sqrt(num_samples))
    if np.isinf(z).any():
        needed = math.ceil(3 * (z0 * float(np.abs(skewness).max())) ** 2)
        raise AssertionError(
            f"{num_samples} samples of skewness {float(np.abs(skewness).max()):.1f} are too few to "
            f"conclude anything; about {needed} are needed."
        )
    error = std / math.sqrt(num_samples)
    return mean, error, z * error + rounding * size, z


def _widened(z0: float, a: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Threshold at which a skewed mean has the tail that a normal one has at z0; inf if none.

    By Cramér's expansion the tail of Student's statistic at z is the normal one times at most
    exp(a·z³/3), a = |skewness|/√R (Jing, Shao and Wang 2003, Ann. Probab. 31); so z solves
    z²/2 − a·z³/3 = z0²/2, which has a root below 1/a as long as 3·(a·z0)² ≤ 1.
    """
    solvable = 3 * (a * z0) ** 2 <= 1
    low = np.full_like(a, z0)
    high = np.minimum(1 / np.maximum(a, 1e-12), 2 * z0)  # at the limit the root is √3·z0
    for _ in range(60):
        z = (low + high) / 2
        enough = z**2 / 2 - a * z**3 / 3 >= z0**2 / 2
        low, high = np.where(enough, low, z), np.where(enough, z, high)
    return np.where(solvable, high, np.inf)


def _require_power(detectable: float, resolution: float) -> None:
    if detectable > resolution:
        raise AssertionError(
            f"The test could miss an error of {resolution:.3g}: it notices {detectable:.3g} and "
            f"more. About {(detectable / resolution) ** 2:.1f} times as many samples are needed."
        )
