"""Choices in the branches of a cond: credit, records, replays, models. Gradients of every estimator
in conds are in tests/estimators/test_table.py."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import bayesft as bft
from bayesft.base import Prompt
from bayesft.errors import ChoiceError
from bayesft.priors.sequence import SequenceDistribution
from bayesft.program import record, replay_value_and_grad
from bayesft.testing import assert_unbiased

P = 0.3
SCORE = bft.estimators.score_function()
LOO = bft.estimators.leave_one_out(num_samples=3)
NUM_RUNS = 20_000


def flip(name, p, estimator=None):
    return bft.draw(name, dist.Bernoulli(probs=p), estimator).astype(jnp.float32)


def walk(p):
    """Values leave the branches, choices stand before, in and after them, in a scan."""

    def step(count, _):
        g = flip("g", p)
        more = bft.cond(
            g > 0, lambda c: c + flip("up", p), lambda c: -p * flip("down", p / 2), count
        )
        bft.cost(0.5 * more)
        return more + g * flip("z", p), None

    return jnp.sin(bft.scan(step, 1.0, length=2)[0])


def expected_walk(p):
    """By recursion over the outcomes of a step."""

    def rest(count, steps):
        if steps == 0:
            return jnp.sin(count)
        total = 0.0
        for g, branch, z in np.ndindex(2, 2, 2):
            q = p if g else p / 2
            chance = (p if g else 1 - p) * (q if branch else 1 - q) * (p if z else 1 - p)
            more = count + branch if g else -p * branch
            total += chance * (0.5 * more + rest(more + g * z, steps - 1))
        return total

    return rest(1.0, 2)


def test_values_that_leave_branches_are_credited():
    expectation = bft.expectation(walk, estimator=LOO)
    keys = jax.random.split(jax.random.key(0), NUM_RUNS)
    value, gradient = jax.jit(jax.vmap(lambda k: expectation.value_and_grad(k, P)))(keys)
    exact, exact_gradient = jax.jit(jax.value_and_grad(expected_walk))(P)
    assert_unbiased(value, exact, family=2, resolution=0.1)
    assert_unbiased(gradient, exact_gradient, family=2, resolution=1.0)


def test_a_planted_bug_is_caught():
    """A branch whose score term is dropped."""

    class Silent(type(SCORE)):
        def surrogate(self, credited, log_prob, stored):
            return jnp.zeros(())

    def program(p):
        return bft.cond(flip("g", p, SCORE) > 0, lambda: flip("y", p, Silent(0.0)), lambda: 0.0)

    run = bft.expectation(program)
    keys = jax.random.split(jax.random.key(1), NUM_RUNS)
    gradient = jax.jit(jax.vmap(lambda k: run.value_and_grad(k, P)[1]))(keys)
    with pytest.raises(AssertionError, match="means are wrong"):
        assert_unbiased(gradient, 2 * P)


def test_choices_of_several_paths_around_and_inside():
    """An enumerated choice decides; a score choice in one branch, a measure-valued in the other."""
    weak, enumerate_ = bft.estimators.measure_valued(), bft.estimators.enumerate()

    def program(p):
        g = flip("g", p, enumerate_)
        bft.cond(
            g > 0,
            lambda: bft.cost(2.0 * flip("y", p, SCORE) + g),
            lambda: bft.cost(bft.draw("n", dist.Poisson(p), weak) ** 2.0),
        )
        return g * flip("z", p, LOO)

    run = bft.expectation(program)
    keys = jax.random.split(jax.random.key(6), NUM_RUNS)
    value, gradient = jax.jit(jax.vmap(lambda k: run.value_and_grad(k, P)))(keys)
    exact = lambda p: p * (2 * p + 1 + p) + (1 - p) * (p + p**2)
    assert_unbiased(value, exact(P), family=2, resolution=0.1)
    assert_unbiased(gradient, jax.grad(exact)(P), family=2, resolution=0.3)


def test_what_is_not_finite_in_the_other_branch_does_not_reach_the_gradient():
    path = bft.estimators.reparameterize()

    def program(m):
        x = bft.draw("x", dist.Normal(m, 1.0), path)
        positive = jax.lax.stop_gradient(x) > 0  # the branches meet there
        return bft.cond(positive, lambda: jnp.sqrt(x), lambda: jnp.zeros(()))

    keys = jax.random.split(jax.random.key(2), 100)
    run = bft.expectation(program)
    gradient = jax.jit(jax.vmap(lambda k: run.value_and_grad(k, 0.1)[1]))(keys)
    assert jnp.isfinite(gradient).all() and (gradient == 0).any() and (gradient > 0).any()


def test_a_python_predicate_and_the_signature_of_lax_cond():
    def program(p):
        return bft.cond(True, lambda a, b: a * flip("y", p) + b, lambda a, b: a - b, 2.0, 1.0)

    exact = bft.expectation(program, estimator=SCORE)
    keys = jax.random.split(jax.random.key(3), 5_000)
    value = jax.vmap(lambda k: exact.estimate(k, P))(keys)
    assert_unbiased(value, 1 + 2 * P)


def prompts(count):
    return Prompt(
        tokens=jnp.zeros((count, 1), jnp.int32),
        length=jnp.zeros(count, jnp.int32),
        id=jnp.arange(count),
    )


def switching(p, x):
    """At p above ½ every replay takes the branch that no recording below it took."""
    y = bft.cond(p > 0.5, lambda: 3.0 * flip("y", p), lambda: 1.0 - flip("y", p))
    return y + p * flip("z", p)


@pytest.mark.parametrize("at", [0.3, 0.7])
def test_replays_of_a_recording_on_and_off_its_parameters(at):
    """Both branches are recorded, so importance weights correct even where the branch changes."""

    @jax.jit
    def one(key):
        recording = record(switching, key, (P,), prompts(1), estimator=LOO)
        return replay_value_and_grad(switching, lambda p: (p,), at, recording, estimator=LOO)

    value, gradient = jax.vmap(one)(jax.random.split(jax.random.key(4), NUM_RUNS))
    expected = (lambda p: 3 * p + p**2) if at > 0.5 else (lambda p: 1 - p + p**2)
    exact, exact_gradient = jax.value_and_grad(expected)(at)
    assert_unbiased(gradient, exact_gradient, family=4, resolution=1.0)
    if at == P:
        assert_unbiased(value, exact, family=4, resolution=0.2)


def test_a_model_scores_the_branch_that_was_taken():
    def program(p):
        g = bft.draw("g", dist.Bernoulli(probs=p))
        bft.cond(
            g == 1,
            lambda: bft.draw("x", dist.Normal(0.0, 1.0)),
            lambda: bft.draw("x", dist.Normal(5.0, 2.0)),
            name="kind",
        )

    model = bft.model(program)(P)
    for seed in range(3):
        trace = model.sample(jax.random.key(seed))
        side, other = ("true", "false") if trace["g"] else ("false", "true")
        x = trace["kind"][side]["x"]
        normal = dist.Normal(0.0, 1.0) if trace["g"] else dist.Normal(5.0, 2.0)
        joint = dist.Bernoulli(probs=P).log_prob(trace["g"]) + normal.log_prob(x)
        assert jnp.allclose(model.log_prob(trace), joint, rtol=1e-5)
        trace["kind"][other]["x"] += 1.0
        assert jnp.allclose(model.log_prob(trace), joint, rtol=1e-5)


def refused(program, match):
    with pytest.raises(ChoiceError, match=match):
        bft.expectation(program, estimator=SCORE).estimate(jax.random.key(0), P)


def test_misuse_is_refused_with_a_remedy():
    refused(lambda p: bft.cond(True, lambda: flip("y", p), lambda: None), "return different things")
    refused(lambda p: bft.cond(True, lambda: flip("y", p), lambda: jnp.zeros(2)), r"float32\[2\]")
    refused(lambda p: bft.cond(True, lambda: flip("a", p) + flip("a", p), lambda: 0.0), "twice")
    with pytest.raises(ChoiceError, match=r"A bft\.cond stands outside"):
        bft.cond(True, lambda: 1.0, lambda: 2.0)


def test_evidence_in_python_is_refused_inside():
    language = bft.priors.markov(jnp.log(jnp.full(2, 0.5)), jnp.log(jnp.full((2, 2), 0.5)), eos=1)
    reward = bft.evidence.reward(lambda completions: [0.0 for _ in completions], beta=1.0)
    target = bft.Target(language, reward, max_new_tokens=2)

    def program(target, x):
        y = bft.draw("y", SequenceDistribution(target.prior, x, target.horizon))
        return bft.cond(True, lambda: -target.log_density(y, x), lambda: 0.0)

    with pytest.raises(ChoiceError, match=r"inside bft\.scan or bft\.cond"):
        record(
            program,
            jax.random.key(0),
            (target,),
            target.xs,
            estimator=SCORE,
            resolve=target.evaluate_host,
        )
