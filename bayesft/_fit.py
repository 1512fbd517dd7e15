"""The driver behind `bft.fit`: record, replay, update."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array

from bayesft.base import Checkpoint, Estimator, Guide, Key, Prompt, checked_count
from bayesft.errors import TargetError
from bayesft.fitting.checks import (
    Observing,
    Preparing,
    check_callbacks,
    check_claim,
    check_fit,
    check_overlap,
    check_parts,
    check_proposal,
)
from bayesft.fitting.info import Fitted, Moment, StepInfo, step_info
from bayesft.fitting.keeper import keeping
from bayesft.fitting.order import Order
from bayesft.fitting.recorder import Recorder
from bayesft.fitting.refusals import num_nan, refuse_infinite, refuse_nan, refuse_nan_costs
from bayesft.fitting.settings import settings_of
from bayesft.fitting.state import first_state
from bayesft.fitting.update import update
from bayesft.placement import over_mesh
from bayesft.priors.empirical import Empirical
from bayesft.priors.sequence import BoundGuide, bind
from bayesft.program.context import Proposal, Requirement
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
    proposal: Proposal | None = None,
    overlap: bool = False,
    max_nan_steps: int = 0,
    checkpoint: Checkpoint | None = None,
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

    Sequences are drawn from `proposal(guide)`, if given, and weighed by their exact densities: for
    instance `lambda guide: bft.priors.shaped(guide, temperature=1.2)`.

    With `overlap=True` step t + 1 is recorded, and its Python evidence evaluated, while step t
    updates: a step takes as long as the slower of device and evidence, on draws that are one update
    old and importance-corrected.

    `checkpoint` (`bft.io.checkpoint(folder)`) keeps the state: the same call goes on from it to
    what it would have given at once. SIGTERM then ends the fit after its step, or while it waits
    for evidence, with its state saved. Up to `max_nan_steps` steps in a row whose gradient is NaN
    or infinite are skipped, and counted by the metric `skipped_updates`.

    `callbacks` are called in their order with the `StepInfo` of every step that is taken. One that
    raises ends the fit; its step stays taken, and where the fit goes on none hears of it again.

    With a `mesh` (axes "data" and "fsdp", either or both), lanes are split over all devices and
    parameters over "fsdp"; the numbers are the same within float error, and the fitted guide stays
    on the mesh (docs/many_devices.md). Raises MeshError where lanes cannot be split over it.

    Raises TargetError where an argument is not what it should be, GuideError where the guide or
    proposal is not, or does not fit the target, HardConstraintError where the objective is
    infinite, FitError where it is NaN, EstimatorError where a claim falls short of what is required
    or a proposal has nothing to draw, CheckpointError where a checkpoint is in use or of another
    fit, FitInterrupted on SIGTERM, and whatever evidence raises.
    """
    callbacks = check_callbacks(callbacks)
    check_fit(target, guide, objective)
    check_parts(objective, optimizer, estimator, key)
    check_overlap(overlap)
    num_steps = checked_count("num_steps", num_steps, TargetError)
    prompts_per_step = checked_count("prompts_per_step", prompts_per_step, TargetError)
    steps_per_recording = checked_count("steps_per_recording", steps_per_recording, TargetError)
    max_nan_steps = checked_count("max_nan_steps", max_nan_steps, TargetError, least=0)
    if micro_batch is not None:
        micro_batch = checked_count("micro_batch", micro_batch, TargetError)
    proposed = None if proposal is None else check_proposal(proposal, target, guide)
    check_claim(require, steps_per_recording, proposed)
    data = target.bind(guide) if isinstance(target, Empirical) else target
    bound = bind(guide, data.horizon)
    frame = BoundGuide(guide.with_params(None), bound.horizon)
    order = Order(len(data.prompts), prompts_per_step, jax.random.fold_in(key, 0))
    # The update donates its parameters, and the caller's guide must survive that.
    params = jax.tree.map(jnp.copy, guide.params)
    settings = settings_of(
        key,
        data,
        objective=objective,
        estimator=estimator,
        prompts_per_step=order.size,
        steps_per_recording=steps_per_recording,
        proposal=proposal,
        overlap=overlap,
    )
    updated = functools.partial(update, objective, estimator, optimizer, micro_batch)
    with keeping(checkpoint, settings) as keeper:
        recorder = Recorder(
            objective,
            estimator,
            lambda params: (bound.with_params(params), data),
            lambda step, args, key: _prompts(objective, args, order.rows(step), key),
            data.evaluate_host if isinstance(data, Target) else _no_evidence,
            key,
            ahead=overlap,
            proposal=proposal,
            waiting=keeper.interruptible,
        )
        estimators, pending = recorder.start(params, require)
        state = first_state(params, optimizer.init(params), estimators, pending)
        state, history = keeper.resume(state, num_steps)
        if len(history) < num_steps:
            for callback in callbacks:
                if isinstance(callback, Preparing):
                    callback.before_fit()
        for step in keeper.steps(len(history), num_steps):
            started = time.perf_counter()
            recording, pending = recorder.take(state, last=step + 1 == num_steps)
            refuse_infinite(recording.costs, objective)
            strict = int(state.nan_steps) >= max_nan_steps
            if strict:
                refuse_nan_costs(recording, objective, step)
            with keeper.updating():
                params, opt, values = state.params, state.optimizer, []
                for _ in range(steps_per_recording):
                    params, opt, value, norm = updated(params, opt, frame, data, recording)
                    values.append((float(value), float(norm)))
                skipped = num_nan(values)
                if skipped == len(values):
                    # Nothing changed, and what was donated is back: the last state is whole.
                    state = dataclasses.replace(state, params=params, optimizer=opt)
                    keeper.keep(state, history)
                refuse_infinite(values[0][0], objective)  # exact estimators record no costs
                if strict:
                    refuse_nan(values, step)
                state = state.after(params, opt, recording.states, pending, nan=skipped > 0)
                if skipped:
                    state = recorder.renewed(state)
                seconds = time.perf_counter() - started
                moment = Moment(guide, params, recording, data)
                info = step_info(step, num_steps, values, seconds, moment, opt, history)
                if max_nan_steps:
                    info.add({"skipped_updates": skipped})
                history.append(info)
                keeper.keep(state, history)
            # Where one of them raises, the others still hear of the step: it is taken.
            with contextlib.ExitStack() as calls:
                calls.callback(moment.close)
                for callback in reversed(callbacks):
                    calls.callback(callback, info)
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


def _no_evidence(*rows: np.ndarray) -> dict[str, np.ndarray]:
    raise AssertionError("data has no evidence")
