"""Estimators of multi-sample bounds, against enumeration and quadrature."""

import itertools

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import pytest

import bayesft as bft
from bayesft.base import Prompt
from bayesft.errors import ChoiceError, EstimatorError
from bayesft.program import record, replay_value_and_grad
from bayesft.testing import assert_unbiased

VIMCO, SCORE = bft.estimators.vimco(), bft.estimators.score_function()
DOUBLY, PATH = bft.estimators.doubly_reparameterize(), bft.estimators.reparameterize()
NUM_RUNS = 20_000


def discrete(estimator, size=3):
    """−log (1/K) Σ_k p(y_k)/q(y_k) for q = Bernoulli(sigmoid θ), with a parameter of p too."""

    def program(theta):
        def lane(_):
            d = dist.Bernoulli(logits=theta[0])
            y, log_q = bft.draw("y", d, estimator, with_log_prob=True)
            return 3.0 + theta[1] * y - jnp.sin(1.0 + y) - log_q

        return -bft.log_mean_exp(lane, size)

    return program


def enumerated(theta, size=3):
    total = 0.0
    for bits in itertools.product((0, 1), repeat=size):
        y = jnp.array(bits)
        log_q = dist.Bernoulli(logits=theta[0]).log_prob(y)
        log_weights = 3.0 + theta[1] * y - jnp.sin(1.0 + y) - log_q
        total -= jnp.exp(log_q.sum()) * (jax.nn.logsumexp(log_weights) - jnp.log(size))
    return total


def continuous(estimator, size=2):
    """The bound on the evidence of a normal model, for q = Normal(θ₀, e^θ₁)."""

    def program(theta):
        def lane(_):
            q = dist.Normal(theta[0], jnp.exp(theta[1]))
            z, log_q = bft.draw("z", q, estimator, with_log_prob=True)
            return joint(z, theta) - log_q

        return -bft.log_mean_exp(lane, size)

    return program


def joint(z, theta):
    return dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z + theta[2], 0.5).log_prob(1.5)


def integrated(theta, size=2, points=301):
    z = jnp.linspace(-5.0, 6.0, points)
    log_q = dist.Normal(theta[0], jnp.exp(theta[1])).log_prob(z)
    log_w = joint(z, theta) - log_q
    density = jnp.exp(log_q) * (z[1] - z[0])
    if size == 1:
        return -jnp.sum(density * log_w)
    bound = jnp.logaddexp(log_w[:, None], log_w[None, :]) - jnp.log(2.0)
    return -density @ bound @ density


DISCRETE_AT = jnp.array([0.3, 0.8])
CONTINUOUS_AT = jnp.array([0.4, -0.3, 0.2])


def estimates(program, theta, seed=0):
    run = bft.expectation(program)
    keys = jax.random.split(jax.random.key(seed), NUM_RUNS)
    return jax.jit(jax.vmap(lambda k: run.value_and_grad(k, theta)))(keys)


def test_vimco_is_unbiased_with_less_variance_than_the_score_function():
    exact, exact_gradient = jax.jit(jax.value_and_grad(enumerated))(DISCRETE_AT)
    variances = []
    for estimator in (VIMCO, SCORE):
        value, gradient = estimates(discrete(estimator), DISCRETE_AT)
        assert_unbiased(value, exact, family=4, resolution=0.1)
        assert_unbiased(gradient, exact_gradient, family=4, resolution=0.2)
        variances.append(gradient[:, 0].var())
    assert variances[0] < 0.5 * variances[1]


