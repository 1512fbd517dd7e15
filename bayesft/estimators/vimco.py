"""VIMCO: score-function gradients of multi-sample bounds."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bayesft.base import Claim, MultiSampleEstimator, ScoreEstimator
from bayesft.errors import EstimatorError


@dataclasses.dataclass(frozen=True)
class Vimco(ScoreEstimator, MultiSampleEstimator):
    """Σ_k (L − L̂₋ₖ)·∇ log q(y_k) + ∇L for L = log (1/K) Σ_j w_j, where L̂₋ₖ is L with w_k replaced
    by the geometric mean of the other weights, and so does not depend on y_k."""

    @property
    def claim(self) -> Claim:
        return Claim("unbiased")

    def prepare(self, credited: Float[Array, "K *shape"]) -> Float[Array, "K *shape"]:
        return jnp.zeros(credited.shape)

    def credit(self, log_weights: Float[Array, " K"]) -> Float[Array, " K"]:
        """L̂₋ₖ: with a cost of −L, the k-th lane is left with −(L − L̂₋ₖ)."""
        size = log_weights.shape[0]
        if size < 2:
            raise EstimatorError(
                "vimco in a bft.log_mean_exp of one lane has no other weights.",
                cause="its baseline replaces a lane's weight by the mean of the others.",
                remedy="use a size of 2 or more, or score_function.",
            )
        own = jnp.eye(size, dtype=bool)
        # Not by subtraction from the sum: a weight of 0 has the logarithm -inf.
        others = jnp.sum(jnp.where(own, 0.0, log_weights[None, :]), 1) / (size - 1)
        replaced = jnp.where(own, others[:, None], log_weights[None, :])
        bound = jax.nn.logsumexp(replaced, 1) - jnp.log(size)
        return jnp.where(jnp.isfinite(bound), bound, 0.0)  # any number is a baseline


def vimco() -> Vimco:
    """The score function with a baseline for each lane of a `bft.log_mean_exp`.

    For any distribution with a log-prob. Unbiased whatever is made of the bound; the variance is
    small where its negative is the cost. EstimatorError outside of `bft.log_mean_exp`, and for one
    lane. (Mnih and Rezende 2016, with the geometric mean.)
    """
    return Vimco()
