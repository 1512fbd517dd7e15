"""The laws of the room, walked over its table."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers.language import BOUNDS, IN_PYTHON, LANGUAGE, NUM_TOKENS, POLICIES, TOKEN_BY_TOKEN

from bayesft._sample import sample
from bayesft.errors import EvidenceError
from bayesft.evidence import potential, prefix_potential
from bayesft.samplers import SAMPLERS
from bayesft.target import Target

MEMBERS = pytest.mark.parametrize("name", SAMPLERS)
PROMPTS = ["", "ab", "b", "ab"]
NUM_DRAWS = 16


def several(eos: str = "truncate", scale: float = 0.5, prompts=PROMPTS) -> Target:
    evidence = TOKEN_BY_TOKEN + scale * IN_PYTHON
    return Target(LANGUAGE, evidence, prompts=prompts, max_new_tokens=NUM_TOKENS, eos=eos)


def numbers(draws) -> dict[str, np.ndarray]:
    names = ("tokens", "lengths", "log_weights", "log_prior", "log_evidence", "status", "log_z")
    return {name: np.asarray(getattr(draws, name)) for name in names if name in present(draws)}


def present(draws) -> set[str]:
    fields = dataclasses.fields(draws)
    return {field.name for field in fields if getattr(draws, field.name) is not None}


def same(draws, other) -> bool:
    return all(
        np.array_equal(value, numbers(other)[name]) for name, value in numbers(draws).items()
    )


def prompt_of(draws, p: int):
    return dataclasses.replace(draws, **{n: v[p : p + 1] for n, v in numbers(draws).items()})


@MEMBERS
def test_the_claim_is_one_of_a_sampler(name):
    claim = SAMPLERS[name](8).claim
    assert claim.kind in ("proper weights", "exact draws", "another law")
    assert claim.detail


@MEMBERS
def test_same_key_same_draws_and_new_key_new_draws(name):
    target, sampler = several(), SAMPLERS[name](NUM_DRAWS)
    draws = sample(target, sampler, jax.random.key(0))
    assert same(draws, sample(target, sampler, jax.random.key(0)))
    assert not same(draws, sample(target, sampler, jax.random.key(1)))
    for p in range(1, len(PROMPTS)):  # no two prompts share their randomness, equal ones neither
        assert (draws.tokens[0] != draws.tokens[p]).any()


@MEMBERS
@pytest.mark.parametrize("eos", POLICIES)
def test_densities_are_those_of_the_target(name, eos):
    target = several(eos)
    draws = sample(target, SAMPLERS[name](NUM_DRAWS), jax.random.key(0))
    assert draws.tokens.shape == (len(PROMPTS), NUM_DRAWS, NUM_TOKENS)
    assert draws.log_weights.dtype == jnp.float32
    for p in range(len(PROMPTS)):
        x = jax.tree.map(lambda a, p=p: a[p], target.xs)
        possible = np.asarray(draws.log_weights[p]) > -np.inf
        tokens = draws.tokens[p][possible]
        expected = jax.vmap(lambda y, x=x: target.log_prior(y, x))(tokens)
        np.testing.assert_allclose(draws.log_prior[p][possible], expected, atol=1e-5)
        lengths = np.where((tokens == 2).any(1), (tokens == 2).argmax(1) + 1, NUM_TOKENS)
        np.testing.assert_array_equal(draws.lengths[p][possible], lengths)
        live = np.arange(NUM_TOKENS) < lengths[:, None]
        assert (np.asarray(tokens)[~live] == 2).all()
        expected = 1.5 * ((np.asarray(tokens) == 0) & live).sum(1)
        np.testing.assert_allclose(draws.log_evidence[p][possible], expected, atol=1e-5)
    assert (draws.log_ended is not None) == (eos == "condition")
    assert len(draws.text) == len(PROMPTS)


@MEMBERS
def test_a_prompt_in_a_batch_equals_the_same_prompt_alone(name):
    target, sampler = several(), SAMPLERS[name](NUM_DRAWS)
    for seed in range(3):
        together = sample(target, sampler, jax.random.key(seed))
        for p in range(len(PROMPTS)):
            alone = sample(target.select([p]), sampler, jax.random.key(seed))
            assert same(prompt_of(together, p), alone)


@MEMBERS
def test_one_trace_per_shape(name):
    traces = []

    def count(state, token):
        traces.append(None)
        return state, jnp.where(token == 0, 1.0, 0.0)

    counted = prefix_potential(count, (), bounds=BOUNDS)

    def run(prompts, scale, seed):
        target = Target(LANGUAGE, scale * counted, prompts=prompts, max_new_tokens=NUM_TOKENS)
        sample(target, SAMPLERS[name](NUM_DRAWS), jax.random.key(seed))
        return len(traces)

    assert 0 < run(["ab", "a"], 0.5, 0) == run(["ba", "b"], 0.25, 1)


@MEMBERS
def test_jit_equals_eager(name):
    target, sampler = several(prompts=["ab"]), SAMPLERS[name](8)
    draws = sample(target, sampler, jax.random.key(0))
    with jax.disable_jit():
        eager = sample(target, sampler, jax.random.key(0))
    assert (eager.tokens == draws.tokens).all()
    np.testing.assert_allclose(eager.log_weights, draws.log_weights, atol=1e-5)


@MEMBERS
@pytest.mark.parametrize("value", [jnp.nan, jnp.inf])
def test_evidence_that_is_no_log_potential_is_an_error(name, value):
    wrong = potential(lambda tokens, length: jnp.where(length > 1, value, 0.0), bounds=BOUNDS)
    target = Target(LANGUAGE, wrong, max_new_tokens=NUM_TOKENS)
    with pytest.raises(EvidenceError, match="not a log-potential"):
        sample(target, SAMPLERS[name](NUM_DRAWS), jax.random.key(0))
