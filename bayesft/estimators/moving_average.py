"""Score-function gradients with the mean cost of earlier steps as baseline."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from bayesft.base import Claim, StatefulEstimator
from bayesft.errors import EstimatorError

type Average = tuple[Float[Array, ""], Float[Array, ""]]
"""Decayed sums of costs and of their weights."""


@dataclasses.dataclass(frozen=True)
class MovingAverage(StatefulEstimator):
    """Score function with b = Σ_s decay^s·c̄_{t−1−s} / Σ_s decay^s, which no draw of step t enters.

    The first step has baseline 0.
    """

    decay: float

    @property
    def claim(self) -> Claim:
        return Claim("unbiased")

    def init(self) -> Average:
        return jnp.zeros(()), jnp.zeros(())

    def baseline(
        self, state: Average, credited: Float[Array, "K *shape"], described: None
    ) -> Float[Array, "K *shape"]:
        total, weight = state
        mean = jnp.where(weight > 0, total / jnp.where(weight > 0, weight, 1.0), 0.0)
        return jnp.full(credited.shape, mean)

    def update(
        self, state: Average, credited: Float[Array, "... K *shape"], described: None
    ) -> Average:
        total, weight = state
        return self.decay * total + jnp.mean(credited), self.decay * weight + 1.0


def moving_average(decay: float = 0.9) -> MovingAverage:
    """REINFORCE (Williams 1992) with an exponential moving average of each choice's credited cost.

    For one lane, where `leave_one_out` has nothing to average. `bft.fit` carries the average from
    step to step, and so do `init` and `step` of an expectation. The variance is what it would be
    with the best constant only where the cost moves slowly compared to 1/(1 − decay) steps.

    Raises EstimatorError for a decay outside [0, 1).
    """
    if not 0.0 <= decay < 1.0:
        raise EstimatorError(
            f"moving_average(decay={decay}) is no average.",
            cause="each step weighs decay times the step after it.",
            remedy="use 0 ≤ decay < 1; 0.9 remembers about ten steps.",
        )
    return MovingAverage(float(decay))
