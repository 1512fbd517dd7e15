"""Objectives as programs of numpyro's distributions, some with parameters on both sides."""

import dataclasses
import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from objectives.table import CASES

import bayesft as bft
from bayesft import objectives
from bayesft.errors import TargetError
from bayesft.testing import assert_unbiased

PATHWISE = ("reverse_kl", "iwae", "renyi", "chi_upper_bound", "f_divergence")
START = {"mean": jnp.float32(0.4), "log_scale": jnp.float32(0.3), "log_z": jnp.float32(0.5)}
NUM_RUNS = 20_000


@dataclasses.dataclass(frozen=True)
class Normal:
    params: dict

    def __call__(self, x):
        return dist.Normal(self.params["mean"], jnp.exp(self.params["log_scale"]))

    def log_z(self, x):
        return self.params["log_z"]


def log_density(y, x):
    """A standard normal with log Z = 1."""
    return dist.Normal(0.0, 1.0).log_prob(y) + 1.0


NORMAL_TARGET = SimpleNamespace(log_density=log_density)


def quadrature(case, params):
    """E[cost] by Gauss and Hermite, 30 nodes for each draw; through y as well as through q."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(30)
    weights = weights / weights.sum()
    tuples = list(itertools.product(range(30), repeat=case.num_draws))
    q = Normal(params)(None)
    y = q.loc + q.scale * jnp.asarray(nodes[np.asarray(tuples)], jnp.float32)
    mass = jnp.asarray(weights[np.asarray(tuples)].prod(-1), jnp.float32)
    return mass @ jax.vmap(case.cost)(log_density(y, None), q.log_prob(y))


def run(objective, estimator, num_runs=NUM_RUNS):
    program = bft.expectation(
        lambda p: objective(Normal(p), NORMAL_TARGET, None), estimator=estimator
    )
    keys = jax.random.split(jax.random.key(0), num_runs)
    return jax.jit(jax.vmap(lambda key: program.value_and_grad(key, START)))(keys)


@pytest.mark.parametrize("name", PATHWISE)
def test_reparameterised_normals_agree_with_quadrature(name):
    case = CASES[name]
    value, gradient = run(case.objective, bft.estimators.reparameterize())
    exact, exact_gradient = jax.jit(jax.value_and_grad(lambda p: quadrature(case, p)))(START)
    assert_unbiased(value, exact, family=3 * len(PATHWISE))
    for leaf in ("mean", "log_scale"):
        assert_unbiased(gradient[leaf], exact_gradient[leaf], family=3 * len(PATHWISE))


def reverse_kl(params):
    variance = jnp.exp(2 * params["log_scale"])
    return (variance + params["mean"] ** 2 - 1) / 2 - params["log_scale"] - 1.0


@pytest.mark.parametrize(("name", "factor"), [("log_variance", 1.0), ("trajectory_balance", 2.0)])
def test_detached_draws_of_normals_follow_reverse_kl(name, factor):
    """Their gradients have the mean of reverse KL's, whose closed form is known."""
    _, gradient = run(CASES[name].objective, None, 3 * NUM_RUNS)
    exact, exact_gradient = jax.value_and_grad(reverse_kl)(START)
    for leaf in ("mean", "log_scale"):
        assert_unbiased(gradient[leaf], factor * exact_gradient[leaf], family=5)
    if name == "trajectory_balance":
        assert_unbiased(gradient["log_z"], 2 * (START["log_z"] + exact), family=5)


# ---- models that learn -----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Joint:
    """A bit y and an observation x in {0, 1, 2}."""

    params: dict

    def log_density(self, y, x):
        prior = dist.Bernoulli(logits=self.params["prior"])
        return prior.log_prob(y) + dist.Categorical(logits=self.params["seen"][y]).log_prob(x)

    def sample(self, key):
        first, second = jax.random.split(key)
        y = dist.Bernoulli(logits=self.params["prior"]).sample(first)
        return y, dist.Categorical(logits=self.params["seen"][y]).sample(second)


BITS = {
    "prior": jnp.float32(0.4),
    "seen": jnp.array([[0.5, -0.3, 0.1], [-0.6, 0.8, 0.0]]),
    "guess": jnp.array([0.3, -0.5, 0.9]),
}
X = 1


def guess(params):
    return lambda x: dist.Bernoulli(logits=params["guess"][x])


def log_table(params):
    """log p(y, x) and log q(y | x), both [2, 3]."""
    ys, xs = jnp.meshgrid(jnp.arange(2), jnp.arange(3), indexing="ij")
    log_q = jax.vmap(jax.vmap(lambda y, x: guess(params)(x).log_prob(y)))(ys, xs)
    return jax.vmap(jax.vmap(Joint(params).log_density))(ys, xs), log_q


def exact_wake_sleep(params):
    log_p, log_q = log_table(params)
    wake = -jnp.sum(jax.lax.stop_gradient(jnp.exp(log_q[:, X])) * log_p[:, X])
    return wake - jnp.sum(jax.lax.stop_gradient(jnp.exp(log_p)) * log_q)


def exact_reweighted(params):
    """The bound over pairs of frozen draws; its own gradient in the model, Q-wake in the guide."""
    log_p, log_q = (table[:, X] for table in log_table(params))
    total = 0.0
    for pair in itertools.product(range(2), repeat=2):
        p, q = log_p[jnp.array(pair)], log_q[jnp.array(pair)]
        frozen = jax.lax.stop_gradient(q)
        wake = -jax.lax.stop_gradient(jax.nn.softmax(p - q)) @ (q - frozen)
        total += jnp.exp(frozen.sum()) * (wake - jax.nn.logsumexp(p - frozen) + jnp.log(2.0))
    return total


def sleep_without_dreams(guide, target, x):
    y = bft.draw("y", guide(x))
    return -target.log_density(y, x) - guide(x).log_prob(y)


def learn(objective):
    program = bft.expectation(
        lambda p: objective(guess(p), Joint(p), X), estimator=bft.estimators.score_function()
    )
    keys = jax.random.split(jax.random.key(1), NUM_RUNS)
    return jax.jit(jax.vmap(lambda key: program.value_and_grad(key, BITS)))(keys)


def check_models(objective, exact):
    value, gradient = learn(objective)
    expected, expected_gradient = jax.jit(jax.value_and_grad(exact))(BITS)
    assert_unbiased(value, expected, family=8)
    for name, leaf in gradient.items():
        assert_unbiased(leaf, expected_gradient[name], family=8)


def test_wake_sleep_learns_model_and_guide():
    check_models(objectives.wake_sleep, exact_wake_sleep)
    with pytest.raises(AssertionError, match="means are wrong"):
        check_models(sleep_without_dreams, exact_wake_sleep)


def test_reweighted_wake_sleep_learns_model_and_guide():
    check_models(objectives.reweighted_wake_sleep(2), exact_reweighted)


def test_the_sleeping_guide_is_right_at_the_posterior():
    """Q-sleep's gradient is 0 where q(y | x) = p(y | x) for every x."""
    log_p, _ = log_table(BITS)
    posterior = {**BITS, "guess": log_p[1] - log_p[0]}
    gradient = jax.jit(jax.grad(exact_wake_sleep))(posterior)
    np.testing.assert_allclose(gradient["guess"], 0.0, atol=1e-6)


def test_misuse_of_programs_is_refused():
    with pytest.raises(TargetError, match="dreams"):
        run(objectives.wake_sleep, None)
    with pytest.raises(TargetError, match="data"):
        bft.expectation(lambda p: objectives.iwae(2)(Normal(p), object(), None)).estimate(
            jax.random.key(0), START
        )
