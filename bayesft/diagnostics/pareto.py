"""Pareto k̂: whether importance weights have the moments that their use assumes."""

from __future__ import annotations

import warnings

import numpy as np
from jaxtyping import Float

MIN_WEIGHTS = 25
"""Fewer leave no tail to fit."""


def pareto_k(log_weights: Float[np.ndarray, "P n"]) -> Float[np.ndarray, " P"] | None:
    """Shape k̂ of the tail of each prompt's weights; above 0.7 their mean cannot be trusted.

    Weights of 0 do not matter to the tail. NaN where too few are left or the largest are equal;
    None where arviz_stats is not installed. (Vehtari et al. 2024, JMLR 25.)
    """
    try:
        from arviz_stats.base.array import array_stats
    except ImportError:
        return None

    def one(row: Float[np.ndarray, " n"]) -> float:
        row = row[row > -np.inf]
        if row.size < MIN_WEIGHTS or np.ptp(row) < 1e-5:
            return np.nan
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tails too short or too even to fit: k̂ says so
            try:
                return float(array_stats.psislw(-row)[1])  # it takes log-likelihoods
            except ValueError:  # the largest weights are equal: there is no tail
                return np.nan

    return np.asarray([one(row) for row in log_weights])
