"""Objectives of guides with auxiliary choices against enumeration."""

import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from distributions.models import LOG_DENSITY, NUM_RUNS, PARAMS, guide, marginal_rows
from objectives.table import TARGET as LANGUAGE_TARGET

import bayesft as bft
from bayesft import objectives
from bayesft.errors import GuideError, ObjectiveError
from bayesft.program import record, replay_value_and_grad
from bayesft.testing import assert_unbiased

TARGET = SimpleNamespace(log_density=lambda y, x: LOG_DENSITY[y])
LEARNED = ("u", "z", "reverse")
PROMPTS = LANGUAGE_TARGET.xs
SCORE = bft.estimators.score_function()


def exact_iwhvi(num_auxiliary):
    def bound(params):
        log_prob, z, log_q = marginal_rows(params, num_auxiliary)
        return jnp.exp(log_prob) @ (log_q - LOG_DENSITY[z])

    return bound


def exact_diwhvi(params):
    """Two draws of two auxiliaries each."""
    log_prob, z, log_q = marginal_rows(params, 2)
    pairs = np.array([*itertools.product(range(len(z)), repeat=2)])
    log_weights = (LOG_DENSITY[z] - log_q)[pairs]
    bound = jnp.log(2.0) - jax.nn.logsumexp(log_weights, -1)
    return jnp.exp(log_prob[pairs].sum(-1)) @ bound


CASES = {
    "hierarchical": (objectives.hierarchical, exact_iwhvi(1)),
    "iwhvi": (objectives.iwhvi(2), exact_iwhvi(2)),
    "diwhvi": (objectives.diwhvi(2, 2), exact_diwhvi),
}


def check(objective, exact):
    program = bft.expectation(
        lambda p: objective(guide(p), TARGET, None), estimator=bft.estimators.leave_one_out(2)
    )
    keys = jax.random.split(jax.random.key(0), NUM_RUNS)
    value, gradient = jax.jit(jax.vmap(lambda key: program.value_and_grad(key, PARAMS)))(keys)
    expected, expected_gradient = jax.jit(jax.value_and_grad(exact))(PARAMS)
    assert_unbiased(value, expected, family=4 * len(CASES), resolution=0.1)
    for name in LEARNED:
        assert_unbiased(gradient[name], expected_gradient[name], family=4 * len(CASES))


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_are_the_enumerated_ones(name):
    check(*CASES[name])


def test_an_estimate_without_its_own_gradient_is_caught():
    """Reverse KL's shortcut, E[∇ log q] = 0, does not hold for an estimate."""

    def frozen(guide, target, x):
        y, log_q = bft.draw("y", guide.marginal(2)(x), with_log_prob=True)
        return jax.lax.stop_gradient(log_q) - target.log_density(y, x)

    with pytest.raises(AssertionError, match="means are wrong"):
        check(frozen, exact_iwhvi(2))


def test_auxiliaries_are_recorded_and_replayed():
    def program(params, x):
        return objectives.iwhvi(2)(guide(params), TARGET, x)

    def one(key):
        recording = record(program, key, (PARAMS,), PROMPTS, estimator=SCORE)
        return replay_value_and_grad(
            program, lambda params: (params,), PARAMS, recording, estimator=SCORE
        )

    value, gradient = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), NUM_RUNS))
    expected, expected_gradient = jax.jit(jax.value_and_grad(exact_iwhvi(2)))(PARAMS)
    assert_unbiased(value, expected, family=4 * len(CASES))
    for name in LEARNED:
        assert_unbiased(gradient[name], expected_gradient[name], family=4 * len(CASES))


def test_the_bounds_tighten():
    values = [float(exact_iwhvi(k)(PARAMS)) for k in (1, 2, 3)]
    assert values[0] > values[1] > values[2] > float(exact_diwhvi(PARAMS))
    assert float(exact_diwhvi(PARAMS)) > -float(jax.nn.logsumexp(LOG_DENSITY))


def test_misuse_is_refused():
    with pytest.raises(GuideError, match="auxiliary"):
        objectives.hierarchical(lambda x: None, TARGET, None)
    for make in (lambda: objectives.iwhvi(0), lambda: objectives.diwhvi(1, 0)):
        with pytest.raises(ObjectiveError, match="num_samples"):
            make()
