"""REBAR: score-function gradients with the relaxed program as control variate."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bayesft.base import Claim, Key, MultiPathEstimator, PyTree
from bayesft.estimators.relaxation import relaxation_of, require_temperature


@dataclasses.dataclass(frozen=True)
class Rebar(MultiPathEstimator):
    """∇ E[c(y)] = E[(c(y) − η·c(s̃))·∇ log p(y) + η·∇c(s) − η·∇c(s̃)].

    s relaxes the z that y came from, s̃ another z given y; both have one law, so the cost itself is
    estimated by c(y) + η·(c(s) − c(s̃)).
    """

    temperature: float
    scale: float

    @property
    def claim(self) -> Claim:
        return Claim("unbiased", "where the cost is differentiable in a relaxed value")

    def expand(self, name: str, distribution: Any, key: Key) -> tuple[PyTree, Float[Array, " B"]]:
        relaxation = relaxation_of(name, distribution, "rebar")
        keys = jax.random.split(key)
        z = relaxation.logits + relaxation.noise(keys[0])
        hard = jax.lax.stop_gradient(relaxation.hard(z))
        soft = relaxation.soft(z, self.temperature)
        given = relaxation.soft(relaxation.given(hard, relaxation.noise(keys[1])), self.temperature)
        log_prob = jnp.sum(relaxation.log_prob(hard))
        score = log_prob - jax.lax.stop_gradient(log_prob)
        weights = [1 + score, jnp.full((), self.scale), -self.scale * (1 + score)]
        return jnp.stack([hard, soft, given]), jnp.stack(weights)

    def log_prob(self, distribution: Any, value: PyTree) -> Array:
        return relaxation_of("", distribution, "rebar").log_prob(value)


def rebar(temperature: float = 0.5, scale: float = 1.0) -> Rebar:
    """Three paths: the discrete value, its relaxation, and a relaxation given the discrete value.

    For Bernoulli, whose value is a float in [0, 1], and Categorical, whose value is a point of the
    simplex, [V]; the discrete ones are 0., 1. and one-hot. The program must make sense, and be
    differentiable, at relaxed values. `scale` is η: 0 leaves the score function.

    Raises EstimatorError for other distributions and for a temperature that is not positive.
    (Tucker et al. 2017; it is RELAX of Grathwohl et al. 2018 with the relaxed program itself as the
    surrogate. `trained_rebar` learns the temperature and the scale.)
    """
    require_temperature("rebar", temperature)
    return Rebar(float(temperature), float(scale))
