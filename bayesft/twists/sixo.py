"""SIXO: the twist as a density ratio, learned by classification."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from bayesft.draws import log_mean_exp
from bayesft.twists.objective import TwistObjective
from bayesft.twists.rollouts import Paths, Positives


@dataclasses.dataclass(frozen=True)
class Sixo(TwistObjective):
    """See `sixo`."""

    needs_z = True

    def __call__(self, paths: Paths, positives: Positives):
        log_prefix_weights = jnp.maximum(paths.log_prefix_weights, -1e30)
        log_mass = log_mean_exp(log_prefix_weights.T)
        # Both classes have mass 1; the ratio of what they had is known.
        shift = jax.lax.stop_gradient(jnp.maximum(paths.log_z, -1e30) - log_mass)[None]
        weights = jnp.where(paths.live, jax.nn.softmax(log_prefix_weights, axis=0), 0.0)
        negative = (weights * jax.nn.softplus(paths.log_twists - shift)).sum(0)
        positive = positives.mean(jax.nn.softplus(shift - positives.log_twists))
        return (positive + negative).mean()


def sixo() -> Sixo:
    """SIXO: cross-entropy of telling prefixes of the posterior from those of π0·φ_prefix,

        −E_p*(y_1:t)[log σ(z_t)] − E_π0·φ_prefix/C_t[log(1 − σ(z_t))],  z_t = log ψ_t − log Z/C_t

    meaned over positions (Lawson, Raventós, Warrington and Linderman 2022,
    https://arxiv.org/abs/2206.05952). C_t = E_π0[φ_prefix(y_1:t)] and Z come from the same rollouts
    as the two classes, which are self-normalised: a bias of O(1/N).

    Optimum: the exact twist wherever prefixes are drawn, without a free factor, since the offset
    log Z/C_t is taken out of the classifier's logit.
    """
    return Sixo()
