"""Log-probs by logits that have the right derivative at a logit of 0, where models often start."""

from __future__ import annotations

import copy
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import gammaln
from jaxtyping import Float
from numpyro.distributions.discrete import ZeroInflatedProbs
from numpyro.distributions.util import validate_sample


def differentiable(distribution: Any) -> Any:
    """The distribution, with those below in place of numpyro's, whose log-probs take |logits|.

    JAX gives |x| the slope 1 at 0, so that their derivative there is y, not y − ½ per trial.
    """
    match distribution:
        case (
            dist.Independent()
            | dist.ExpandedDistribution()
            | dist.MaskedDistribution()
            | ZeroInflatedProbs()
        ):
            return _with(distribution, "base_dist", differentiable(distribution.base_dist))
        case dist.MixtureSameFamily():
            inner = differentiable(distribution.component_distribution)
            return _with(distribution, "_component_distribution", inner)
        case dist.MixtureGeneral():
            given = distribution.component_distributions
            parts = [differentiable(part) for part in given]
            same = all(map(operator.is_, parts, given))
            return distribution if same else _with(distribution, "_component_distributions", parts)
        case BernoulliLogits() | BinomialLogits():
            return distribution
        case dist.BernoulliLogits():
            return BernoulliLogits(distribution.logits, validate_args=_checked(distribution))
        case dist.BinomialLogits():
            count, checked = distribution.total_count, _checked(distribution)
            return BinomialLogits(distribution.logits, count, validate_args=checked)
    return distribution


def _checked(distribution: dist.Distribution) -> bool | None:
    return getattr(distribution, "_validate_args", None)


def _with(distribution: dist.Distribution, name: str, value: Any) -> dist.Distribution:
    if value is getattr(distribution, name):
        return distribution
    changed = copy.copy(distribution)
    setattr(changed, name, value)
    return changed


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
