"""Continuous relaxations of Bernoulli and categorical choices: z, from which the value follows."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bayesft.base import Key
from bayesft.errors import EstimatorError
from bayesft.estimators.factors import factors


@dataclasses.dataclass(frozen=True)
class BernoulliRelaxation:
    """y = 1[z > 0] with z = logit p + logit u for uniform u; relaxed: sigmoid(z/temperature)."""

    logits: Float[Array, "*shape"]

    def sample(self, key: Key) -> Float[Array, "*shape"]:
        u = _uniform(key, self.logits.shape)
        return self.logits + jnp.log(u) - jnp.log1p(-u)

    def sample_given(self, hard: Float[Array, "*shape"], key: Key) -> Float[Array, "*shape"]:
        """z given y, differentiable in p: u is uniform on the part of [0, 1] that leads to y.

        With l = logit p: y = 1 has u = 1 − p + v·p, so z = log(1 + v·e^l) − log(1 − v); y = 0 has
        u = v·(1 − p), so z = log v − log(1 + (1 − v)·e^−l).
        """
        v = _uniform(key, self.logits.shape)
        log_v, log_rest = jnp.log(v), jnp.log1p(-v)
        one = jax.nn.softplus(self.logits + log_v) - log_rest
        zero = log_v - jax.nn.softplus(log_rest - self.logits)
        return jnp.where(hard > 0, one, zero)

    def hard(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return (z > 0).astype(z.dtype)

    def soft(self, z: Float[Array, "*shape"], temperature: float) -> Float[Array, "*shape"]:
        return jax.nn.sigmoid(z / temperature)

    def log_prob(self, value: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return value * self.logits - jax.nn.softplus(self.logits)


@dataclasses.dataclass(frozen=True)
class CategoricalRelaxation:
    """y = one-hot(argmax z) with z = log p + Gumbel noise; relaxed: softmax(z/temperature)."""

    logits: Float[Array, "*shape V"]
    """Normalised."""

    def sample(self, key: Key) -> Float[Array, "*shape V"]:
        return self.logits - jnp.log(-jnp.log(_uniform(key, self.logits.shape)))

    def sample_given(self, hard: Float[Array, "*shape V"], key: Key) -> Float[Array, "*shape V"]:
        """z given y: the largest is a Gumbel variable, the others are truncated below it.

        z_y = −log(−log v_y), z_k = −log(−log v_k/p_k − log v_y) (Tucker et al. 2017, appendix).
        """
        log_noise = jnp.log(-jnp.log(_uniform(key, self.logits.shape)))
        largest = jnp.sum(hard * log_noise, -1, keepdims=True)
        others = -jnp.logaddexp(log_noise - self.logits, largest)
        return jnp.where(hard > 0, -largest, others)

    def hard(self, z: Float[Array, "*shape V"]) -> Float[Array, "*shape V"]:
        return jax.nn.one_hot(jnp.argmax(z, -1), z.shape[-1], dtype=z.dtype)

    def soft(self, z: Float[Array, "*shape V"], temperature: float) -> Float[Array, "*shape V"]:
        return jax.nn.softmax(z / temperature)

    def log_prob(self, value: Float[Array, "*shape V"]) -> Float[Array, "*shape"]:
        return jnp.sum(value * self.logits, -1)


type Relaxation = BernoulliRelaxation | CategoricalRelaxation


def relaxation_of(name: str, distribution: Any, estimator: str) -> Relaxation:
    """The relaxation of a Bernoulli or categorical distribution; EstimatorError for others."""
    import numpyro.distributions as dist

    kind = type(distribution := factors(distribution))
    if issubclass(kind, dist.BernoulliProbs | dist.BernoulliLogits):
        return BernoulliRelaxation(jnp.broadcast_to(distribution.logits, distribution.batch_shape))
    if issubclass(kind, dist.CategoricalProbs | dist.CategoricalLogits):
        return CategoricalRelaxation(jax.nn.log_softmax(distribution.logits))
    raise EstimatorError(
        f"The choice {name!r} from {type(distribution).__name__} has no relaxation.",
        cause=f"{estimator} is for Bernoulli and Categorical.",
        remedy="use score_function, leave_one_out or measure_valued, or reparameterize where the "
        "sample is differentiable.",
    )


def require_temperature(estimator: str, temperature: float) -> None:
    if not temperature > 0:
        raise EstimatorError(
            f"{estimator}(temperature={temperature}) is no relaxation.",
            cause="the relaxed value is sigmoid or softmax of z/temperature.",
            remedy="use a positive temperature; 0.5 is a common one.",
        )


def _uniform(key: Key, shape: tuple[int, ...]) -> Array:
    """Uniforms above 0 and below 1, where their logit is finite."""
    return jax.random.uniform(key, shape, minval=jnp.finfo(jnp.float32).tiny)
