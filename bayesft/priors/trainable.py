"""Priors as guides: of a stepped prior, the floating-point arrays become the parameters."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from bayesft.base import Guide, Horizon, Prior, Prompt, PyTree
from bayesft.errors import GuideError
from bayesft.priors.stepped import SteppedPrior
from bayesft.priors.wrapped import Listed


def trainable(prior: Prior) -> Guide:
    """A guide that starts as the prior, with all of the prior's parameters trainable.

    The parameters of the enumerable priors are logits, so any values define a normalised guide.
    """
    if not isinstance(prior, Prior):
        raise GuideError(
            f"{type(prior).__name__} is not a prior.",
            cause="bft.trainable takes what bft.lm.load or bft.priors make, not a target.",
            remedy="pass target.prior, or the prior itself.",
        )
    return prior.trainable()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ParametricGuide(Listed, Guide):
    """A prior split into trainable arrays and the rest; everything else is the prior's own."""

    params: dict[str, Array]  # pyright: ignore[reportIncompatibleMethodOverride]
    template: SteppedPrior

    @classmethod
    def of(cls, prior: SteppedPrior) -> ParametricGuide:
        leaves, _ = jax.tree_util.tree_flatten_with_path(prior)
        params = {
            jax.tree_util.keystr(path): jnp.where(jnp.isneginf(leaf), 0.0, leaf)
            for path, leaf in leaves
            if jnp.issubdtype(leaf.dtype, jnp.inexact)
        }
        return cls(params, prior)

    @property
    def prior(self) -> Any:
        """The prior at the current parameters.

        Of the template's floats only -inf is read: what is impossible stays so, and parameters stay
        finite under weight decay.
        """

        def current(path, leaf):
            value = self.params.get(jax.tree_util.keystr(path))
            return leaf if value is None else jnp.where(jnp.isneginf(leaf), -jnp.inf, value)

        return jax.tree_util.tree_map_with_path(current, self.template)

    def with_params(self, params: PyTree) -> ParametricGuide:
        return ParametricGuide(params, self.template)

    @property
    def inner(self) -> SteppedPrior:
        return self.template

    def start(self, xs: Prompt, num_particles: int, max_new_tokens: int):
        state, logits = self.prior.start(xs, num_particles, max_new_tokens)
        return state, logits

    def advance(self, state: PyTree, tokens: Int[Array, "P N"]):
        return self.prior.advance(state, tokens)

    def reorder(self, state: PyTree, ancestors: Int[Array, "P N"]) -> PyTree:
        return self.prior.reorder(state, ancestors)

    def token_log_probs(self, tokens: Int[Array, " T"], x: Prompt, horizon: Horizon):
        return self.prior.token_log_probs(tokens, x, horizon)
