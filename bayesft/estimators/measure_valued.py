"""Measure-valued gradients: the derivative of a density as a difference of two densities."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bayesft.base import Claim, Key, MultiPathEstimator, PyTree
from bayesft.errors import EstimatorError
from bayesft.estimators.factors import factors


@dataclasses.dataclass(frozen=True)
class WeakDerivative:
    """∂p/∂θ = c·(p⁺ − p⁻) for one parameter, elementwise, with a sample of either density.

    None stands for the choice's own sample, whose path through the program is there anyway.
    """

    parameter: Float[Array, "*shape"]
    constant: Float[Array, "*shape"]
    positive: Array | None
    negative: Array | None


type Decomposition = tuple[Array, list[WeakDerivative], Float[Array, ""]]
"""A sample, the weak derivatives, and a score term for parameters that have none (else 0)."""


@dataclasses.dataclass(frozen=True)
class MeasureValued(MultiPathEstimator):
    """∇_θ E_p[f(y)] = c_θ·(E_p⁺[f(y)] − E_p⁻[f(y)]), summed over the parameters."""

    @property
    def claim(self) -> Claim:
        return Claim("unbiased")

    def expand(self, name: str, distribution: Any, key: Key) -> tuple[PyTree, Float[Array, " B"]]:
        distribution = factors(distribution)
        decompose = _decomposition_of(distribution)
        if decompose is None:
            raise EstimatorError(
                f"No weak derivative is known for {type(distribution).__name__} at {name!r}.",
                cause="measure_valued knows Bernoulli, Categorical, Normal, Poisson, Gamma and "
                "Exponential, elementwise.",
                remedy="use score_function or leave_one_out, or reparameterize where the sample is "
                "differentiable.",
            )
        value, derivatives, score = decompose(distribution, key)
        value = jax.lax.stop_gradient(value)
        own = 1.0 + score - jax.lax.stop_gradient(score)
        values, weights = [value[None]], []
        for derivative in derivatives:
            theta = derivative.parameter
            constant = jax.lax.stop_gradient(derivative.constant)
            change = (constant * (theta - jax.lax.stop_gradient(theta))).ravel()
            for part, sign in ((derivative.positive, 1.0), (derivative.negative, -1.0)):
                if part is None:
                    own += sign * change.sum()
                else:
                    values.append(_one_changed(value, jax.lax.stop_gradient(part)))
                    weights.append(sign * change)
        return jnp.concatenate(values), jnp.concatenate([own[None], *weights])


def measure_valued() -> MeasureValued:
    """Replay the program at samples of the positive and the negative part of ∂p/∂θ.

    For Bernoulli, Categorical, Normal, Poisson, Gamma and Exponential, also of a batch shape, where
    one element changes at a time. Paths for n elements: Bernoulli, Poisson and Exponential 1 + n,
    Gamma 1 + n (its concentration takes a score term), Normal 1 + 3n, V values 1 + V·n. The parts
    are coupled with the sample where that is possible, and what is drawn later is shared, which is
    where the low variance comes from. The cost need not be differentiable in the value.

    Raises EstimatorError for other distributions. (Mohamed et al. 2020, section 6 and table 1;
    Pflug 1989.)
    """
    return MeasureValued()


def _one_changed(value: Array, other: Array) -> Array:
    """[n, *shape]: copies of the value, each with one of its n elements taken from the other."""
    size = value.size
    other = jnp.broadcast_to(other, value.shape)
    changed = jnp.where(jnp.eye(size, dtype=bool), other.reshape(1, size), value.reshape(1, size))
    return changed.reshape(size, *value.shape).astype(value.dtype)


def _decomposition_of(distribution: Any) -> Callable[[Any, Key], Decomposition] | None:
    import numpyro.distributions as dist

    known = {
        dist.BernoulliProbs: _bernoulli,
        dist.BernoulliLogits: _bernoulli,
        dist.CategoricalProbs: _finite,
        dist.CategoricalLogits: _finite,
        dist.Normal: _normal,
        dist.Poisson: _poisson,
        dist.Gamma: _gamma,
        dist.Exponential: _exponential,
    }
    return next((known[kind] for kind in type(distribution).__mro__ if kind in known), None)


def _bernoulli(d: Any, key: Key) -> Decomposition:
    """∂p/∂p_1 = δ_1 − δ_0: the value that was drawn against the other one."""
    value = d.sample(key)
    one = jnp.exp(d.log_prob(jnp.ones_like(value)))
    return value, [WeakDerivative(one, 2.0 * value - 1.0, None, 1 - value)], jnp.zeros(())


def _finite(d: Any, key: Key) -> Decomposition:
    """∂p/∂p_k = δ_k − p, up to a multiple of Σ ∂p_k = 0."""
    value = d.sample(key)
    points = [jnp.full_like(value, k) for k in d.enumerate_support(expand=False).ravel()]
    probs = [jnp.exp(d.log_prob(point)) for point in points]
    return (
        value,
        [
            WeakDerivative(p, jnp.ones(()), point, None)
            for p, point in zip(probs, points, strict=True)
        ],
        jnp.zeros(()),
    )


def _normal(d: Any, key: Key) -> Decomposition:
    """Mean: c = 1/(σ√2π), μ ± σ·Weibull(√2, 2). Scale: c = 1/σ, double-sided Maxwell and normal.

    A double-sided Maxwell variable times a uniform one is normal, which couples the two.
    """
    shape = d.batch_shape
    loc, scale = jnp.broadcast_to(d.loc, shape), jnp.broadcast_to(d.scale, shape)
    keys = jax.random.split(key, 4)
    maxwell = jnp.sqrt(2 * jax.random.gamma(keys[0], 1.5, shape))
    maxwell *= jax.random.rademacher(keys[1], shape, maxwell.dtype)
    weibull = jnp.sqrt(2 * jax.random.exponential(keys[2], shape))
    value = loc + scale * maxwell * jax.random.uniform(keys[3], shape)
    to_loc = 1 / (scale * jnp.sqrt(2 * jnp.pi))
    return (
        value,
        [
            WeakDerivative(loc, to_loc, loc + scale * weibull, loc - scale * weibull),
            WeakDerivative(scale, 1 / scale, loc + scale * maxwell, None),
        ],
        jnp.zeros(()),
    )


def _poisson(d: Any, key: Key) -> Decomposition:
    """c = 1, Poisson + 1 and Poisson."""
    value = d.sample(key)
    rate = jnp.broadcast_to(d.rate, value.shape)
    return value, [WeakDerivative(rate, jnp.ones(()), value + 1, None)], jnp.zeros(())


def _exponential(d: Any, key: Key) -> Decomposition:
    """c = 1/rate, Exponential and Erlang(2) = Exponential + Exponential."""
    keys = jax.random.split(key)
    value = d.sample(keys[0])
    rate = jnp.broadcast_to(d.rate, value.shape)
    erlang = value + jax.random.exponential(keys[1], value.shape) / rate
    return value, [WeakDerivative(rate, 1 / rate, None, erlang)], jnp.zeros(())


def _gamma(d: Any, key: Key) -> Decomposition:
    """Rate: c = a/rate, Gamma(a) and Gamma(a + 1) = Gamma(a) + Exponential. Concentration a:
    the parts of ∂p/∂a are no densities that are sampled easily, so its score stands in."""
    import numpyro.distributions as dist

    keys = jax.random.split(key)
    value = jax.lax.stop_gradient(d.sample(keys[0]))
    rate = jnp.broadcast_to(d.rate, value.shape)
    larger = value + jax.random.exponential(keys[1], value.shape) / rate
    log_prob = dist.Gamma(d.concentration, jax.lax.stop_gradient(d.rate)).log_prob(value)
    return (
        value,
        [WeakDerivative(rate, d.concentration / rate, None, larger)],
        jnp.sum(log_prob),
    )
