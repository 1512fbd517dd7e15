"""The table of objectives of draws, each with what it stands for by enumeration.

The outcomes are those of the three-token language of at most two tokens; the guide of most tests is
a categorical distribution over them, with a parameter for each and one for log Z.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from samplers.language import IN_JAX, LANGUAGE

import bayesft as bft
from bayesft import objectives
from bayesft.objectives import generators
from bayesft.objectives.weights import draw_log_weight
from bayesft.program import draw, plate
from bayesft.testing import enumerate_target

K = 2
TARGET = bft.Target(LANGUAGE, IN_JAX, max_new_tokens=2)
EXACT = enumerate_target(TARGET)
LOG_DENSITY = jnp.asarray(EXACT.log_probs + EXACT.log_z, jnp.float32)
DENSITY = SimpleNamespace(log_density=lambda y, x: LOG_DENSITY[y])
PARAMS = {
    "logits": LOG_DENSITY + 0.8 * jnp.cos(jnp.arange(7.0)),
    "log_z": jnp.float32(0.5),
}
ALL = {
    "score_function": bft.estimators.score_function(),
    "leave_one_out": bft.estimators.leave_one_out(num_samples=4),
    "enumerate": bft.estimators.enumerate(),
}
ONE_PATH = {name: ALL[name] for name in ("score_function", "leave_one_out")}
DETACHED = {"none": None}


@dataclasses.dataclass(frozen=True)
class Guide:
    """The categorical guide at some parameters."""

    params: dict

    def __call__(self, x):
        return dist.Categorical(logits=self.params["logits"])

    def log_z(self, x):
        return self.params["log_z"]


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """An objective; `cost` of K pairs (log p̃, log q), and the optimum of its expectation.

    Where the gradient is not that of the expected cost, `gradient_of` is what it is the gradient
    of, as a function of (log p̃ [M], log q [M], log Z_ψ). `bug` is a deliberate mistake.
    """

    objective: Callable
    cost: Callable
    optimum: float
    bug: Callable
    num_draws: int = 1
    estimators: dict = dataclasses.field(default_factory=lambda: ALL)
    gradient_of: Callable | None = None


def expected(cost, num_draws, log_p, log_q, frozen=False):
    """E_q[cost] over all tuples of outcomes; with `frozen` their probabilities are constants."""
    index = np.asarray(list(itertools.product(range(len(log_p)), repeat=num_draws)))
    weights = jnp.exp(log_q[index].sum(-1))
    weights = jax.lax.stop_gradient(weights) if frozen else weights
    return weights @ jax.vmap(cost)(log_p[index], log_q[index])


@functools.partial(jax.jit, static_argnums=0)
def value_and_grad(case: Case, params: dict):
    """What the objective's estimates should have as their means."""

    def of(cost, frozen=False):
        def at(params):
            log_q = jax.nn.log_softmax(params["logits"])
            extra = (params["log_z"],) if case.objective is objectives.trajectory_balance else ()
            of_draws = lambda p, q: cost(p, q, *extra)
            return expected(of_draws, case.num_draws, LOG_DENSITY, log_q, frozen)

        return at

    gradient_of = of(case.cost) if case.gradient_of is None else of(case.gradient_of, frozen=True)
    return of(case.cost)(params), jax.grad(gradient_of)(params)


def estimates(objective, estimator, num_runs: int, params=PARAMS, seed: int = 0):
    """Independent estimates of value and gradient of an objective on the categorical guide."""
    program = bft.expectation(lambda p: objective(Guide(p), DENSITY, None), estimator=estimator)
    keys = jax.random.split(jax.random.key(seed), num_runs)
    return jax.jit(jax.vmap(lambda key: program.value_and_grad(key, params)))(keys)


def log_mean_exp(values):
    return jnp.log(jnp.mean(jnp.exp(values)))


def u_log_u(u):
    return u * jnp.log(u)


# ---- deliberate mistakes -------------------------------------------------------------------------


def log_weights_without_own_score(guide, target, x):
    y, log_q = draw("y", guide(x), with_log_prob=True)
    return target.log_density(y, x) - jax.lax.stop_gradient(log_q)


def without_entropy(guide, target, x):
    return -target.log_density(draw("y", guide(x)), x)


