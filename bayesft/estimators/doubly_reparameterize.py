"""Doubly reparameterised gradients of multi-sample bounds."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from jaxtyping import Array, Float

from bayesft.base import Claim, Key, MultiSampleEstimator, PathwiseEstimator, PyTree
from bayesft.estimators.reparameterize import Reparameterize


@dataclasses.dataclass(frozen=True)
class DoublyReparameterize(PathwiseEstimator, MultiSampleEstimator):
    """∇ E[log (1/K) Σ_k w_k] = E[Σ_k w̃_k²·∂log w_k/∂y_k·∂y_k/∂θ] with w̃_k = w_k/Σ_j w_j."""

    @property
    def claim(self) -> Claim:
        return Claim(
            "unbiased",
            "where the log-weight holds −log_prob of the draw and the cost is linear in the bound",
        )

    def sample(self, name: str, distribution: Any, key: Key) -> PyTree:
        return Reparameterize().sample(name, distribution, key)

    def log_prob(self, distribution: Any, value: PyTree) -> Array:
        """Its score, E[w̃_k·∇ log q(y_k)], is the second path: no gradient flows to parameters."""
        return jax.lax.stop_gradient(distribution).log_prob(value)

    def weigh(self, value: PyTree, weight: Float[Array, ""]) -> PyTree:
        def scaled(leaf: Array) -> Array:
            frozen = jax.lax.stop_gradient(leaf)
            return frozen + weight * (leaf - frozen)

        return jax.tree.map(scaled, value)


def doubly_reparameterize() -> DoublyReparameterize:
    """Differentiate through the sample, weighted by w̃_k², in place of path and score.

    For distributions that `reparameterize` takes, in a `bft.log_mean_exp`: the log-weight must
    contain minus the log-prob that `bft.draw(..., with_log_prob=True)` returns. The noise of the
    gradient falls with K where that of `reparameterize` grows beside it; at K = 1 it is the path
    derivative of Roeder et al. 2017. One such choice stands in a lane, outside of other
    constructs: in a chain of them the weights would multiply. The lanes run twice, first for their
    weights.

    Raises EstimatorError outside of `bft.log_mean_exp`, for a second choice in a lane, and for
    distributions without a reparameterised sample. (Tucker et al. 2019, IWAE-DReG.)
    """
    return DoublyReparameterize()
