"""Score-function gradients with a constant baseline."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from bayesft.base import Claim, ScoreEstimator


@dataclasses.dataclass(frozen=True)
class ScoreFunction(ScoreEstimator):
    """∇ E_q[c(y)] = E_q[(c(y) − b)·∇ log q(y) + ∇ c(y)] with a constant b."""

    baseline: float

    @property
    def claim(self) -> Claim:
        return Claim("unbiased")

    def prepare(self, credited: Float[Array, "K *shape"]) -> Float[Array, "K *shape"]:
        return jnp.full(credited.shape, self.baseline)


def score_function(baseline: float | None = None) -> ScoreFunction:
    """REINFORCE (Williams 1992) with an optional constant baseline, in nats."""
    return ScoreFunction(0.0 if baseline is None else float(baseline))
