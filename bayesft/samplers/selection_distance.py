"""KL from the prior and win rate against it of laws that select one of n prior samples.

Both are functions of the law of log φ under the prior alone, of which a run has drawn n samples per
draw. They are plugged in as they were drawn and corrected by the jackknife over blocks of draws,
which removes the bias of order 1/m in m samples and gives the standard error.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jaxtyping import Float, Int

MAX_BLOCKS = 20
"""Blocks of the jackknife: a standard error from 20 values is good to a sixth."""

MAX_PAIRS = 1 << 22
"""The soft law compares every sample with every draw; so many pairs come from the first draws."""


def best_distance(values: Float[np.ndarray, "P N n"]) -> dict[str, Any]:
    """Of the best of n, ties won by whichever was drawn first."""
    return _report(values, _best)


def soft_distance(values: Float[np.ndarray, "P N n"], temperature: float) -> dict[str, Any]:
    """Of one of n selected with probability ∝ exp(log φ / temperature)."""
    num_draws = max(2, math.isqrt(MAX_PAIRS // values.shape[-1]))
    return _report(values[:, :num_draws].astype(np.float64) / temperature, _soft)


def _report(values: Float[np.ndarray, "P N n"], distance) -> dict[str, Any]:
    n = values.shape[-1]
    blocks = _blocks(values.shape[1])
    found = np.stack([_jackknife(distance(rows, blocks), blocks) for rows in values])
    return {
        "kl": found[:, 0, 0],
        "kl_error": found[:, 0, 1],
        "kl_bound": math.log(n) - (n - 1) / n,
        "win_rate": found[:, 1, 0],
        "win_rate_error": found[:, 1, 1],
        "win_rate_bound": n / (n + 1),
    }


def _blocks(num_draws: int) -> Int[np.ndarray, " N"]:
    """The block of every draw; blocks of the same size, up to one."""
    num_blocks = min(num_draws, MAX_BLOCKS)
    return np.arange(num_draws) * num_blocks // num_draws


def _jackknife(
    found: Float[np.ndarray, "B1 2"], blocks: Int[np.ndarray, " N"]
) -> Float[np.ndarray, "2 2"]:
    """Corrected estimate and standard error from that on everything and those without a block.

    Blocks may differ in size (Busing, Meijer and van der Leeden 1999, Statistics and Computing 9).
    With a single block the estimate is the plain one and its error NaN.
    """
    every, without = found[0], found[1:]
    if len(without) < 2:
        return np.stack([every, np.full_like(every, np.nan)], -1)
    parts = (len(blocks) / np.bincount(blocks))[:, None]
    estimate = len(without) * every - ((1 - 1 / parts) * without).sum(0)
    pseudo = parts * every - (parts - 1) * without
    variance = ((pseudo - estimate) ** 2 / (parts - 1)).mean(0)
    return np.stack([estimate, np.sqrt(variance)], -1)


def _best(
    values: Float[np.ndarray, "N n"], blocks: Int[np.ndarray, " N"]
) -> Float[np.ndarray, "B1 2"]:
    """KL and win rate from the distribution of the values: of all, and without each block."""
    n, num_blocks = values.shape[1], blocks[-1] + 1
    levels, level = np.unique(values, return_inverse=True)
    level = level.reshape(values.shape)
    every = np.bincount(level.ravel(), minlength=len(levels))
    found = []
    for block in range(-1, num_blocks if num_blocks > 1 else 0):
        count = every - np.bincount(level[blocks == block].ravel(), minlength=len(levels))
        upper = np.cumsum(count) / count.sum()
        lower = np.append(0.0, upper[:-1])
        chosen = upper**n - lower**n
        met = count > 0
        ratio = chosen[met] / (upper - lower)[met]
        kl = np.sum(chosen[met] * np.log(ratio))
        found.append((kl, np.sum(chosen * (upper + lower) / 2)))
    return np.asarray(found)


def _soft(
    values: Float[np.ndarray, "N n"], blocks: Int[np.ndarray, " N"]
) -> Float[np.ndarray, "B1 2"]:
    """The same for the soft law, whose density ratio against the prior at a value v is

    h(v) = n·E[exp(v) / (exp(v) + Σ_{j=2..n} exp(v_j))], which is P(all others are -inf) at -inf.
    """
    num_draws, n = values.shape
    with np.errstate(invalid="ignore", over="ignore"):
        shifted = values - np.maximum(values.max(1, keepdims=True), -1e30)
        chosen = np.exp(shifted) / np.exp(shifted).sum(1, keepdims=True)
        chosen = np.where(np.isneginf(values).all(1, keepdims=True), 1 / n, chosen)
        others = np.logaddexp.reduce(values[:, 1:], axis=1, initial=-np.inf)
        # [N, N·n]: the weight of every value among the others of every draw.
        share = 1 / (1 + np.exp(others[:, None] - values.reshape(1, -1)))
    alone = np.isneginf(others)[:, None] & np.isneginf(values.reshape(1, -1))
    dead = ~alone & np.isneginf(values.reshape(1, -1))
    share = np.where(alone, 1 / n, np.where(dead, 0.0, share))

    levels, level = np.unique(values, return_inverse=True)
    level = level.reshape(values.shape)
    every = np.bincount(level.ravel(), minlength=len(levels))
    total = share.sum(0)
    found = []
    num_blocks = blocks[-1] + 1
    for block in range(-1, num_blocks if num_blocks > 1 else 0):
        kept = blocks != block
        ratio = n * (total - share[~kept].sum(0)) / kept.sum()
        ratio = ratio.reshape(num_draws, n)[kept]
        weight = chosen[kept] / kept.sum()
        terms = np.where(weight * ratio > 0, weight * np.log(np.where(ratio > 0, ratio, 1)), 0.0)
        count = every - np.bincount(level[~kept].ravel(), minlength=len(levels))
        upper = np.cumsum(count) / count.sum()
        middle = upper - count / count.sum() / 2
        found.append((terms.sum(), np.sum(weight * middle[level[kept]])))
    return np.asarray(found)
