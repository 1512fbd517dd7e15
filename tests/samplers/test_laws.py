"""The laws of the room, walked over its table."""

import dataclasses
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from samplers.claims import assert_densities
from samplers.language import BOUNDS, IN_PYTHON, LANGUAGE, NUM_TOKENS, TOKEN_BY_TOKEN

from bayesft._sample import sample
from bayesft.errors import EvidenceError
from bayesft.evidence import potential, prefix_potential
from bayesft.samplers import SAMPLERS
from bayesft.target import Target
from bayesft.testing import enumerate_target

MEMBERS = pytest.mark.parametrize("name", SAMPLERS)
PROMPTS = ["", "ab", "b", "ab"]
NUM_DRAWS = 16
SEVERAL_ROWS_A_DRAW = ("best_of_n", "soft_best_of_n", "statistical_rejection")


def several() -> Target:
    evidence = TOKEN_BY_TOKEN + 0.5 * IN_PYTHON
    return Target(LANGUAGE, evidence, prompts=PROMPTS, max_new_tokens=NUM_TOKENS)


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
def test_densities_are_those_of_the_target(name):
    """The tests of the claims look at other targets; here prompts differ."""
    target = several()
    draws = sample(target, SAMPLERS[name](NUM_DRAWS), jax.random.key(0))
    assert draws.log_weights.dtype == jnp.float32
    assert draws.log_ended is None
    for p in range(len(PROMPTS)):
        assert_densities(prompt_of(draws, p), enumerate_target(target, p))
    completions = draws.text
    assert len(completions) == len(PROMPTS) and len(completions[0]) == NUM_DRAWS


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
def test_jit_equals_eager(name, monkeypatch):
    # Few tokens and rows of one shape: eagerly, every primitive is compiled by itself.
    monkeypatch.setattr(importlib.import_module("bayesft.samplers.accepting"), "BATCH_SIZES", (8,))
    target = Target(LANGUAGE, 0.25 * TOKEN_BY_TOKEN, max_new_tokens=2)
    sampler = SAMPLERS[name](2 if name in SEVERAL_ROWS_A_DRAW else 8)
    draws = sample(target, sampler, jax.random.key(0))
    with jax.disable_jit():
        eager = sample(target, sampler, jax.random.key(0))
    assert (eager.tokens == draws.tokens).all()
    np.testing.assert_allclose(eager.log_weights, draws.log_weights, atol=1e-5)


@MEMBERS
@pytest.mark.parametrize("value", [jnp.nan, jnp.inf])
def test_evidence_that_is_no_log_potential_is_an_error(name, value):
    wrong = potential(Partial(_from_the_second_token, jnp.float32(value)), bounds=BOUNDS)
    target = Target(LANGUAGE, wrong, max_new_tokens=NUM_TOKENS)
    with pytest.raises(EvidenceError, match="not a log-potential"):
        sample(target, SAMPLERS[name](NUM_DRAWS), jax.random.key(0))


def _from_the_second_token(value, tokens, length):
    return jnp.where(length > 1, value, 0.0)
