"""Stochastic densities against enumeration: both roles, values and gradients, and mistakes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from distributions.models import (
    CASES,
    LOG_DENSITY,
    NUM_RUNS,
    PARAMS,
    chain_log_prob,
    chain_of,
    marginal_of,
    marginal_rows,
    nested_of,
    nested_rows,
    normalized_of,
    outer_forward,
    smc_of,
)

import bayesft as bft
from bayesft.distributions import DISTRIBUTIONS, Marginal, marginal, normalize
from bayesft.errors import ChoiceError, EstimatorError
from bayesft.objectives import draw_detached
from bayesft.testing import assert_unbiased

GIVEN = 1
FAMILY = 4 * len(CASES)
SCORE = bft.estimators.score_function()


def flat(tree):
    return jnp.concatenate([leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(tree)], 1)


def used(gradient):
    row = flat(jax.tree.map(lambda a: a[None], gradient))[0]
    return row, np.abs(row) > 1e-6


def both_roles(density_of, key, num_values=3):
    """The bound of a draw, that of a given value, and what is unbiased in each."""

    def costs(params, key):
        keys = jax.random.split(key)
        drawn = bft.expectation(lambda p: _drawn(density_of(p)), estimator=SCORE)
        given = bft.expectation(lambda p: _given(density_of(p)), estimator=SCORE)
        return drawn.value_and_grad(keys[0], params), given.value_and_grad(keys[1], params)

    def run(key):
        keys = jax.random.split(key)
        return costs(PARAMS, keys[0]), unbiased(density_of(PARAMS), keys[1], num_values)

    return jax.jit(jax.vmap(run))(jax.random.split(key, NUM_RUNS))


def unbiased(density, key, num_values):
    """1/q̂ of a draw, at its value, and q̂ of every value."""
    keys, values = jax.random.split(key), jnp.arange(num_values)
    z, log_q = density.sample_and_log_prob(keys[0])
    inverse = jnp.where(values == z, jnp.exp(-log_q), 0.0)
    estimate = jax.vmap(density.estimate_log_prob)(jax.random.split(keys[1], num_values), values)
    return inverse, jnp.exp(estimate)


def _drawn(density):
    z, log_q = bft.draw("z", density, with_log_prob=True)
    return log_q - LOG_DENSITY[z]


def _given(density):
    return -bft.estimate_log_prob("z", density, jnp.int32(GIVEN))


def exact_drawn(rows):
    def bound(params):
        log_prob, z, log_q = rows(params)
        return jnp.exp(log_prob) @ (log_q - LOG_DENSITY[z])

    return jax.jit(jax.value_and_grad(bound))(PARAMS)


def exact_given(outcomes):
    def bound(params):
        log_prob, log_q = outcomes(params, GIVEN)
        return -jnp.exp(log_prob) @ log_q

    return jax.jit(jax.value_and_grad(bound))(PARAMS)


def check_gradient(value_and_gradient, exact):
    (value, gradient), (expected, expected_gradient) = value_and_gradient, exact
    assert_unbiased(value, expected, family=FAMILY, resolution=0.1)
    row, some = used(expected_gradient)
    assert_unbiased(flat(gradient)[:, some], row[some], family=FAMILY)


def test_the_room_is_covered():
    assert {member.__name__ for member in DISTRIBUTIONS} <= set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_both_roles_agree_with_enumeration(name):
    density_of, rows, given, log_prob = CASES[name]
    log_q = log_prob(PARAMS)
    num_values = len(log_q)
    pair, means = both_roles(density_of, jax.random.key(0), num_values)
    (drawn_cost, given_cost), (inverse, estimate) = pair, means
    per_value = 0.05 * (num_values + 1)  # the more values, the fewer draws of each
    assert_unbiased(inverse, jnp.ones(num_values), family=FAMILY, resolution=per_value)
    assert_unbiased(estimate, jnp.exp(log_q), family=FAMILY, resolution=0.05)
    check_gradient(drawn_cost, exact_drawn(rows))
    check_gradient(given_cost, exact_given(given))
    # The directions: too large on average for what was drawn, too small for what is given.
    reverse_kl = jnp.exp(log_q) @ (log_q - LOG_DENSITY[:num_values])
    assert exact_drawn(rows)[0] >= reverse_kl - 1e-6
    assert exact_given(given)[0] >= -log_q[GIVEN] - 1e-6


@pytest.mark.parametrize(
    ("density_of", "rows"),
    [(lambda p: marginal_of(p, 1), lambda p: marginal_rows(p, 1)), (nested_of, nested_rows)],
    ids=["marginal", "nested"],
)
def test_enumerated_choices_of_sub_programs_are_exact(density_of, rows):
    program = bft.expectation(lambda p: _drawn(density_of(p)), estimator=bft.estimators.enumerate())
    value, gradient = jax.jit(program.value_and_grad)(jax.random.key(0), PARAMS)
    exact, exact_gradient = exact_drawn(rows)
    np.testing.assert_allclose(value, exact, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), gradient, exact_gradient)


def test_a_marginal_by_smc_has_both_roles():
    """Its auxiliaries are the path of a scan, scored and drawn by SMC given what is kept."""
    keys = jax.random.split(jax.random.key(2), NUM_RUNS)
    run = jax.jit(jax.vmap(lambda key: unbiased(chain_of(PARAMS), key, 3)))
    inverse, estimate = run(keys)
    assert_unbiased(inverse, jnp.ones(3), family=2, resolution=0.2)
    assert_unbiased(estimate, jnp.exp(chain_log_prob(PARAMS)), family=2, resolution=0.05)


# ---- deliberate mistakes -------------------------------------------------------------------------


class FreshAuxiliary(Marginal):
    """Scores what was drawn as if it had been given."""

    def propose(self):
        kept, _ = bft.draw("inner", Marginal(**vars(self)), with_log_prob=True)
        return kept, bft.estimate_log_prob("fresh", Marginal(**vars(self)), kept)


def with_a_fresh_auxiliary(params):
    return FreshAuxiliary(**vars(marginal_of(params)))


def with_unscored_auxiliaries(params):
    """Their samples but the first one lose their score terms."""

    def backward(z):
        bft.draw("u", dist.Categorical(logits=params["reverse"][z]), bft.estimators.detached())

    return dataclasses.replace(marginal_of(params), proposal=bft.model(backward))


def test_a_fresh_auxiliary_is_caught():
    (drawn_cost, _), (inverse, _) = both_roles(with_a_fresh_auxiliary, jax.random.key(0))
    with pytest.raises(AssertionError, match="means are wrong"):
        assert_unbiased(inverse, jnp.ones(3), family=FAMILY)
    with pytest.raises(AssertionError, match="means are wrong"):
        check_gradient(drawn_cost, exact_drawn(marginal_rows))


@pytest.mark.parametrize("name", ["marginal", "normalize", "smc"])
def test_a_dropped_score_is_caught(name):
    """That of the auxiliaries, and that of the index: a resampling step."""
    dropped = {
        "marginal": with_unscored_auxiliaries,
        "normalize": lambda params: normalized_of(params, bft.estimators.detached()),
        "smc": lambda params: smc_of(params, bft.estimators.detached()),
    }
    program = bft.expectation(lambda p: _drawn(dropped[name](p)), estimator=SCORE)
    keys = jax.random.split(jax.random.key(0), NUM_RUNS)
    _, gradient = jax.jit(jax.vmap(lambda key: program.value_and_grad(key, PARAMS)))(keys)
    row, some = used(exact_drawn(CASES[name][1])[1])
    with pytest.raises(AssertionError, match="means are wrong"):
        assert_unbiased(flat(gradient)[:, some], row[some], family=FAMILY)


# ---- reparameterised, in closed form -------------------------------------------------------------

NORMAL = {"m": 0.4, "log_s": -0.3, "a": 0.6, "b": 0.1, "log_c": 0.2}


def test_reparameterised_normals_have_the_closed_form():
    """z ~ N(u, 1), u ~ N(m, s), r(u | z) = N(a·z + b, c), scored by a standard normal."""

    def forward(p):
        u = bft.draw("u", dist.Normal(p["m"], jnp.exp(p["log_s"])))
        bft.draw("z", dist.Normal(u, 1.0))

    def backward(p, z):
        bft.draw("u", dist.Normal(p["a"] * z + p["b"], jnp.exp(p["log_c"])))

    def bound(p):
        density = marginal(bft.model(forward)(p), "z", lambda z: bft.model(backward)(p, z))
        z, log_q = bft.draw("z", density, with_log_prob=True)
        return log_q - dist.Normal(0.0, 1.0).log_prob(z)

    def closed(p):
        variance, half = jnp.exp(2 * p["log_s"]), 0.5 * jnp.log(2 * jnp.pi)
        mean = (1 - p["a"]) * p["m"] - p["b"]
        square = mean**2 + (1 - p["a"]) ** 2 * variance + p["a"] ** 2
        log_joint = -2 * half - p["log_s"] - 1.0
        log_reverse = -half - p["log_c"] - square / (2 * jnp.exp(2 * p["log_c"]))
        return log_joint - log_reverse + half + (p["m"] ** 2 + variance + 1) / 2

    program = bft.expectation(bound, estimator=bft.estimators.reparameterize())
    keys = jax.random.split(jax.random.key(1), NUM_RUNS)
    value, gradient = jax.jit(jax.vmap(lambda key: program.value_and_grad(key, NORMAL)))(keys)
    exact, exact_gradient = jax.value_and_grad(closed)(NORMAL)
    assert_unbiased(value, exact, family=6, resolution=0.1)
    for name, leaf in gradient.items():
        assert_unbiased(leaf, exact_gradient[name], family=6)


# ---- misuse --------------------------------------------------------------------------------------


def test_misuse_is_refused():
    key = jax.random.key(0)
    stochastic = bft.model(outer_forward)(PARAMS)
    trace = stochastic.sample(key)
    with pytest.raises(ChoiceError, match="stochastic density"):
        stochastic.log_density(trace)
    with pytest.raises(ChoiceError, match="marginal"):
        bft.expectation(
            lambda p: bft.draw("m", bft.model(outer_forward)(p), SCORE, with_log_prob=True)[1]
        ).estimate(key, PARAMS)
    with pytest.raises(ChoiceError, match=r"keeps \['w'\]"):
        marginal(bft.model(outer_forward)(PARAMS), "w", lambda w: None).sample_and_log_prob(key)
    for make in (lambda: marginal_of(PARAMS, 0), lambda: normalize(lambda y: y, None, 0)):
        with pytest.raises(ChoiceError, match="num_samples"):
            make()
    with pytest.raises(EstimatorError, match="held fixed"):
        bft.expectation(lambda p: draw_detached("z", marginal_of(p))[1]).estimate(key, PARAMS)
    assert not hasattr(marginal_of(PARAMS), "log_prob")
    assert dataclasses.is_dataclass(marginal_of(PARAMS))
