"""Draws of a guide and their log-weights: what objectives are functions of."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Float

from bayesft.base import PyTree
from bayesft.errors import EstimatorError, ObjectiveError, TargetError
from bayesft.estimators.detached import detached
from bayesft.program import SubProgram, draw
from bayesft.target import Target


@runtime_checkable
class Density(Protocol):
    """What objectives ask of a target: log p̃(y | x) in nats, unnormalised. `bft.Target` is one."""

    def log_density(self, y: Any, x: Any, /) -> Float[Array, ""]: ...


def require_density(target: Any, objective: str, *, finite: bool) -> None:
    """Raise TargetError for data; with `finite`, HardConstraintError for hard constraints."""
    if not isinstance(target, Density):
        raise TargetError(
            f"{objective} needs a density, and this target is data.",
            cause="an empirical target, which has completions and no evidence.",
            remedy="use bft.objectives.mle on data, or declare a bft.Target.",
        )
    if finite and isinstance(target, Target):
        target.require_finite(objective)


def require_samples(objective: str, num_samples: int, least: int, reason: str) -> int:
    """The number of samples, or ObjectiveError below the least one."""
    if num_samples < least:
        raise ObjectiveError(
            f"{objective}(num_samples={num_samples}) is no objective.",
            cause=reason,
            remedy=f"use num_samples ≥ {least}.",
        )
    return int(num_samples)


def draw_log_weight(guide: Any, target: Density, x: Any) -> Float[Array, ""]:
    """log p̃(y | x) − log q(y | x) of one draw y ~ q(· | x), named "y"; differentiable in q.

    Its own score is kept: log q enters the objectives that use it nonlinearly.
    """
    y, log_q = draw("y", guide(x), with_log_prob=True)
    return target.log_density(y, x) - log_q


def draw_detached(name: str, distribution: Any) -> tuple[PyTree, Float[Array, ""]]:
    """A value through whose choice no gradient flows, and its differentiable log-prob in nats.

    For objectives that state their own gradient: it is that of the returned cost with the choices
    held fixed. No estimator is asked for, and one that is given does not apply. Raises
    EstimatorError for a stochastic density, whose own choices say how they are differentiated.
    """
    if isinstance(distribution, SubProgram):
        raise EstimatorError(
            f"{type(distribution).__name__} at the choice {name!r} cannot be held fixed.",
            cause="it is a program whose choices have estimators of their own.",
            remedy="use an objective that differentiates its draws: reverse_kl, iwae, renyi.",
        )
    return draw(name, distribution, detached(), with_log_prob=True)
