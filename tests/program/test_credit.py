"""What credit by `bft.cost` is worth: the variance of a plate's gradient, in closed form."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import bayesft as bft
from bayesft.testing import assert_unbiased

NUM_LANES = 6
SLOPES = np.linspace(-1, 2, NUM_LANES) + 0.3 * np.arange(NUM_LANES)
LOGITS = np.linspace(-1, 1, NUM_LANES)
SCORE = bft.estimators.score_function()


def lane_cost(logits, i):
    z = bft.draw("z", dist.Bernoulli(logits=logits[i]), SCORE)
    return jnp.asarray(SLOPES, jnp.float32)[i] * z


def returned(logits):
    return bft.plate(lambda i: lane_cost(logits, i), NUM_LANES).sum()


def paid(logits):
    bft.plate(lambda i: bft.cost(lane_cost(logits, i)), NUM_LANES)
    return 0.0


def test_costs_paid_in_a_plate_leave_a_fiftieth_of_the_variance():
    """Each bit is credited with its own cost, not with that of all six: 36.8 falls to 0.667."""
    p = 1 / (1 + np.exp(-LOGITS))
    bits = np.array(list(itertools.product((0, 1), repeat=NUM_LANES)))
    chances = np.where(bits == 1, p, 1 - p).prod(1)
    scores, costs = bits - p, bits * SLOPES
    logits = jnp.asarray(LOGITS, jnp.float32)
    variances = {}
    for program, credited in ((returned, costs.sum(1, keepdims=True)), (paid, costs)):
        gradients = credited * scores
        mean = chances @ gradients
        variances[program] = (chances @ gradients**2 - mean**2).sum()
        run = bft.expectation(program)
        keys = jax.random.split(jax.random.key(0), 20_000)
        found = jax.jit(jax.vmap(lambda k, r=run: r.value_and_grad(k, logits)[1]))(keys)
        assert_unbiased(found, mean, family=4)
        squares = ((np.asarray(found) - mean) ** 2).sum(1)
        assert_unbiased(squares, variances[program], family=4)
    np.testing.assert_allclose([variances[returned], variances[paid]], [36.774, 0.6673], rtol=1e-4)
