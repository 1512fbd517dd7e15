"""A guide of three tokens and a reward in Python: a fit of milliseconds a step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import bayesft as bft

OPTIMIZER = optax.adam(0.05)
LOO = bft.estimators.leave_one_out(4)


def language():
    rows = jnp.log(jnp.array([[0.1, 0.6, 0.3], [0.5, 0.2, 0.3], [1 / 3, 1 / 3, 1 / 3]]))
    return bft.priors.markov(jnp.log(jnp.array([0.5, 0.3, 0.2])), rows, eos=2)


def count(completion_ids):
    return [float(ids.count(0)) for ids in completion_ids]


def target(fn=count):
    prompts = [[], [0], [1]]
    return bft.Target(
        language(), bft.evidence.reward(fn, beta=1.0), prompts=prompts, max_new_tokens=3
    )


def fit(num_steps, *, fn=count, key=0, optimizer=OPTIMIZER, **options):
    options = {"objective": bft.objectives.reverse_kl, "estimator": LOO, **options}
    with jax.debug_key_reuse(False):  # checked at every call of a fit; other tests pay for it
        return bft.fit(
            target(fn),
            bft.trainable(language()),
            optimizer=optimizer,
            num_steps=num_steps,
            prompts_per_step=2,
            key=jax.random.key(key),
            **options,
        )


def outcome(fitted):
    """Parameters, objective and gradient norms of a fit, in one array: the last two per step."""
    steps = [[info.value, info.metrics["grad_norm"]] for info in fitted.history]
    return np.concatenate([*map(np.ravel, jax.tree.leaves(fitted.guide.params)), *steps])
