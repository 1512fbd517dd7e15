"""Temperature, top-p and masks: proposals with densities of their own."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bayesft.base import Enumerable, Guide, Horizon, Prior, Prompt, PyTree
from bayesft.errors import GuideError, TargetError
from bayesft.priors.wrapped import Listed, Wrapped


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Shaped(Wrapped):
    """q(v | prefix) ∝ π(v | prefix)^(1/temperature) on the tokens that top-p and mask leave."""

    prior: Prior
    temperature: float = dataclasses.field(metadata={"static": True})
    top_p: float = dataclasses.field(metadata={"static": True})
    banned: tuple[int, ...] = dataclasses.field(metadata={"static": True})

    @property
    def inner(self) -> Prior:
        return self.prior

    @property
    def truncates(self) -> bool:
        """Whether there are sequences of the prior that it never draws."""
        return self.top_p < 1 or bool(self.banned)

    def shape(self, logits: Float[Array, "*batch V"]) -> Float[Array, "*batch V"]:
        """The logits of the next token, from those of the prior."""
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32)) / self.temperature
        if self.banned:
            banned = jnp.zeros(self.vocab_size, bool).at[jnp.asarray(self.banned)].set(True)
            left = jnp.where(banned, -jnp.inf, logits)
            # Where the prior allows nothing else, the mask gives way: something has to be drawn.
            logits = jnp.where((left > -jnp.inf).any(-1, keepdims=True), left, logits)
        if self.top_p < 1:
            ranked = jnp.flip(jnp.sort(logits, axis=-1), axis=-1)
            probs = jax.nn.softmax(ranked)
            before = jnp.cumsum(probs, -1) - probs
            least = jnp.where(before < self.top_p, ranked, jnp.inf).min(-1, keepdims=True)
            logits = jnp.where(logits >= least, logits, -jnp.inf)
        return logits

    def prepared(self) -> Shaped:
        return dataclasses.replace(self, prior=self.prior.prepared())

    def start(self, xs: Prompt, num_particles: int, max_new_tokens: int):
        state, logits = self.prior.start(xs, num_particles, max_new_tokens)
        return state, self.shape(logits)

    def advance(self, state: PyTree, tokens: Int[Array, "P N"]):
        state, logits = self.prior.advance(state, tokens)
        return state, self.shape(logits)

    def reorder(self, state: PyTree, ancestors: Int[Array, "P N"]) -> PyTree:
        return self.prior.reorder(state, ancestors)

    def token_log_probs(
        self, tokens: Int[Array, " T"], x: Prompt, horizon: Horizon
    ) -> Float[Array, " T"]:
        log_probs = jax.nn.log_softmax(self.token_logits(tokens, x))
        chosen = jnp.take_along_axis(log_probs, tokens[:, None], 1)[:, 0]
        return horizon.finish(chosen, tokens, self.eos, self.vocab_size)

    def token_logits(self, tokens: Int[Array, " T"], x: Prompt) -> Float[Array, "T V"]:
        return self.shape(self.prior.token_logits(tokens, x))

    def trainable(self) -> Guide:
        raise GuideError(
            "A shaped prior is for drawing, not for training.",
            cause="temperature, top-p and masks belong to proposals.",
            remedy="train the prior itself: bft.trainable(prior), bft.lm.lora(lm, ...).",
        )


@jax.tree_util.register_dataclass
class ListedShaped(Listed, Shaped):
    """A shaped prior whose sequences can be listed."""


def shaped(
    prior: Prior, *, temperature: float = 1.0, top_p: float = 1.0, banned: Sequence[int] = ()
) -> Shaped:
    """A prior or guide as it is sampled with a temperature, top-p and a mask: a proposal.

    In this order: logits are divided by `temperature`, the tokens `banned` are left out, then all
    but the most probable ones that together have a mass of at least `top_p` (Holtzman et al. 2020,
    https://arxiv.org/abs/1904.09751). What is left is normalised, so its log-probs are exact: draws
    can be weighed by π/q, as `proposal=` of a sampler or of `bft.fit`.

    Raises TargetError for a temperature that is not positive, top_p outside (0, 1], or tokens that
    are not in the vocabulary.
    """
    known = all(0 <= token < prior.vocab_size for token in banned)
    if not (math.isfinite(temperature) and temperature > 0 and 0 < top_p <= 1 and known):
        raise TargetError(
            f"shaped(temperature={temperature}, top_p={top_p}, banned={list(banned)}) is no "
            "distribution over the prior's tokens.",
            cause="a temperature of 0 (greedy decoding has no density), or percent for a share.",
            remedy="use temperature > 0, 0 < top_p ≤ 1, and token ids below "
            f"{prior.vocab_size} in banned.",
        )
    kind = ListedShaped if isinstance(prior, Enumerable) else Shaped
    return kind(prior, float(temperature), float(top_p), tuple(map(int, banned)))
