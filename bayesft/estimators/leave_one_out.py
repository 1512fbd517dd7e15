"""Score-function gradients with the other lanes' mean as baseline."""

from __future__ import annotations

import dataclasses

from jaxtyping import Array, Float

from bayesft.base import Claim, ScoreEstimator
from bayesft.errors import EstimatorError


@dataclasses.dataclass(frozen=True)
class LeaveOneOut(ScoreEstimator):
    """Score function with b_k = mean of c_j over j ≠ k, which does not depend on lane k."""

    num_samples: int

    @property
    def claim(self) -> Claim:
        return Claim("unbiased")

    def prepare(self, credited: Float[Array, "K *shape"]) -> Float[Array, "K *shape"]:
        return (credited.sum(0, keepdims=True) - credited) / (self.num_samples - 1)


def leave_one_out(num_samples: int) -> LeaveOneOut:
    """RLOO: K lanes, each with the mean of the others as its baseline (Kool et al. 2019).

    Raises EstimatorError for fewer than two lanes.
    """
    if num_samples < 2:
        raise EstimatorError(
            f"leave_one_out(num_samples={num_samples}) leaves no lane to average over.",
            cause="the baseline is the mean of the other lanes.",
            remedy="use num_samples ≥ 2, or score_function().",
        )
    return LeaveOneOut(int(num_samples))
