"""Confidence limits for means of skewed values: the wider of Student's and a bootstrap's."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float

from bayesft.diagnostics.interval import Interval, mean_interval

SKEWED = 0.1
"""|skewness|/√R from which Student's limits are not relied on: at an error rate of 1%, Edgeworth's
first term then is half of the rate (Hall 1992, section 2.6)."""

NUM_RESAMPLES = 4000
_CHUNK = 1 << 20


def robust_mean_interval(
    values: Float[np.ndarray, "P R"],
    counted: Bool[np.ndarray, "P R"],
    lower_error: float,
    upper_error: float,
    heavy: Bool[np.ndarray, " P"] | None = None,
) -> tuple[Interval, Bool[np.ndarray, " P"]]:
    """Limits of a mean as those of `mean_interval`, and for which prompts they are widened.

    Where the values are skewed for their number, or known to be `heavy`-tailed, limits are the
    wider of Student's and bootstrap-t's: mean − q·se, q a quantile of (mean* − mean)/se* over
    resamples of the values, which sees skewness that Student's t does not (Hall 1988, Ann. Statist.
    16). Neither can see a tail that no value has reached.
    """
    usual = mean_interval(values, counted, lower_error, upper_error)
    lower, upper = usual.lower.copy(), usual.upper.copy()
    widened = _skewness(values, counted) > SKEWED
    if heavy is not None:
        widened |= heavy
    widened &= counted.sum(1) >= 3
    number = np.where(widened, counted.sum(1), 0)
    for size in np.unique(number[widened]):
        rows = np.flatnonzero(number == size)
        those = np.stack([values[row, counted[row]] for row in rows])
        found = _bootstrap_t(those, lower_error, upper_error)
        lower[rows] = np.minimum(lower[rows], found.lower)
        upper[rows] = np.maximum(upper[rows], found.upper)
    return Interval(lower, upper), widened


def _skewness(
    values: Float[np.ndarray, "P R"], counted: Bool[np.ndarray, "P R"]
) -> Float[np.ndarray, " P"]:
    """|skewness| / √R of the counted values; 0 where they do not differ but by rounding."""
    number = np.maximum(counted.sum(1), 1)
    mean = np.where(counted, values, 0.0).sum(1) / number
    centred = np.where(counted, values - mean[:, None], 0.0)
    spread = np.sqrt((centred**2).sum(1) / number)
    third = np.abs((centred**3).sum(1) / number)
    varied = spread > 1e-6 * (1 + np.abs(mean))
    return np.where(varied, third / np.where(varied, spread, 1.0) ** 3 / np.sqrt(number), 0.0)


def _bootstrap_t(
    values: Float[np.ndarray, "P R"], lower_error: float, upper_error: float
) -> Interval:
    """Limits from one fixed stream of resamples, so that the same values have the same limits.

    se* is kept from falling below se/√R: resamples that leave out the one value that differs would
    make the limits infinite.
    """
    number = values.shape[1]
    mean = values.mean(1, keepdims=True)
    centred = values - mean
    error = values.std(1, ddof=1, keepdims=True) / np.sqrt(number)
    parts = []
    for counts in _resamples(number):
        moved = centred @ counts.T / number
        spread = np.maximum((centred**2) @ counts.T / number - moved**2, 0.0)
        errors = np.sqrt(spread / (number - 1))
        parts.append(moved / np.maximum(errors, error / np.sqrt(number)))
    t = np.concatenate(parts, axis=1)
    # The order statistic beyond the quantile, not between: few resamples lie that far out.
    low = np.quantile(t, 1 - lower_error, axis=1, method="higher")
    high = np.quantile(t, upper_error, axis=1, method="lower")
    return Interval(mean[:, 0] - low * error[:, 0], mean[:, 0] - high * error[:, 0])


def _resamples(number: int) -> Iterator[Float[np.ndarray, "B R"]]:
    """How often each of the values is in each of the resamples, in parts."""
    random = np.random.default_rng(0)
    rows = min(NUM_RESAMPLES, max(1, _CHUNK // number))
    for first in range(0, NUM_RESAMPLES, rows):
        size = min(rows, NUM_RESAMPLES - first)
        index = random.integers(0, number, (size, number)) + number * np.arange(size)[:, None]
        counts = np.bincount(index.ravel(), minlength=size * number)
        yield counts.reshape(size, number).astype(np.float64)
