"""What a step of `fit` reports, and what `fit` returns."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class StepInfo:
    """What a step of `fit` reports: `value` is the objective's, in nats (a bound or a divergence).

    `metrics` holds `grad_norm` and, for Python evidence, `log_potentials/{name}/mean` in nats.
    """

    step: int
    num_steps: int
    value: float
    metrics: dict[str, float]
    seconds: float


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A fitted guide and the history of its fit."""

    guide: Any
    history: list[StepInfo]

    @property
    def values(self) -> np.ndarray:
        """The objective's value at every step, [num_steps]."""
        return np.asarray([info.value for info in self.history])
