"""`--objective` and `--estimator`: which go together, and what they make of their options."""

from __future__ import annotations

import dataclasses
from typing import Any

import typer

from bayesft.cli.names import DEFAULTS, ESTIMATORS, Member, build, choose, flag, lookup
from bayesft.cli.options import FitOptions


@dataclasses.dataclass(frozen=True)
class Objective(Member):
    """An objective; without arguments it is one, and no constructor.

    `estimators` are those that it is differentiated by, the default first, or none where it states
    its gradient itself; `unit` is that of its value.
    """

    estimators: tuple[str, ...] = ()
    unit: str = "nats"


_ONE_DRAW = ("leave-one-out", "moving-average", "score-function")
_SEVERAL_DRAWS = ("moving-average", "score-function")
_DRAWS = {"num_samples": "num_samples"}

OBJECTIVES = {
    "reverse-kl": Objective("objectives.reverse_kl", {}, _ONE_DRAW),
    "forward-kl": Objective("objectives.forward_kl", {"particles": "sampler"}),
    "f-divergence": Objective("objectives.f_divergence", {"generator": "f"}, _ONE_DRAW, ""),
    "chi-upper-bound": Objective("objectives.chi_upper_bound", {"order": "order"}, _ONE_DRAW, ""),
    "iwae": Objective("objectives.iwae", _DRAWS, ("vimco", *_SEVERAL_DRAWS)),
    "renyi": Objective("objectives.renyi", {"alpha": "alpha", **_DRAWS}, _SEVERAL_DRAWS),
    "log-variance": Objective("objectives.log_variance", _DRAWS, (), "nats²"),
    "reweighted-wake-sleep": Objective("objectives.reweighted_wake_sleep", _DRAWS),
    "mle": Objective("objectives.mle", {}),
}
"""Those that ask for a guide and evidence in Python alone. The others need more: evidence in JAX
(variational_smc), a joint model, auxiliary choices, or a guide that knows log Z."""

GENERATORS = {
    name.replace("_", "-"): f"objectives.generators.{name}"
    for name in (
        "jensen_shannon",
        "squared_hellinger",
        "jeffreys",
        "kl_forward",
        "kl_reverse",
        "pearson",
        "chi_square",
        "triangular",
        "arithmetic_geometric",
        "total_variation",
        "log1p_abs",
        "modified_gan",
    )
}
"""The f of an f-divergence."""

_OPTIONS = {
    option
    for table in (OBJECTIVES, ESTIMATORS)
    for member in table.values()
    for option in member.arguments
} | {"data"}


def require_consistent(fit: FitOptions) -> None:
    """A usage error for unknown names, and for options that do not go with the objective."""
    objective = choose(OBJECTIVES, fit.objective, "objective")
    said, takes = f"--objective {fit.objective}", set(objective.arguments)
    if fit.objective == "mle":
        takes.add("data")
    if fit.estimator is not None:
        choose(ESTIMATORS, fit.estimator, "estimator")
    if fit.estimator is not None and fit.estimator not in objective.estimators:
        raise typer.BadParameter(
            f"{fit.estimator} does not go with {said}, which takes "
            f"{', '.join(objective.estimators) or 'none'}.",
            param_hint="--estimator",
        )
    if estimator := _estimator_name(fit):
        said, takes = (
            f"{said} --estimator {estimator}",
            takes | set(ESTIMATORS[estimator].arguments),
        )
    for option in sorted(_OPTIONS - takes):
        if getattr(fit, option) is not None:
            raise typer.BadParameter(f"{flag(option)} does not go with {said}.")
    if fit.generator is not None:
        choose(GENERATORS, fit.generator, "generator")


def objective_of(fit: FitOptions) -> Any:
    """The objective that the options ask for."""
    member = OBJECTIVES[fit.objective]
    if not member.arguments:
        return lookup(member.constructor)
    given = {option: getattr(fit, option) for option in member.arguments}
    if "generator" in given:
        given["generator"] = lookup(GENERATORS[fit.generator or DEFAULTS["generator"]])
    if "particles" in given:
        importance, num_particles = (
            lookup("samplers.importance"),
            fit.particles or DEFAULTS["particles"],
        )
        given["particles"] = lambda guide: importance(num_particles, proposal=guide)
    return build(OBJECTIVES, "objective", fit.objective, given)


def estimator_of(fit: FitOptions) -> Any:
    """The estimator that the options ask for, or the objective's own; None where it has none."""
    name = _estimator_name(fit)
    if name is None:
        return None
    given = {option: getattr(fit, option) for option in ESTIMATORS[name].arguments}
    return build(ESTIMATORS, "estimator", name, given)


def _estimator_name(fit: FitOptions) -> str | None:
    return fit.estimator or next(iter(OBJECTIVES[fit.objective].estimators), None)
