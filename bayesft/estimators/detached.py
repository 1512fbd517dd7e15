"""Choices that are not differentiated."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from bayesft.base import Claim, ScoreEstimator


@dataclasses.dataclass(frozen=True)
class Detached(ScoreEstimator):
    """E_q[∇ c(y)]: the choice is recorded and reweighted like any other, and has no score term."""

    @property
    def claim(self) -> Claim:
        return Claim("biased", "the choice's own score term E[c(y)·∇ log q(y)] is dropped")

    def prepare(self, credited: Float[Array, "K *shape"]) -> Float[Array, "K *shape"]:
        return jnp.zeros(credited.shape)

    def surrogate(
        self,
        credited: Float[Array, "*shape"],
        log_prob: Float[Array, "*shape"],
        stored: Float[Array, "*shape"],
    ) -> Float[Array, ""]:
        return jnp.zeros(())


def detached() -> Detached:
    """Hold a choice fixed: what it does to the cost is not credited to its distribution.

    For objectives that state their own gradient, and where a bias is taken for less variance: the
    ancestors in `variational_smc`, as in Maddison et al. 2017 and Naesseth et al. 2018.
    """
    return Detached()
