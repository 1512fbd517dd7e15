"""Contrastive twist learning."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from bayesft.twists.objective import TwistObjective
from bayesft.twists.rollouts import Paths, Positives


@dataclasses.dataclass(frozen=True)
class Contrastive(TwistObjective):
    """See `contrastive`."""

    def __call__(self, paths: Paths, positives: Positives):
        log_weights = paths.log_prefix_weights + paths.log_twists
        # A sum over impossible prefixes alone would have no gradient but NaN.
        log_weights = jnp.maximum(log_weights, -1e30)
        log_normalisers = jax.nn.logsumexp(log_weights, 0) - jnp.log(log_weights.shape[0])
        return (log_normalisers - positives.mean(positives.log_twists)).mean()


def contrastive() -> Contrastive:
    """Contrastive twist learning: positions' mean of KL(p*(y_1:t) ‖ π_t), up to a constant.

    With π_t ∝ π0·φ_prefix·ψ_t over prefixes, finished sequences among them, the gradient is

        −Σ_t E_p*(y_1:t)[∇ log ψ_t] + E_π_t[∇ log ψ_t]

    (Zhao, Brekelmans, Makhzani and Grosse 2024, section 4.1, https://arxiv.org/abs/2404.17546).
    Both expectations are self-normalised over the rollouts, where no `positives` are given to
    `fit`; they are then equal draw by draw at the optimum, so that the gradient has no noise left.

    Optimum: the exact twist, up to a factor per position that π_t does not depend on. The factor is
    1 at every position where a finished sequence has mass, because ψ is known on those.
    """
    return Contrastive()
