"""REBAR whose temperature and scale are trained."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from bayesft.base import PyTree
from bayesft.estimators.relax import Relax
from bayesft.estimators.relaxation import Relaxation, require_temperature


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedRebar(Relax):
    """`relax` with s_φ(z) = η·c(soft(z/τ)), φ = (log τ, η)."""

    def surrogate_at(self, params: PyTree, relaxation: Relaxation, z: Array) -> Float[Array, ""]:
        soft = relaxation.soft(z, jnp.exp(params["log_temperature"]))
        return params["scale"] * self.surrogate_fn(params, soft)


def trained_rebar(
    cost: Callable[[Array], Float[Array, ""]],
    temperature: float = 0.5,
    scale: float = 1.0,
    optimizer: optax.GradientTransformation | None = None,
) -> TrainedRebar:
    """REBAR for a choice whose cost is known as a function: `cost(soft)` in [0, 1] or on a simplex.

    `rebar` runs the program at relaxed values; here one path is run, at the value itself, and
    `cost` is what the choice's part of it comes to, at relaxed values (Bernoulli: the choice's
    shape; Categorical: [V] more). Unbiased whatever it says. Temperature and scale start as given
    and are trained as in `relax`. Raises like `relax`. (Tucker et al. 2017, section 3.2.)
    """
    require_temperature("trained_rebar", temperature)
    params = {"log_temperature": math.log(temperature), "scale": float(scale)}
    optimizer = optax.adam(0.01) if optimizer is None else optimizer
    return TrainedRebar(lambda _, soft: cost(soft), params, optimizer)
