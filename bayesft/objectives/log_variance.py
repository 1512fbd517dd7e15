"""The log-variance divergence, whose gradient is VarGrad."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from bayesft.objectives.weights import (
    Density,
    draw_detached,
    require_density,
    require_samples,
)
from bayesft.program import plate


@dataclasses.dataclass(frozen=True)
class LogVariance:
    """½·(sample variance of log q(y_k | x) − log p̃(y_k | x)) over y_1, …, y_K, drawn detached."""

    num_samples: int

    def __call__(self, guide: Any, target: Density, x: Any) -> Float[Array, ""]:
        require_density(target, "log_variance", finite=True)

        def gap(_) -> Float[Array, ""]:
            y, log_q = draw_detached("y", guide(x))
            return log_q - target.log_density(y, x)

        gaps = plate(gap, self.num_samples)
        # A draw of density 0 makes the variance infinite; inf − inf would make it NaN.
        return jnp.where(jnp.isposinf(gaps).any(), jnp.inf, 0.5 * jnp.var(gaps, ddof=1))


def log_variance(num_samples: int) -> LogVariance:
    """½·Var_r[log q(y | x) − log p̃(y | x)] in nats², at r = q, which is not differentiated.

    0 at q = p* alone, whatever Z; its gradient has the mean of reverse KL's (and is that of
    `leave_one_out(num_samples)` on it). The draws are not differentiated, so no estimator is asked
    for and one that is given is not used. Raises ObjectiveError for K < 2, HardConstraintError for
    hard constraints, TargetError for data. (Richter, Boustati, Nüsken, Ruiz and Akyildiz 2020.)
    """
    reason = "a variance needs two samples."
    return LogVariance(require_samples("log_variance", num_samples, 2, reason))
