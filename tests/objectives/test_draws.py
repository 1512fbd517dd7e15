"""Objectives of the guide's own draws against enumeration: value, gradient, minimiser, mistakes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objectives.table import (
    ALL,
    CASES,
    EXACT,
    LOG_DENSITY,
    PARAMS,
    TARGET,
    estimates,
    expected,
    value_and_grad,
)
from samplers.language import guide

from bayesft import objectives
from bayesft.errors import EstimatorError
from bayesft.objectives.weights import draw_log_weight
from bayesft.priors.sequence import BoundGuide, bind
from bayesft.program import plate, record, replay_value_and_grad
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


def test_the_renyi_bound_is_iwae_at_0_and_for_one_draw():
    def iwae(num_samples):
        """In the words of the Rényi bound, so that both draw the same."""

        def bound(guide, target, x):
            log_weights = plate(lambda _: draw_log_weight(guide, target, x), num_samples)
            return jnp.log(num_samples) - jax.nn.logsumexp(log_weights)

        return bound

    for one, other in (
        (objectives.renyi(0.0, 2), iwae(2)),
        (objectives.renyi(3.0, 1), iwae(1)),
    ):
        pairs = zip(*(estimates(f, ALL["score_function"], 3) for f in (one, other)), strict=True)
        for left, right in pairs:
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), left, right)


def test_the_renyi_bound_is_continuous_at_1():
    """At α = 1 it is reverse KL of the same draws; α is within 1e-6 of it, and floats are not."""
    draws = lambda guide, target, x: plate(lambda _: draw_log_weight(guide, target, x), 3)
    mean = lambda *args: -draws(*args).mean()
    for alpha in (1 - 1e-6, 1 + 1e-6):
        pairs = zip(
            *(estimates(f, ALL["score_function"], 3) for f in (objectives.renyi(alpha, 3), mean)),
            strict=True,
        )
        for left, right in pairs:
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), left, right)


@pytest.mark.parametrize("name", ["iwae", "renyi"])
def test_enumeration_of_several_draws_is_refused(name):
    with pytest.raises(EstimatorError, match="leave_one_out"):
        estimates(CASES[name].objective, ALL["enumerate"], 1)


def test_the_bias_of_reweighted_wake_sleep_falls_like_one_over_k():
    """The guide's gradient against that of KL(p* ‖ q), by enumeration."""
    q_wake = CASES["reweighted_wake_sleep"].gradient_of

    def bias(num_draws):
        def gap(logits):
            log_q = jax.nn.log_softmax(logits)
            forward_kl = -jnp.exp(EXACT.log_probs) @ log_q
            return expected(q_wake, num_draws, LOG_DENSITY, log_q, frozen=True) - forward_kl

        return np.abs(jax.jit(jax.grad(gap))(PARAMS["logits"])).max()

    leading = [num_draws * bias(num_draws) for num_draws in (2, 3, 4)]
    np.testing.assert_allclose(leading, leading[-1], rtol=0.05)
    assert leading[-1] > 0.1


def test_several_draws_of_sequences_are_recorded_and_replayed():
    """The sequences of a plate, and their credit with the whole bound, survive a recording."""
    case, start, estimator = CASES["iwae"], guide(), ALL["leave_one_out"]

    def args(params):
        return BoundGuide(start.with_params(params), TARGET.horizon), TARGET

    def one(key):
        bound = bind(start, TARGET.horizon)
        recording = record(case.objective, key, (bound, TARGET), TARGET.xs, estimator=estimator)
        return replay_value_and_grad(
            case.objective, args, start.params, recording, estimator=estimator
        )

    def exact(params):
        log_q = jax.vmap(args(params)[0](EXACT.x).log_prob)(EXACT.tokens)
        return expected(case.cost, case.num_draws, LOG_DENSITY, log_q)

    keys = jax.random.split(jax.random.key(2), NUM_RUNS)
    values, gradients = jax.lax.map(jax.jit(one), keys, batch_size=2000)
    value, gradient = jax.jit(jax.value_and_grad(exact))(start.params)
    gradient = flat(jax.tree.map(lambda a: a[None], gradient))[0]
    used = np.abs(gradient) > 1e-6
    assert_unbiased(values, value, family=2)
    assert_unbiased(flat(gradients)[:, used], gradient[used], family=2)
