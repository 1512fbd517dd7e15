"""What fits report: their steps, and the objective's value at every one of them."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Step:
    """What a step of a fit reports: `value` is the objective's, `seconds` what it took."""

    step: int
    num_steps: int
    value: float
    metrics: dict[str, float]
    seconds: float


class InSteps[S: Step]:
    """What was fitted in steps, with their history."""

    history: list[S]

    @property
    def values(self) -> np.ndarray:
        """The objective's value at every step, [num_steps]."""
        return np.asarray([step.value for step in self.history])
