"""Two-sided confidence limits on log Z from groups of weighted samples.

Every group has N particles, half from an explorer e (the guide), half from the prior π0, weighted
by the even mixture: w = γ/(½e + ½π0). This costs at most a factor two in particles against the
better of the two (Owen and Zhou 2000), weights are at most 2·max φ, and nothing has to be chosen
after looking at the data. Ẑ is the mean weight of a group, so E[Ẑ] = Z.

Lower. Jensen: E[log Ẑ | Ẑ > 0] + log P(Ẑ > 0) ≤ log Z; and, where that says little, Markov:
P(Ẑ ≥ Z/ε) ≤ ε. Upper. With one slot held by an exact draw y of the posterior, in the half of e with
probability e(y)/(e(y) + π0(y)), the group has density Ẑ/Z relative to plain ones, whence
E*[log Ẑ] = log Z + KL ≥ log Z (bidirectional Monte Carlo, Grosse, Ghahramani and Adams 2015).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from bayesft.diagnostics.bootstrap import robust_mean_interval
from bayesft.diagnostics.evaluated import Evaluated
from bayesft.diagnostics.interval import proportion_interval

_MARKOV_SHARE = _ALIVE_SHARE = 0.1
"""Of the error rate of the lower limit; the rest is for the mean of logs."""


def log_mean_exp(log_weights: Float[np.ndarray, "*batch N"]) -> Float[np.ndarray, "*batch"]:
    """log of the mean weight over the last axis; -inf where all are 0."""
    total = np.logaddexp.reduce(log_weights, axis=-1)
    return total - np.log(log_weights.shape[-1])


def log_z_lower(
    explored: Float[np.ndarray, "P R H"],
    drawn: Float[np.ndarray, "P R H"],
    error: float,
    heavy: Bool[np.ndarray, " P"] | None = None,
) -> Float[np.ndarray, " P"]:
    """Lower limit on log Z at an error rate, from R groups of H log-weights of each half.

    `heavy` names prompts whose weights have heavy tails (see `robust_mean_interval`).
    """
    groups = log_mean_exp(np.concatenate([explored, drawn], axis=-1))
    alive = groups > -np.inf
    share = error * (1 - _MARKOV_SHARE - _ALIVE_SHARE)
    finite = np.where(alive, groups, 0.0)
    jensen = robust_mean_interval(finite, alive, share, 0.5, heavy)[0].lower
    log_dead = sum(_log_none_alive(half, error * _ALIVE_SHARE / 2) for half in (explored, drawn))
    with np.errstate(divide="ignore"):
        jensen = jensen + np.log(-np.expm1(np.minimum(log_dead, 0.0)))
    markov = log_mean_exp(groups) + np.log(error * _MARKOV_SHARE)
    return np.maximum(jensen, markov)


def _log_none_alive(half: Float[np.ndarray, "P R H"], error: float) -> Float[np.ndarray, " P"]:
    """Upper limit on the log-probability that all H weights of one half of a group are 0."""
    num_dead = np.isneginf(half).sum((1, 2))
    trials = half.shape[1] * half.shape[2]
    dead = proportion_interval(num_dead, trials, 0.5, error).upper
    return half.shape[2] * np.log(dead)


def log_z_upper(
    explored: Float[np.ndarray, "P R H"],
    drawn: Float[np.ndarray, "P R H"],
    posterior: Evaluated,
    filled: Bool[np.ndarray, "P R"],
    uniform: Float[np.ndarray, "P R"],
    error: float,
    heavy: Bool[np.ndarray, " P"] | None = None,
) -> Float[np.ndarray, " P"]:
    """Upper limit on log Z at an error rate, from R exact posterior draws (those `filled`).

    It is infinite where fewer than two draws are filled.
    """
    held = np.where(filled, posterior.log_weight, 0.0)
    gap = np.where(filled, posterior.log_prior - posterior.log_explorer, 0.0)
    in_explored = np.log(uniform) < -np.logaddexp(0.0, gap)
    explored, drawn = explored.copy(), drawn.copy()
    explored[..., 0] = np.where(in_explored, held, explored[..., 0])
    drawn[..., 0] = np.where(in_explored, drawn[..., 0], held)
    groups = log_mean_exp(np.concatenate([explored, drawn], axis=-1))
    finite = np.where(filled, groups, 0.0)
    return robust_mean_interval(finite, filled, 0.5, error, heavy)[0].upper
