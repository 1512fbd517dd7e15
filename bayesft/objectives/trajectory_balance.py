"""Trajectory balance, the loss of generative flow networks, with a learned log Z."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Float

from bayesft.errors import GuideError
from bayesft.objectives.weights import Density, draw_detached, require_density
from bayesft.priors.sequence import BoundGuide


@runtime_checkable
class KnowsLogZ(Protocol):
    """A guide with a learned log-normaliser of the target, such as `with_log_z` makes."""

    def log_z(self, x: Any, /) -> Float[Array, ""]:
        """The current estimate of log Z(x) in nats, differentiable."""
        ...


def trajectory_balance(guide: Any, target: Density, x: Any) -> Float[Array, ""]:
    """E_q[(log Z_ψ(x) + log q(y | x) − log p̃(y | x))²] in nats², its draws not differentiated.

    0 where q = p* and Z_ψ = Z. Tokens are appended one by one, so the backward policy is 1; the
    gradient in q has twice the mean of reverse KL's, with log Z_ψ as baseline, and `log_variance`
    is the same with the draws' own mean in its place. The guide learns log Z_ψ:
    `bft.objectives.with_log_z(guide, target)`, or any guide with a method `log_z(x)`. No estimator
    is asked for. Raises GuideError for other guides, HardConstraintError for hard constraints,
    TargetError for data. (Malkin, Jain, Bengio, Sun and Bengio 2022, section 3.)
    """
    require_density(target, "trajectory_balance", finite=True)
    balanced = guide.guide if isinstance(guide, BoundGuide) else guide
    if not isinstance(balanced, KnowsLogZ):
        raise GuideError(
            f"trajectory_balance needs log Z of a guide, and a {type(balanced).__name__} has none.",
            cause="the loss learns log Z beside the guide's own parameters.",
            remedy="pass bft.objectives.with_log_z(guide, target), or minimise log_variance.",
        )
    y, log_q = draw_detached("y", guide(x))
    return (balanced.log_z(x) + log_q - target.log_density(y, x)) ** 2
