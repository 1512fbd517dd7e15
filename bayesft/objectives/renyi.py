"""The variational Rényi bound on log Z."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bayesft.errors import ObjectiveError
from bayesft.objectives.weights import Density, draw_log_weight, require_density, require_samples
from bayesft.program import plate


@dataclasses.dataclass(frozen=True)
class Renyi:
    """−1/(1 − α) · log (1/K) Σ_k w_k^(1 − α) with w_k = p̃(y_k | x) / q(y_k | x), y_k ~ q."""

    alpha: float
    num_samples: int

    def __call__(self, guide: Any, target: Density, x: Any) -> Float[Array, ""]:
        require_density(target, "renyi", finite=True)
        log_weights = plate(lambda _: draw_log_weight(guide, target, x), self.num_samples)
        power = 1.0 - self.alpha
        # By expm1, from the largest power on: near α = 1 a log close to 0 would round.
        largest = jax.lax.stop_gradient(log_weights[jnp.argmax(power * log_weights)])
        largest = jnp.where(jnp.isfinite(largest), largest, 0.0)
        above = jnp.mean(jnp.expm1(power * (log_weights - largest)))
        return -largest - jnp.log1p(above) / power


def renyi(alpha: float, num_samples: int) -> Renyi:
    """The K-sample estimate of D_α(q ‖ p*) − log Z in nats, at least −log Z for every K and α ≥ 0.

    Minimised by q = p*. α = 0 is `iwae`, α → 1 is reverse KL, α > 1 is more mode-seeking still; the
    estimate tends to D_α − log Z with K, and K = 1 is reverse KL for every α. Estimators of one
    path, without `vimco`. Raises ObjectiveError for K < 1, α < 0 and α = 1, HardConstraintError for
    hard constraints, TargetError for data. (Li and Turner 2016, sections 3 and 4.)
    """
    if alpha == 1:
        raise ObjectiveError(
            "renyi(alpha=1) divides by 1 − α = 0.",
            cause="the limit α → 1 is the evidence lower bound.",
            remedy="use bft.objectives.reverse_kl.",
        )
    if not 0 <= alpha < math.inf:
        raise ObjectiveError(
            f"renyi(alpha={alpha}) is no lower bound on log Z.",
            cause="a negative α bounds log Z from above; other values define nothing.",
            remedy="use 0 ≤ α < ∞, or bft.objectives.chi_upper_bound(order=1 − α) for α < 0.",
        )
    return Renyi(float(alpha), require_samples("renyi", num_samples, 1, "a mean over no weight."))