@pytest.mark.parametrize("size", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_doubly_reparameterised_gradients_are_unbiased(size):
    """In the guide's parameters and the model's; less noise where the guide is close."""
    truth = jax.jit(jax.value_and_grad(lambda t: integrated(t, size)))
    exact, exact_gradient = truth(CONTINUOUS_AT)
    variances = []
    for estimator in (DOUBLY, PATH):
        value, gradient = estimates(continuous(estimator, size), CONTINUOUS_AT, seed=size)
        assert_unbiased(value, exact, family=8, resolution=0.2, rounding=2.0**-10)
        assert_unbiased(gradient, exact_gradient, family=8, resolution=0.4, rounding=2.0**-10)
        variances.append(gradient[:, 0].var())
    assert variances[0] < variances[1]


def test_a_path_with_another_choice_before_it():
    """A reparameterised choice that the parameters of the doubly reparameterised one depend on."""

    def program(theta, estimator):
        def lane(_):
            h, log_h = bft.draw("h", dist.Normal(theta[0], 0.7), PATH, with_log_prob=True)
            q = dist.Normal(h + theta[1], 0.6)
            z, log_q = bft.draw("z", q, estimator, with_log_prob=True)
            return joint(z, theta) + dist.Normal(z, 1.0).log_prob(h) - log_h - log_q

        return -bft.log_mean_exp(lane, 3)

    pairs = [
        estimates(lambda t, e=e: program(t, e), CONTINUOUS_AT, seed=3)[1] for e in (DOUBLY, PATH)
    ]
    # The same keys draw the same values, so the difference is of two estimates of one gradient.
    assert_unbiased(pairs[0] - pairs[1], 0.0, resolution=0.2)


def test_planted_bugs_are_caught():
    class Own(type(VIMCO)):
        def credit(self, log_weights):
            return 0.5 * jnp.broadcast_to(jax.nn.logsumexp(log_weights), log_weights.shape)

    class Unweighted(type(DOUBLY)):
        def weigh(self, value, weight):
            return value

    for program, exact, theta in (
        (discrete(Own()), enumerated, DISCRETE_AT),
        (continuous(Unweighted()), integrated, CONTINUOUS_AT),
    ):
        with pytest.raises(AssertionError, match="means are wrong"):
            assert_unbiased(estimates(program, theta)[1], jax.jit(jax.grad(exact))(theta))


def test_replays_agree_with_the_program():
    xs = Prompt(
        tokens=jnp.zeros((1, 1), jnp.int32), length=jnp.zeros(1, jnp.int32), id=jnp.arange(1)
    )

    @jax.jit
    def one(key):
        program = lambda theta, x: discrete(VIMCO)(theta)
        recording = record(program, key, (DISCRETE_AT,), xs)
        return replay_value_and_grad(program, lambda t: (t,), DISCRETE_AT, recording)[1]

    gradient = jax.vmap(one)(jax.random.split(jax.random.key(4), NUM_RUNS))
    assert_unbiased(gradient, jax.jit(jax.grad(enumerated))(DISCRETE_AT), resolution=0.2)


def test_weights_of_zero_leave_the_gradient_finite():
    def program(theta):
        def lane(_):
            y = bft.draw("y", dist.Bernoulli(logits=theta), VIMCO)
            return jnp.where(y == 1, -jnp.inf, theta)

        return jnp.exp(bft.log_mean_exp(lane, 3))

    keys = jax.random.split(jax.random.key(5), 200)
    run = bft.expectation(program)
    gradient = jax.jit(jax.vmap(lambda k: run.value_and_grad(k, 0.3)[1]))(keys)
    assert jnp.isfinite(gradient).all()


def refused(program, error, match):
    with pytest.raises(error, match=match):
        bft.expectation(program).estimate(jax.random.key(0), 0.3)


def test_misuse_is_refused_with_a_remedy():
    normal = dist.Normal(0.0, 1.0)

    def chain(t):
        return bft.draw("a", normal, DOUBLY) + bft.draw("b", normal, DOUBLY)

    def scanned(t):
        return bft.scan(lambda c, _: (c + bft.draw("a", normal, DOUBLY), None), 0.0, length=2)[0]

    def within(body, size=2):
        return lambda t: bft.log_mean_exp(lambda _: body(t), size)

    for estimator in (VIMCO, DOUBLY):
        refused(lambda t, e=estimator: bft.draw("x", normal, e), EstimatorError, "outside")

    def plated(t):
        return bft.plate(lambda i: bft.draw("a", normal, DOUBLY), 2).sum()

    def bounded(t):
        return bft.log_mean_exp(lambda _: bft.draw("a", normal, DOUBLY), 2)

    def scored(t):
        return bft.draw("a", normal, DOUBLY) + bft.draw("b", normal, SCORE)

    refused(within(scored), EstimatorError, "'b' with ScoreFunction follows 'a'")
    for body in (chain, scanned, plated, bounded):
        refused(within(body), EstimatorError, "'[ab]' is not alone in its lane")
    refused(within(lambda t: bft.draw("x", normal, VIMCO), 1), EstimatorError, "size of 2")
    refused(within(lambda t: bft.cost(t)), ChoiceError, "log-weight")
    refused(within(lambda t: jnp.zeros(2)), ChoiceError, "no scalar")
    refused(within(lambda t: bft.draw("x", dist.Bernoulli(probs=t), DOUBLY)), EstimatorError, "'x'")
