"""Reweighted wake-sleep: wake phases for the model and for the guide."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bayesft.base import Claim
from bayesft.objectives.weights import (
    Density,
    draw_detached,
    require_density,
    require_samples,
)
from bayesft.program import plate


@dataclasses.dataclass(frozen=True)
class ReweightedWakeSleep:
    """P-wake −log (1/K) Σ_k w_k and Q-wake −Σ_k w̄_k·log q(y_k | x), over y_k ~ q drawn detached."""

    num_samples: int

    @property
    def claim(self) -> Claim:
        return Claim("biased", "the guide's gradient has self-normalised weights: O(1/K)")

    def __call__(self, guide: Any, target: Density, x: Any) -> Float[Array, ""]:
        require_density(target, "reweighted_wake_sleep", finite=True)

        def score(_) -> tuple[Array, Array]:
            y, log_q = draw_detached("y", guide(x))
            return target.log_density(y, x), log_q

        log_p, log_q = plate(score, self.num_samples)
        log_weights = log_p - jax.lax.stop_gradient(log_q)
        model = jnp.log(self.num_samples) - jax.nn.logsumexp(log_weights)
        weights = jax.lax.stop_gradient(jax.nn.softmax(log_weights))
        # Of value 0: what is reported is the bound.
        return model - weights @ (log_q - jax.lax.stop_gradient(log_q))


def reweighted_wake_sleep(num_samples: int) -> ReweightedWakeSleep:
    """The bound of `iwae` in value; P-wake its gradient for the model, Q-wake forward KL's for q.

    With w̄_k = w_k / Σ_j w_j the guide follows −Σ_k w̄_k·∇log q(y_k | x), an estimate of
    ∇KL(p* ‖ q) with a bias of O(1/K), so it is mass-covering and tends to p* as K grows; parameters
    of the target, where it has any (programs under `bft.expectation`), follow −Σ_k w̄_k·∇log p̃. No
    estimator is asked for. Raises ObjectiveError for K < 2, where w̄ = 1 teaches q nothing,
    HardConstraintError for hard constraints (all K weights may be 0; use `forward_kl`), TargetError
    for data. (Bornschein and Bengio 2015; Le et al. 2019.)
    """
    reason = "the self-normalised weight of one sample is 1, whatever the target."
    return ReweightedWakeSleep(require_samples("reweighted_wake_sleep", num_samples, 2, reason))
