"""FUDGE: the twist as a regression of evidence on prefixes."""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
from jax.scipy.special import xlogy

from bayesft.errors import TargetError
from bayesft.target import Target
from bayesft.twists.objective import TwistObjective
from bayesft.twists.rollouts import Paths, Positives


@dataclasses.dataclass(frozen=True)
class Fudge(TwistObjective):
    """See `fudge`."""

    log_bound: float = math.nan

    from_prior = True
    needs_positives = False

    def bind(self, target: Target) -> Fudge:
        log_bound = target.evidence.bounds[1]
        if not math.isfinite(log_bound):
            raise TargetError(
                f"fudge regresses bounded evidence; this target's has bounds "
                f"{target.evidence.bounds}.",
                cause="evidence that was declared without bounds.",
                remedy="declare bounds=…, or learn the twist by contrastive() or soft_q().",
            )
        return Fudge(float(log_bound))

    def __call__(self, paths: Paths, positives: Positives):
        # The rollouts are the prior's own: what comes after a prefix is evidence and nothing else.
        to_come = paths.log_end + paths.log_ratio.sum(-1)
        log_seen = jnp.where(paths.live, paths.log_prefix_weights, 0.0)
        possible = (to_come > -jnp.inf)[:, None]
        log_f = jnp.where(possible, to_come[:, None] - log_seen, -jnp.inf) - self.log_bound
        counts = paths.live & (log_seen > -jnp.inf)
        f = jnp.where(counts, jnp.exp(jnp.where(counts, log_f, -jnp.inf)), 0.0)
        log_p = jnp.where(counts, paths.log_twists, 0.0) - self.log_bound
        losses = jnp.exp(log_p) - f + xlogy(f, f) - f * log_p
        return jnp.where(counts, losses, 0.0).sum() / jnp.maximum(counts.sum(), 1)


def fudge() -> Fudge:
    """FUDGE: regression on prefixes of the evidence that the prior's own sequences attain,

        E_π0[ p_t − f − f·log p_t/f ],  p_t = ψ_t/M,  f = φ(y)/(φ_prefix(y_1:t)·M),  M = sup φ

    (Yang and Klein 2021, https://arxiv.org/abs/2104.05218). They take a classifier's binary
    cross-entropy. Here log ψ may be any number, not only one below log M, so −(1 − f)·log(1 − p)
    becomes p − f, its limit for small p and f; the minimum is the same.

    Optimum: p_t = E[f | y_1:t], the exact twist wherever the prior draws, without a free factor.
    Only the prior is sampled, so rare evidence needs many particles. Raises TargetError for
    evidence without an upper bound, which sets the scale M.
    """
    return Fudge()
