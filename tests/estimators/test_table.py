"""Every estimator on every distribution it takes, in every construct, against the exact gradient.

The truth is a sum over the support or a quadrature; for biased estimators it is the expectation of
the gradient that they state. `x` is the choice, its cost depends on parameters by itself too.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import pytest
from scipy.stats import qmc

import bayesft as bft
from bayesft.errors import EstimatorError
from bayesft.testing import assert_unbiased

E = bft.estimators
NUM_RUNS = 30_000


class Family(NamedTuple):
    """A distribution of parameters θ, and nodes with widths for sums over its density."""

    make: Callable
    theta: jax.Array
    nodes: jax.Array
    widths: jax.Array | float = 1.0
    proposal: dist.Distribution | None = None


def log_grid(low, high, size=4001):
    points = jnp.exp(jnp.linspace(low, high, size))
    return points, points * (high - low) / (size - 1)


POSITIVE = log_grid(-14.0, 4.0)
LINE = jnp.linspace(-8.0, 9.0, 4001)
UNIT = jax.nn.sigmoid(jnp.linspace(-16.0, 16.0, 4001))
FAMILIES = {
    "bernoulli": Family(
        lambda t: dist.Bernoulli(probs=t[0]),
        jnp.array([0.3]),
        jnp.arange(2),
        proposal=dist.Bernoulli(probs=0.6),
    ),
    "bernoulli of a logit": Family(
        lambda t: dist.Bernoulli(logits=t[0]), jnp.array([-0.8]), jnp.arange(2)
    ),
    "categorical": Family(
        lambda t: dist.Categorical(probs=jax.nn.softmax(t)),  # its gradient stays on the simplex
        jnp.array([-0.3, 0.6, 0.1]),
        jnp.arange(3),
        proposal=dist.Categorical(probs=jnp.array([0.3, 0.2, 0.5])),
    ),
    "categorical of logits": Family(
        lambda t: dist.Categorical(logits=t), jnp.array([0.4, -0.6, 0.1]), jnp.arange(3)
    ),
    "normal": Family(
        lambda t: dist.Normal(t[0], t[1]),
        jnp.array([0.4, 0.8]),
        LINE,
        17.0 / 4000,
        dist.Normal(0.5, 1.2),
    ),
    "poisson": Family(
        lambda t: dist.Poisson(t[0]), jnp.array([1.6]), jnp.arange(40), proposal=dist.Poisson(2.2)
    ),
    "gamma": Family(
        lambda t: dist.Gamma(t[0], t[1]), jnp.array([2.5, 2.0]), *POSITIVE, dist.Gamma(2.0, 1.4)
    ),
    "exponential": Family(
        lambda t: dist.Exponential(t[0]), jnp.array([1.4]), *POSITIVE, dist.Exponential(1.0)
    ),
    "beta": Family(
        lambda t: dist.Beta(t[0], t[1]),
        jnp.array([2.0, 3.0]),
        UNIT,
        UNIT * (1 - UNIT) * 32.0 / 4000,
        dist.Beta(1.5, 2.0),
    ),
}
FINITE = ("bernoulli", "bernoulli of a logit", "categorical", "categorical of logits")
CONTINUOUS = ("normal", "gamma", "exponential", "beta")
WEAK = (*FINITE, "normal", "poisson", "gamma", "exponential")


@dataclasses.dataclass(frozen=True)
class Row:
    """An estimator, the distributions it takes, and the one for control flow."""

    make: Callable[[Family], bft.base.Estimator]
    families: tuple[str, ...]
    controlled: str
    biased: Callable | None = None
    """Of a biased estimator: the function of θ that its gradient is the mean gradient of."""

    def truth(self, family):
        return (self.biased or expected)(family)


ROWS = {
    "enumerate": Row(lambda f: E.enumerate(), FINITE, "categorical of logits"),
    "score_function": Row(lambda f: E.score_function(0.3), tuple(FAMILIES), "bernoulli"),
    "leave_one_out": Row(lambda f: E.leave_one_out(3), tuple(FAMILIES), "bernoulli"),
    "moving_average": Row(lambda f: E.moving_average(0.5), tuple(FAMILIES), "bernoulli"),
    "measure_valued": Row(lambda f: E.measure_valued(), WEAK, "poisson"),
    "rebar": Row(lambda f: E.rebar(0.4, 0.8), FINITE, "bernoulli of a logit"),
    "importance": Row(
        lambda f: E.importance(f.proposal, 2),
        tuple(name for name, family in FAMILIES.items() if family.proposal),
        "normal",
    ),
    "reparameterize": Row(lambda f: E.reparameterize(), CONTINUOUS, "normal"),
    "gumbel_straight_through": Row(
        lambda f: E.gumbel_straight_through(0.4),
        FINITE,
        "bernoulli of a logit",
        biased=lambda f: expected_straight_through(f),
    ),
}


ROWS["learned_baseline"] = Row(
    lambda f: E.learned_baseline(lambda d: d.log_prob(f.nodes[1])[None], 1, decay=0.5),
    tuple(FAMILIES),
    "bernoulli",
)
ROWS["relax"] = Row(
    lambda f: E.relax(lambda p, z: jnp.sum(p[0] * jnp.tanh(z)) + p[1] * jnp.sum(z**2), (0.6, 0.1)),
    FINITE,
    "bernoulli",
)
ROWS["trained_rebar"] = Row(
    lambda f: E.trained_rebar(lambda s: cost(s, jnp.zeros(1))), FINITE, "categorical"
)
ROWS["detached"] = Row(
    lambda f: E.detached(), tuple(FAMILIES), "bernoulli", biased=lambda f: expected(f, fixed=True)
)


def test_every_estimator_has_a_row():
    of_bounds = {"vimco", "doubly_reparameterize"}  # tests/estimators/test_multi_sample.py
    assert set(ROWS) == set(E.__all__) - {"ESTIMATORS"} - of_bounds


def cost(value, theta):
    x = value @ jnp.arange(3.0) if jnp.ndim(value) else jnp.asarray(value, jnp.float32)
    return jnp.sin(1.5 * x + theta[0])


def expected(family, fixed=False):
    """E[cost] as a differentiable function of θ, of the cost's own alone where x is held fixed."""

    def value(theta):
        density = jnp.exp(jax.vmap(family.make(theta).log_prob)(family.nodes)) * family.widths
        density = jax.lax.stop_gradient(density) if fixed else density
        return jnp.sum(density * jax.vmap(lambda x: cost(x, theta))(family.nodes))

    return value


