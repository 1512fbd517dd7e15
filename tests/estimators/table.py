"""The table of estimators, distributions and constructs, and the exact gradient of each cell.

The truth is a sum over the support or a quadrature; for biased estimators it is the expectation of
the gradient that they state. `x` is the choice, its cost depends on parameters by itself too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from scipy.stats import qmc

import bayesft as bft

E = bft.estimators
NUM_RUNS = 30_000


class Family(NamedTuple):
    """A distribution of parameters θ, and nodes with widths for sums over its density."""

    make: Callable
    theta: jax.Array
    nodes: jax.Array
    proposal: dist.Distribution
    widths: jax.Array | float = 1.0


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
        lambda t: dist.Bernoulli(logits=t[0]),
        jnp.array([-0.8]),
        jnp.arange(2),
        proposal=dist.Bernoulli(probs=0.4),
    ),
    "categorical": Family(
        lambda t: dist.Categorical(probs=jax.nn.softmax(t)),  # its gradient stays on the simplex
        jnp.array([-0.3, 0.6, 0.1]),
        jnp.arange(3),
        proposal=dist.Categorical(probs=jnp.array([0.3, 0.2, 0.5])),
    ),
    "categorical of logits": Family(
        lambda t: dist.Categorical(logits=t),
        jnp.array([0.4, -0.6, 0.1]),
        jnp.arange(3),
        proposal=dist.Categorical(probs=jnp.array([0.3, 0.3, 0.4])),
    ),
    "normal": Family(
        lambda t: dist.Normal(t[0], t[1]),
        jnp.array([0.4, 0.8]),
        LINE,
        dist.Normal(0.5, 1.2),
        17.0 / 4000,
    ),
    "poisson": Family(
        lambda t: dist.Poisson(t[0]), jnp.array([1.6]), jnp.arange(40), proposal=dist.Poisson(2.2)
    ),
    "gamma": Family(
        lambda t: dist.Gamma(t[0], t[1]),
        jnp.array([2.5, 2.0]),
        POSITIVE[0],
        dist.Gamma(2.0, 1.4),
        POSITIVE[1],
    ),
    "exponential": Family(
        lambda t: dist.Exponential(t[0]),
        jnp.array([1.4]),
        POSITIVE[0],
        dist.Exponential(1.0),
        POSITIVE[1],
    ),
    "beta": Family(
        lambda t: dist.Beta(t[0], t[1]),
        jnp.array([2.0, 3.0]),
        UNIT,
        dist.Beta(1.5, 2.0),
        UNIT * (1 - UNIT) * 32.0 / 4000,
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
    "importance": Row(lambda f: E.importance(f.proposal, 2), tuple(FAMILIES), "normal"),
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
CELLS = [(name, of, p) for p in PROGRAMS for name, row in ROWS.items() for of in row.families]
REFUSED = [
    (name, of, p)
    for p in PROGRAMS
    for name, row in ROWS.items()
    for of in FAMILIES
    if of not in row.families
]


MORE_RUNS = {
    ("moving_average", "normal", cond): 45_000,
    ("learned_baseline", "normal", cond): 45_000,
}
"""Of the cells whose noise would hide a bias of the size that is looked for."""


def is_slow(name, of, program):
    """Cells whose parts other cells hold: a nested program is a plate of scans of conds, the score
    estimators differ in what they subtract, whatever the distribution, and a beta variable is made
    of two gamma variables."""
    if program is not plain:
        return program is not nested or of != ROWS[name].controlled
    if name in ("leave_one_out", "moving_average", "learned_baseline", "importance", "detached"):
        return of not in ("bernoulli", "normal")
    return of.endswith(("logit", "logits")) or of == "beta"


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


def truth(name, of, program):
    """The value and the gradient that the means of a cell's runs should be."""
    mean = ROWS[name].truth(FAMILIES[of])
    return jax.jit(jax.value_and_grad(lambda t: PROGRAMS[program](mean, t)))(FAMILIES[of].theta)


def deviation(samples, expected):
    """The largest distance of a mean from what is expected, in standard errors; 0 without noise."""
    samples = np.asarray(samples, np.float64)
    error = samples.std(0, ddof=1) / np.sqrt(len(samples))
    noisy = error > 1e-6 * (1 + np.abs(expected))
    distance = np.abs(samples.mean(0) - expected) / np.where(noisy, error, 1.0)
    return float(np.where(noisy, distance, 0.0).max())


def markdown(results, num_runs=NUM_RUNS):
    """What became of every cell, as a page."""
    lines = [
        "# Estimators on every distribution, in every construct",
        "",
        "Written by `tests/estimators/test_table.py`, run with `$BAYESFT_ESTIMATOR_TABLE` naming "
        "this file, not by hand; a run of some cells replaces those.",
        "",
        f"A number says that the mean of {num_runs:,} or more values and gradients agreed with the "
        "exact ones: it is the largest distance of a mean, in",
        "standard errors (0.0: no noise). *refused* says that the distribution was refused with "
        "an error that names the choice.",
        "",
    ]
    for program in PROGRAMS:
        lines += [f"## {program.__name__}", "", "| estimator | " + " | ".join(FAMILIES) + " |"]
        lines += ["|---" * (1 + len(FAMILIES)) + "|"]
        for name in ROWS:
            cells = [results.get((name, of, program), "not run") for of in FAMILIES]
            lines += [f"| `{name}` | " + " | ".join(cells) + " |"]
        lines += [""]
    return "\n".join(lines)


def parsed(page):
    """The cells of a page that `markdown` wrote."""
    programs = {program.__name__: program for program in PROGRAMS}
    found, program = {}, None
    for line in page.splitlines():
        if line.startswith("## "):
            program = programs.get(line[3:])
        elif line.startswith("| `"):
            name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            row = {
                (name.strip("`"), of, program): cell
                for of, cell in zip(FAMILIES, cells, strict=True)
            }
            found |= {at: cell for at, cell in row.items() if cell != "not run"}
    return found
