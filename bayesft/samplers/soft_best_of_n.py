"""Soft best-of-n: of n samples of the prior one, the likelier the larger its evidence."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Array, Float, Int

from bayesft.base import Claim, Key, Sampler
from bayesft.draws import Draws
from bayesft.errors import SamplerError
from bayesft.samplers.accepting import log_uniform
from bayesft.samplers.plain import sample_keys
from bayesft.samplers.selection import select, selected_draws
from bayesft.samplers.selection_distance import soft_distance
from bayesft.samplers.validation import require_count
from bayesft.target import Target

MIN_TEMPERATURE = 1e-9
"""Below, quotients of evidence and temperature leave the range of numbers."""


def soft_best_of_n(n: int, num_draws: int, temperature: float = 1.0) -> SoftBestOfN:
    """Draws of the soft best-of-n law; equally weighted, log_z is None.

    Of n samples of the prior, y_i is selected with probability ∝ exp(log φ(y_i, x)/temperature):

        p(y | x) = π0(y | x)·n·E[w(y) / (w(y) + Σ_{j=2..n} w(Y_j))],  w = φ^(1/temperature),

    the Y_j independent samples of the prior. It tends to π0·w, normalised, as n grows: to p* at
    temperature 1. As the temperature falls to 0 it tends to best-of-n (with ties drawn evenly), and
    as it rises to the prior. Where all n have density 0 under the target, the draw has log-weight
    -inf.

    `info` is that of `best_of_n`, whose bounds hold here too: the best of n is the farthest that a
    selection by evidence goes. KL compares up to 2²² pairs of a sample and another draw's samples,
    those of the first draws.

    Raises SamplerError where the temperature is not finite and at least 1e-9.

    Verdun, Oesterling, Lakkaraju and Calmon 2025, "Soft best-of-n sampling for model alignment".
    """
    if not (temperature >= MIN_TEMPERATURE and math.isfinite(temperature)):
        raise SamplerError(
            f"temperature={temperature} is not finite and at least {MIN_TEMPERATURE}.",
            cause="0 in place of a limit that is a sampler of its own, or NaN.",
            remedy="use best_of_n for temperature 0, and importance for none at all.",
        )
    return SoftBestOfN(
        require_count("n", n), require_count("num_draws", num_draws), float(temperature)
    )


@dataclasses.dataclass(frozen=True)
class SoftBestOfN(Sampler):
    """See `soft_best_of_n`."""

    n: int
    num_draws: int
    temperature: float

    @property
    def claim(self) -> Claim:
        return Claim(
            "another law",
            f"one of {self.n} samples of the prior, selected with probability ∝ "
            f"φ^(1/{self.temperature:g})",
        )

    def run(self, target: Target, key: Key) -> Draws:
        def choose(values: Float[np.ndarray, "P B n"], first: int) -> Int[np.ndarray, "P B"]:
            uniform = np.exp(np.asarray(self._log_uniform(target, key, first, values.shape[1])))
            peak = values.max(-1, keepdims=True)
            shifted = values.astype(np.float64) - np.where(np.isneginf(peak), 0.0, peak)
            upper = np.cumsum(np.exp(shifted / self.temperature), axis=-1)
            # Strictly above, so that what has weight 0 is not selected; the last one that has
            # weight where rounding leaves none, and the first where nothing is possible.
            above = upper > np.minimum(uniform, 1 - 1e-12)[..., None] * upper[..., -1:]
            return above.argmax(-1)

        selected, values = select(target, key, self.n, self.num_draws, choose)
        distance = soft_distance(values, self.temperature)
        return selected_draws(target, key, self.n, selected, self.claim, distance)

    def _log_uniform(self, target: Target, key: Key, first: int, size: int) -> Array:
        """One per draw, from the key of the first of its samples past what its tokens use."""
        keys = sample_keys(target.xs.id, key, first * self.n, size * self.n)[:, :: self.n]
        return log_uniform(keys, target.horizon.max_new_tokens)
