"""The laws of the priors room, walked over its table; every member's test file has EXAMPLES."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayesft.base import Horizon
from bayesft.priors import PRIORS, markov, trainable
from bayesft.priors.sequence import SequenceDistribution, generate
from bayesft.priors.stepped import enumerate_sequences
from bayesft.target import Target
from bayesft.testing import assert_frequencies, enumerate_target

T = 3
EPSILON = 1e-5  # some dozens of float32 roundings of log-probs of size ten
NUM_SAMPLES = 1 << 13


def examples(member) -> list:
    path = Path(__file__).parent / f"test_{member.__name__}.py"
    spec = importlib.util.spec_from_file_location(f"examples_{member.__name__}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.EXAMPLES
    return module.EXAMPLES


ALL = [
    pytest.param(prior, prompts, id=f"{member.__name__}{number}")
    for member in PRIORS
    for number, (prior, prompts) in enumerate(examples(member))
]
each_prior = pytest.mark.parametrize(("prior", "prompts"), ALL)
each_policy = pytest.mark.parametrize("eos", ["truncate", "condition", "force"])


def last_prompt(target):
    return jax.tree.map(lambda a: a[-1], target.xs)


def sums_to_one(prior, prompts, eos) -> bool:
    exact = enumerate_target(Target(prior, prompts=prompts, max_new_tokens=T, eos=eos), -1)
    total = np.exp(exact.log_prior).sum()
    expected = np.exp(exact.log_ended) if eos == "condition" else 1.0
    return bool(abs(total - expected) < EPSILON)


def stepping_is_teacher_forcing(prior, prompts) -> bool:
    target = Target(prior, prompts=prompts, max_new_tokens=T)
    xs = jax.tree.map(lambda a: a[-1:], target.xs)
    x = jax.tree.map(lambda a: a[0], xs)
    rows = jnp.asarray(enumerate_sequences(prior, target.horizon))

    @jax.jit
    def both(rows):
        state, logits = prior.start(xs, len(rows), T)
        stepped = []
        for t in range(T):
            normalised = jax.nn.log_softmax(logits[0])
            stepped.append(jnp.take_along_axis(normalised, rows[:, t, None], 1)[:, 0])
            state, logits = prior.advance(state, rows[None, :, t])
        forced = jax.vmap(lambda y: prior.token_log_probs(y, x, target.horizon))(rows)
        return target.horizon.finish(
            jnp.stack(stepped, -1), rows, prior.eos, prior.vocab_size
        ), forced

    stepped, forced = both(rows)
    possible = np.asarray(stepped.sum(-1)) > -np.inf
    same = np.allclose(stepped[possible], forced[possible], atol=EPSILON)
    return bool(same and np.all(np.isneginf(np.asarray(forced.sum(-1))[~possible])))


@each_policy
@each_prior
def test_outcomes_sum_to_one(prior, prompts, eos):
    assert sums_to_one(prior, prompts, eos)


@each_prior
def test_stepping_agrees_with_teacher_forcing(prior, prompts):
    assert stepping_is_teacher_forcing(prior, prompts)


@each_prior
def test_ids_outside_the_vocabulary_are_impossible(prior, prompts):
    target = Target(prior, prompts=prompts, max_new_tokens=T)
    strangers = jnp.asarray([-100, -1, prior.vocab_size], jnp.int32)
    others = [token for token in range(prior.vocab_size) if token not in prior.eos]
    rows = jnp.full((len(strangers), T), others[0], jnp.int32).at[:, 0].set(strangers)
    score = jax.vmap(lambda y: prior.token_log_probs(y, last_prompt(target), target.horizon))
    assert np.isneginf(np.asarray(score(rows).sum(-1))).all()


@pytest.mark.parametrize("eos", ["truncate", "force"])
@each_prior
def test_samples_have_the_enumerated_law(prior, prompts, eos):
    target = Target(prior, prompts=prompts, max_new_tokens=T, eos=eos)
    exact = enumerate_target(target, -1)
    xs = jax.tree.map(lambda a: a[-1:], target.xs)
    keys = jax.random.split(jax.random.key(0), (1, NUM_SAMPLES))
    tokens, token_log_probs = jax.jit(generate, static_argnums=3)(prior, xs, keys, target.horizon)
    place = {tuple(row): m for m, row in enumerate(exact.tokens.tolist())}
    drawn = np.asarray([place[tuple(row)] for row in tokens[0].tolist()])
    assert_frequencies(np.bincount(drawn, minlength=len(place)), np.exp(exact.log_prior))
    np.testing.assert_allclose(
        token_log_probs[0].sum(-1), exact.log_prior[drawn], atol=EPSILON, rtol=EPSILON
    )


@each_prior
def test_lifted_sampling_equals_each_alone(prior, prompts):
    """vmap = loop, jit = eager, same key same draws, new key new draws."""
    target = Target(prior, prompts=prompts, max_new_tokens=T)

    def keys():
        return jax.random.split(jax.random.key(1), 16)  # made anew: a key is used once

    def one(x, key):
        return SequenceDistribution(prior, x, target.horizon).sample_and_log_prob(key)

    over_keys = jax.vmap(lambda x, keys: jax.vmap(lambda key: one(x, key))(keys), (0, None))
    batched, log_probs = jax.jit(over_keys)(target.xs, keys())
    alone, log_prob = one(last_prompt(target), keys()[3])
    again, _ = one(last_prompt(target), keys()[3])
    assert (batched[-1, 3] == alone).all()
    assert (again == alone).all()
    np.testing.assert_allclose(log_probs[-1, 3], log_prob, atol=EPSILON)
    assert len(np.unique(np.asarray(batched[-1]), axis=0)) > 1


@each_prior
def test_one_trace_per_shape(prior, prompts):
    traces = []

    @jax.jit
    def score(prior, tokens, x):
        traces.append(1)
        return prior.token_log_probs(tokens, x, Horizon(T))

    x = last_prompt(Target(prior, prompts=prompts, max_new_tokens=T))
    for row in enumerate_sequences(prior, Horizon(T))[:3]:
        score(prior, jnp.asarray(row), x)
    floats = jax.tree.map(lambda a: a + 1 if a.dtype == jnp.float32 else a, prior)
    score(floats, jnp.asarray(row), x)
    assert len(traces) == 1


@each_prior
def test_guide_starts_as_its_prior_and_has_finite_gradients(prior, prompts):
    target = Target(prior, prompts=prompts, max_new_tokens=T)
    x, guide = last_prompt(target), trainable(prior)
    exact = enumerate_target(target, -1)
    np.testing.assert_allclose(exact.log_probs_of(guide), exact.log_prior, atol=EPSILON)
    assert guide.decode([0]) == prior.decode([0])
    rows = jnp.asarray(exact.tokens)
    possible = jnp.asarray(exact.log_prior > -np.inf)

    @jax.jit
    def expected_length(params):
        """A function of all probabilities, whose gradient is known by differences."""
        one = lambda y: guide.with_params(params).token_log_probs(y, x, target.horizon).sum()
        log_probs = jnp.where(possible, jax.vmap(one)(rows), -jnp.inf)
        return jnp.sum(jnp.exp(log_probs) * jnp.asarray(exact.lengths))

    gradient = jax.grad(expected_length)(guide.params)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    direction = jax.tree.map(
        lambda a: jnp.asarray(np.random.default_rng(0).normal(size=a.shape), a.dtype), guide.params
    )

    def along(step):
        moved = jax.tree.map(lambda a, d: a + step * d, guide.params, direction)
        return float(expected_length(moved))

    # Central differences err by step²·f''' and by rounding over the step, both about 1e-4 here.
    difference = (along(1e-2) - along(-1e-2)) / 2e-2
    slope = sum(
        float(jnp.vdot(g, d))
        for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
    )
    assert abs(difference - slope) < 2e-3


@each_prior
def test_impossible_outcomes_have_finite_gradients(prior, prompts):
    """Scoring what a guide cannot produce, and padding, leaves no NaN in its gradient."""
    target = Target(prior, prompts=prompts, max_new_tokens=T)
    x, guide = last_prompt(target), trainable(prior)
    shape = (prior.vocab_size,) * T
    rows = jnp.asarray(np.stack(np.unravel_index(np.arange(min(np.prod(shape), 200)), shape), -1))

    def total(params):
        log_probs = jax.vmap(
            lambda y: guide.with_params(params).token_log_probs(y, x, target.horizon).sum()
        )(rows)
        return jnp.where(jnp.isfinite(log_probs), log_probs, 0.0).sum()

    gradient = jax.grad(total)(guide.params)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


# ---- planted bugs: the laws catch them -----------------------------------------------------------


def toy():
    return markov(jnp.zeros(3), jnp.log(jnp.array([[1, 6, 3], [5, 2, 3], [1, 1, 1]]) / 10), eos=2)


def test_unscored_eos_is_caught(monkeypatch):
    assert sums_to_one(toy(), None, "truncate")
    finish = Horizon.finish

    def without_eos(self, token_log_probs, tokens, eos, vocab_size):
        scored = finish(self, token_log_probs, tokens, eos, vocab_size)
        return jnp.where(tokens == eos[0], 0.0, scored)

    monkeypatch.setattr(Horizon, "finish", without_eos)
    jax.clear_caches()
    try:
        assert not sums_to_one(toy(), None, "truncate")
    finally:
        jax.clear_caches()


def test_a_step_that_forgets_its_token_is_caught():
    class Forgetful(type(toy())):
        def advance(self, state, tokens):
            return super().advance(state, jnp.zeros_like(tokens))

    forgetful = Forgetful(toy().initial_logits, toy().transition_logits, (2,))
    assert stepping_is_teacher_forcing(toy(), None)
    assert not stepping_is_teacher_forcing(forgetful, None)