def iwae_without_own_score(guide, target, x):
    weights = plate(lambda _: log_weights_without_own_score(guide, target, x), K)
    return -log_mean_exp(weights)


def renyi_of_the_other_sign(guide, target, x):
    weights = plate(lambda _: draw_log_weight(guide, target, x), K)
    return log_mean_exp(-0.5 * weights) / 0.5


def chi_without_own_score(guide, target, x):
    return jnp.exp(2.0 * (log_weights_without_own_score(guide, target, x) - 1.0))


def gap(guide, target, x):
    """log q − log p̃ of a draw that is differentiated where it should not be."""
    return -draw_log_weight(guide, target, x)


def attached_log_variance(guide, target, x):
    return 0.5 * jnp.var(plate(lambda _: gap(guide, target, x), K), ddof=1)


def attached_balance(guide, target, x):
    return (guide.log_z(x) + gap(guide, target, x)) ** 2


def guide_follows_the_bound(guide, target, x):
    """Q-wake left out, and the guide's part of the bound's pathwise gradient in its place."""
    return -log_mean_exp(plate(lambda _: draw_log_weight(guide, target, x), K))


CASES = {
    "reverse_kl": Case(
        objectives.reverse_kl,
        cost=lambda p, q: q[0] - p[0],
        optimum=-EXACT.log_z,
        bug=without_entropy,
    ),
    "iwae": Case(
        objectives.iwae(K),
        cost=lambda p, q: -log_mean_exp(p - q),
        optimum=-EXACT.log_z,
        bug=iwae_without_own_score,
        num_draws=K,
        estimators=ONE_PATH,
    ),
    "renyi": Case(
        objectives.renyi(0.5, K),
        cost=lambda p, q: -2.0 * log_mean_exp(0.5 * (p - q)),
        optimum=-EXACT.log_z,
        bug=renyi_of_the_other_sign,
        num_draws=K,
        estimators=ONE_PATH,
    ),
    "renyi above 1": Case(
        objectives.renyi(3.0, K),
        cost=lambda p, q: 0.5 * log_mean_exp(2.0 * (q - p)),
        optimum=-EXACT.log_z,
        bug=iwae_without_own_score,
        num_draws=K,
        estimators=ONE_PATH,
    ),
    "chi_upper_bound": Case(
        objectives.chi_upper_bound(2.0, log_z=1.0),
        cost=lambda p, q: jnp.exp(2.0 * (p - q - 1.0))[0],
        optimum=float(np.exp(2.0 * (EXACT.log_z - 1.0))),
        bug=chi_without_own_score,
    ),
    "f_divergence": Case(
        objectives.f_divergence(generators.kl_forward, log_z=1.0),
        cost=lambda p, q: u_log_u(jnp.exp(p - q - 1.0))[0],
        optimum=float(u_log_u(np.exp(EXACT.log_z - 1.0))),
        bug=objectives.f_divergence(generators.dual(generators.kl_forward), log_z=1.0),
    ),
    "log_variance": Case(
        objectives.log_variance(K),
        cost=lambda p, q: 0.5 * jnp.var(q - p, ddof=1),
        optimum=0.0,
        bug=attached_log_variance,
        num_draws=K,
        estimators=DETACHED,
        # Reverse KL's gradient, by the score: E[(log q − log p̃)·∇ log q].
        gradient_of=lambda p, q: (jax.lax.stop_gradient(q - p) * q)[0],
    ),
    "trajectory_balance": Case(
        objectives.trajectory_balance,
        cost=lambda p, q, log_z: ((log_z + q - p) ** 2)[0],
        optimum=0.0,
        bug=attached_balance,
        estimators=DETACHED,
        gradient_of=lambda p, q, log_z: ((log_z + q - p) ** 2)[0],
    ),
    "reweighted_wake_sleep": Case(
        objectives.reweighted_wake_sleep(K),
        cost=lambda p, q: -log_mean_exp(p - q),
        optimum=-EXACT.log_z,
        bug=guide_follows_the_bound,
        num_draws=K,
        estimators=DETACHED,
        gradient_of=lambda p, q: -jax.lax.stop_gradient(jax.nn.softmax(p - q)) @ q,
    ),
}
