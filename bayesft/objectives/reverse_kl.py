"""KL(q ‖ p*), up to the constant log Z: the negative ELBO, and KL-regularised RL."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bayesft.objectives.weights import Density, require_density
from bayesft.program import StochasticDensity, draw


def reverse_kl(guide: Any, target: Density, x: Any) -> Float[Array, ""]:
    """E_q[log q(y | x) − log π0(y | x) − log φ(y, x)] = KL(q ‖ p*) − log Z(x), in nats.

    Minimised by q = p*; mode-seeking; any estimator. With a stochastic density as q(· | x) an upper
    bound. Raises HardConstraintError for a target with hard constraints, under which it is
    infinite, TargetError for data. (Korbak et al. 2022, eq. 3.)
    """
    require_density(target, "reverse_kl", finite=True)
    q = guide(x)
    y, log_q = draw("y", q, with_log_prob=True)
    return _without_own_score(q, y, log_q) - target.log_density(y, x)


def _without_own_score(q: Any, y: Any, log_q: Array) -> Array:
    """Drop E_q[∇ log q] = 0 where log q enters a cost linearly and y is discrete.

    At q = p* the gradient is then 0 in every sample. A continuous y may carry a pathwise gradient
    through log q, which is kept; so is that of an estimate, whose mean is not 0.
    """
    continuous = any(jnp.issubdtype(a.dtype, jnp.inexact) for a in jax.tree.leaves(y))
    keeps = continuous or isinstance(q, StochasticDensity)
    return log_q if keeps else jax.lax.stop_gradient(log_q)
