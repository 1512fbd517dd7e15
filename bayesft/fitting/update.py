"""One optimiser step on a recording."""

from __future__ import annotations

import functools

import jax
import optax

from bayesft.program.record import replay_value_and_grad
from bayesft.sharding import shard


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3), donate_argnums=(4, 5))
def update(objective, estimator, optimizer, micro_batch, params, state, frame, target, recording):
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
    norm = optax.tree.norm(gradient)
    return *shard((params, state)), value, norm
