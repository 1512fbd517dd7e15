"""A power of the prior as evidence: the target p^α, of whole sequences."""

from __future__ import annotations

import math

import jax.numpy as jnp

from bayesft.base import Prior
from bayesft.errors import EvidenceError
from bayesft.evidence.product import Power, require_prior


def power(prior: Prior, alpha: float, name: str | None = None) -> Power:
    """Evidence that turns a target's prior π0 into its power:

        log φ(y, x) = (α − 1) · log π0(y | x)      (nats; p* ∝ π0(y | x)^α)

    `prior` is the target's own. The power is that of whole sequences: α > 1 prefers sequences that
    are likely as a whole, α < 1 flattens. Sampling token by token at temperature 1/α is another
    law, because it renormalises after every token: it does not see how likely the continuations of
    a token will be. As in `product`, the prior is normalised by the target's EOS policy, a prefix
    counts its own tokens, and another α retraces nothing. Sequences that the prior excludes stay
    impossible for every α.

    Raises EvidenceError for α < 0 or not finite, and as `product` does.

    Power targets of language models: Karan and Du 2025, https://arxiv.org/abs/2510.14901.
    """
    require_prior("power", prior)
    if not (math.isfinite(alpha) and alpha >= 0):
        raise EvidenceError(
            f"alpha={alpha} of a power target is not a finite number of at least 0.",
            cause="a temperature below 0; p^α with α < 0 would prefer the least likely sequences.",
            remedy="use α > 1 to sharpen, 0 ≤ α < 1 to flatten, or bft.evidence.product with a "
            "negative weight for an anti-expert.",
        )
    return Power(prior, jnp.float32(alpha - 1), "truncate", name or f"power({alpha:g})")
