"""KL(q ‖ p*), up to the constant log Z: the negative ELBO, and KL-regularised RL."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bayesft.errors import TargetError
from bayesft.program import draw
from bayesft.target import Target


def reverse_kl(guide: Any, target: Target, x: Any) -> Float[Array, ""]:
    """E_q[log q(y | x) − log π0(y | x) − log φ(y, x)] = KL(q ‖ p*) − log Z(x), in nats.

    Minimised by q = p*; mode-seeking; any estimator. Raises HardConstraintError for a target with
    hard constraints, under which it is infinite, TargetError for data. (Korbak et al. 2022, eq. 3.)
    """
    if not isinstance(target, Target):
        raise TargetError(
            "reverse_kl needs a density, and this target is data.",
            cause="an empirical target, which has completions and no evidence.",
            remedy="use bft.objectives.mle on data, or declare a bft.Target.",
        )
    target.require_finite("reverse_kl")
    y, log_q = draw("y", guide(x), with_log_prob=True)
    return _without_own_score(y, log_q) - target.log_density(y, x)


def _without_own_score(y: Any, log_q: Array) -> Array:
    """Drop E_q[∇ log q] = 0 where log q enters a cost linearly and y is discrete.

    At q = p* the gradient is then 0 in every sample. A continuous y may carry a pathwise gradient
    through log q, which is kept.
    """
    continuous = any(jnp.issubdtype(a.dtype, jnp.inexact) for a in jax.tree.leaves(y))
    return log_q if continuous else jax.lax.stop_gradient(log_q)
