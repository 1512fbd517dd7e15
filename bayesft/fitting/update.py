"""One optimiser step on a recording."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import optax

from bayesft.program.record import replay_value_and_grad
from bayesft.sharding import shard


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3), donate_argnums=(4, 5))
def update(objective, estimator, optimizer, micro_batch, params, state, frame, target, recording):
    """Parameters, optimiser state, value and gradient norm; NaN and inf leave the first two."""
    value, gradient = replay_value_and_grad(
        objective,
        lambda params: (frame.with_params(params), target),
        params,
        recording,
        estimator=estimator,
        micro_batch=micro_batch,
    )
    norm = optax.tree.norm(gradient)
    finite = jnp.isfinite(value) & jnp.isfinite(norm)

    def stepped():
        # Some schedules and step sizes follow the value: reduce_on_plateau, polyak_sgd, momo.
        follow = optax.with_extra_args_support(optimizer)
        updates, after = follow.update(gradient, state, params, value=value)
        return optax.apply_updates(params, updates), after

    # Chosen here, for what is donated cannot be gone back to; by cond, which writes in place.
    params, state = jax.lax.cond(finite, stepped, lambda: (params, state))
    return *shard((params, state)), value, norm
