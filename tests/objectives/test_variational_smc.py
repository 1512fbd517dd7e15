"""The bound of SMC against enumeration of all particles and ancestors, and Kalman's log Z."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from samplers.language import HAS_AB, LANGUAGE, TOKEN_BY_TOKEN, WITHOUT_B, guide

import bayesft as bft
from bayesft.distributions import Steps
from bayesft.errors import (
    EstimatorError,
    GuideError,
    HardConstraintError,
    ObjectiveError,
    TargetError,
)
from bayesft.objectives import variational_smc
from bayesft.priors.sequence import BoundGuide
from bayesft.program import record, replay_value_and_grad
from bayesft.testing import assert_unbiased, enumerate_target

NUM_RUNS = 20_000
SCORE, DETACHED = bft.estimators.score_function(), bft.estimators.detached()
FAMILY = 4

# Evidence on the way, and on whole sequences: those that end at once get it a step before the rest.
LONG = bft.evidence.potential(lambda tokens, length: 0.5 * length)
TARGET = bft.Target(LANGUAGE, 0.8 * TOKEN_BY_TOKEN + LONG, max_new_tokens=2)
EXACT = enumerate_target(TARGET)
START = guide()
OUTCOMES = [np.array(column) for column in zip(*itertools.product(
    range(3), range(3), range(2), range(2), range(3), range(3)
), strict=True)]  # fmt: skip


def enumerated(params, *, scores=True):
    """E[−log Ẑ] of two particles: their first tokens, two ancestors, their second tokens.

    Without `scores` the ancestors' probabilities are constants.
    """
    q = START.with_params(params).prior
    first_q, first_p = jax.nn.log_softmax(q.initial_logits), LANGUAGE.initial_logits
    next_q, next_p = jax.nn.log_softmax(q.transition_logits), LANGUAGE.transition_logits

    def weight(y):
        return first_p[y] + 0.8 * (y == 0) + 0.5 * (y == 2) - first_q[y]

    def next_weight(y, z):
        return jnp.where(y == 2, 0.0, next_p[y, z] + 0.8 * (z == 0) + 1.0 - next_q[y, z])

    def next_log_prob(y, z):
        return jnp.where(y == 2, jnp.where(z == 2, 0.0, -jnp.inf), next_q[y, z])

    one, other, i, j, z, w = map(jnp.asarray, OUTCOMES)
    firsts = jnp.stack([one, other])
    log_weights = weight(firsts)
    chances = jax.nn.log_softmax(log_weights, 0)
    chances = chances if scores else jax.lax.stop_gradient(chances)
    rows = jnp.arange(len(one))
    before, after = jnp.stack([firsts[i, rows], firsts[j, rows]]), jnp.stack([z, w])
    log_prob = first_q[firsts].sum(0) + chances[i, rows] + chances[j, rows]
    log_prob += next_log_prob(before, after).sum(0)
    log_z = log_mean(log_weights) + log_mean(next_weight(before, after))
    return -jnp.exp(log_prob) @ log_z, jnp.exp(log_prob) @ jnp.exp(log_z)


def log_mean(rows):
    return jax.nn.logsumexp(rows, 0) - jnp.log(2.0)


def estimates(objective, estimator):
    def program(params):
        at = BoundGuide(START.with_params(params), TARGET.horizon)
        return objective(at, TARGET, EXACT.x)

    run = bft.expectation(program, estimator=estimator)
    keys = jax.random.split(jax.random.key(0), NUM_RUNS)
    return jax.jit(jax.vmap(lambda key: run.value_and_grad(key, START.params)))(keys)


def flat(tree):
    return jnp.concatenate([leaf.reshape(*leaf.shape[:1], -1) for leaf in jax.tree.leaves(tree)], 1)


def check(gradient, scores):
    of = jax.jit(jax.grad(lambda params: enumerated(params, scores=scores)[0]))
    exact = flat(jax.tree.map(lambda a: a[None], of(START.params)))[0]
    used = np.abs(exact) > 1e-6
    assert_unbiased(flat(gradient)[:, used], exact[used], family=FAMILY, resolution=0.2)


def replayed(objective, estimator):
    """The same by a recording of particles and ancestors, as `bft.fit` does it."""

    def args(params):
        return BoundGuide(START.with_params(params), TARGET.horizon), TARGET

    def one(key):
        start = args(START.params)
        recording = record(objective, key, start, TARGET.xs, estimator=estimator)
        return replay_value_and_grad(objective, args, START.params, recording, estimator=estimator)

    keys = jax.random.split(jax.random.key(2), NUM_RUNS)
    return jax.jit(jax.vmap(one))(keys)


def test_value_and_gradient_are_the_enumerated_ones():
    bound, z = enumerated(START.params)
    np.testing.assert_allclose(jnp.log(z), EXACT.log_z, atol=1e-5)
    assert -EXACT.log_z + 1e-3 < bound < EXACT.reverse_kl(START) - EXACT.log_z - 1e-3
    value, gradient = replayed(variational_smc(2), SCORE)
    assert_unbiased(value, bound, family=FAMILY, resolution=0.1)
    assert_unbiased(jnp.exp(-value), z, family=FAMILY, resolution=0.5)
    check(gradient, scores=True)


def test_without_the_ancestors_score_the_bias_is_the_one_that_is_said():
    objective = variational_smc(2, selection=DETACHED)
    _, gradient = estimates(objective, SCORE)
    check(gradient, scores=False)
    with pytest.raises(AssertionError, match="means are wrong"):  # a mistake if it were not said
        check(gradient, scores=True)
    program = lambda g: objective(g, TARGET, EXACT.x)
    with pytest.raises(EstimatorError, match=r"ancestor'.*Detached.*score term"):
        bft.expectation(program, estimator=SCORE, require="unbiased").estimate(
            jax.random.key(0), BoundGuide(START, TARGET.horizon)
        )


def of_its_own_prefixes():
    """A posterior, and a target whose evidence turns the prior into it token by token."""
    posterior = guide().prior
    log_ratio = [
        jax.nn.log_softmax(ours, -1) - jax.nn.log_softmax(theirs, -1)
        for ours, theirs in zip(jax.tree.leaves(posterior), jax.tree.leaves(LANGUAGE), strict=True)
    ]

    def step(last, token):
        first = log_ratio[0][token]
        return token, jnp.where(last < 0, first, log_ratio[1][last, token])

    evidence = bft.evidence.prefix_potential(step, jnp.int32(-1))
    return posterior, bft.Target(LANGUAGE, evidence, max_new_tokens=3)


def test_the_bound_is_tight_where_the_prefix_densities_are_the_posteriors():
    posterior, target = of_its_own_prefixes()
    exact = enumerate_target(target)
    np.testing.assert_allclose(exact.log_z, 0.0, atol=1e-5)
    bound = bft.priors.sequence.bind(posterior.trainable(), target.horizon)
    run = bft.expectation(lambda g: variational_smc(3)(g, target, exact.x), estimator=SCORE)
    np.testing.assert_allclose(run.estimate(jax.random.key(0), bound), 0.0, atol=1e-5)


@pytest.mark.slow  # what is new in it, the recording, is compared with enumeration above
def test_a_fit_ends_there():
    _, target = of_its_own_prefixes()
    exact = enumerate_target(target)
    with jax.debug_key_reuse(False):
        fitted = bft.fit(
            target,
            bft.trainable(LANGUAGE),
            objective=variational_smc(2),
            estimator=bft.estimators.leave_one_out(32),
            optimizer=optax.adam(optax.cosine_decay_schedule(0.1, 100)),
            num_steps=100,
            key=jax.random.key(0),
        )
    assert exact.reverse_kl(fitted.guide) < 0.1 * exact.reverse_kl(bft.trainable(LANGUAGE))


# ---- states of a linear Gaussian model ---------------------------------------------------------

SEEN = jnp.array([0.9, -0.4])


@dataclasses.dataclass(frozen=True)
class Chain:
    """z_t ~ N(0.8·z_{t−1}, 1), seen as N(z_t, 0.5), proposed by N(θ0·z_{t−1} + θ1·seen_t, e^θ2)."""

    theta: jax.Array

    def steps(self, target, x):
        def propose(z, t):
            mean = self.theta[0] * z + self.theta[1] * SEEN[t]
            return dist.Normal(mean, jnp.exp(self.theta[2]))

        def extend(before, z, t):
            log_joint = dist.Normal(0.8 * before, 1.0).log_prob(z)
            return z, log_joint + dist.Normal(z, 0.5).log_prob(SEEN[t])

        return Steps(len(SEEN), jnp.zeros(()), propose, extend)


def integrated(theta, num_nodes=12):
    """E[−log Ẑ] of two particles by Gauss and Hermite, and the sum over their ancestors."""
    nodes, mass = np.polynomial.hermite_e.hermegauss(num_nodes)
    noise = jnp.stack([jnp.asarray(a.ravel()) for a in np.meshgrid(*[nodes] * 4)]).reshape(2, 2, -1)
    mass = jnp.asarray(np.prod(np.meshgrid(*[mass / mass.sum()] * 4), 0).ravel())
    steps = Chain(theta).steps(None, None)

    def grow(before, t):
        proposal = steps.propose(before, t)
        z = proposal.loc + proposal.scale * noise[t]
        return z, steps.extend(before, z, t)[1] - proposal.log_prob(z)

    z, log_weights = grow(jnp.zeros_like(noise[0]), 0)
    chances, total = jax.nn.softmax(log_weights, 0), jnp.zeros(())
    for i, j in itertools.product(range(2), repeat=2):
        _, later = grow(jnp.stack([z[i], z[j]]), 1)
        log_z = log_mean(log_weights) + log_mean(later)
        total -= mass @ (chances[i] * chances[j] * log_z)
    return total


def test_reparameterised_states_with_scored_ancestors():
    """Ẑ is unbiased for the exact likelihood, its logarithm has the integrals' value and slope."""
    theta, objective = jnp.array([0.3, 0.6, -0.2]), variational_smc(2, selection=SCORE)
    path = bft.estimators.reparameterize()
    run = bft.expectation(lambda t: objective(Chain(t), None, None), estimator=path)
    keys = jax.random.split(jax.random.key(1), NUM_RUNS)
    value, gradient = jax.jit(jax.vmap(lambda key: run.value_and_grad(key, theta)))(keys)
    exact, exact_gradient = jax.jit(jax.value_and_grad(integrated))(theta)
    covariance = np.array([[1.0, 0.8], [0.8, 1.64]]) + 0.25 * np.eye(2)
    log_z = dist.MultivariateNormal(jnp.zeros(2), covariance).log_prob(SEEN)
    assert exact > -log_z + 0.01
    assert_unbiased(jnp.exp(-value - log_z), 1.0, family=3, resolution=0.1)
    assert_unbiased(value, exact, family=3, resolution=0.1, rounding=2.0**-10)
    assert_unbiased(gradient, exact_gradient, family=3, resolution=0.4, rounding=2.0**-10)


def test_what_it_cannot_do_is_refused():
    with pytest.raises(ObjectiveError, match="num_samples ≥ 1"):
        variational_smc(0)
    for evidence, error in ((WITHOUT_B, HardConstraintError), (1.0 * HAS_AB, HardConstraintError)):
        with pytest.raises(error):
            variational_smc(2)(None, bft.Target(LANGUAGE, evidence, max_new_tokens=2), None)
    soft = bft.evidence.reward(lambda completion_ids: [0.0] * len(completion_ids), beta=1.0)
    target = bft.Target(LANGUAGE, soft, max_new_tokens=2)
    with pytest.raises(TargetError, match="in Python"):
        variational_smc(2)(BoundGuide(START, target.horizon), target, EXACT.x)
    with pytest.raises(GuideError, match="does not propose token by token"):
        variational_smc(2)(lambda x: dist.Normal(0.0, 1.0), TARGET, EXACT.x)
