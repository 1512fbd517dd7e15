"""What the tests of twists share: gradients of an objective, and what of a table can be reached."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from samplers.language import NUM_TOKENS

from bayesft.samplers.whole import whole_terms
from bayesft.testing import enumerate_target
from bayesft.twists import tabular
from bayesft.twists.fitting import _loss
from bayesft.twists.rollouts import Rollouts, roll_out


def blank():
    return tabular(3, NUM_TOKENS)


def roll(target, twist, objective, key, num_particles=64):
    return roll_out(target, None if objective.from_prior else twist, key, num_particles)


@functools.partial(jax.jit, static_argnums=0)
def _gradients(objective, twist, target, xs, rollouts):
    def of_prompt(x, rollouts):
        x, rollouts = jax.tree.map(lambda a: a[None], (x, rollouts))

        def loss(params):
            return _loss(objective, twist.with_params(params), target, x, rollouts, None)

        return jax.grad(loss)(twist.params)

    return jax.vmap(of_prompt)(xs, rollouts)


def gradients(objective, twist, target, rollouts: Rollouts) -> np.ndarray:
    """One gradient with respect to the table for every prompt, [P, M, V]."""
    return np.asarray(_gradients(objective.bind(target), twist, target, target.xs, rollouts))


def learnable(target) -> np.ndarray:
    """Entries of the table that the posterior reaches and the target does not know, bool [M, V]."""
    found = enumerate_target(target)
    mask = np.zeros(blank().params.shape, bool)
    prefixes = np.asarray(jax.vmap(blank().prefixes)(jnp.asarray(found.tokens)))
    for tokens, rows, length, log_prob in zip(
        found.tokens, prefixes, found.lengths, found.log_probs, strict=True
    ):
        if log_prob > -np.inf:
            last = length if whole_terms(target) else length - 1
            mask[rows[:last], tokens[:last]] = True
    return mask
