"""Score-function gradients with a regression of the cost as baseline."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from bayesft.base import Claim, Key, PyTree, StatefulEstimator
from bayesft.errors import EstimatorError

type Moments = tuple[Float[Array, "F F"], Float[Array, " F"]]
"""Decayed means of f·fᵀ and of f·cost over earlier steps."""


@dataclasses.dataclass(frozen=True, eq=False)
class LearnedBaseline(StatefulEstimator):
    """Score function with b = fᵀ(Σ f·fᵀ + ridge)⁻¹ Σ f·c, the sums over earlier steps.

    f holds the features of what the choice is drawn from, and a 1.
    """

    features: Callable[[Any], Float[Array, "*shape D"]]
    num_features: int
    decay: float
    ridge: float

    @property
    def claim(self) -> Claim:
        return Claim("unbiased")

    def init(self) -> Moments:
        size = self.num_features + 1
        return jnp.zeros((size, size)), jnp.zeros(size)

    def describe(
        self, name: str, distribution: Any, value: PyTree, key: Key
    ) -> Float[Array, "*shape F"]:
        found = jnp.asarray(self.features(distribution), jnp.float32)
        if found.ndim == 0 or found.shape[-1] != self.num_features:
            raise EstimatorError(
                f"The features of the choice {name!r} have shape {found.shape}.",
                cause=f"learned_baseline was declared with num_features={self.num_features}.",
                remedy="return [D] for the whole choice, or [*shape, D] for its elements.",
            )
        return jnp.concatenate([found, jnp.ones((*found.shape[:-1], 1))], -1)

    def baseline(
        self, state: Moments, credited: Float[Array, "K *shape"], described: PyTree
    ) -> Float[Array, "K *shape"]:
        products, costs = state
        weights = jnp.linalg.solve(products + self.ridge * jnp.eye(len(costs)), costs)
        return _aligned(described, credited) @ weights

    def update(
        self, state: Moments, credited: Float[Array, "... K *shape"], described: PyTree
    ) -> Moments:
        f = _aligned(described, credited).reshape(-1, self.num_features + 1)
        products, costs = state
        keep, take = self.decay, (1 - self.decay) / len(f)
        return keep * products + take * f.T @ f, keep * costs + take * credited.ravel() @ f


def learned_baseline(
    features: Callable[[Any], Float[Array, "*shape D"]],
    num_features: int,
    *,
    decay: float = 0.9,
    ridge: float = 1e-4,
) -> LearnedBaseline:
    """REINFORCE with a baseline that depends on what the choice is drawn from.

    `features(distribution)` is any function in JAX of the distribution at hand, so of what it is
    conditioned on and of no draw: for a guide's sequences `lambda q: embed(q.x)` of the prompt,
    [D], or [T, D] by position. The credited cost is regressed on them and on a constant, by least
    squares over earlier steps, each weighing `decay` times the next one. For prompts of different
    difficulty, where `moving_average` subtracts one number from all; with several lanes per prompt
    `leave_one_out` needs no features. `bft.fit` carries the sums, and so do `init` and `step` of
    an expectation. The first step has baseline 0.

    Raises EstimatorError for settings out of range, and for features of another size.
    """
    if num_features < 1 or not 0.0 <= decay < 1.0 or not ridge > 0.0:
        raise EstimatorError(
            f"learned_baseline(num_features={num_features}, decay={decay}, ridge={ridge}) is no "
            "regression.",
            cause="no features, sums that only grow, or a matrix that may not be invertible.",
            remedy="use num_features ≥ 1, 0 ≤ decay < 1 and a positive ridge; or moving_average.",
        )
    return LearnedBaseline(features, int(num_features), float(decay), float(ridge))


def _aligned(described: Array, credited: Array) -> Float[Array, "*shape F"]:
    """Features of every credited element; those of a whole choice are the same for its elements."""
    missing = credited.ndim - (described.ndim - 1)
    *lead, size = described.shape
    spread = described.reshape(*lead, *(1,) * missing, size)
    return jnp.broadcast_to(spread, (*credited.shape, size))
