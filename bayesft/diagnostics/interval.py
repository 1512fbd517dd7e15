"""Confidence limits for means and proportions, per prompt."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import special  # not scipy.stats, which is large to import

ROUNDING = 2.0**-20
"""Eight float32 roundings, relative to the size of a log-density."""


@dataclasses.dataclass(frozen=True)
class Interval:
    """Lower and upper limits, one pair per prompt; infinite where nothing is known."""

    lower: Float[np.ndarray, " P"]
    upper: Float[np.ndarray, " P"]

    def contains(self, value: Float[np.ndarray, " P"] | float) -> Bool[np.ndarray, " P"]:
        return (self.lower <= value) & (value <= self.upper)

    def __add__(self, other: Interval) -> Interval:
        """Limits of a sum; they hold at the sum of the error rates of the two."""
        return Interval(self.lower + other.lower, self.upper + other.upper)

    def __neg__(self) -> Interval:
        return Interval(-self.upper, -self.lower)

    def widened(self, by: Float[np.ndarray, " P"]) -> Interval:
        return Interval(self.lower - by, self.upper + by)

    def at_least(self, floor: float) -> Interval:
        """For a quantity that is known not to be below `floor`."""
        return Interval(np.maximum(self.lower, floor), self.upper)


def mean_interval(
    values: Float[np.ndarray, "P R"],
    counted: Bool[np.ndarray, "P R"],
    lower_error: float,
    upper_error: float,
) -> Interval:
    """One-sided limits of a mean at the two error rates, from the values that are `counted`.

    mean ± t·std/√R with Student's quantile: exact for normal values, and for others as good as the
    central limit theorem is at R. Fewer than two values say nothing.
    """
    number = counted.sum(1)
    known = number >= 2
    n = np.maximum(number, 2)
    mean = np.where(counted, values, 0.0).sum(1) / n
    square = np.where(counted, values - mean[:, None], 0.0) ** 2
    error = np.sqrt(square.sum(1) / (n - 1) / n)
    lower = mean + special.stdtrit(n - 1, lower_error) * error
    upper = mean - special.stdtrit(n - 1, upper_error) * error
    return Interval(np.where(known, lower, -np.inf), np.where(known, upper, np.inf))


def proportion_interval(
    hits: Int[np.ndarray, " P"], trials: int, lower_error: float, upper_error: float
) -> Interval:
    """Exact binomial limits of a proportion at the two error rates (Clopper and Pearson 1934)."""
    lower = special.betaincinv(hits, trials - hits + 1, lower_error)
    upper = special.betainccinv(hits + 1, trials - hits, upper_error)
    return Interval(np.where(hits == 0, 0.0, lower), np.where(hits == trials, 1.0, upper))
