"""Objectives of the guide's own draws against enumeration: value, gradient, minimiser, mistakes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from objectives.table import ALL, CASES, DENSITY, EXACT, LOG_DENSITY, PARAMS, TARGET, Guide
from objectives.table import estimates, value_and_grad

import bayesft as bft
from bayesft import objectives
from bayesft.errors import EstimatorError
from bayesft.testing import assert_unbiased

NUM_RUNS = 20_000
PAIRS = [(name, estimator) for name, case in CASES.items() for estimator in case.estimators]


def flat(tree):
    return jnp.concatenate([leaf.reshape(*leaf.shape[:1], -1) for leaf in jax.tree.leaves(tree)], 1)


def check(case, objective, estimator, resolution=None):
    """The claim: the means of value and gradient are the enumerated ones."""
    num_runs = 3 if estimator is ALL["enumerate"] else NUM_RUNS
    value, gradient = estimates(objective, estimator, num_runs)
    exact, exact_gradient = value_and_grad(case, PARAMS)
    exact_gradient = flat(jax.tree.map(lambda a: a[None], exact_gradient))[0]
    used = np.abs(exact_gradient) > 1e-6
    family = 2 * len(PAIRS)
    assert_unbiased(value, exact, family=family, resolution=resolution)
    assert_unbiased(flat(gradient)[:, used], exact_gradient[used], family=family)


@pytest.mark.parametrize(("name", "estimator"), PAIRS)
def test_value_and_gradient_are_the_enumerated_ones(name, estimator):
    case = CASES[name]
    check(case, case.objective, case.estimators[estimator], resolution=0.1)


@pytest.mark.parametrize("name", CASES)
def test_planted_bugs_are_caught(name):
    with pytest.raises(AssertionError, match="means are wrong"):
        check(CASES[name], CASES[name].bug, ALL["leave_one_out"])


@pytest.mark.parametrize("name", CASES)
def test_the_optimum_is_at_the_posterior(name):
    """By theory the expected cost is smallest at q = p*, where nothing is left to learn."""
    case, log_z = CASES[name], jnp.float32(EXACT.log_z)
    best, gradient = value_and_grad(case, {"logits": LOG_DENSITY, "log_z": log_z})
    np.testing.assert_allclose(best, case.optimum, atol=1e-5)
    for leaf in jax.tree.leaves(gradient):
        np.testing.assert_allclose(leaf, 0.0, atol=1e-5)

    def beside(direction):
        direction -= direction.mean()  # the other direction leaves q as it is
        logits = LOG_DENSITY + 0.5 * direction / jnp.linalg.norm(direction)
        return value_and_grad(case, {"logits": logits, "log_z": log_z})[0]

    others = jax.vmap(beside)(jax.random.normal(jax.random.key(0), (20, 7)))
    assert (others > best + 1e-4).all()


@pytest.mark.parametrize("name", ["iwae", "renyi"])
def test_enumeration_of_several_draws_is_refused(name):
    with pytest.raises(EstimatorError, match="leave_one_out"):
        estimates(CASES[name].objective, ALL["enumerate"], 1)
