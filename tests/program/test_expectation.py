"""Value and gradient of expectations, against closed forms and enumeration."""

import itertools

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import pytest

import bayesft as bft
from bayesft.errors import ChoiceError, EstimatorError
from bayesft.testing import assert_unbiased

P = 0.3
SCORE = {
    "score_function": bft.estimators.score_function(),
    "score_function with baseline": bft.estimators.score_function(baseline=1.5),
    "leave_one_out": bft.estimators.leave_one_out(num_samples=4),
}
SINGLE_AND_MULTI = {**SCORE, "enumerate": bft.estimators.enumerate()}


def bernoulli(name, p, estimator):
    return bft.draw(name, dist.Bernoulli(probs=p), estimator).astype(jnp.float32)


def expected_over_bits(cost, num_bits):
    """E[cost(bits)] for independent Bernoulli(p) bits, as a differentiable function of p."""

    def value(p):
        total = 0.0
        for bits in itertools.product((0.0, 1.0), repeat=num_bits):
            ones = sum(bits)
            total += p**ones * (1 - p) ** (num_bits - ones) * cost(p, bits)
        return total

    return value


# Each program with its expectation, both as functions of p.
def plain(p, e):
    return jnp.where(bernoulli("b", p, e) > 0, 0.0, -p / 2)


def two_choices(p, e):
    return (bernoulli("a", p, e) + p * bernoulli("b", p, e)) ** 2


def plate_returned(p, e):
    return bft.plate(lambda i: bernoulli("z", p, e), 3).sum() ** 2


def plate_cost(p, e):
    bft.plate(lambda i: bft.cost((1.0 + i) * bernoulli("z", p, e) + p), 3)
    return 0.0


def cost_between(p, e):
    a = bernoulli("a", p, e)
    bft.cost(3.0 * a)
    b = bernoulli("b", p, e)
    return 2.0 * a * b


def scan_returned(p, e):
    return bft.scan(lambda c, _: (c + bernoulli("z", p, e), None), 0.0, length=3)[0] ** 2


def scan_cost(p, e):
    def step(previous, weight):
        z = bernoulli("z", p, e)
        bft.cost(weight * z * (1.0 + previous))
        return z, None

    bft.scan(step, 0.0, jnp.arange(1.0, 4.0))
    return 0.0


def scan_in_plate(p, e):
    def lane(i):
        def step(count, _):
            return count + bernoulli("z", p, e), None

        count, _ = bft.scan(step, 0.0, length=2)
        bft.cost(count**2)

    bft.plate(lane, 2)
    return 0.0


def choice_before_plate(p, e):
    g = bernoulli("g", p, e)
    bft.plate(lambda i: bft.cost(g * bernoulli("z", p, bft.estimators.score_function())), 2)
    return 0.7 * g


EXACT = {
    plain: (1, lambda p, b: 0.0 if b[0] else -p / 2),
    two_choices: (2, lambda p, b: (b[0] + p * b[1]) ** 2),
    plate_returned: (3, lambda p, b: sum(b) ** 2),
    plate_cost: (3, lambda p, b: b[0] + 2 * b[1] + 3 * b[2] + 3 * p),
    cost_between: (2, lambda p, b: 3 * b[0] + 2 * b[0] * b[1]),
    scan_returned: (3, lambda p, b: sum(b) ** 2),
    scan_cost: (3, lambda p, b: b[0] + 2 * b[1] * (1 + b[0]) + 3 * b[2] * (1 + b[1])),
    scan_in_plate: (4, lambda p, b: (b[0] + b[1]) ** 2 + (b[2] + b[3]) ** 2),
    choice_before_plate: (3, lambda p, b: 0.7 * b[0] + b[0] * (b[1] + b[2])),
}
MULTI_PATH_REFUSED = {plate_returned, scan_returned, scan_cost, scan_in_plate}
NUM_RUNS = 20_000


def gradients(program, estimator, num_runs=NUM_RUNS):
    expectation = bft.expectation(lambda p: program(p, estimator))
    seed = list(EXACT).index(program) if program in EXACT else 99
    keys = jax.random.split(jax.random.key(seed), num_runs)
    return jax.jit(jax.vmap(lambda k: expectation.value_and_grad(k, P)))(keys)


@pytest.mark.parametrize("program", EXACT, ids=lambda f: f.__name__)
@pytest.mark.parametrize("estimator", SINGLE_AND_MULTI)
def test_value_and_gradient_are_unbiased(program, estimator):
    if estimator == "enumerate" and program in MULTI_PATH_REFUSED:
        with pytest.raises(EstimatorError, match="score_function"):
            gradients(program, SINGLE_AND_MULTI[estimator], 2)
        return
    value, gradient = gradients(program, SINGLE_AND_MULTI[estimator])
    num_bits, cost = EXACT[program]
    exact, exact_gradient = jax.value_and_grad(expected_over_bits(cost, num_bits))(P)
    family = 2 * len(EXACT) * len(SINGLE_AND_MULTI)
    assert_unbiased(value, exact, family=family)
    assert_unbiased(gradient, exact_gradient, family=family)


def test_a_planted_bug_is_caught():
    """Crediting a choice with nothing that comes after it biases the gradient."""

    def uncredited(p, e):
        a = bernoulli("a", p, e)
        return jax.lax.stop_gradient(a) * 2.0 * p

    class Deaf(type(bft.estimators.score_function())):
        def surrogate(self, credited, log_prob, stored):
            return jnp.zeros(())

    _, gradient = gradients(uncredited, Deaf(0.0))
    with pytest.raises(AssertionError):
        assert_unbiased(gradient, 4 * P)


