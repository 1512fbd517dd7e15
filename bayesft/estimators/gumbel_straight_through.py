"""Straight-through gradients: the value of a discrete choice, the gradient of a relaxed one."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from jaxtyping import Array

from bayesft.base import Claim, Key, PathwiseEstimator, PyTree
from bayesft.estimators.relaxation import relaxation_of, require_temperature


@dataclasses.dataclass(frozen=True)
class GumbelStraightThrough(PathwiseEstimator):
    """y = hard(z) in value, soft(z/temperature) in gradient: E[∇c(y)·∂soft/∂θ] for ∇ E[c(y)]."""

    temperature: float

    @property
    def claim(self) -> Claim:
        return Claim(
            "biased",
            "the gradient is E[c'(y)·∂s/∂θ], of the cost's slope at the discrete value and the "
            f"relaxed value s at temperature {self.temperature:g}",
        )

    def sample(self, name: str, distribution: Any, key: Key) -> PyTree:
        relaxation = relaxation_of(name, distribution, "gumbel_straight_through")
        z = relaxation.logits + relaxation.noise(key)
        soft = relaxation.soft(z, self.temperature)
        return jax.lax.stop_gradient(relaxation.hard(z) - soft) + soft

    def log_prob(self, distribution: Any, value: PyTree) -> Array:
        return relaxation_of("", distribution, "gumbel_straight_through").log_prob(value)


def gumbel_straight_through(temperature: float = 0.5) -> GumbelStraightThrough:
    """Differentiate a discrete choice as if it were its relaxation (Jang et al. 2017, section 2.2).

    For Bernoulli, whose value is 0. or 1., and Categorical, whose value is one-hot, [V], so that
    the cost can be differentiated in it. The estimate of the value is unbiased, that of the
    gradient is not: a low temperature biases less and varies more, and a cost that is not linear
    keeps a bias.

    Raises EstimatorError for other distributions and for a temperature that is not positive.
    """
    require_temperature("gumbel_straight_through", temperature)
    return GumbelStraightThrough(float(temperature))
