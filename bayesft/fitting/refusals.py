"""What a step of `fit` may not end in: objectives that are infinite or NaN."""

from __future__ import annotations

from typing import Any

import numpy as np

from bayesft.errors import FitError, HardConstraintError
from bayesft.program.record import Recording


def num_nan(values: list[tuple[float, float]]) -> int:
    """How many updates of a step had a value or gradient that is not finite, and did nothing."""
    return sum(not np.isfinite(pair).all() for pair in values)


def refuse_nan(values: list[tuple[float, float]], step: int) -> None:
    if np.isfinite(values).all():
        return
    value, norm = next(pair for pair in values if not np.isfinite(pair).all())
    raise FitError(
        f"The objective is {value} and its gradient norm {norm} at step {step}.",
        cause="a learning rate too large, or evidence that is NaN or of extreme size.",
        remedy="lower the learning rate, or clip: optax.chain(optax.clip_by_global_norm(1.0), "
        "...); evaluate target.log_density on a few completions.",
    )


def refuse_nan_costs(recording: Recording, objective: Any, step: int) -> None:
    wrong = np.argwhere(np.isnan(np.asarray(recording.costs)))
    if not len(wrong):
        return
    choices = recording.choices(*map(int, wrong[0]))
    listed = ", ".join(f"{name} = {value}" for name, value in choices.items())
    raise FitError(
        f"{getattr(objective, '__name__', objective)} is NaN at step {step} in {len(wrong)} of "
        f"{recording.costs.size} lanes, the first one where {listed or 'nothing is recorded'}.",
        cause="evidence or a cost that is NaN there, or parameters that are.",
        remedy="evaluate target.log_density on that value; where it is finite, lower the learning "
        "rate.",
    )


def refuse_infinite(costs: Any, objective: Any) -> None:
    if np.isposinf(np.asarray(costs)).any():
        raise HardConstraintError(
            f"{getattr(objective, '__name__', objective)} met a target density of 0.",
            cause="evidence of -inf on a sequence that the guide can produce; the objective is "
            "infinite there.",
            remedy="use a finite log_penalty (another, stated target), mask the violations by "
            "prefix evidence in the guide, or minimise forward_kl.",
        )
