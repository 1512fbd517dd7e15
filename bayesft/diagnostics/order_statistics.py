"""Best-of-n for every n from one set of prior draws, by their order statistics."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from bayesft.diagnostics.tilting import Estimate


def best_of(
    log_evidence: Float[np.ndarray, "P N"], sizes: tuple[int, ...]
) -> tuple[Estimate, Estimate]:
    """E[log φ] under best-of-n and its KL from the prior, [P, S] each, for every n of `sizes`.

    With F the CDF of log φ under the prior, best-of-n is the prior reweighted level by level:

        E = Σ_j r_j·(F_j^n − F_{j−1}^n),
        KL = Σ_j (F_j^n − F_{j−1}^n)·log[(F_j^n − F_{j−1}^n)/(F_j − F_{j−1})],

    which is log n − (n − 1)/n where there are no ties and less where there are. F is the empirical
    CDF of N prior draws, whose gaps of 1/N stand for a continuous law too as long as n ≪ N; errors
    are by the delta method. E is -inf where the prior was seen to produce what is impossible.
    (Beirami et al. 2024, who show that the formula without ties is an upper bound.)
    """
    found = [[_one(row, n) for n in sizes] for row in np.asarray(log_evidence, np.float64)]
    values = np.asarray(found, np.float64).reshape(len(found), len(sizes), 4)
    reward, reward_error, kl, kl_error = np.moveaxis(values, -1, 0)
    return Estimate(reward, reward_error), Estimate(kl, kl_error)


def _one(row: Float[np.ndarray, " N"], n: int) -> tuple[float, float, float, float]:
    level, counts = np.unique(row, return_counts=True)
    share = counts / row.size
    cdf = np.minimum(np.cumsum(share), 1.0)
    cdf[-1] = 1.0
    mass = np.diff(cdf**n, prepend=0.0)
    slope = n * cdf[:-1] ** (n - 1)  # of F^n in F; F at the last level is 1
    log_ratio = np.log(np.maximum(mass, 1e-300) / share)
    kl = float(mass @ np.where(mass > 0, log_ratio, 0.0))
    # What a draw at level i adds: it raises F_j for every j ≥ i.
    kl_part = _raised(slope * (log_ratio[:-1] - log_ratio[1:])) - mass / share
    if level[0] == -np.inf:
        return -np.inf, 0.0, kl, _error(kl_part, share, row.size)
    reward_part = -_raised(slope * np.diff(level))
    reward = float(mass @ level)
    errors = (_error(part, share, row.size) for part in (reward_part, kl_part))
    return reward, next(errors), kl, next(errors)


def _raised(steps: Float[np.ndarray, " J-1"]) -> Float[np.ndarray, " J"]:
    """Σ_{j ≥ i} steps_j for every level i; 0 at the last."""
    return np.append(np.cumsum(steps[::-1])[::-1], 0.0)


def _error(part: Float[np.ndarray, " J"], share: Float[np.ndarray, " J"], size: int) -> float:
    return float(np.sqrt(share @ (part - share @ part) ** 2 / size))
