"""The driver behind `bft.fit`: record, replay, update."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from bayesft.base import Estimator, Guide, Key, Prompt
from bayesft.errors import EstimatorError, FitError, GuideError, HardConstraintError, TargetError
from bayesft.priors.empirical import Empirical
from bayesft.priors.sequence import BoundGuide, bind
from bayesft.program.context import Requirement
from bayesft.program.expectation import scout
from bayesft.program.record import Recording, record, replay_value_and_grad
from bayesft.target import Target


@runtime_checkable
class Observing(Protocol):
    """An objective that needs draws of the target before it can be evaluated."""

    def observe(self, target: Target, guide: Guide, key: Key) -> Prompt: ...


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


def fit(
    target: Target | Empirical,
    guide: Guide,
    *,
    objective: Callable[..., Array],
    optimizer: optax.GradientTransformation,
    num_steps: int,
    key: Key,
    estimator: Estimator | None = None,
    prompts_per_step: int = 8,
    steps_per_recording: int = 1,
    micro_batch: int | None = None,
    require: Requirement | None = None,
    callbacks: Sequence[Callable[[StepInfo], object]] = (),
) -> Fitted:
    """Fit a guide to a target by stochastic gradients of an objective.

    Every step records the objective on `prompts_per_step` prompts (all of them where there are
    fewer; each prompt once per epoch), evaluates Python evidence once for all lanes, and takes
    `steps_per_recording` optimiser steps; those after the first are importance-corrected.
    `micro_batch` lanes are differentiated at a time, which changes memory and not the result.
    `require="unbiased"` refuses estimators that claim less, and later steps on one recording. The
    guide passed in is left as it was. Same key, same device: same numbers.

    Raises GuideError where the guide does not fit the target, HardConstraintError where the
    objective is infinite, FitError where it is NaN, EstimatorError where a claim falls short of
    what is required, and whatever evidence raises.
    """
    data = target.bind(guide) if isinstance(target, Empirical) else target
    _check(data, guide, objective)
    _check_counts(
        num_steps=num_steps,
        prompts_per_step=prompts_per_step,
        steps_per_recording=steps_per_recording,
        micro_batch=1 if micro_batch is None else micro_batch,
    )
    _check_claim(require, steps_per_recording)
    resolve = data.evaluate_host if isinstance(data, Target) else None
    bound = bind(guide, data.horizon)
    frame = BoundGuide(guide.with_params(None), bound.horizon)
    # The update donates its parameters, and the caller's guide must survive that.
    params = jax.tree.map(jnp.copy, guide.params)
    state = optimizer.init(params)
    batches = _batches(len(data.prompts), prompts_per_step, jax.random.fold_in(key, 0))
    findings, states, history = None, None, []
    for step in range(num_steps):
        started = time.perf_counter()
        keys = jax.random.split(jax.random.fold_in(key, step + 1))
        args = (bound.with_params(params), data)
        xs = _prompts(objective, args, next(batches), keys[0])
        if findings is None:
            one = jax.tree.map(lambda a: a[0], xs)
            findings = scout(objective, estimator, (*args, one), require)
        recording = record(
            objective,
            keys[1],
            args,
            xs,
            estimator=estimator,
            findings=findings,
            states=states,
            resolve=resolve,
        )
        states = recording.states
        _refuse_infinite(recording.costs, objective)
        _refuse_nan_costs(recording, objective, step)
        values = []
        for _ in range(steps_per_recording):
            params, state, value, norm = _update(
                objective, estimator, optimizer, micro_batch, params, state, frame, data, recording
            )
            values.append((float(value), float(norm)))
        seconds = time.perf_counter() - started
        metrics = {"grad_norm": values[-1][1], **_host_means(recording)}
        info = StepInfo(step, num_steps, values[0][0], metrics, seconds)
        _refuse_infinite(values[0][0], objective)  # exact estimators record no costs
        _refuse_nan(values, step)
        history.append(info)
        for callback in callbacks:
            callback(info)
    return Fitted(guide.with_params(params), history)


def _prompts(objective: Any, args: tuple, rows: np.ndarray, key: Key) -> Prompt:
    """The prompts of a step, with draws of the target where the objective asks for them."""
    guide, data = args
    if isinstance(objective, Observing):
        return objective.observe(data.select(rows.tolist()), guide.guide, key)
    return _take(data.xs, rows)


@jax.jit
def _take(xs: Prompt, rows: Array) -> Prompt:
    return jax.tree.map(lambda a: a[rows], xs)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3), donate_argnums=(4, 5))
def _update(objective, estimator, optimizer, micro_batch, params, state, frame, target, recording):
    value, gradient = replay_value_and_grad(
        objective,
        lambda params: (frame.with_params(params), target),
        params,
        recording,
        estimator=estimator,
        micro_batch=micro_batch,
    )
    updates, state = optimizer.update(gradient, state, params)
    params = optax.apply_updates(params, updates)
    return params, state, value, optax.tree.norm(gradient)


def _batches(num_prompts: int, size: int, key: Key) -> Iterator[np.ndarray]:
    """Rows of prompts, each prompt once per epoch, batches of one size across epochs."""
    size = min(size, num_prompts)
    queue = np.zeros(0, np.int64)
    epoch = 0
    while True:
        while len(queue) < size:
            shuffled = jax.random.permutation(jax.random.fold_in(key, epoch), num_prompts)
            # What is left of the last epoch goes to the back: twice in one batch, a prompt would
            # draw the same lanes twice, for keys fold in its id.
            left = np.isin(shuffled := np.asarray(shuffled), queue)
            queue = np.concatenate([queue, shuffled[~left], shuffled[left]])
            epoch += 1
        yield queue[:size]
        queue = queue[size:]


def _host_means(recording: Recording) -> dict[str, float]:
    return {
        f"log_potentials/{name}/mean": float(jnp.mean(values))
        for slot, entry in recording.data.items()
        if slot.startswith("host/")
        for name, values in entry.items()
    }


def _refuse_nan(values: list[tuple[float, float]], step: int) -> None:
    if np.isfinite(values).all():
        return
    value, norm = next(pair for pair in values if not np.isfinite(pair).all())
    raise FitError(
        f"The objective is {value} and its gradient norm {norm} at step {step}.",
        cause="a learning rate too large, or evidence that is NaN or of extreme size.",
        remedy="lower the learning rate, or clip: optax.chain(optax.clip_by_global_norm(1.0), "
        "...); evaluate target.log_density on a few completions.",
    )


def _refuse_nan_costs(recording: Recording, objective: Any, step: int) -> None:
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


def _refuse_infinite(costs: Any, objective: Any) -> None:
    if np.isposinf(np.asarray(costs)).any():
        raise HardConstraintError(
            f"{getattr(objective, '__name__', objective)} met a target density of 0.",
            cause="evidence of -inf on a sequence that the guide can produce; the objective is "
            "infinite there.",
            remedy="use a finite log_penalty (another, stated target), mask the violations by "
            "prefix evidence in the guide, or minimise forward_kl.",
        )


def _check(target: Any, guide: Guide, objective: Any) -> None:
    if not isinstance(guide, Guide):
        raise GuideError(
            f"{type(guide).__name__} is not a guide.",
            cause="a prior was passed, which has no trainable parameters.",
            remedy="pass bft.trainable(prior) or bft.lm.lora(lm, ...).",
        )
    if isinstance(target, Target):
        theirs, ours = (guide.vocab_size, guide.eos), (target.prior.vocab_size, target.prior.eos)
        if theirs != ours:
            raise GuideError(
                f"The guide has (V, EOS) = {theirs}, the target's prior {ours}.",
                cause="guide and prior come from different models.",
                remedy="make the guide from the target's prior, or one with the same tokenizer.",
            )
    if isinstance(objective, Observing) and not isinstance(target, Target):
        raise TargetError(
            f"{objective} draws from its target, which is data here.",
            cause="an empirical target, which has completions but no density to sample.",
            remedy="use bft.objectives.mle on data, or declare a bft.Target.",
        )


def _check_claim(require: Requirement | None, steps_per_recording: int) -> None:
    if require is not None and steps_per_recording > 1:
        raise EstimatorError(
            f"Steps 2 to {steps_per_recording} on a recording are biased: parameters have seen the "
            "draws.",
            cause=f"steps_per_recording={steps_per_recording} beside require={require!r}.",
            remedy="use steps_per_recording=1, or leave out require=.",
        )


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise TargetError(f"{name}={count} leaves nothing to do.", remedy="use at least 1.")
