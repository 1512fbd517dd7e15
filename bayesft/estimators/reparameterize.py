"""Pathwise gradients through a reparameterised sample."""

from __future__ import annotations

import dataclasses
from typing import Any

from bayesft.base import Claim, Key, PathwiseEstimator, PyTree
from bayesft.errors import EstimatorError


@dataclasses.dataclass(frozen=True)
class Reparameterize(PathwiseEstimator):
    """∇ E_q[c(y)] = E_ε[∇ c(y(ε, θ))] where y = y(ε, θ) is differentiable in θ."""

    @property
    def claim(self) -> Claim:
        return Claim("unbiased", "where the cost is continuous and piecewise smooth in the value")

    def sample(self, name: str, distribution: Any, key: Key) -> PyTree:
        if not getattr(distribution, "has_rsample", False):
            circular = type(distribution).__name__ == "VonMises"  # numpyro's; TFP's has one
            raise EstimatorError(
                f"The choice {name!r} from {type(distribution).__name__} has no reparameterised "
                "sample.",
                cause="a discrete distribution, or one whose sampler is not differentiable; its "
                "gradient would be 0 without a word.",
                remedy="draw from tfp.distributions.VonMises, whose sample is differentiated "
                "implicitly (pip install 'bayesft[tfp]'), or use score_function or leave_one_out."
                if circular
                else "use score_function, leave_one_out, measure_valued, or enumerate where its "
                "support is finite.",
            )
        return distribution.sample(key)


def reparameterize() -> Reparameterize:
    """Differentiate through the sample itself (Kingma & Welling 2014, Rezende et al. 2014).

    For numpyro distributions with `has_rsample` and those of TFP that are fully reparameterised;
    for Gamma, Beta, Dirichlet and StudentT, and for TFP's VonMises, the sample is differentiated
    implicitly (Figurnov et al. 2018). EstimatorError for others, and where the value is compared,
    rounded or made an integer on its way to the cost, as far as that is seen:
    `jax.lax.stop_gradient(value) > 0` says that the cost does not jump there.
    """
    return Reparameterize()
