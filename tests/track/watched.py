"""One small fit that every tracker watches."""

import jax
import jax.numpy as jnp
import optax

import bayesft as bft

ROWS = jnp.log(jnp.array([[0.1, 0.6, 0.3], [0.5, 0.2, 0.3], [1 / 3, 1 / 3, 1 / 3]]))
LANGUAGE = bft.priors.markov(jnp.log(jnp.array([0.5, 0.3, 0.2])), ROWS, eos=2)
NUM_STEPS = 5


def letters_a(completion_ids):
    return [float(ids.count(0)) for ids in completion_ids]


TARGET = bft.Target(
    LANGUAGE,
    bft.evidence.reward(letters_a, beta=2.0, bounds=(0, 3)),
    prompts=[[], [1]],
    max_new_tokens=3,
)


def watched(*callbacks, num_steps=NUM_STEPS):
    with jax.debug_key_reuse(False):  # checked at every call of a fit; other tests pay for it
        return bft.fit(
            TARGET,
            bft.trainable(LANGUAGE),
            objective=bft.objectives.reverse_kl,
            estimator=bft.estimators.leave_one_out(4),
            optimizer=optax.sgd(0.1),
            num_steps=num_steps,
            key=jax.random.key(0),
            callbacks=callbacks,
        )
