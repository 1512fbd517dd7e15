"""What a step of `fit` reports, and what `fit` returns."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from bayesft.base import Guide, InSteps, PyTree, Step
from bayesft.errors import FitError
from bayesft.fitting.completions import Completion, first_completions
from bayesft.fitting.metrics import learning_rate, measure
from bayesft.program.record import Recording


class Moment:
    """What a step has in memory while its callbacks run; afterwards it is let go."""

    def __init__(self, guide: Guide, params: PyTree, recording: Recording, target: Any):
        self._held: tuple | None = (guide, params, recording, target)

    def held(self, what: str) -> tuple[Guide, PyTree, Recording, Any]:
        if self._held is None:
            raise FitError(
                f"The {what} of a step that is over cannot be had.",
                cause="they were asked for after the callbacks of the step had returned; the next "
                "step overwrites its parameters.",
                remedy="ask for them inside the callback.",
            )
        return self._held

    def close(self) -> None:
        self._held = None


@dataclasses.dataclass(frozen=True)
class StepInfo(Step):
    """What a step of `fit` reports: `value` is in nats, a bound or a divergence.

    `metrics` are listed in `bayesft.fitting.metrics`; a callback may `add` its own, which those
    after it see. `guide` and `completions` exist while the callbacks of the step run, and cost
    nothing unless they are asked for.
    """

    @property
    def scalars(self) -> dict[str, float]:
        """What trackers log: `objective`, the metrics, and what the clock says, `step_time` in
        seconds and `tokens_per_second`."""
        scalars = {"objective": self.value, **self.metrics}
        if "num_completion_tokens" in scalars:
            scalars["tokens_per_second"] = scalars.pop("num_completion_tokens") / self.seconds
        return {**scalars, "step_time": self.seconds}

    @property
    def last(self) -> bool:
        """Whether this is the last step of the fit."""
        return self.step + 1 == self.num_steps

    def due(self, every: int) -> bool:
        """Whether something happens that is done every so many steps, the first and last too."""
        return self.step % every == 0 or self.last

    @property
    def guide(self) -> Guide:
        """A copy of the guide after this step. Raises FitError once the step is over."""
        guide, params, _, _ = self._held("guide")
        return guide.with_params(jax.tree.map(jnp.copy, params))

    def completions(self, num: int) -> list[Completion]:
        """The first `num` completions of the step, from as many prompts as there are, with scores.

        Empty where the program draws no completions. Raises FitError once the step is over.
        """
        _, _, recording, target = self._held("completions")
        return first_completions(recording, target, num)

    def add(self, metrics: Mapping[str, float]) -> None:
        """Metrics of a callback's own, for the callbacks after it and the history."""
        self.metrics.update({name: float(value) for name, value in metrics.items()})

    def during(self, moment: Moment) -> StepInfo:
        """This report, with what the step has in memory: no field, so it is never saved with it."""
        object.__setattr__(self, "_moment", moment)
        return self

    def _held(self, what: str) -> tuple[Guide, PyTree, Recording, Any]:
        moment: Moment | None = getattr(self, "_moment", None)
        if moment is None:
            raise FitError(
                f"This step does not hold its {what}.",
                cause="it was made by hand, or comes from a checkpoint.",
                remedy="use the one that bft.fit hands to its callbacks.",
            )
        return moment.held(what)


def step_info(
    step: int,
    num_steps: int,
    values: Sequence[tuple[float, float]],
    seconds: float,
    moment: Moment,
    optimizer: PyTree,
    history: Sequence[StepInfo],
) -> StepInfo:
    """The report of a step from the values and gradient norms of its updates."""
    guide, _, recording, target = moment.held("recording")
    found = measure(recording, target, guide.eos)
    metrics = {"grad_norm": values[-1][1], **learning_rate(optimizer), **found}
    if "num_tokens" in metrics:
        before = history[-1].metrics.get("num_tokens", 0.0) if history else 0.0
        metrics["num_tokens"] += before
    return StepInfo(step, num_steps, values[0][0], metrics, seconds).during(moment)


@dataclasses.dataclass(frozen=True)
class Fitted(InSteps[StepInfo]):
    """A fitted guide and the history of its fit."""

    guide: Any
    history: list[StepInfo]
