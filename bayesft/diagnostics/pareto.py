"""Pareto k̂: whether importance weights have the moments that their use assumes."""

from __future__ import annotations

import math
import warnings

import numpy as np
from jaxtyping import Float

TRUSTED_K = 0.7
"""Above this k̂ the mean of the weights cannot be trusted."""

MIN_TAIL = 10
"""Fewer different weights make no tail to fit."""

TIE = 1e-3
"""Log-weights this close differ by rounding alone."""


def pareto_k(log_weights: Float[np.ndarray, "P n"]) -> Float[np.ndarray, " P"] | None:
    """Shape k̂ of the tail of each prompt's weights; above 0.7 their mean cannot be trusted.

    Weights of 0 do not matter to the tail. NaN where too few different weights are left to have
    one; None where arviz_stats is not installed. (Vehtari et al. 2024, JMLR 25.)
    """
    try:
        from arviz_stats.base.array import array_stats
    except ImportError:
        return None

    def one(row: Float[np.ndarray, " n"]) -> float:
        row = np.sort(row[row > -np.inf])
        tail = _tail_length(row)
        if (np.diff(row[row.size - tail :]) > TIE).sum() < MIN_TAIL - 1:
            return np.nan
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tails too short or too even to fit: k̂ says so
            # It takes log-likelihoods, and a length as the r_eff of 3·√(n / r_eff).
            r_eff = 9 * row.size / tail**2 * (1 + 1e-9)
            return float(array_stats.psislw(-row, r_eff=r_eff)[1])  # pyright: ignore

    return np.asarray([one(row) for row in log_weights])


def _tail_length(row: Float[np.ndarray, " n"]) -> int:
    """Number of weights in the tail, of the largest log-weights in rising order.

    A reward often has atoms (every text without a scored word has the same one). Where the usual
    cutoff falls into one, the tail starts above it: a Pareto law has no atom at its start.
    """
    usual = math.ceil(min(0.2 * row.size, 3 * math.sqrt(row.size)))
    if usual >= row.size:
        return 0
    return int((row[-usual:] > row[-usual - 1] + TIE).sum())
