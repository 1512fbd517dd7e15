"""Names on the command line and the members of bayesft that they stand for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from operator import attrgetter
from typing import Any

import typer


@dataclasses.dataclass(frozen=True)
class Member:
    """A constructor, by its place in bayesft, and which options become which of its arguments."""

    constructor: str
    arguments: Mapping[str, str]


SAMPLERS = {
    "importance": Member(
        "samplers.importance", {"particles": "num_particles", "proposal": "proposal"}
    ),
    "rejection": Member(
        "samplers.rejection",
        {"num_draws": "num_draws", "log_bound": "log_bound", "max_proposals": "max_proposals"},
    ),
    "best-of-n": Member("samplers.best_of_n", {"n": "n", "num_draws": "num_draws"}),
    "smc": Member(
        "samplers.smc",
        {
            "particles": "num_particles",
            "proposal": "proposal",
            "every": "every",
            "ess_threshold": "ess_threshold",
            "resampling": "resampling",
        },
    ),
}

RESAMPLING = {
    "systematic": "samplers.resampling.systematic",
    "multinomial": "samplers.resampling.multinomial",
}

ESTIMATORS = {
    "leave-one-out": Member("estimators.leave_one_out", {"num_samples": "num_samples"}),
    "moving-average": Member("estimators.moving_average", {"decay": "decay"}),
    "score-function": Member("estimators.score_function", {"baseline": "baseline"}),
    "vimco": Member("estimators.vimco", {}),
}
"""Those that differentiate a model's completions by options alone."""

EOS_POLICIES = ("truncate", "condition", "force")

DEFAULTS = {
    "particles": 128,
    "num_draws": 16,
    "n": 4,
    "num_samples": 8,
    "alpha": 0.5,
    "generator": "jensen-shannon",
}
"""What a member gets where an option that it needs is not given."""


def lookup(place: str) -> Any:
    """What is at a place in bayesft."""
    import bayesft

    return attrgetter(place)(bayesft)


def choose[T](table: Mapping[str, T], name: str, option: str) -> T:
    """The entry of a table; another name is a usage error that lists them."""
    if name not in table:
        raise typer.BadParameter(
            f"{name!r} is not one of {', '.join(table)}.", param_hint=f"--{option}"
        )
    return table[name]


def require_applicable(
    table: Mapping[str, Member], kind: str, name: str, given: Mapping[str, Any]
) -> Member:
    """The member of that name; a given option that it does not take is a usage error."""
    member = choose(table, name, kind)
    foreign = [option for option, value in given.items() if value is not None]
    foreign = [option for option in foreign if option not in member.arguments]
    if foreign:
        takes = ", ".join(map(flag, member.arguments))
        raise typer.BadParameter(
            f"{flag(foreign[0])} does not go with --{kind} {name}, which takes {takes}."
        )
    return member


def build(table: Mapping[str, Member], kind: str, name: str, given: Mapping[str, Any]) -> Any:
    """What the member of that name makes of the options given; those that are None were not."""
    member = require_applicable(table, kind, name, given)
    values = {option: DEFAULTS[option] for option in member.arguments if option in DEFAULTS}
    values |= {option: value for option, value in given.items() if value is not None}
    return lookup(member.constructor)(
        **{member.arguments[option]: value for option, value in values.items()}
    )


def flag(option: str) -> str:
    """An option as it is typed."""
    return "--" + option.replace("_", "-")