def expected_straight_through(family, temperature=0.4, num_points=2**16):
    """E[cost] with the gradient E[c'(y)·∂s/∂θ + ∂c/∂θ], on quasi-random points."""
    bernoulli = family.theta.size == 1
    points = qmc.Sobol(1 if bernoulli else 3, scramble=False).random(num_points)
    u = jnp.asarray(points + 0.5 / num_points, jnp.float32)

    def one(theta, u):
        distribution = family.make(theta)
        if bernoulli:
            z = distribution.logits + jnp.log(u[0]) - jnp.log1p(-u[0])
            hard, soft = jnp.where(z > 0, 1.0, 0.0), jax.nn.sigmoid(z / temperature)
        else:
            z = distribution.logits - jnp.log(-jnp.log(u))
            hard, soft = jax.nn.one_hot(jnp.argmax(z), 3), jax.nn.softmax(z / temperature)
        return cost(soft + jax.lax.stop_gradient(hard - soft), theta)

    return lambda theta: jax.vmap(lambda u: one(theta, u))(u).mean()


# A program of a family and an estimator, with its expectation in terms of E = E[cost](θ).
def plain(theta, paid):
    return paid(theta)


def plate(theta, paid):
    bft.plate(lambda i: bft.cost((1.0 + i) * paid(theta)), 2)
    return 0.0


def scan(theta, paid):
    def step(_, weight):
        bft.cost(weight * paid(theta))
        return None, None

    bft.scan(step, None, jnp.array([1.0, 2.0]))
    return 0.0


def cond(theta, paid):
    g = bft.draw("g", dist.Bernoulli(logits=theta[0]), E.score_function())
    bft.cond(
        g == 1,
        lambda t: bft.cost(2.0 * paid(t)),
        lambda t: bft.cost(paid(1.5 * t)),
        theta,
    )
    return 0.3 * g


def nested(theta, paid):
    def lane(i):
        def step(_, s):
            bft.cond(s == i, lambda: bft.cost(paid(theta)), lambda: bft.cost(theta[0]))
            return None, None

        bft.scan(step, None, jnp.arange(2))

    bft.plate(lane, 2)
    return 0.0


