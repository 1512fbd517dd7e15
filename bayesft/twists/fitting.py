"""The loop behind `bft.twists.fit`: draw, weigh, update."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from bayesft.base import InSteps, Key, Prompt, PyTree, Sampler, Step, Twist, checked_count
from bayesft.draws import Draws, effective_sample_size, normalised_weights
from bayesft.errors import FitError, SamplerError, TargetError
from bayesft.priors.validation import require_context
from bayesft.target import Target
from bayesft.twists.objective import TwistObjective
from bayesft.twists.rollouts import Paths, Positives, Rollouts, beside, roll_out

type PositiveDraws = Draws | Callable[[Any], Sampler]


@dataclasses.dataclass(frozen=True)
class TwistStep(Step):
    """What a step of `fit` reports.

    `metrics` holds `grad_norm`, and of the rollouts, as weighted draws of the target without any
    resampling, `ess_share` (of N) and `log_z` in nats, both meaned over the step's prompts.
    """


@dataclasses.dataclass(frozen=True)
class FittedTwist(InSteps[TwistStep]):
    """A fitted twist and the history of its fit."""

    twist: Any
    history: list[TwistStep]


def fit(
    target: Target,
    twist: Twist,
    *,
    objective: TwistObjective,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    key: Key,
    num_particles: int = 128,
    prompts_per_step: int = 8,
    positives: PositiveDraws | None = None,
    callbacks: Sequence[Callable[[TwistStep], object]] = (),
) -> FittedTwist:
    """Learn the twist of a target from SMC's own samples, by stochastic gradients of an objective.

    Every step rolls out `num_particles` sequences per prompt from the proposal of twisted SMC at
    the current twist (`fudge`: from the prior), evaluates Python evidence once for all of them, and
    takes one optimiser step. Weighted by importance, the sequences stand for the posterior and for
    the intermediate targets. `positives` replaces them as posterior draws: known ones (exact, from
    rejection or data), or a sampler made from the current twist, such as
    `lambda twist: bft.samplers.twisted(twist, 128)`, to draw from before every step.

    The twist passed in is left as it was. Same key, same device: same numbers. Except for heads, a
    step takes memory for P·N·T·V log-twists.

    Raises SamplerError where the twist does not fit the prior, and where an objective needs
    posterior draws and none has positive weight; TargetError where the objective does not apply;
    FitError where a loss or a gradient is not finite; and whatever evidence raises.
    """
    _check(target, twist, objective, num_steps, num_particles, prompts_per_step)
    _require_positives(target, positives)
    objective = objective.bind(target)
    frame = twist.with_params(None)
    # The update donates its parameters, and the caller's twist must survive that.
    params = jax.tree.map(jnp.copy, twist.params)
    state = optimizer.init(params)
    history: list[TwistStep] = []
    for step in range(num_steps):
        started = time.perf_counter()
        keys = jax.random.split(jax.random.fold_in(key, step), 3)
        rows = _choose(len(target.prompts), prompts_per_step, keys[0])
        batch = target if len(rows) == len(target.prompts) else target.select(rows)
        current = frame.with_params(params)
        proposing = None if objective.from_prior else current
        rollouts = roll_out(batch, proposing, keys[1], num_particles)
        known = _known(positives, current, batch, rows, keys[2])
        ess, log_z, alive = _summary(rollouts)
        if objective.needs_positives and not _usable(objective, known, bool(alive)):
            _refuse_dead(num_particles, step)
        params, state, value, norm = _update(
            objective, optimizer, params, state, frame, batch, batch.xs, rollouts, known
        )
        value, norm = float(value), float(norm)
        _refuse_nan(value, norm, step)
        metrics = {"grad_norm": norm, "ess_share": float(ess), "log_z": float(log_z)}
        history.append(TwistStep(step, num_steps, value, metrics, time.perf_counter() - started))
        for callback in callbacks:
            callback(history[-1])
    return FittedTwist(frame.with_params(params), history)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(2, 3))
def _update(objective, optimizer, params, state, frame, target, xs, rollouts, known):
    def loss(params: PyTree) -> Array:
        twist = frame.with_params(params)
        return _loss(objective, twist, target, xs, rollouts, known)

    value, gradient = jax.value_and_grad(loss)(params)
    updates, state = optimizer.update(gradient, state, params)
    params = optax.apply_updates(params, updates)
    return params, state, value, optax.tree.norm(gradient)


def _loss(
    objective: TwistObjective,
    twist: Twist,
    target: Target,
    xs: Prompt,
    rollouts: Rollouts,
    known: tuple[Array, Array] | None,
) -> Float[Array, ""]:
    """Mean of the objective over the prompts that have posterior draws, where it needs them."""
    log_twists, live = beside(target, twist, xs, rollouts.tokens)
    value = jnp.where(live, log_twists, rollouts.log_end[..., None])
    paths = Paths(value, rollouts.log_ratio, rollouts.log_end, live)
    if known is None:
        positives = Positives(log_twists, live, normalised_weights(rollouts.log_weights))
    else:
        positives = Positives(*beside(target, twist, xs, known[0]), known[1])
    losses = jax.vmap(objective)(paths, positives)
    if not objective.needs_positives:
        return losses.mean()
    usable = positives.weights.sum(-1) > 0
    if objective.needs_z:
        usable &= (rollouts.log_weights > -jnp.inf).any(-1)
    return jnp.where(usable, losses, 0.0).sum() / jnp.maximum(usable.sum(), 1)


@jax.jit
def _summary(rollouts: Rollouts) -> tuple[Array, Array, Array]:
    num_particles = rollouts.tokens.shape[1]
    ess = effective_sample_size(rollouts.log_weights) / num_particles
    log_z = jax.nn.logsumexp(rollouts.log_weights, axis=-1) - jnp.log(num_particles)
    return ess.mean(), log_z.mean(), (rollouts.log_weights > -jnp.inf).any()


def _choose(num_prompts: int, size: int, key: Key) -> list[int]:
    """Rows of the prompts of a step, no prompt twice."""
    if size >= num_prompts:
        return list(range(num_prompts))
    return np.asarray(jax.random.permutation(key, num_prompts)[:size]).tolist()


def _known(
    positives: PositiveDraws | None, twist: Twist, batch: Target, rows: list[int], key: Key
) -> tuple[Array, Array] | None:
    """Tokens [P, M, T] and weights [P, M] of the posterior draws that were given."""
    if positives is None:
        return None
    if isinstance(positives, Draws):
        index = jnp.asarray(rows, jnp.int32)
        return positives.tokens[index], positives.weights[index]
    draws = positives(twist).run(batch, key)
    return draws.tokens, draws.weights


def _check(target, twist, objective, num_steps, num_particles, prompts_per_step) -> None:
    if not isinstance(target, Target):
        raise TargetError(
            f"A {type(target).__name__} was given as target of a twist.",
            remedy="declare bft.Target(prior, evidence, …).",
        )
    if not isinstance(objective, TwistObjective):
        raise TargetError(
            f"{objective!r} is not an objective for twists.",
            cause="a constructor that was not called, or an objective of bft.objectives.",
            remedy="pass bft.twists.contrastive(), soft_q(), sixo() or fudge().",
        )
    counts = dict(
        num_steps=num_steps, num_particles=num_particles, prompts_per_step=prompts_per_step
    )
    for name, count in counts.items():
        checked_count(name, count, TargetError)
    require_fit(target, twist)


def require_fit(target: Target, twist: Twist) -> None:
    """Raise SamplerError for what is no twist, or one of another vocabulary, model or context."""
    if not isinstance(twist, Twist):
        raise SamplerError(
            f"A {type(twist).__name__} is not a twist.",
            cause="a guide, or a whole fit, where a twist belongs.",
            remedy="pass bft.twists.head, model or tabular, or `fitted.twist`.",
        )
    prior, num_tokens = target.prior, target.horizon.max_new_tokens
    x = jax.tree.map(lambda a: a[0], target.xs)
    try:
        found = jax.eval_shape(twist.log_twists, jnp.zeros(num_tokens, jnp.int32), x, prior).shape
    except TypeError:  # sizes that cannot be multiplied
        found = None
    if found != (num_tokens, prior.vocab_size):
        raise SamplerError(
            f"The twist gives log ψ of shape {found}, the target asks for "
            f"{(num_tokens, prior.vocab_size)}.",
            cause="a twist for another model: its vocabulary or hidden size differs.",
            remedy="make it from target.prior.",
        )
    require_context("The twist", twist, target, SamplerError)


def _usable(objective: TwistObjective, known: tuple[Array, Array] | None, alive: bool) -> bool:
    """Whether any prompt has posterior draws of positive weight, and what else is needed."""
    if known is None:
        return alive
    return bool((known[1] > 0).any()) and (alive or not objective.needs_z)


def _require_positives(target: Target, positives: PositiveDraws | None) -> None:
    if not isinstance(positives, Draws):
        return
    found = positives.tokens.shape[0], positives.tokens.shape[2]
    if found != (len(target.prompts), target.horizon.max_new_tokens):
        raise SamplerError(
            f"The positives have {found[0]} prompts and {found[1]} tokens, the target "
            f"{len(target.prompts)} and {target.horizon.max_new_tokens}.",
            cause="draws of another target.",
            remedy="draw them from a target with the same prompts and max_new_tokens.",
        )


def _refuse_dead(num_particles: int, step: int) -> None:
    raise SamplerError(
        f"All {num_particles} sequences of every prompt have weight 0 at step {step}.",
        cause="a constraint that the current proposal never meets.",
        remedy="draw more, soften the evidence, give exact draws as positives=, or use soft_q().",
    )


def _refuse_nan(value: float, norm: float, step: int) -> None:
    if np.isfinite([value, norm]).all():
        return
    raise FitError(
        f"The objective is {value} and its gradient norm {norm} at step {step}.",
        cause="a learning rate too large, a twist that returns NaN, or evidence of extreme size.",
        remedy="lower the learning rate, or clip: optax.chain(optax.clip_by_global_norm(1.0), "
        "...); evaluate twist.log_twists on a few completions.",
    )
