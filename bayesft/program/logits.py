"""Log-probs by logits that have the right derivative at a logit of 0, where models often start."""

from __future__ import annotations

import copy
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import gammaln
from jaxtyping import Float
from numpyro.distributions.util import validate_sample

WRAPPERS = dist.Independent | dist.ExpandedDistribution | dist.MaskedDistribution


def differentiable(distribution: Any) -> Any:
    """The distribution, with those below in place of numpyro's, whose log-probs take |logits|.

    JAX gives |x| the slope 1 at 0, so that their derivative there is y, not y − ½ per trial.
    """
    if isinstance(distribution, WRAPPERS):
        inner = differentiable(distribution.base_dist)
        if inner is distribution.base_dist:
            return distribution
        changed = copy.copy(distribution)
        changed.base_dist = inner
        return changed
    checked = getattr(distribution, "_validate_args", None)
    match distribution:
        case BernoulliLogits() | BinomialLogits():
            return distribution
        case dist.BernoulliLogits():
            return BernoulliLogits(distribution.logits, validate_args=checked)
        case dist.BinomialLogits():
            count = distribution.total_count
            return BinomialLogits(distribution.logits, count, validate_args=checked)
    return distribution


class BernoulliLogits(dist.BernoulliLogits):
    """log p(y) = y·l − log(1 + e^l)."""

    @validate_sample
    def log_prob(self, value: Any) -> Float[jax.Array, "*shape"]:
        given: Any = self.logits
        finite = jnp.isfinite(given)
        logits = jnp.where(finite, given, 0.0)
        log_prob = value * logits - jax.nn.softplus(logits)
        return jnp.where(finite, log_prob, super().log_prob(value))


class BinomialLogits(dist.BinomialLogits):
    """log p(y) = y·l − n·log(1 + e^l) + log C(n, y)."""

    @validate_sample
    def log_prob(self, value: Any) -> Float[jax.Array, "*shape"]:
        logits: Any = self.logits
        count: Any = jnp.asarray(self.total_count, float)
        log_choose = gammaln(count + 1) - gammaln(value + 1) - gammaln(count - value + 1)
        return value * logits - count * jax.nn.softplus(logits) + log_choose
