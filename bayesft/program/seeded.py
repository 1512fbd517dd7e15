"""Distributions of TensorFlow Probability, which take their key as `seed`, as choices."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bayesft.base import Key, PyTree
from bayesft.errors import ChoiceError
from bayesft.program.logits import differentiable


def adopted(distribution: Any) -> Any:
    """The distribution as `draw` calls it: one of TFP in a wrapper, any other with its derivatives.

    Raises ChoiceError for one that was made for another backend than JAX.
    """
    if hasattr(distribution, "has_rsample") or not hasattr(distribution, "reparameterization_type"):
        return differentiable(distribution)
    kind = type(distribution)
    if ".substrates.jax." not in " ".join(base.__module__ for base in kind.__mro__):
        raise ChoiceError(
            f"{kind.__name__} is a distribution of TensorFlow Probability for another backend.",
            cause=f"it was imported from {kind.__module__}.",
            remedy="from tensorflow_probability.substrates import jax as tfp",
        )
    return _wrapper(kind)(distribution)


@dataclasses.dataclass(frozen=True)
class Seeded:
    """A distribution of TFP under the names of the Distribution protocol and of numpyro."""

    distribution: Any

    def sample(self, key: Key) -> PyTree:
        return self.distribution.sample(seed=key)

    def log_prob(self, value: PyTree) -> Float[Array, "..."]:
        return self.distribution.log_prob(value)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        shape = self.distribution.batch_shape
        return tuple(shape) if not isinstance(shape, dict) else ()

    @property
    def has_rsample(self) -> bool:
        """Whether all of the sample is differentiable in all parameters (by path or implicitly)."""
        full = _tfd().FULLY_REPARAMETERIZED
        kinds = jax.tree.leaves(self.distribution.reparameterization_type)
        return all(kind is full for kind in kinds)

    @property
    def has_enumerate_support(self) -> bool:
        tfd = _tfd()
        finite = tfd.Bernoulli, tfd.Categorical, tfd.OneHotCategorical, tfd.FiniteDiscrete
        return isinstance(self.distribution, finite)

    def enumerate_support(self) -> Array:
        """Every value, stacked; NotImplementedError where the support is not known to be finite."""
        d, tfd = self.distribution, _tfd()
        match d:
            case tfd.Bernoulli():
                return jnp.arange(2, dtype=d.dtype)
            case tfd.Categorical():
                return jnp.arange(_num_categories(d), dtype=d.dtype)
            case tfd.OneHotCategorical():
                return jnp.eye(_num_categories(d), dtype=d.dtype)
            case tfd.FiniteDiscrete():
                return jnp.asarray(d.outcomes)
        raise NotImplementedError


def _num_categories(distribution: Any) -> int:
    given = distribution.logits if distribution.logits is not None else distribution.probs
    return given.shape[-1]


@functools.cache
def _wrapper(kind: type) -> type[Seeded]:
    """A wrapper with the name of what it wraps, which is what errors say."""
    wrapper = type(kind.__name__, (Seeded,), {})
    return jax.tree_util.register_dataclass(wrapper, ["distribution"], [])


def _tfd() -> Any:
    from tensorflow_probability.substrates.jax import distributions

    return distributions
