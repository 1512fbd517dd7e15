"""How well chains agree with one another."""

from __future__ import annotations

import warnings

import numpy as np
from jaxtyping import Float


def r_hat(values: Float[np.ndarray, "P C S"]) -> Float[np.ndarray, " P"] | None:
    """Rank-normalised split R̂ of each prompt's chains; above 1.01 they have not mixed.

    NaN for one chain, fewer than four states, or chains that all stand still; None where
    arviz_stats is not installed. (Vehtari et al. 2021, Bayesian Analysis 16.)
    """
    try:
        from arviz_stats.base.array import array_stats
    except ImportError:
        return None
    _, num_chains, num_states = values.shape
    if num_chains < 2 or num_states < 4:
        return np.full(len(values), np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of chains that all stand still: NaN says so
        return np.asarray(
            [float(array_stats.rhat(rows, chain_axis=0, draw_axis=1)) for rows in values]  # pyright: ignore
        )