def cond_expected(E, t):
    p = jax.nn.sigmoid(t[0])
    return p * (2 * E(t) + 0.3) + (1 - p) * E(1.5 * t)


PROGRAMS = {
    plain: lambda E, t: E(t),
    plate: lambda E, t: 3 * E(t),
    scan: lambda E, t: 3 * E(t),
    cond: cond_expected,
    nested: lambda E, t: 2 * E(t) + 2 * t[0],
}
CELLS = [(name, family, plain) for name, row in ROWS.items() for family in row.families]
CELLS += [(name, row.controlled, p) for name, row in ROWS.items() for p in PROGRAMS if p != plain]


def is_slow(name, of, program):
    """Cells whose parts other cells hold: a nested program is a plate of scans of conds, the score
    estimators differ in what they subtract, whatever the distribution, and a beta variable is made
    of two gamma variables."""
    if program is not plain:
        return program is not nested
    if name in ("leave_one_out", "moving_average", "learned_baseline", "importance", "detached"):
        return of not in ("bernoulli", "normal")
    return of.endswith(("logit", "logits")) or of == "beta"


def cell(name, of, program):
    marks = [pytest.mark.slow] if is_slow(name, of, program) else []
    return pytest.param(name, of, program, marks=marks, id=f"{name}-{of}-{program.__name__}")


def estimates(program, family, estimator, cost=cost, num_runs=NUM_RUNS, seed=0):
    """Values and gradients of independent runs; a state is that after one step."""

    @bft.expectation
    def run(theta):
        return program(theta, lambda t: cost(bft.draw("x", family.make(t), estimator), t))

    keys = jax.random.split(jax.random.key(seed), num_runs + 1)
    states = run.init(family.theta)
    if states:
        states, _ = run.step(keys[0], states, family.theta)
    return jax.jit(jax.vmap(lambda k: run.step(k, states, family.theta)[1]))(keys[1:])


@pytest.mark.parametrize(("name", "of", "program"), [cell(*c) for c in CELLS])
def test_value_and_gradient_are_right(name, of, program):
    row, family = ROWS[name], FAMILIES[of]
    estimator = row.make(family)
    assert (estimator.claim.kind == "biased") == (row.biased is not None)
    value, gradient = estimates(program, family, estimator, seed=CELLS.index((name, of, program)))
    mean = row.truth(family)
    truth = jax.jit(jax.value_and_grad(lambda t: PROGRAMS[program](mean, t)))
    exact, exact_gradient = truth(family.theta)
    family_size = 2 * len(CELLS)
    rounding = 2.0**-10  # of the truth: quadrature in float32, and points in place of integrals
    resolution = 0.2 * max(1.0, float(jnp.abs(exact_gradient).max()))
    assert_unbiased(value, exact, family=family_size, rounding=rounding)
    assert_unbiased(
        gradient, exact_gradient, family=family_size, rounding=rounding, resolution=resolution
    )


REFUSED = [
    (name, family)
    for name, row in ROWS.items()
    if name != "importance"
    for family in FAMILIES
    if family not in row.families
]


@pytest.mark.parametrize(("name", "of"), REFUSED, ids=["-".join(cell) for cell in REFUSED])
def test_distributions_that_an_estimator_cannot_take_are_refused(name, of):
    family = FAMILIES[of]
    run = bft.expectation(lambda t: bft.draw("x", family.make(t), ROWS[name].make(family)))
    with pytest.raises(EstimatorError, match=r"'x'[\s\S]*What to do: use [\s\S]*score_function"):
        run.estimate(jax.random.key(0), family.theta)


MULTI_PATH = ("enumerate", "measure_valued", "rebar", "importance")


def in_plate(choose):
    return bft.plate(lambda i: choose(), 2).sum()


def in_scan(choose):
    return bft.scan(lambda carry, _: (carry + choose(), None), 0.0, length=2)[0]


def in_cond(choose):
    return bft.cond(True, lambda: choose(), lambda: jnp.zeros(()))


