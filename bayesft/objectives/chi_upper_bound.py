"""The χ upper bound on log Z."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from bayesft.errors import ObjectiveError
from bayesft.objectives.weights import Density, draw_log_weight, require_density


@dataclasses.dataclass(frozen=True)
class ChiUpperBound:
    """(w / e^log_z)^n of one draw y ~ q, with w = p̃(y | x) / q(y | x)."""

    order: float
    log_z: float

    def __call__(self, guide: Any, target: Density, x: Any) -> Float[Array, ""]:
        require_density(target, "chi_upper_bound", finite=False)
        return jnp.exp(self.order * (draw_log_weight(guide, target, x) - self.log_z))


def chi_upper_bound(order: float = 2.0, *, log_z: float = 0.0) -> ChiUpperBound:
    """E_q[w^n] / e^(n·log_z): with this value V, CUBO_n = log_z + log(V) / n ≥ log Z, in nats.

    Minimised by q = p*, mass-covering; a draw of density 0 costs 0, so hard constraints are
    allowed. The bound is minimised through V, of which one draw is an unbiased estimate; `log_z` is
    any guess of log Z, which keeps powers in the range of floats. Any estimator; heavy-tailed where
    q is narrower than p*. Raises ObjectiveError for n ≤ 1, TargetError for data. (Dieng, Tran,
    Ranganath, Paisley and Blei 2017, section 2.)
    """
    if not 1 < order < math.inf:
        raise ObjectiveError(
            f"chi_upper_bound(order={order}) bounds nothing from above.",
            cause="n = 1 gives Z for every guide that covers the target, and n < 1 a lower bound.",
            remedy="use an order n > 1, or bft.objectives.renyi(alpha=1 − n, ...) for n < 1.",
        )
    if not math.isfinite(log_z):
        raise ObjectiveError(
            f"chi_upper_bound was given log_z={log_z}.",
            cause="a target whose draws were all impossible has log Z = -inf.",
            remedy="give a finite guess of log Z, such as the mean of draws.log_z.",
        )
    return ChiUpperBound(float(order), float(log_z))
