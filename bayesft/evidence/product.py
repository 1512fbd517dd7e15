"""An expert's probability of the sequence as evidence: products of experts and powers."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bayesft.base import EosPolicy, Horizon, Potential, Prior, Prompt
from bayesft.errors import EvidenceError


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Product(Potential):
    """log φ(y, x) = weight · log p_expert(y | x), under the EOS policy of the target it is in."""

    expert: Prior
    weight: Float[Array, ""]
    eos_policy: EosPolicy = dataclasses.field(metadata={"static": True})
    name: str = dataclasses.field(metadata={"static": True})

    @property
    def hard(self) -> bool:
        return False  # a log-probability has no limit, but declares nothing impossible

    @property
    def bounds(self) -> tuple[float, float]:
        weight = float(self.weight)
        low, high = sorted((0.0, -math.inf if weight > 0 else math.inf if weight < 0 else 0.0))
        return low, high

    def bind(self, prior: Prior, horizon: Horizon, longest_prompt: int) -> Product:
        require_same_tokens(self.name, self.expert, prior)
        require_context(self.name, self.expert, longest_prompt + horizon.max_new_tokens)
        return dataclasses.replace(self, eos_policy=horizon.eos_policy)

    def log_potential(self, tokens: Int[Array, " T"], x: Prompt, length: Int[Array, ""]):
        horizon = Horizon(tokens.shape[0], self.eos_policy)
        log_probs = self.expert.token_log_probs(tokens, x, horizon)
        # A prefix that SMC looks at counts its own tokens; EOS behind it is padding.
        counted = jnp.arange(tokens.shape[0]) < length
        log_prob = jnp.where(counted, log_probs, 0.0).sum()
        return jnp.where(self.weight == 0, 0.0, self._weighted(log_prob))

    def _weighted(self, log_prob: Float[Array, ""]) -> Float[Array, ""]:
        return self.weight * log_prob


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Power(Product):
    """log φ(y, x) = (α − 1) · log π0(y | x); its expert is the prior and its weight α − 1."""

    def _weighted(self, log_prob: Float[Array, ""]) -> Float[Array, ""]:
        # 0^α is 0 for every α here: what the prior excludes stays excluded below α = 1.
        return jnp.where(log_prob == -jnp.inf, -jnp.inf, self.weight * log_prob)


def product(expert: Prior, weight: float = 1.0, name: str | None = None) -> Product:
    """Evidence that multiplies the prior by a power of another distribution's probability:

        log φ(y, x) = weight · log p_expert(y | x)      (nats; p* ∝ π0 · p_expert^weight)

    for any prior over the same tokens, which sees the prompt's token ids. In a target the expert is
    normalised as the prior is: under eos="force" its EOS at the limit is certain as well. It is
    evaluated on whole sequences, on prefixes token for token, so SMC may look ahead (`every=k`).
    Each evaluation is a forward pass of the expert.

    A negative weight makes an anti-expert; it needs an expert that excludes nothing which the prior
    can produce, since an excluded sequence would have a potential of +inf (an error when sampled).
    With a positive weight such a sequence is impossible. A new weight, being a leaf, retraces
    nothing.

    Raises EvidenceError for an expert that is no prior and a weight that is not finite; when a
    target is declared, for another vocabulary or EOS, and a context that is too short.

    Products of experts: Hinton 2002, https://doi.org/10.1162/089976602760128018.
    """
    require_prior("product", expert)
    label = name or f"product({getattr(expert, 'name', type(expert).__name__)})"
    _require_finite("weight", weight, label)
    return Product(expert, jnp.float32(weight), "truncate", label)


def require_prior(member: str, prior: object) -> None:
    """Refuse what is not a distribution over sequences."""
    if not isinstance(prior, Prior):
        raise EvidenceError(
            f"{member} got a {type(prior).__name__}, not a prior.",
            cause="a score function or a folder's path in place of a model.",
            remedy="pass a prior or guide: bft.lm.load(…), bft.priors.markov(…), fitted.guide.",
        )


def _require_finite(what: str, value: float, name: str) -> None:
    if not math.isfinite(value):
        raise EvidenceError(
            f"{what}={value} of {name} is not finite.",
            cause="a division by zero, or a limit that no target reaches.",
            remedy=f"use a finite {what}.",
        )


def require_same_tokens(name: str, expert: Prior, prior: Prior) -> None:
    """Raise EvidenceError where ids of the target's prior mean something else to the expert."""
    if expert.vocab_size != prior.vocab_size or set(expert.eos) != set(prior.eos):
        raise EvidenceError(
            f"{name} has {expert.vocab_size} tokens and ends by {sorted(expert.eos)}; the target's "
            f"prior has {prior.vocab_size} and ends by {sorted(prior.eos)}.",
            cause="models of different tokenizers: equal ids would be different text.",
            remedy="use models that share a tokenizer, or score the text by bft.evidence.reward.",
        )


def require_context(name: str, expert: Prior, needed: int) -> None:
    """Raise EvidenceError where the sequences do not fit the expert's context."""
    if expert.max_length is not None and needed > expert.max_length:
        raise EvidenceError(
            f"{name} would score {needed} tokens; its model has {expert.max_length} positions.",
            cause="the context of the model is shorter than prompt plus completion.",
            remedy="use a smaller max_new_tokens, shorter prompts, or another model.",
        )
