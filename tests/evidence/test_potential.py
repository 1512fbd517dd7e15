"""Potentials in JAX."""

import math

import jax
import jax.numpy as jnp
import pytest
from jax.tree_util import Partial

from bayesft.errors import EvidenceError
from bayesft.evidence import potential


def count_a(tokens, length):
    return ((tokens == 0) & (jnp.arange(tokens.shape[0]) < length)).sum()


def linear(weights, tokens, length):
    live = jnp.arange(tokens.shape[0]) < length
    return jnp.where(live, weights[tokens], 0.0).sum()


EXAMPLES = [
    potential(count_a, bounds=(0, 3)),
    potential(Partial(linear, jnp.array([0.5, -1.0, 0.25]))),
    potential(lambda tokens, length: jnp.where(tokens[0] == 1, -jnp.inf, 0.0), (-math.inf, 0), "h"),
]


def test_value_and_name():
    value = EXAMPLES[0].log_potential(jnp.array([0, 0, 2]), None, jnp.int32(3))
    assert value == 2.0
    assert value.dtype == jnp.float32
    assert [evidence.name for evidence in EXAMPLES] == ["count_a", "linear", "h"]
    assert EXAMPLES[2].hard


def test_arrays_of_a_partial_are_leaves():
    tokens, length = jnp.array([0, 1, 2]), jnp.int32(3)
    gradient = jax.grad(lambda evidence: evidence.log_potential(tokens, None, length))(EXAMPLES[1])
    assert jax.tree.leaves(gradient)[0].tolist() == [1, 1, 1]


def test_a_value_per_token_is_refused():
    with pytest.raises(EvidenceError, match=r"shape \(3,\) for one sequence"):
        potential(lambda tokens, length: 1.0 * tokens).log_potential(
            jnp.zeros(3, jnp.int32), None, jnp.int32(3)
        )


@pytest.mark.parametrize("bounds", [(1, 0), (math.nan, 0)])
def test_bounds_must_be_ordered(bounds):
    with pytest.raises(EvidenceError, match="ordered"):
        potential(count_a, bounds=bounds)
    with pytest.raises(EvidenceError, match="not a function"):
        potential(3.0)


def test_a_score_without_limit_may_be_declared_soft():
    score = potential(lambda tokens, length: -1.0 * length, bounds=(-math.inf, 0), hard=False)
    assert not score.hard
    assert (-1.0 * score).bounds == (0.0, math.inf)
    assert potential(count_a, hard=True).hard
