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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BernoulliRelaxation:
    """y = 1[z > 0] with z = logit p + logistic noise; relaxed: sigmoid(z/temperature)."""

    logits: Float[Array, "*shape"]

    def noise(self, key: Key) -> Float[Array, "*shape"]:
        """logit u for uniform u: z − logit p."""
        u = _uniform(key, self.logits.shape)
        return jnp.log(u) - jnp.log1p(-u)

    def given(
        self, hard: Float[Array, "*shape"], noise: Float[Array, "*shape"]
    ) -> Float[Array, "*shape"]:
        """z given y, differentiable in p: u is uniform on the part of [0, 1] that leads to y.

        With noise logit v and l = logit p: y = 1 has u = 1 − p + v·p, so z = log(1 + v·e^l) −
        log(1 − v); y = 0 has u = v·(1 − p), so z = log v − log(1 + (1 − v)·e^−l).
        """
        log_v, log_rest = -jax.nn.softplus(-noise), -jax.nn.softplus(noise)
        one = jax.nn.softplus(self.logits + log_v) - log_rest
        zero = log_v - jax.nn.softplus(log_rest - self.logits)
        return jnp.where(hard > 0, one, zero)

    def hard(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return (z > 0).astype(z.dtype)

    def encode(self, value: Array) -> Float[Array, "*shape"]:
        """A value of the distribution as a point that relaxed values come close to."""
        return value.astype(self.logits.dtype)

    def soft(
        self, z: Float[Array, "*shape"], temperature: float | Float[Array, ""]
    ) -> Float[Array, "*shape"]:
        return jax.nn.sigmoid(z / temperature)

    def log_prob(self, hard: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return hard * self.logits - jax.nn.softplus(self.logits)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CategoricalRelaxation:
    """y = one-hot(argmax z) with z = log p + Gumbel noise; relaxed: softmax(z/temperature)."""

    logits: Float[Array, "*shape V"]
    """Normalised."""

    def noise(self, key: Key) -> Float[Array, "*shape V"]:
        """−log(−log u) for uniform u: z − log p."""
        return -jnp.log(-jnp.log(_uniform(key, self.logits.shape)))

    def given(
        self, hard: Float[Array, "*shape V"], noise: Float[Array, "*shape V"]
    ) -> Float[Array, "*shape V"]:
        """z given y: the largest is a Gumbel variable, the others are truncated below it.

        z_y = −log(−log v_y), z_k = −log(−log v_k/p_k − log v_y) (Tucker et al. 2017, appendix).
        """
        largest = jnp.sum(hard * noise, -1, keepdims=True)
        others = -jnp.logaddexp(-noise - self.logits, -largest)
        return jnp.where(hard > 0, largest, others)

    def hard(self, z: Float[Array, "*shape V"]) -> Float[Array, "*shape V"]:
        return jax.nn.one_hot(jnp.argmax(z, -1), z.shape[-1], dtype=z.dtype)

    def encode(self, value: Array) -> Float[Array, "*shape V"]:
        """A value of the distribution as a point that relaxed values come close to."""
        return jax.nn.one_hot(value, self.logits.shape[-1], dtype=self.logits.dtype)

    def soft(
        self, z: Float[Array, "*shape V"], temperature: float | Float[Array, ""]
    ) -> Float[Array, "*shape V"]:
        return jax.nn.softmax(z / temperature)

    def log_prob(self, hard: Float[Array, "*shape V"]) -> Float[Array, "*shape"]:
        return jnp.sum(hard * self.logits, -1)


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
