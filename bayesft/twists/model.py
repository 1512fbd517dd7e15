"""A twist that is another model."""

from __future__ import annotations

import dataclasses

import jax
from jaxtyping import Array, Float, Int

from bayesft.base import Guide, Prior, Prompt, PyTree, SteppedTwist
from bayesft.errors import SamplerError


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ModelTwist(SteppedTwist):
    """log ψ(y_1:t, v) = the model's logit of v after y_1:t; its parameters are the guide's."""

    guide: Guide

    @property
    def params(self) -> PyTree:
        return self.guide.params

    @property
    def max_length(self) -> int | None:
        return self.guide.max_length

    def with_params(self, params: PyTree) -> ModelTwist:
        return ModelTwist(self.guide.with_params(params))

    def start(self, xs: Prompt, num_particles: int, max_new_tokens: int):
        return self.guide.start(xs, num_particles, max_new_tokens)

    def advance(self, state: PyTree, tokens: Int[Array, "P N"]):
        return self.guide.advance(state, tokens)

    def reorder(self, state: PyTree, ancestors: Int[Array, "P N"]) -> PyTree:
        return self.guide.reorder(state, ancestors)

    def log_twists(self, tokens: Int[Array, " T"], x: Prompt, prior: Prior) -> Float[Array, "T V"]:
        return self.guide.token_logits(tokens, x)


def model(guide: Prior) -> ModelTwist:
    """A twist that is a separate model over the same vocabulary, run beside the prior.

    log ψ(y_1:t, v) is its raw logit, which need not be normalised; a guide's parameters are the
    twist's, and a prior becomes a guide, all of its parameters trainable. A token whose logit is
    -inf is never proposed. Raises SamplerError for anything but a prior or a guide.
    """
    if not isinstance(guide, Prior):
        raise SamplerError(
            f"A {type(guide).__name__} cannot be a twist.",
            cause="a whole fit or a target was passed.",
            remedy="pass a prior or a guide, such as `fitted.guide`.",
        )
    return ModelTwist(guide.trainable())
