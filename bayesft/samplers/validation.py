"""What every sampler checks: its counts when it is made, its numbers when it is done."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import ArrayLike, Float

from bayesft.base import HostEvidence, Twist, checked_count
from bayesft.errors import EvidenceError, SamplerError
from bayesft.target import Target


def require_count(name: str, value: Any) -> int:
    """The value as an int of at least 1; raises SamplerError for anything else."""
    return checked_count(name, value, SamplerError)


def require_log_densities(
    target: Target,
    log_prior: Float[ArrayLike, "P N"],
    log_evidence: Float[ArrayLike, "P N"],
    log_weights: Float[ArrayLike, "P N"] | None = None,
) -> None:
    """Raise where a log-density is NaN or +inf: EvidenceError for evidence, else SamplerError."""
    evidence, prior = np.asarray(log_evidence), np.asarray(log_prior)
    if (bad := np.argwhere(np.isnan(evidence) | (evidence == np.inf))).size:
        prompt, draw = bad[0].tolist()
        names = [t.evidence.name for t in target.terms if not isinstance(t.evidence, HostEvidence)]
        raise EvidenceError(
            f"The evidence of draw {draw} of prompt {prompt} is {evidence[prompt, draw]}, not a "
            "log-potential in [-inf, +inf).",
            cause=f"one of the functions {names or 'that are evaluated in JAX'}, or a negative "
            "scale on evidence of -inf.",
            remedy="return finite log-potentials in nats, or -inf for what is impossible.",
        )
    weights = prior if log_weights is None else np.asarray(log_weights)
    if (bad := np.argwhere(np.isnan(prior) | np.isnan(weights))).size:
        prompt, draw = bad[0].tolist()
        raise SamplerError(
            f"The log-weight of draw {draw} of prompt {prompt} is NaN.",
            cause="a model whose logits are NaN, or -inf for every token.",
            remedy="check the logits of the prior and of the proposal on this prompt.",
        )


def require_twists(twist: Twist, log_weights: Float[ArrayLike, "P N"]) -> None:
    """Raise SamplerError where a twist made log-weights NaN or +inf."""
    weights = np.asarray(log_weights)
    if (bad := np.argwhere(np.isnan(weights) | (weights == np.inf))).size:
        prompt, draw = bad[0].tolist()
        raise SamplerError(
            f"The twist {type(twist).__name__} made the log-weight of draw {draw} of prompt "
            f"{prompt} {weights[prompt, draw]}.",
            cause="log ψ is NaN or +inf: parameters that diverged, or the logarithm of a negative "
            "number.",
            remedy="check the twist's parameters for NaN, and learn them at a smaller rate.",
        )


def require_level(level: float) -> None:
    """Raises SamplerError for a level of confidence that is no probability."""
    try:
        inside = bool(0 < level < 1)
    except (TypeError, ValueError):  # no number, or several
        inside = False
    if not inside:
        raise SamplerError(
            f"level={level!r} is not between 0 and 1.",
            cause="a percentage, or no number at all.",
            remedy="use level=0.9.",
        )
