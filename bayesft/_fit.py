"""The driver behind `bft.fit`: record, replay, update."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array

from bayesft.base import Estimator, Guide, Key, Prompt
from bayesft.fitting.checks import Observing, check_claim, check_counts, check_fit
from bayesft.fitting.info import Fitted, StepInfo
from bayesft.fitting.metrics import measure
from bayesft.fitting.order import Order
from bayesft.fitting.refusals import refuse_infinite, refuse_nan, refuse_nan_costs
from bayesft.fitting.state import FitState
from bayesft.fitting.update import update
from bayesft.placement import over_mesh
from bayesft.priors.empirical import Empirical
from bayesft.priors.sequence import BoundGuide, bind
from bayesft.program.context import Requirement
from bayesft.program.expectation import scout
from bayesft.program.record import record
from bayesft.sharding import place
from bayesft.target import Target


@over_mesh
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
    mesh: Mesh | None = None,
) -> Fitted:
    """Fit a guide to a target by stochastic gradients of an objective.

    Every step records the objective on `prompts_per_step` prompts (all of them where there are
    fewer; each prompt once per epoch), evaluates Python evidence once for all lanes, and takes
    `steps_per_recording` optimiser steps; those after the first are importance-corrected.
    `micro_batch` lanes are differentiated at a time, which changes memory and not the result.
    `require="unbiased"` refuses estimators that claim less, and later steps on one recording. The
    guide passed in is left as it was. Same key, same device: same numbers.

    With a `mesh` (axes "data" and "fsdp", either or both), lanes are split over all devices and
    parameters over "fsdp"; the numbers are the same within float error, and the fitted guide stays
    on the mesh (docs/many_devices.md). Raises MeshError where lanes cannot be split over it.

    Raises GuideError where the guide does not fit the target, HardConstraintError where the
    objective is infinite, FitError where it is NaN, EstimatorError where a claim falls short of
    what is required, and whatever evidence raises.
    """
    data = target.bind(guide) if isinstance(target, Empirical) else target
    check_fit(data, guide, objective)
    check_counts(
        num_steps=num_steps,
        prompts_per_step=prompts_per_step,
        steps_per_recording=steps_per_recording,
        micro_batch=1 if micro_batch is None else micro_batch,
    )
    check_claim(require, steps_per_recording)
    resolve = data.evaluate_host if isinstance(data, Target) else None
    bound = bind(guide, data.horizon)
    frame = BoundGuide(guide.with_params(None), bound.horizon)
    order = Order(len(data.prompts), prompts_per_step, jax.random.fold_in(key, 0))
    # The update donates its parameters, and the caller's guide must survive that.
    params = jax.tree.map(jnp.copy, guide.params)
    state = FitState(jnp.zeros((), jnp.int32), params, place(optimizer.init(params)), {})
    findings, history = None, []
    for step in range(num_steps):
        started = time.perf_counter()
        keys = jax.random.split(jax.random.fold_in(key, step + 1))
        args = (bound.with_params(state.params), data)
        xs = _prompts(objective, args, order.rows(step), keys[0])
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
            states=state.estimators if step else None,
            resolve=resolve,
        )
        refuse_infinite(recording.costs, objective)
        refuse_nan_costs(recording, objective, step)
        params, opt, values = state.params, state.optimizer, []
        for _ in range(steps_per_recording):
            params, opt, value, norm = update(
                objective, estimator, optimizer, micro_batch, params, opt, frame, data, recording
            )
            values.append((float(value), float(norm)))
        state = FitState(state.step + 1, params, opt, recording.states)
        seconds = time.perf_counter() - started
        metrics = {"grad_norm": values[-1][1], **measure(recording)}
        info = StepInfo(step, num_steps, values[0][0], metrics, seconds)
        refuse_infinite(values[0][0], objective)  # exact estimators record no costs
        refuse_nan(values, step)
        history.append(info)
        for callback in callbacks:
            callback(info)
    return Fitted(guide.with_params(state.params), history)


def _prompts(objective: Any, args: tuple, rows: np.ndarray, key: Key) -> Prompt:
    """The prompts of a step, with draws of the target where the objective asks for them."""
    guide, data = args
    if isinstance(objective, Observing):
        return objective.observe(data.select(rows.tolist()), guide.guide, key)
    return _take(data.xs, rows)


@jax.jit
def _take(xs: Prompt, rows: Array) -> Prompt:
    return jax.tree.map(lambda a: a[rows], xs)