def test_costs_credit_lanes_and_steps_separately():
    """Per-lane credit leaves the mean and cuts the variance."""
    score = bft.estimators.score_function()
    weights = jnp.linspace(-1.0, 2.0, 6)
    logits = jnp.linspace(-1.0, 1.0, 6)

    def returned(logits):
        p = jax.nn.sigmoid(logits)
        return bft.plate(lambda i: weights[i] * bernoulli("z", p[i], score), 6).sum()

    def paid(logits):
        p = jax.nn.sigmoid(logits)
        bft.plate(lambda i: bft.cost(weights[i] * bernoulli("z", p[i], score)), 6)
        return 0.0

    def run(program, seed):
        expectation = bft.expectation(program)
        keys = jax.random.split(jax.random.key(seed), NUM_RUNS)
        return jax.jit(jax.vmap(lambda k: expectation.value_and_grad(k, logits)[1]))(keys)

    exact = jax.grad(lambda logits: (weights * jax.nn.sigmoid(logits)).sum())(logits)
    whole, separate = run(returned, 0), run(paid, 1)
    assert_unbiased(whole, exact, family=2)
    assert_unbiased(separate, exact, family=2)
    assert separate.var(0).sum() < 0.5 * whole.var(0).sum()


def test_reparameterised_choices_in_every_construct():
    path = bft.estimators.reparameterize()

    def program(m):
        x = bft.draw("x", dist.Normal(m, 1.0), path)
        zs = bft.plate(lambda i: bft.draw("z", dist.Normal(m * x, 1.0), path), 2)
        _, ys = bft.scan(lambda c, _: (c, bft.draw("y", dist.Normal(m, 0.5), path)), 0.0, length=3)
        return x**2 + zs.sum() + (ys**2).sum()

    # E = m² + 1 + 2m² + 3(m² + ¼): the derivative is 12m.
    expectation = bft.expectation(program)
    keys = jax.random.split(jax.random.key(3), NUM_RUNS)
    value, gradient = jax.jit(jax.vmap(lambda k: expectation.value_and_grad(k, 1.2)))(keys)
    assert_unbiased(value, 6 * 1.2**2 + 1.75, family=2)
    assert_unbiased(gradient, 12 * 1.2, family=2)


def test_mixed_estimators_in_one_program():
    """d/dp E[(a + b + x)²] for an enumerated, a score and a reparameterised choice."""

    def program(p):
        a = bernoulli("a", p, bft.estimators.enumerate())
        b = bernoulli("b", p, bft.estimators.leave_one_out(3))
        x = bft.draw("x", dist.Normal(p, 1.0), bft.estimators.reparameterize())
        return (a + b + x) ** 2

    expectation = bft.expectation(program)
    keys = jax.random.split(jax.random.key(4), NUM_RUNS)
    _, gradient = jax.jit(jax.vmap(lambda k: expectation.value_and_grad(k, P)))(keys)
    # E = 2p(1−p) + 1 + (3p)²
    assert_unbiased(gradient, 2 - 4 * P + 18 * P)


def test_jit_vmap_and_grad_around_a_call_change_nothing():
    expectation = bft.expectation(lambda p: two_choices(p, SCORE["leave_one_out"]))

    def one(k, p):
        return expectation.value_and_grad(k, p)

    def key():  # a fresh handle on one key: each use below is a separate experiment
        return jax.random.key(5)

    eager = one(key(), P)
    assert jnp.allclose(jnp.array(eager), jnp.array(jax.jit(one)(key(), P)))
    outside = jax.grad(lambda p: expectation.estimate(key(), p))(P)
    assert jnp.allclose(eager[1], outside)
    batch = jax.vmap(one, (0, None))(key()[None], P)
    assert jnp.allclose(jnp.array(eager), jnp.array(batch)[:, 0])


def test_same_key_same_draws_and_new_key_new_draws():
    expectation = bft.expectation(lambda m: bft.draw("x", dist.Normal(m, 1.0)), estimator=PATH)
    assert expectation.estimate(jax.random.key(0), 0.0) == expectation.estimate(
        jax.random.key(0), 0.0
    )
    assert expectation.estimate(jax.random.key(0), 0.0) != expectation.estimate(
        jax.random.key(1), 0.0
    )


PATH = bft.estimators.reparameterize()


def refused(program, error, match):
    with pytest.raises(error, match=match):
        bft.expectation(program).estimate(jax.random.key(0), P)


def test_misuse_is_refused_with_a_remedy():
    score = SCORE["score_function"]

    def twice(p):
        return bernoulli("b", p, score) + bernoulli("b", p, score)

    def two_counts(p):
        loo = bft.estimators.leave_one_out
        return bernoulli("a", p, loo(2)) + bernoulli("b", p, loo(4))

    def clash(p):
        bft.plate(lambda i: bernoulli("b", p, score), 2, name="a")
        return bernoulli("a/b", p, score)

    refused(twice, ChoiceError, "stands twice")
    refused(clash, ChoiceError, "a/b")
    refused(two_counts, EstimatorError, "asks for 4 lanes")
    refused(lambda p: bernoulli("b", p, None), EstimatorError, "'b' has no estimator")
    refused(lambda p: bernoulli("b", p, PATH), EstimatorError, "no reparameterised sample")
    refused(lambda p: jnp.ones(2) * bernoulli("b", p, score), ChoiceError, r"shape \(2,\)")
    refused(lambda p: bft.cost(jnp.ones(2)), ChoiceError, "not a scalar")
    normal = bft.estimators.enumerate()
    refused(lambda p: bft.draw("x", dist.Normal(p, 1.0), normal), EstimatorError, "support")
    with pytest.raises(ChoiceError, match="outside any program"):
        bft.draw("b", dist.Bernoulli(probs=P), score)
    with pytest.raises(EstimatorError, match="num_samples"):
        bft.estimators.leave_one_out(1)