@pytest.mark.parametrize("construct", [in_plate, in_scan, in_cond], ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", MULTI_PATH)
def test_values_of_several_paths_may_not_leave(name, construct):
    family = FAMILIES["bernoulli"]

    def program(t):
        return construct(lambda: cost(bft.draw("x", family.make(t), ROWS[name].make(family)), t))

    with pytest.raises(EstimatorError, match=r"'x' takes several paths[\s\S]*bft\.cost"):
        bft.expectation(program).estimate(jax.random.key(0), family.theta)


# Deliberate mistakes, each in the estimator named, which its test must notice.
class ForgetsSupport(type(E.enumerate())):
    def expand(self, name, distribution, key):
        values, weights = super().expand(name, distribution, key)
        return values[1:], weights[1:]


class SignOfTheNegativePart(type(E.measure_valued())):
    def expand(self, name, distribution, key):
        values, weights = super().expand(name, distribution, key)
        return values, 2 * jax.lax.stop_gradient(weights) - weights


class WeightWithoutGradient(type(E.importance(None))):
    def expand(self, name, distribution, key):
        values, weights = super().expand(name, distribution, key)
        return values, jax.lax.stop_gradient(weights)


class StopsTheConditionalSample(type(E.rebar())):
    def expand(self, name, distribution, key):
        values, weights = super().expand(name, distribution, key)
        return values.at[2].set(jax.lax.stop_gradient(values[2])), weights


class OtherTemperature(type(E.gumbel_straight_through())):
    def sample(self, name, distribution, key):
        return dataclasses.replace(E.gumbel_straight_through(0.8)).sample(name, distribution, key)


class StopsTheSample(type(E.reparameterize())):
    def sample(self, name, distribution, key):
        return jax.lax.stop_gradient(super().sample(name, distribution, key))


class SeesItsOwnCost(type(E.moving_average())):
    def baseline(self, state, credited, described):
        return 0.5 * (super().baseline(state, credited, described) + credited)


class UpdatesBeforeUse(type(E.learned_baseline(lambda d: d, 1))):
    def baseline(self, state, credited, described):
        return super().baseline(self.update(state, credited, described), credited, described)


class ForgetsTheCorrection(type(E.relax(lambda p, z: z, ()))):
    def control(self, described, stored):
        return jnp.zeros(())


class OneNoiseForBoth(type(E.trained_rebar(lambda s: s))):
    def control(self, described, stored):
        return super().control(dataclasses.replace(described, hard=1 - described.hard), stored)


class CountsItself(type(E.leave_one_out(3))):
    def prepare(self, credited):
        return jnp.broadcast_to(credited.mean(0, keepdims=True), credited.shape)


class KeepsTheScore(type(E.detached())):
    def surrogate(self, credited, log_prob, stored):
        return E.score_function().surrogate(credited, log_prob, stored)


class NoBaselineInTheScore(type(E.score_function())):
    def surrogate(self, credited, log_prob, stored):
        return super().surrogate(credited, log_prob, 0.5 * credited)


BUGS = {
    "enumerate": lambda f: ForgetsSupport(),
    "measure_valued": lambda f: SignOfTheNegativePart(),
    "importance": lambda f: WeightWithoutGradient(f.proposal, 2),
    "rebar": lambda f: StopsTheConditionalSample(0.4, 0.8),
    "gumbel_straight_through": lambda f: OtherTemperature(0.4),
    "reparameterize": lambda f: StopsTheSample(),
    "moving_average": lambda f: SeesItsOwnCost(0.5),
    "leave_one_out": lambda f: CountsItself(3),
    "detached": lambda f: KeepsTheScore(),
    "learned_baseline": lambda f: UpdatesBeforeUse(
        **vars(E.learned_baseline(lambda d: jnp.ones(1), 1, decay=0.5))
    ),
    "relax": lambda f: ForgetsTheCorrection(**vars(ROWS["relax"].make(f))),
    "trained_rebar": lambda f: OneNoiseForBoth(**vars(ROWS["trained_rebar"].make(f))),
    "score_function": lambda f: NoBaselineInTheScore(0.0),
}


@pytest.mark.parametrize("name", ROWS)
def test_planted_bugs_are_caught(name):
    row = ROWS[name]
    family = FAMILIES["bernoulli of a logit" if row.families is FINITE else row.families[0]]
    mean = row.truth(family)
    value, gradient = estimates(plain, family, BUGS[name](family))
    exact, exact_gradient = jax.jit(jax.value_and_grad(mean))(family.theta)
    with pytest.raises(AssertionError, match="means are wrong"):
        assert_unbiased(value, exact, rounding=2.0**-10)
        assert_unbiased(gradient, exact_gradient, rounding=2.0**-10)
