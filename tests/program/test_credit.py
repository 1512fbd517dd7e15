"""What credit by `bft.cost` is worth: the variance of a plate's gradient, in closed form."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import bayesft as bft
from bayesft.errors import ChoiceError
from bayesft.testing import assert_unbiased

NUM_LANES = 6
SLOPES = np.linspace(-1, 2, NUM_LANES) + 0.3 * np.arange(NUM_LANES)
LOGITS = np.linspace(-1, 1, NUM_LANES)
SCORE = bft.estimators.score_function()
KEY = lambda: jax.random.key(0)


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


def test_a_large_cost_does_not_round_the_credit_with_later_ones():
    """What its step draws after it is credited with 1: not with 1e8 + 1 − 1e8, which is 0."""

    def run(logits):
        def step(_, x):
            bft.cost(x)
            bft.draw("z", dist.Bernoulli(logits=logits), SCORE)
            return None, None

        bft.scan(step, None, jnp.array([1e8, 1.0]))

    gradient = jax.jit(bft.expectation(run).value_and_grad)(jax.random.key(1), 0.0)[1]
    assert abs(gradient) == 0.5  # z − ½


def test_costs_along_a_choice_are_a_sum_where_it_has_no_score():
    """Enumerated, reparameterised, or in a model: there is no credit to assign."""
    path, each = bft.estimators.reparameterize(), bft.estimators.enumerate()

    def run(t, d, estimator=None):
        y = bft.draw("y", d(t), estimator)
        bft.cost(t * y * jnp.ones(3), along="y")

    bit, normal = lambda t: dist.Bernoulli(probs=t), lambda t: dist.Normal(t, 1.0)
    value, gradient = bft.expectation(lambda t: run(t, bit, each)).value_and_grad(KEY(), 0.3)
    np.testing.assert_allclose([value, gradient], [3 * 0.3**2, 6 * 0.3], rtol=1e-5)
    moved = bft.expectation(lambda t: run(t, normal, path))
    value, gradient = moved.value_and_grad(KEY(), 0.3)
    y = value / (3 * 0.3)
    np.testing.assert_allclose(gradient, 3 * (y + 0.3), rtol=1e-5)
    log_density = bft.model(run)(0.3, bit).log_density({"y": jnp.int32(1)})
    np.testing.assert_allclose(log_density, np.log(0.3) - 0.9, rtol=1e-5)
    with pytest.raises(ChoiceError, match="'w', which is no choice of the same scope"):
        bft.expectation(lambda t: bft.cost(jnp.ones(2), along="w")).estimate(KEY(), 0.3)


def test_costs_are_in_double_precision_where_that_is_enabled():
    def run(p):
        bft.scan(lambda _, x: (bft.cost(x), None), None, jnp.array([1e-10, 1e-11]))
        bft.cond(p > 0, lambda: bft.cost(1e-9 * p), lambda: None)
        return 1.0 + bft.draw("z", dist.Bernoulli(probs=p), bft.estimators.enumerate())

    with jax.enable_x64(True):
        value, gradient = bft.expectation(run).value_and_grad(KEY(), jnp.float64(0.3))
        np.testing.assert_allclose(value - 1.3, 4.1e-10, rtol=1e-4)
        np.testing.assert_allclose(gradient - 1, 1e-9, rtol=1e-4)
