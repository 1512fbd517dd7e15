"""TensorFlow Probability on JAX: distributions as choices, bijectors as transforms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpyro.distributions import constraints
from numpyro.distributions.transforms import Transform

from bayesft.errors import InteropError
from bayesft.interop.extras import load
from bayesft.program.seeded import Seeded, adopted

JAX = "tensorflow_probability.substrates.jax"


def distribution(tfp_distribution: Any) -> Seeded:
    """A TFP distribution under bayesft's protocol: `sample(key)`, `log_prob(value)`.

    `bft.draw` takes TFP distributions as they are; this is for other places, such as the proposal
    of `bft.estimators.importance`. `reparameterize` applies to fully reparameterised ones (VonMises
    among them: its sample is differentiated implicitly, right for costs that are periodic in it),
    `enumerate` to Bernoulli, Categorical, OneHotCategorical and FiniteDiscrete.

    Raises InteropError for anything else and where TFP is missing.
    """
    tfd = load(f"{JAX}.distributions", "tfp")
    if not isinstance(tfp_distribution, tfd.Distribution):
        raise InteropError(
            f"{type(tfp_distribution).__name__} is no distribution of TFP on JAX.",
            cause="a class instead of an instance, or TFP for another backend.",
            remedy="from tensorflow_probability.substrates import jax as tfp",
        )
    return adopted(tfp_distribution)


def transform(bijector: Any) -> Transform:
    """A TFP bijector as a numpyro transform, e.g. for `dist.TransformedDistribution`.

    `log_abs_det_jacobian(x, y)` has the batch shape of x, also where TFP gives the constant of one
    element. Raises InteropError for bijectors of several parts and for ones that are not injective,
    and where TFP is missing.
    """
    tfb = load(f"{JAX}.bijectors", "tfp")
    happened = ""
    if not isinstance(bijector, tfb.Bijector):
        happened = f"{type(bijector).__name__} is no bijector of TFP on JAX."
    elif np.ndim(bijector.forward_min_event_ndims) or isinstance(
        bijector.forward_min_event_ndims, Mapping
    ):
        happened = f"The bijector {bijector.name} maps several parts at once."
    elif not bijector._is_injective:
        happened = f"{bijector.name} is not injective: a value has several inverses."
    if happened:
        raise InteropError(
            happened,
            cause="a numpyro transform maps one array to one array and back.",
            remedy="use an injective bijector of one part, or draw from the TFP distribution.",
        )
    return BijectorTransform(bijector)


class BijectorTransform(Transform):
    """y = b(x); shapes are those that b itself gives, its parameters broadcast."""

    def __init__(self, bijector: Any):
        self.bijector = bijector

    @property
    def domain(self) -> constraints.Constraint:
        return Image(self.bijector.inverse, self.bijector.forward, _event_dims(self.bijector)[0])

    @property
    def codomain(self) -> constraints.Constraint:
        return Image(self.bijector.forward, self.bijector.inverse, _event_dims(self.bijector)[1])

    def __call__(self, x: Array) -> Array:
        return self.bijector.forward(x)

    def _inverse(self, y: Array) -> Array:
        return self.bijector.inverse(y)

    def log_abs_det_jacobian(self, x: Array, y: Array, intermediates: Any = None) -> Array:
        event_dim, _ = _event_dims(self.bijector)
        value = self.bijector.forward_log_det_jacobian(x, event_dim)
        batch_shape = jnp.shape(x)[: jnp.ndim(x) - event_dim]
        return jnp.broadcast_to(value, jnp.broadcast_shapes(jnp.shape(value), batch_shape))

    def forward_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return _shape(self.bijector.forward, shape)

    def inverse_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return _shape(self.bijector.inverse, shape)

    def tree_flatten(self):
        if jax.tree.leaves(self.bijector) == [self.bijector]:  # no pytree: a flow with a function
            return (), self.bijector
        return (self.bijector,), None

    @classmethod
    def tree_unflatten(cls, aux_data, params):
        return cls(params[0] if params else aux_data)


class Image(constraints.Constraint):
    """What a bijector maps to: the values that it maps back and forth to themselves."""

    def __init__(self, forward: Any, inverse: Any, event_dim: int):
        self.forward, self.inverse, self._event_dim = forward, inverse, event_dim

    @property
    def event_dim(self) -> int:
        return self._event_dim

    def __call__(self, x: Array) -> Array:
        inside = jnp.isclose(self.forward(self.inverse(x)), x, rtol=1e-3, atol=1e-4)
        return jnp.all(inside, axis=tuple(range(-self._event_dim, 0)))


def _event_dims(bijector: Any) -> tuple[int, int]:
    return int(bijector.forward_min_event_ndims), int(bijector.inverse_min_event_ndims)


def _shape(function: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    return jax.eval_shape(function, jax.ShapeDtypeStruct(shape, jnp.float32)).shape
