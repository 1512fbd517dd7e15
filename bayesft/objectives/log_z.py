"""A guide that learns log Z of its target beside its own parameters."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bayesft.base import Enumerable, Guide, Horizon, Prior, Prompt, PyTree
from bayesft.errors import GuideError
from bayesft.priors.wrapped import Listed, Wrapped
from bayesft.target import Target


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GuideWithLogZ(Wrapped, Guide):
    """A guide and one log Z_ψ(x) per prompt; as a distribution it is the guide."""

    guide: Guide
    log_zs: Float[Array, " P"]
    ids: Int[Array, " P"]

    @property
    def params(self) -> PyTree:  # pyright: ignore[reportIncompatibleMethodOverride]
        return {"guide": self.guide.params, "log_z": self.log_zs}

    def with_params(self, params: PyTree) -> GuideWithLogZ:
        inner, log_zs = (None, None) if params is None else (params["guide"], params["log_z"])
        return dataclasses.replace(self, guide=self.guide.with_params(inner), log_zs=log_zs)

    def log_z(self, x: Prompt) -> Float[Array, ""]:
        """log Z_ψ of a prompt in nats; NaN for one that the target did not have."""
        mine = self.ids == x.id
        return jnp.where(mine.any(), jnp.where(mine, self.log_zs, 0.0).sum(), jnp.nan)

    @property
    def inner(self) -> Prior:
        return self.guide

    def prepared(self) -> Prior:
        return self.guide.prepared()

    def start(self, xs: Prompt, num_particles: int, max_new_tokens: int):
        return self.guide.start(xs, num_particles, max_new_tokens)

    def advance(self, state: PyTree, tokens: Int[Array, "P N"]):
        return self.guide.advance(state, tokens)

    def reorder(self, state: PyTree, ancestors: Int[Array, "P N"]) -> PyTree:
        return self.guide.reorder(state, ancestors)

    def token_log_probs(self, tokens: Int[Array, " T"], x: Prompt, horizon: Horizon):
        return self.guide.token_log_probs(tokens, x, horizon)

    def token_logits(self, tokens: Int[Array, " T"], x: Prompt):
        return self.guide.token_logits(tokens, x)


@jax.tree_util.register_dataclass
class ListedGuideWithLogZ(Listed, GuideWithLogZ):
    """One around a guide whose sequences can be listed."""


def with_log_z(guide: Guide, target: Target, initial: float = 0.0) -> GuideWithLogZ:
    """A guide for `trajectory_balance`: it learns log Z(x) in nats of every prompt of a target.

    Once fitted, `fitted.guide.guide` is the guide alone and `fitted.guide.log_zs` holds log Z_ψ in
    the order of the target's prompts. Raises GuideError for what is not a guide.
    """
    if not isinstance(guide, Guide):
        raise GuideError(
            f"{type(guide).__name__} is not a guide.",
            cause="a prior was passed, which has no trainable parameters.",
            remedy="pass bft.trainable(prior) or bft.lm.lora(lm, ...).",
        )
    ids = target.xs.id
    kind = ListedGuideWithLogZ if isinstance(guide, Enumerable) else GuideWithLogZ
    return kind(guide, jnp.full(ids.shape, float(initial)), ids)
